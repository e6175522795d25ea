"""Data sets as prepared folders: files with a manifest of sizes and checksums, used without a network.

`FOLDER/NAME/SPLIT.jsonl` (or `.parquet`, or the downloaded file), and `SPLIT.manifest.json`, written last.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tspo.cache_folder import cache_dir
from tspo.datasets.benchmarks import Benchmark, HubFile
from tspo.datasets.flashrag import convert_row
from tspo.datasets.hub import fetch
from tspo.datasets.names import Purpose, Split, is_name, question_splits
from tspo.datasets.parquet import count_rows, is_parquet
from tspo.errors import BadInput
from tspo.files import atomic_write
from tspo.trajectory import read_json_lines, write_json_line

_MADE_BY = 1
"""Goes up when the same download is prepared as other lines."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a prepared split is made from and what it is; `rows` and `left_out` are None where nothing was read."""

    name: str
    split: str
    repository: str
    revision: str
    source: str
    source_sha256: str
    licence: str
    original_licence: str
    file: str
    size: int
    sha256: str
    rows: int | None
    left_out: int | None
    """Rows without a question or an answer."""
    made_by: int = _MADE_BY


def data_folder(folder: Path | None = None) -> Path:
    """Where prepared data sets are: `folder`, else TSPO_DATA, else the cache."""
    if folder is not None:
        return folder
    return Path(named).expanduser() if (named := os.environ.get("TSPO_DATA")) else cache_dir() / "data"


def prepare(split: Split, folder: Path, say: Callable[[str], None]) -> Manifest:
    """Fetch a split and prepare it in `folder`, or check the one that is there; raises BadInput.

    `say` is told what a person should know. A split that is whole needs no network.
    """
    benchmark, source = split.benchmark, split.benchmark.files[split.split]
    if (kept := _read_manifest(folder, split)) is not None:
        check_file(_file_of(folder, kept), kept)
        return kept
    place = folder / benchmark.name
    say(f"{split}: {source.megabytes:,.2f} MB from {benchmark.repository}")
    got = fetch(benchmark.repository, benchmark.revision, source.path, source.sha256, place / ".downloads")
    rows: int | None
    left_out: int | None
    if benchmark.kind == "questions" and not is_parquet(source.path):
        target = place / f"{split.split}.jsonl"
        rows, left_out = _convert(got.path, target, benchmark, split.split)
        got.path.unlink()
        size, sha256 = target.stat().st_size, _sha256(target)
    else:
        target = place / Path(source.path).name
        rows = count_rows(got.path) if is_parquet(source.path) else None
        os.replace(got.path, target)
        left_out, size, sha256 = None, got.size, got.sha256
    manifest = Manifest(
        name=benchmark.name,
        split=split.split,
        repository=benchmark.repository,
        revision=benchmark.revision,
        source=source.path,
        source_sha256=got.sha256,
        licence=benchmark.licence,
        original_licence=benchmark.original_licence,
        file=target.name,
        size=size,
        sha256=sha256,
        rows=rows,
        left_out=left_out,
    )
    with atomic_write(_manifest_of(folder, split)) as stream:
        json.dump(asdict(manifest), stream, indent=1)
    _mention_rows(split, source, manifest, say)
    return manifest


def prepared_file(split: Split, folder: Path) -> Path:
    """The file of a split that has been prepared, its checksum checked; raises BadInput where it is not whole."""
    manifest = _read_manifest(folder, split)
    if manifest is None:
        raise BadInput(f"{split}: is not prepared in {folder}; run: tspo data prepare {split}")
    path = _file_of(folder, manifest)
    check_file(path, manifest)
    return path


def question_files(paths: Sequence[Path], purpose: Purpose, folder: Path | None = None) -> list[Path]:
    """The question files that are meant: paths as they are, names as the prepared files of their splits.

    Raises BadInput for a name that there is not, and for one that is not prepared.
    """
    place = data_folder(folder)
    meant: list[Path | Split] = []
    for path in paths:
        meant += question_splits([str(path)], purpose) if is_name(path) else [path]
    missing = [str(one) for one in meant if isinstance(one, Split) and _read_manifest(place, one) is None]
    if missing:
        raise BadInput(f"not prepared in {place}: {', '.join(missing)}; run: tspo data prepare {' '.join(missing)}")
    return [prepared_file(one, place) if isinstance(one, Split) else one for one in meant]


def is_prepared(split: Split, folder: Path) -> bool:
    """Whether a split has a manifest of this revision and a file of that size; checksums are not read."""
    manifest = _read_manifest(folder, split)
    path = _file_of(folder, manifest) if manifest else None
    return path is not None and manifest is not None and path.is_file() and path.stat().st_size == manifest.size


def check_file(path: Path, manifest: Manifest) -> None:
    """Raise BadInput where a prepared file is not the one that its manifest describes."""
    mend = f"delete {path.parent} and run: tspo data prepare {manifest.name}:{manifest.split}"
    try:
        if path.stat().st_size != manifest.size or _sha256(path) != manifest.sha256:
            raise BadInput(f"{path}: is not what was prepared (other size or checksum); {mend}")
    except OSError as error:
        raise BadInput(f"{path}: cannot be read ({error.strerror}); {mend}") from None


def _convert(path: Path, target: Path, benchmark: Benchmark, split: str) -> tuple[int, int]:
    """Write the rows of a FlashRAG file as our lines; how many there were, and how many were left out."""
    rows = left_out = 0
    with path.open("rb") as stream, atomic_write(target) as out:
        for _, row in read_json_lines(stream, f"{benchmark.repository}/{benchmark.files[split].path}"):
            line = convert_row(row, benchmark.name, split, rows)
            rows += 1
            if line is None:
                left_out += 1
            else:
                write_json_line(line, out)
    return rows, left_out


def _mention_rows(split: Split, source: HubFile, manifest: Manifest, say: Callable[[str], None]) -> None:
    if manifest.left_out:
        say(f"{split}: {manifest.left_out} of {manifest.rows} rows have no question or no answer; they are left out")
    if None not in (manifest.rows, source.rows) and manifest.rows != source.rows:
        say(f"{split}: {manifest.rows:,} rows, where {source.rows:,} are published")


def _read_manifest(folder: Path, split: Split) -> Manifest | None:
    """The manifest of a split as this version and revision makes it; None where there is none."""
    path = _manifest_of(folder, split)
    try:
        value: Any = json.loads(path.read_text(encoding="utf-8"))
        manifest = Manifest(**value)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError):
        raise BadInput(
            f"{path}: is not the manifest of a data set; delete {path.parent} and prepare it again"
        ) from None
    same = (manifest.revision, manifest.made_by) == (split.benchmark.revision, _MADE_BY)
    return manifest if same and Path(manifest.file).name == manifest.file else None


def _manifest_of(folder: Path, split: Split) -> Path:
    return folder / split.benchmark.name / f"{split.split}.manifest.json"


def _file_of(folder: Path, manifest: Manifest) -> Path:
    return folder / manifest.name / manifest.file


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
