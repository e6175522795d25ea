"""One file from the hub, at one revision, whole and checked; a broken download goes on where it stopped.

huggingface_hub itself goes on within one call only and then deletes what it has, so that the part is kept here; its
requests, retries, credentials and endpoint (HF_ENDPOINT, HF_TOKEN, HF_HUB_OFFLINE) are used as they are.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tspo.errors import BadInput
from tspo.files import only_one

_AGAIN = "run the same command again to go on"


@dataclass(frozen=True, slots=True)
class Fetched:
    """A file that is on the disk and is what it should be."""

    path: Path
    size: int
    sha256: str


def fetch(repository: str, revision: str, path: str, sha256: str | None, folder: Path) -> Fetched:
    """The file `path` of a data set's repository, in `folder`; its SHA-256 is `sha256`, or what the hub says.

    Raises BadInput where it cannot be had; what has arrived by then is kept for the next call.
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.errors import HTTPError, OfflineModeIsEnabled

    what = f"{repository}/{path}"
    url = hf_hub_url(repository, path, repo_type="dataset", revision=revision, endpoint=os.environ.get("HF_ENDPOINT"))
    target = folder / path.replace("/", "-")
    part = target.with_name(f"{target.name}.{revision[:12]}.part")
    taken = f"{target}: another process downloads this; wait for it"
    with only_one(target.with_name(f"{target.name}.lock"), taken=taken, where="set TSPO_CACHE"), _quiet_hub():
        try:
            known = get_hf_file_metadata(url)
            if known.size is None or known.etag is None:
                raise BadInput(f"{what}: {url} does not tell its size and checksum; is HF_ENDPOINT a hub?")
            _download(url, part, known.size)
        except OfflineModeIsEnabled:
            raise BadInput(
                f"{what}: HF_HUB_OFFLINE is set; prepare it where there is a network, and copy the prepared folder"
            ) from None
        except (HTTPError, OSError, ValueError) as error:
            raise BadInput(f"{what}: {_reason(error)} ({_arrived(part)}); {_AGAIN}") from None
        found = _checked(part, what, sha256, known.etag)
        os.replace(part, target)
    return Fetched(target, known.size, found)


def _download(url: str, part: Path, size: int) -> None:
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers

    have = part.stat().st_size if part.exists() else 0
    if have > size:
        part.unlink()
        have = 0
    needed, free = size - have, shutil.disk_usage(part.parent).free
    if free < needed:
        raise BadInput(f"{part.parent}: {free / 1e9:.1f} GB free, {needed / 1e9:.1f} GB needed; free some space")
    with part.open("ab") as stream:
        http_get(url, stream, resume_size=have, headers=build_hf_headers(), expected_size=size)
        stream.flush()
        os.fsync(stream.fileno())


def _checked(part: Path, what: str, sha256: str | None, etag: str) -> str:
    """The SHA-256 of `part`; raises BadInput, and deletes it, where it is not what was promised.

    The hub's tag of a large file is its SHA-256, that of a small one its git object: SHA-1 of a header and the file.
    """
    size = part.stat().st_size
    digests = {64: hashlib.sha256(), 40: hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)}
    with part.open("rb") as stream:
        for block in iter(lambda: stream.read(1 << 20), b""):
            for digest in digests.values():
                digest.update(block)
    found = {length: digest.hexdigest() for length, digest in digests.items()}
    for promised in filter(None, (sha256, etag)):
        if len(promised) in found and found[len(promised)] != promised:
            part.unlink()
            raise BadInput(
                f"{what}: its checksum is {found[len(promised)][:12]}.., not {promised[:12]}..; {_AGAIN}, or take "
                "another HF_ENDPOINT"
            )
    return found[64]


def _reason(error: BaseException) -> str:
    from huggingface_hub.errors import EntryNotFoundError, RepositoryNotFoundError, RevisionNotFoundError

    for kind, words in (
        (RevisionNotFoundError, "the hub has no such revision"),
        (EntryNotFoundError, "the hub has no such file"),
        (RepositoryNotFoundError, "the hub has no such repository, or not for you (HF_TOKEN)"),
    ):
        if isinstance(error, kind):
            return words
    words = str(error).strip()
    first = words.splitlines()[0].rstrip(".") if words else type(error).__name__
    return f"could not be downloaded: {first}"


def _arrived(part: Path) -> str:
    have = part.stat().st_size if part.exists() else 0
    return f"{have:,} bytes are kept"


@contextmanager
def _quiet_hub() -> Iterator[None]:
    """The hub's own advice off the screen, and its bars too where nobody watches."""
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars, logging

    verbosity: Any = logging.get_verbosity()
    bars = not are_progress_bars_disabled() and not sys.stderr.isatty()
    logging.set_verbosity_error()
    if bars:
        disable_progress_bars()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            enable_progress_bars()
