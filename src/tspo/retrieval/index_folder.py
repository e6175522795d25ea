"""The folder of an index, of any kind: it appears whole or not at all.

A build fills a hidden folder beside the index's place, writes the manifest last, and renames. It holds a lock
on its folder as long as it lives, so that the next build knows which folders were left by killed ones.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import shlex
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from tspo.errors import BadInput
from tspo.files import sync, why_not_written

FORMAT = "tspo-index"
FORMAT_VERSION = 1
MANIFEST = "manifest.json"

_PART_SUFFIX = ".tspo-part"
_OLD_SUFFIX = f"-old{_PART_SUFFIX}"
_WORKING_FOLDER, _RENAME_EXCHANGE = -100, 2
"""AT_FDCWD and RENAME_EXCHANGE of Linux."""

Report = Callable[[str, int, int | None], None]
"""Told how far a build is: the name of the phase, how much is done, and of how much where that is known."""


@dataclass(frozen=True, slots=True)
class Contents:
    """What a build wrote: the number of passages, and the SHA-256 of their lines in the index."""

    passages: int
    corpus_sha256: str


@dataclass(frozen=True, slots=True)
class FileMark:
    """What a file of the index must be."""

    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """What an index is: the settings it was built with, and the mark of each of its files."""

    kind: str
    passages: int
    corpus_sha256: str
    settings: dict[str, Any]
    libraries: dict[str, str]
    files: dict[str, FileMark]


def no_report(phase: str, done: int, total: int | None) -> None:
    """Tell nobody."""


def write_index(
    folder: str | Path,
    kind: str,
    settings: dict[str, Any],
    write: Callable[[Path], Contents],
    *,
    libraries: Sequence[str] = (),
    report: Report = no_report,
) -> None:
    """Let `write` fill a folder with files, and put it at `folder`; an index that stands there is replaced.

    `settings` is any JSON, `libraries` are names of installed distributions. Raises BadInput where the folder
    holds anything but an index (before `write` is called) or nothing can be written.
    """
    folder = Path(os.path.realpath(folder))  # a symbolic link goes on pointing where it did
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _refuse_other_files(folder)
        _remove_leftovers(folder)
        with _part_folder(folder) as part:
            contents = write(part)
            manifest = Manifest(
                kind=kind,
                passages=contents.passages,
                corpus_sha256=contents.corpus_sha256,
                settings=settings,
                libraries={name: _version(name) for name in libraries},
                files=_marks(part, report),
            )
            head = {"format": FORMAT, "format_version": FORMAT_VERSION}
            text = json.dumps({**head, **asdict(manifest)}, indent=2) + "\n"
            (part / MANIFEST).write_text(text, encoding="utf-8")
            for path in (*part.iterdir(), part):
                sync(path)
            _put_in_place(part, folder)
    except OSError as error:
        raise BadInput(f"{folder}: index not written {why_not_written(error)}") from None


def read_manifest(folder: str | Path, kind: str | None = None, *, checksums: bool = False) -> Manifest:
    """The manifest of an index whose files all have their size and, with `checksums`, their SHA-256.

    Raises BadInput where `folder` is no whole index, or one of another version or `kind`.
    """
    folder = Path(folder)
    try:
        read = json.loads((folder / MANIFEST).read_bytes())
    except OSError as error:
        raise broken_index(folder, f"{MANIFEST}: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise broken_index(folder, f"{MANIFEST} is not JSON") from None
    if not isinstance(read, dict) or (read.get("format"), read.get("format_version")) != (FORMAT, FORMAT_VERSION):
        raise broken_index(folder, "made by another version of tspo")
    manifest = _manifest_from_json(read, folder)
    if kind is not None and manifest.kind != kind:
        raise BadInput(f"{folder}: is an index of kind {manifest.kind!r}, not {kind!r}; choose another folder")
    for name, mark in manifest.files.items():
        _check_file(folder, name, mark, checksums)
    return manifest


def broken_index(folder: Path, why: str) -> BadInput:
    """The error about a folder that cannot be used as an index."""
    return BadInput(
        f"{folder}: not a whole index ({why}); build it again with: tspo index CORPUS --out {shlex.quote(str(folder))}"
    )


def _manifest_from_json(read: dict[str, Any], folder: Path) -> Manifest:
    try:
        files = {name: FileMark(mark["bytes"], mark["sha256"]) for name, mark in read["files"].items()}
        manifest = Manifest(
            **{name: read[name] for name in Manifest.__dataclass_fields__ if name != "files"}, files=files
        )
    except (AttributeError, KeyError, TypeError) as error:
        raise broken_index(folder, f"{MANIFEST} cannot be read: {error!r}") from None
    plain = all(name and name == os.path.basename(name) for name in files)
    if not (files and plain and isinstance(manifest.passages, int) and isinstance(manifest.settings, dict)):
        raise broken_index(folder, f"{MANIFEST} cannot be read: a field is not what it should be")
    return manifest


def _check_file(folder: Path, name: str, mark: FileMark, checksums: bool) -> None:
    try:
        if (folder / name).stat().st_size != mark.bytes:
            raise broken_index(folder, f"{name}: cut short or changed")
        if checksums and _mark(folder / name) != mark:
            raise broken_index(folder, f"{name}: its contents are not what was written")
    except OSError as error:
        raise broken_index(folder, f"{name}: {error.strerror}") from None


def _marks(part: Path, report: Report) -> dict[str, FileMark]:
    paths = sorted(part.iterdir())
    marks = {}
    for done, path in enumerate(paths, start=1):
        marks[path.name] = _mark(path)
        report("checksums", done, len(paths))
    return marks


def _mark(path: Path) -> FileMark:
    with open(path, "rb") as stream:
        checksum = hashlib.file_digest(stream, "sha256").hexdigest()
        return FileMark(stream.tell(), checksum)


def _version(library: str) -> str:
    try:
        return version(library)
    except PackageNotFoundError:
        return "unknown"


def _refuse_other_files(folder: Path) -> None:
    """Raise BadInput where `folder` is a file, or holds what is not in the manifest of an index there."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise BadInput(f"{folder}: is a file; name a folder for the index")
    ours: set[str] = set()
    # a manifest that is none of ours is a file like any other, whatever it lists
    with suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
        manifest = json.loads((folder / MANIFEST).read_bytes())
        if manifest["format"] == FORMAT:
            ours = {MANIFEST, *manifest["files"]}
    if foreign := {path.name for path in folder.iterdir()} - ours:
        raise BadInput(f"{folder}: holds other files ({min(foreign)}); choose another folder, or empty this one")


