"""`tspo compare` from end to end: the grid's file, its runs, and the report of those that are done."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import yaml
from rich.console import Console

from tspo.errors import BadInput
from tspo.evaluation.comparison_report import write_report
from tspo.files import atomic_write
from tspo.training.grid import Arm, Grid, grown_grid, read_grid, write_grid
from tspo.training.run_folder import only_run_in
from tspo.training.side_by_side import Failure, Run, is_done, run_side_by_side
from tspo.training.signals import stop_on_signals

_GRID = "grid.json"


def run_comparison(
    folder: Path, arms: Sequence[Arm], seeds: Sequence[int], jobs: int, console: Console
) -> list[Failure]:
    """Run every arm with every seed, going on where `folder` holds some of that; returns the runs that failed.

    Raises BadInput where the arms do not go with each other or with those that `folder` has, and Stopped when a
    signal ended the runs early.
    """

    def begun(arm: str) -> bool:
        return any((_arm_folder(folder, arm)).glob("seed-*/config.yaml"))

    read_grid(folder / _GRID)  # what cannot be used is told before anything is written
    with (
        only_run_in(folder),
        stop_on_signals(lambda: console.print("Stopping the runs after their step; once more to kill them.")) as stop,
    ):
        write_grid(grown_grid(read_grid(folder / _GRID), arms, seeds, begun), folder / _GRID)
        for arm in arms:
            _write_config(arm, folder)
        # Seed by seed, so that what is done is as far as possible of all arms.
        runs = [_run(folder, arm, seed) for seed in seeds for arm in arms]
        try:
            failures = run_side_by_side(runs, jobs, console, stop)
        except KeyboardInterrupt:  # the second signal; the exit code is the first one's
            stop.check()
            raise
        stop.check()
    return failures


def report_comparison(folder: Path, target: float, against: str | None = None) -> str:
    """Write the report of all runs in `folder` that are done; returns its tables. See `write_report` for the rest.

    Raises BadInput where there is no comparison in `folder`, no run of it is done, or none of the arm `against`.
    """
    grid = read_grid(folder / _GRID)
    if grid is None:
        raise BadInput(f"{folder}: holds no comparison; run tspo compare --out {folder} without --report-only first")
    done = {arm.name: _done_runs(folder, arm, grid) for arm in grid.arms}
    return write_report(
        folder,
        done,
        {arm.name: arm.episodes_per_rollout for arm in grid.arms},
        {arm: [seed for seed in grid.seeds if seed not in runs] for arm, runs in done.items()},
        target,
        against,
    )


def _done_runs(folder: Path, arm: Arm, grid: Grid) -> dict[int, Path]:
    runs = {seed: _run(folder, arm, seed).folder for seed in grid.seeds}
    return {seed: path for seed, path in runs.items() if is_done(path)}


def _run(folder: Path, arm: Arm, seed: int) -> Run:
    place = _arm_folder(folder, arm.name)
    return Run(
        label=f"{arm.name} seed {seed}",
        config=place / "config.yaml",
        seed=seed,
        folder=place / f"seed-{seed}",
        steps=arm.settings["training"]["steps"],
    )


def _write_config(arm: Arm, folder: Path) -> None:
    """The arm's whole settings, as checked: runs read these, whatever becomes of the file that they came from."""
    place = _arm_folder(folder, arm.name)
    place.mkdir(parents=True, exist_ok=True)
    with atomic_write(place / "config.yaml") as stream:
        yaml.safe_dump(arm.settings, stream, sort_keys=False, allow_unicode=True)


def _arm_folder(folder: Path, arm: str) -> Path:
    return folder / "runs" / arm
