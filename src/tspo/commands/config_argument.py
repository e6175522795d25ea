"""The configuration on a command line that may leave it out: `[CONFIG.yaml] [key=value ..]`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def config_and_overrides(arguments: Sequence[str]) -> tuple[Path, list[str]]:
    """The configuration's path and the settings over it: the first argument is the path if it is no `key=value`.

    No key has a slash: `runs/alpha=0.3/config.yaml` is a path. Without one it is the default configuration.
    """
    key, equals, _ = arguments[0].partition("=") if arguments else ("", "=", "")
    if not equals or "/" in key:
        return Path(arguments[0]), list(arguments[1:])
    from tspo.config import default_config_path

    return default_config_path(), list(arguments)