def _put_in_place(part: Path, folder: Path) -> None:
    umask = os.umask(0)
    os.umask(umask)
    os.chmod(part, 0o777 & ~umask)  # mkdtemp makes folders for the owner alone
    _refuse_other_files(folder)
    if not folder.exists():
        os.rename(part, folder)
    elif not _exchange(part, folder):
        old = part.with_name(f"{part.name.removesuffix(_PART_SUFFIX)}{_OLD_SUFFIX}")
        os.rename(folder, old)
        try:
            os.rename(part, folder)
        except OSError:
            os.rename(old, folder)
            raise
        shutil.rmtree(old, ignore_errors=True)
    sync(folder.parent)


def _exchange(part: Path, folder: Path) -> bool:
    """Let two folders have each other's name at once, so that a kill leaves one or the other; False where it cannot."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError, TypeError):
        return False
    return bool(rename(_WORKING_FOLDER, os.fsencode(part), _WORKING_FOLDER, os.fsencode(folder), _RENAME_EXCHANGE) == 0)


@contextmanager
def _part_folder(folder: Path) -> Iterator[Path]:
    """A new folder beside `folder`, locked while the block runs and gone after it, unless it was renamed."""
    while True:
        part = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}.", suffix=_PART_SUFFIX))
        with _locked(part, wait=True):
            if not part.exists():  # another build took it for a leftover before it was locked
                continue
            try:
                yield part
            finally:
                shutil.rmtree(part, ignore_errors=True)
            return


def _remove_leftovers(folder: Path) -> None:
    """Remove what killed builds of this index left behind; an index that one had moved aside comes back."""
    for old in folder.parent.glob(f".{_escaped(folder.name)}.*{_OLD_SUFFIX}"):
        if not folder.exists():
            os.rename(old, folder)
    for part in folder.parent.glob(f".{_escaped(folder.name)}.*{_PART_SUFFIX}"):
        with _locked(part, wait=False) as free:
            if free:
                shutil.rmtree(part, ignore_errors=True)


def _escaped(name: str) -> str:
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in name)


@contextmanager
def _locked(part: Path, wait: bool) -> Iterator[bool]:
    """Hold a lock on a folder, which the system releases if the process dies; False where it is not to be had."""
    try:
        import fcntl

        descriptor = os.open(part, os.O_RDONLY)
    except (ImportError, OSError):  # no locks on this system, or another process has just removed it
        yield False
        return
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
            held = True
        except OSError:
            held = False
        yield held
    finally:
        os.close(descriptor)
