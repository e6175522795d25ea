"""Which checkpoints are whole, and which are kept: a mark is written last, and it names every file with its size."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

from tspo.errors import BadInput
from tspo.evaluation.card import CARD_FILES
from tspo.files import atomic_write

MARK = "whole.json"
"""The mark's name."""
STATE = "training_state.pt"
"""What of a checkpoint is neither weights nor tokenizer: training goes on from it."""


def mark_whole(checkpoint: Path) -> None:
    """Say that `checkpoint` is written to its end; its files are on the disk before the mark is.

    Cards may be written anew later, and are not in the mark.
    """
    sizes = {}
    for path in sorted(checkpoint.rglob("*")):
        if path.is_file() and path.name != MARK and path.name not in CARD_FILES:
            with path.open("rb") as stream:
                os.fsync(stream.fileno())
            sizes[str(path.relative_to(checkpoint))] = path.stat().st_size
    with atomic_write(checkpoint / MARK) as stream:
        json.dump({"files": sizes}, stream, indent=1)


def is_whole(checkpoint: Path) -> bool:
    """Whether `checkpoint` carries its mark and every file that the mark names, at its size."""
    try:
        sizes = json.loads((checkpoint / MARK).read_text(encoding="utf-8"))["files"]
        return all((checkpoint / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def last_whole_checkpoint(output_dir: Path) -> Path | None:
    """The newest whole checkpoint of a run, or None; half-written ones are passed over."""
    whole = [path for path in checkpoints_in(output_dir) if is_whole(path)]
    return whole[-1] if whole else None


def check_has_state(checkpoint: Path) -> None:
    """Raise BadInput for a checkpoint of an older version, whose state is that of another trainer."""
    if not (checkpoint / STATE).is_file():
        raise BadInput(
            f"{checkpoint}: was written by an older version of tspo, whose training cannot be gone on with; train from "
            f"its weights with model={checkpoint} and another output_dir"
        )


def checkpoints_in(output_dir: Path) -> list[Path]:
    """All checkpoint folders of a run, whole or not, oldest first."""
    found = [path for path in output_dir.glob("checkpoint-*") if path.is_dir() and step_of(path) is not None]
    return sorted(found, key=lambda path: step_of(path) or 0)


def step_of(checkpoint: Path) -> int | None:
    """The optimizer step that a checkpoint folder's name says."""
    number = checkpoint.name.removeprefix("checkpoint-")
    return int(number) if number.isdecimal() else None


def remove_old_checkpoints(output_dir: Path, keep: int) -> None:
    """Delete the oldest whole checkpoints, but the last `keep`."""
    for checkpoint in [path for path in checkpoints_in(output_dir) if is_whole(path)][:-keep]:
        (checkpoint / MARK).unlink()  # a deletion that is cut short leaves none that looks whole
        shutil.rmtree(checkpoint)
