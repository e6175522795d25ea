"""Writing that leaves either the whole file or nothing."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from tspo.errors import BadInput


@contextmanager
def atomic_write(path: str | Path) -> Iterator[TextIO]:
    """A UTF-8 text stream that becomes `path` when the block ends well, and leaves no trace when it does not.

    Raises BadInput where the folder is missing, may not be written to, or the disk is full.
    """
    if os.path.isdir(path):
        raise BadInput(f"{path}: is a directory; name a file in it")
    if os.path.exists(path) and not os.path.isfile(path):  # /dev/null, a pipe: write to it, do not replace it
        try:
            with open(path, "w", encoding="utf-8", newline="\n") as stream:
                yield stream
        except BrokenPipeError:
            raise
        except OSError as error:
            raise BadInput(f"{path}: not written ({error.strerror}); choose another place") from None
        return
    path = Path(os.path.realpath(path))  # a symbolic link goes on pointing where it did
    try:
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    except OSError as error:
        raise BadInput(f"{path}: cannot write here ({error.strerror}); choose another place") from None
    try:
        with open(descriptor, "w", encoding="utf-8", newline="\n") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(name, _mode_of(path))
        os.replace(name, path)
    except OSError as error:
        Path(name).unlink(missing_ok=True)
        raise BadInput(f"{path}: not written ({error.strerror}); choose another place") from None
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


@contextmanager
def only_one(lock: Path, *, taken: str, where: str) -> Iterator[None]:
    """Hold the lock file `lock`, its folder made where it is missing, while the block runs.

    Raises BadInput with the words `taken` where another process holds it, and with `where`, what else to name, where
    it cannot be written.
    """
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        stream = lock.open("w")
    except OSError as error:
        raise BadInput(f"{lock.parent}: cannot write here ({error.strerror}); {where}") from None
    with stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise BadInput(taken) from None
        yield


def _mode_of(path: Path) -> int:
    """The permission bits that opening `path` to write would leave it with."""
    if path.exists():
        return stat.S_IMODE(path.stat().st_mode)
    umask = os.umask(0)
    os.umask(umask)
    return 0o666 & ~umask


def sync(path: Path) -> None:
    """Have what was written to `path`, a file or a folder, on the disk."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except PermissionError:  # Windows opens no folders
        return
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def why_not_written(error: OSError) -> str:
    """The system's reason in brackets, and what to do about it."""
    todo = {
        errno.ENOSPC: "free some space",
        errno.EDQUOT: "free some of your quota",
        errno.EFBIG: "choose a file system that takes larger files",
        errno.EEXIST: "a file stands where a folder should; choose another place",
        errno.ENOTDIR: "a file stands where a folder should; choose another place",
        errno.EIO: "the disk fails; choose another place",
    }.get(error.errno or 0, "choose another place")
    return f"({error.strerror or error}); {todo}"


@contextmanager
def explain_full_disk(folder: Path) -> Iterator[None]:
    """Turn a library's error about a full disk into one clear line about `folder`."""
    try:
        yield
    except BadInput:
        raise
    except Exception as error:  # safetensors' errors are no kind of OSError or RuntimeError
        if not _is_full_disk(error):
            raise
        raise BadInput(f"{folder}: the disk is full; free some space, then go on with --resume") from error


def _is_full_disk(error: BaseException) -> bool:
    # torch and safetensors raise errors of their own, which carry the system's words at best.
    number = getattr(error, "errno", None)
    words = (
        "No space left on device",
        "os error 28",
        "os error 27",
        "File too large",
        "PytorchStreamWriter failed",
    )
    return number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) or any(word in str(error) for word in words)
