"""Trackers (wandb, tensorboard, trackio, ..), through accelerate: the run's settings, metrics and samples."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from tspo.config import RunConfig
from tspo.errors import BadInput
from tspo.evaluation.metrics import Summary
from tspo.evaluation.report.settings import without_secrets
from tspo.files import atomic_write
from tspo.training.signals import Stopped

_PACKAGES = {"wandb": ("wandb",), "tensorboard": ("tensorboard", "tensorboardX"), "trackio": ("trackio",)}
"""The trackers there are, each with the packages of which it needs one."""

FOLDER = "tracking"
"""Where in the run's folder trackers write their own files."""
_IDENTITY = "run_id"


def check_trackers(names: Sequence[str]) -> None:
    """Raise BadInput for a tracker that is unknown or not installed."""
    for name in names:
        if name not in _PACKAGES:
            raise BadInput(f"training.report_to: {name!r} is not a tracker; there are {', '.join(_PACKAGES)}")
        if not any(map(_is_installed, _PACKAGES[name])):
            raise BadInput(f"training.report_to: {name} is not installed; pip install {name}, or leave it out")


@contextmanager
def open_trackers(config: RunConfig, accelerator: Accelerator) -> Iterator[Trackers]:
    """The trackers of a run, told its whole configuration; `accelerator` was made for them (`log_with`).

    What they write themselves goes to the run's folder, but for trackio, which keeps all runs in one place. A resumed
    run goes on as the same one. Raises BadInput where a tracker cannot be opened.
    """
    if config.training.report_to and accelerator.is_main_process:
        _start(config, accelerator)
    failed = True
    try:
        yield Trackers(accelerator)
        failed = False
    except Stopped:
        failed = False
        raise
    finally:
        for tracker in accelerator.trackers:
            if failed and tracker.name == "wandb":
                tracker.tracker.finish(exit_code=1)  # otherwise it is shown as a run that ended well
            else:
                tracker.finish()


class Trackers:
    """The open trackers of a run; nothing happens where there are none, as in processes but the main one."""

    def __init__(self, accelerator: Accelerator) -> None:
        self._accelerator = accelerator

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Metrics under their names in metrics.jsonl; the step is not one of them, but what they are drawn over."""
        values = {name: value for name, value in metrics.items() if name != "step"}
        for tracker in self._accelerator.trackers:
            tracker.log(values, step=step)

    def log_evaluation(self, stage: str, summary: Summary, step: int) -> None:
        """An evaluation's means, as evaluation/STAGE/METRIC, and each data source's under its name."""
        place = f"evaluation/{stage.replace(' ', '-')}"
        found = {f"{place}/{name}": estimate.mean for name, estimate in summary.overall.metrics.items()}
        for source, part in summary.by_source.items() if len(summary.by_source) > 1 else ():
            found |= {f"{place}/{source}/{name}": estimate.mean for name, estimate in part.metrics.items()}
        self.log(found, step)

    def log_sample(self, lines: Sequence[str], step: int) -> None:
        """A trajectory in lines of plain text: a table's row in wandb, a text in tensorboard and trackio."""
        code = "\n".join(f"    {line}" for line in lines)  # both show Markdown, in which a block of code has no effect
        for tracker in self._accelerator.trackers:
            if tracker.name == "wandb":
                tracker.log_table("trajectory", columns=["step", "text"], data=[[step, "\n".join(lines)]], step=step)
            elif tracker.name == "tensorboard":
                tracker.tracker.add_text("trajectory", code, global_step=step)
            elif tracker.name == "trackio":
                from trackio import Markdown

                tracker.log({"trajectory": Markdown(code)}, step=step)


def flat_settings(config: RunConfig) -> dict[str, str | int | float | bool]:
    """Every setting of a run under its dotted name, without secrets; what is neither a number nor a text is JSON."""
    flat: dict[str, str | int | float | bool] = {}

    def put(place: str, value: Any) -> None:
        if isinstance(value, dict) and value:
            for name, inner in value.items():
                put(f"{place}.{name}" if place else name, inner)
        else:
            flat[place] = value if isinstance(value, str | int | float | bool) else json.dumps(value)

    put("", without_secrets(json.loads(config.model_dump_json())))
    return flat


def _start(config: RunConfig, accelerator: Accelerator) -> None:
    folder = config.output_dir / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    name = config.training.run_name or config.output_dir.name
    resumed = (folder / _IDENTITY).is_file()
    own = {
        "wandb": {"name": name, "dir": str(folder), "id": _identity(folder), "resume": "allow"},
        "trackio": {"name": name, "resume": "allow" if resumed else "never"},
    }
    try:
        accelerator.init_trackers(config.training.project, flat_settings(config), own)
    except Exception as error:  # no key, no network, a name that is none: each tracker has errors of its own
        reason = str(error).strip().splitlines()[0].rstrip(".") if str(error).strip() else type(error).__name__
        trackers = ", ".join(config.training.report_to)
        raise BadInput(f"training.report_to: {trackers} cannot be opened ({reason})") from error


def _identity(folder: Path) -> str:
    path = folder / _IDENTITY
    if not path.is_file():
        with atomic_write(path) as stream:
            stream.write(secrets.token_hex(8))
    return path.read_text(encoding="utf-8")


def _is_installed(package: str) -> bool:
    """Whether it is, by its metadata: a folder of its name, as wandb makes them, can be imported too."""
    try:
        version(package)
    except PackageNotFoundError:
        return False
    return True
