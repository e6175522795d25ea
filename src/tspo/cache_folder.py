"""Where what was made or fetched once is kept."""

from __future__ import annotations

import os
from pathlib import Path


def cache_dir() -> Path:
    """Where worlds, converted models, indexes and data sets are kept: TSPO_CACHE, else the user's cache folder."""
    if folder := os.environ.get("TSPO_CACHE"):
        return Path(folder).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base).expanduser() if base else Path.home() / ".cache") / "tspo"
