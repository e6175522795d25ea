"""What every command that runs a model does first."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from tspo.errors import BadInput

if TYPE_CHECKING:
    from tspo.config import RunConfig


def load_run_config(path: Path, overrides: Sequence[str]) -> RunConfig:
    """The run's settings, checked before anything heavy is imported."""
    from tspo.config import load_config

    config = load_config(path, overrides)
    ready_for_models("torch", "transformers", "accelerate", "peft")
    return config


def ready_for_models(*packages: str) -> None:
    """Have `packages` of the extra train, or raise BadInput; what they say by themselves is not for users."""
    require("train", *packages)
    warnings.filterwarnings("ignore", module="(accelerate|peft|transformers|torch)\\b")


def require(extra: str, *packages: str) -> None:
    """Raise BadInput where a package is not installed that comes with tspo's `extra`."""
    for package in packages:
        if importlib.util.find_spec(package) is None:
            raise BadInput(f"this command needs {package}; pip install 'tspo[{extra}]'")


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Leave it to the command line; rich's own way out is SystemExit, in whatever task prints."""
        raise BrokenPipeError


def console() -> Console:
    """Where commands print what people read; raises BrokenPipeError where nobody reads any more."""
    return _Console()


def stoppable(work: Callable[[], None], screen: Console, hint: str) -> int:
    """Do `work`; 0 when it is complete, 128 + the signal's number when one stopped it; `hint` says how to go on."""
    from tspo.training.signals import Stopped

    try:
        work()
    except Stopped as stopped:
        screen.print(f"Stopped; {hint}.")
        return stopped.exit_code
    return 0
