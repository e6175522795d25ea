"""Where a run came from: the files that it read, and the commit of the code that ran it."""

from __future__ import annotations

import hashlib
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tspo.evaluation.report.headline import setting

_MOST_BYTES = 64 * 2**20
"""Larger files are told by their size alone: a card is written with every checkpoint."""


@dataclass(frozen=True, slots=True)
class DataFile:
    """A file that a run reads; `size` in bytes and `sha256` where they are known."""

    role: str
    name: str
    size: int | None
    sha256: str | None


def data_files_of(settings: dict[str, Any]) -> list[DataFile]:
    """The question files and the corpus that the settings name, by the file's name and not its place."""
    found = []
    for role in ("train", "test", "corpus"):
        value = setting(settings, "data", role)
        for path in value if isinstance(value, list) else [value] if value else []:
            found.append(_data_file(role, Path(str(path))))
    return found


def source_commit() -> str | None:
    """The commit of tspo's source tree, and whether files of it were changed; None where it is in no git tree."""
    package = Path(__file__).parents[2]
    # installed into somebody's project, it is not that project's commit that says what ran
    if _git(package, "ls-files", "--error-unmatch", "__init__.py") is None:
        return None
    commit = _git(package, "rev-parse", "HEAD")
    changed = _git(package, "status", "--porcelain", "--untracked-files=no", "--", ".")
    return f"{commit}, changed since" if commit and changed else commit


def _data_file(role: str, path: Path) -> DataFile:
    try:
        size = path.stat().st_size
        if size > _MOST_BYTES:
            return DataFile(role, path.name, size, None)
        with path.open("rb") as stream:
            return DataFile(role, path.name, size, hashlib.file_digest(stream, "sha256").hexdigest())
    except OSError:
        return DataFile(role, path.name, None, None)


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        result = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, stdin=subprocess.DEVNULL
        )
    except OSError:
        return None
    return result.stdout.strip() if result.returncode == 0 else None
