"""Which checkpoints are whole, and which are kept: a mark is written last, and it names every file."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path

from tspo.errors import BadInput
from tspo.evaluation.card import CARD_FILES
from tspo.files import atomic_write

MARK = "whole.json"
"""The mark's name."""
WRITING = ".writing"
"""The name of a file that a folder has until its mark is there, and while it is being deleted."""
STATE = "training_state.pt"
"""What of a checkpoint is neither weights nor tokenizer: training goes on from it."""


def begin(checkpoint: Path) -> None:
    """Say of a folder, made where it is missing, that this run writes it: what a kill leaves of it may be removed."""
    checkpoint.mkdir(parents=True, exist_ok=True)
    (checkpoint / WRITING).touch()


def mark_whole(checkpoint: Path, step: int | None = None) -> None:
    """Say that `checkpoint` is written to its end, at `step`; its files are on the disk before the mark is.

    Cards may be written anew later, and are not in the mark.
    """
    files = {}
    for path in sorted(checkpoint.rglob("*")):
        if path.name.startswith(".") and path.name.endswith(".part"):  # of a write that was killed
            path.unlink()
        elif path.is_file() and path.name not in (MARK, WRITING, *CARD_FILES):
            with path.open("rb") as stream:
                os.fsync(stream.fileno())
                digest = hashlib.file_digest(stream, "sha256").hexdigest()
            files[str(path.relative_to(checkpoint))] = {"bytes": path.stat().st_size, "sha256": digest}
    with atomic_write(checkpoint / MARK) as stream:
        json.dump({"step": step, "files": files}, stream, indent=1)
    (checkpoint / WRITING).unlink(missing_ok=True)


def is_whole(checkpoint: Path) -> bool:
    """Whether `checkpoint` carries its mark and every file that the mark names, at its size.

    Raises BadInput where the system cannot tell.
    """
    return _fault(checkpoint) is None


def check_sums(checkpoint: Path) -> None:
    """Raise BadInput where a file of a whole `checkpoint` is not the one that was written."""
    for name, (_, digest) in _marked_files(checkpoint).items():
        with (checkpoint / name).open("rb") as stream:
            if digest is not None and hashlib.file_digest(stream, "sha256").hexdigest() != digest:
                raise BadInput(
                    f"{checkpoint / name}: is damaged (it is not what was written); move {checkpoint.name} away to go "
                    "on from the checkpoint before it"
                )


def step_of_mark(folder: Path) -> int | None:
    """The step that a whole folder's mark says; None where it says none."""
    step = json.loads((folder / MARK).read_text(encoding="utf-8")).get("step")
    return step if isinstance(step, int) else None


def _fault(checkpoint: Path) -> str | None:
    """What keeps `checkpoint` from being whole."""
    try:
        sizes = {name: size for name, (size, _) in _marked_files(checkpoint).items()}
        for name, size in sizes.items():
            if (found := (checkpoint / name).stat().st_size) != size:
                return f"{name} has {found} bytes, not {size}"
    except (FileNotFoundError, NotADirectoryError) as error:
        return f"there is no {Path(error.filename).name}"
    except OSError as error:
        raise BadInput(f"{error.filename}: cannot be read ({error.strerror}); mend that first") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"{MARK} cannot be read"
    return None


def _marked_files(checkpoint: Path) -> dict[str, tuple[int, str | None]]:
    """Size and SHA-256 of each file that the mark names; marks of older versions have sizes alone."""
    files = json.loads((checkpoint / MARK).read_text(encoding="utf-8"))["files"]
    return {
        name: (file["bytes"], file["sha256"]) if isinstance(file, dict) else (file, None)
        for name, file in files.items()
    }


def last_whole_checkpoint(output_dir: Path) -> Path | None:
    """The newest whole checkpoint of a run, or None; half-written ones are passed over."""
    whole = [path for path in checkpoints_in(output_dir) if is_whole(path)]
    return whole[-1] if whole else None


def checkpoint_to_resume(output_dir: Path) -> Path | None:
    """The newest checkpoint, every byte of it as it was written, or None; what a kill left half-written is removed.

    Raises BadInput, which names it, where one is damaged, or is none of this run: nothing of it is thrown away.
    """
    whole: list[Path] = []
    for path in checkpoints_in(output_dir):
        if (fault := _fault(path)) is None:
            whole.append(path)
        elif (path / WRITING).exists() or not any(path.iterdir()):
            shutil.rmtree(path)
        else:
            before = f"go on from {whole[-1].name}" if whole else "begin anew"
            raise BadInput(f"{path}: is damaged, or not of this run ({fault}); mend it, or move it away to {before}")
    if not whole:
        return None
    check_sums(whole[-1])
    return whole[-1]


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
        # a deletion that is cut short leaves none that looks whole, and what it leaves is known as ours
        (checkpoint / MARK).replace(checkpoint / WRITING)
        shutil.rmtree(checkpoint)
