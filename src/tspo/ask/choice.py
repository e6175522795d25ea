"""Which policy is asked, with which settings: that of a run, of a file, or the starter."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tspo.config import RunConfig, default_config_path, load_config
from tspo.errors import BadInput
from tspo.training.checkpoints import MARK, checkpoints_in, is_whole

RUNS = Path("runs")
"""Where runs are written that name no other place."""

_SETTINGS = "config.yaml"


@dataclass(frozen=True, slots=True)
class Choice:
    """The settings to ask with, their model among them, and a few words on why it is this one."""

    config: RunConfig
    why: str


def choose(named: Path | None, overrides: Sequence[str], runs: Path = RUNS) -> Choice:
    """The policy that `named` says: a run's folder, one of its checkpoints, or a configuration file.

    Without it: what `model=` among the overrides says, with the settings of the run that it is part of, else the
    last run in `runs`, else the starter. Raises BadInput where there is no such policy.
    """
    model = next((text.partition("=")[2] for text in reversed(overrides) if text.startswith("model=")), None)
    if named is not None:
        return _named(named, overrides)
    if model is not None:
        if _is_run(run := _folder_of(Path(model))):
            return _of_run(run, Path(model), overrides)
        return Choice(load_config(default_config_path().with_name("ask.yaml"), overrides), model)
    if (policy := _last_policy(runs)) is not None:
        return _of_run(policy.parent, policy, overrides)
    return Choice(
        load_config(default_config_path(), overrides),
        "the starter policy (it has only begun to learn: tspo train goes on)",
    )


def _named(place: Path, overrides: Sequence[str]) -> Choice:
    if _is_run(place):
        return _of_run(place, _policy_of(place), overrides)
    if place.is_dir():
        if not _is_run(run := _folder_of(place)):
            raise BadInput(f"{place}: holds no {_SETTINGS}; name a run's folder, or a configuration file")
        return _of_run(run, place, overrides)
    config = load_config(place, overrides)
    return Choice(config, config.model)


def _of_run(run: Path, policy: Path, overrides: Sequence[str]) -> Choice:
    if not is_whole(policy):
        raise BadInput(f"{policy}: is not a whole checkpoint; name another, or the run's folder")
    if not (policy / "config.json").is_file():
        raise BadInput(f"{policy}: holds adapters without their model; name a run that has ended")
    config = load_config(run / _SETTINGS, [f"model={json.dumps(str(policy))}", *overrides])
    return Choice(config, str(policy))


def _folder_of(place: Path) -> Path:
    return place.absolute().parent  # that of "." is not "."


def _is_run(folder: Path) -> bool:
    return (folder / _SETTINGS).is_file()


def _policy_of(run: Path) -> Path:
    """What a run has brought forth: its model, else its newest whole checkpoint, else its warmed-up model."""
    candidates = [run / "model", *reversed(checkpoints_in(run)), run / "warmup"]
    for candidate in candidates:
        if is_whole(candidate):
            return candidate
    raise BadInput(f"{run}: holds no whole checkpoint yet; name another run, or ask again later")


def _last_policy(runs: Path) -> Path | None:
    """The policy of the run that wrote one last; runs that have none yet, or only adapters, are passed over."""
    policies = []
    for run in runs.glob("*"):
        if _is_run(run):
            try:
                policies.append(_policy_of(run))
            except BadInput:
                continue
    usable = [policy for policy in policies if (policy / "config.json").is_file()]
    return max(usable, key=lambda policy: (policy / MARK).stat().st_mtime, default=None)
