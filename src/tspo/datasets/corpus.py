"""The corpus: JSON Lines or Parquet of `{"id", "contents"}`, as Search-R1's retriever reads it."""

from __future__ import annotations

import html
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tspo.datasets.parquet import count_rows, is_parquet, read_rows
from tspo.datasets.unique_ids import UniqueIds
from tspo.errors import BadInput
from tspo.trajectory import read_json_lines

_FIELDS = ("id", "contents")
_BLOCK = 1 << 20


@dataclass(frozen=True, slots=True)
class Document:
    """One passage of the corpus; `contents` is the quoted title, a line break, and the text."""

    id: str
    contents: str

    @property
    def title(self) -> str:
        """The first line without its outer quotes, otherwise as it stands in the corpus."""
        line = self.contents.partition("\n")[0].strip()
        return line[1:-1] if len(line) > 1 and line[0] == line[-1] == '"' else line


def read_corpus(path: str | Path) -> Iterator[Document]:
    """Each document of a corpus file, in order, in bounded memory; integer ids become text.

    A name that ends in `.parquet` is Parquet, any other JSON Lines. Raises BadInput, which names the file,
    the line and the field, where the file cannot be read, holds no documents, gives an id twice (said some
    documents later, at the latest at the end), or a line is not a document.
    """
    ids = UniqueIds()
    empty = True
    for where, document in _read(path):
        empty = False
        if not ids.add(document.id, where):
            raise _taken(document.id, where)
        if ids.full:
            _confirm(ids.suspects(), path)
        yield document
    _confirm(ids.suspects(), path)
    if empty:
        raise BadInput(f'{path}: holds no documents; give one JSON object {{"id", "contents"}} a line')


def count_documents(path: str | Path) -> int | None:
    """About how many documents a corpus file holds: its lines or rows; None where that cannot be told.

    Raises BadInput as `read_rows` for a Parquet file that is damaged.
    """
    if not Path(path).is_file():  # a pipe can be read only once
        return None
    if is_parquet(path):
        return count_rows(path)
    try:
        with open(path, "rb") as stream:
            return sum(block.count(b"\n") for block in iter(lambda: stream.read(_BLOCK), b""))
    except OSError:
        return None


def normalise_title(title: str) -> str:
    """The form in which titles are compared: HTML entities resolved, white space collapsed."""
    return " ".join(html.unescape(title).split())


def titles_index(documents: Iterable[Document]) -> dict[str, list[Document]]:
    """Documents by `normalise_title` of their title, in corpus order; look up with a normalised title."""
    index: dict[str, list[Document]] = {}
    for document in documents:
        index.setdefault(normalise_title(document.title), []).append(document)
    return index


def _read(path: str | Path) -> Iterator[tuple[str, Document]]:
    """Each document and its place, ids that come twice among them."""
    if is_parquet(path):
        for where, row in read_rows(path, _FIELDS):
            yield where, _document_from_json(row, where)
        return
    try:
        with open(path, "rb") as stream:
            for where, line in read_json_lines(stream, str(path)):
                yield where, _document_from_json(line, where)
    except OSError as error:
        raise BadInput(
            f"{path}: cannot be read ({error.strerror}); give a corpus in JSON Lines or Parquet (.parquet)"
        ) from None


def _confirm(suspects: list[tuple[str, str]], path: str | Path) -> None:
    """Raise BadInput where one of the ids, given with its place, stands at an earlier place of the file."""
    if not suspects:
        return
    places = dict(suspects)
    if not Path(path).is_file():  # a pipe is not read again; two ids of one hash are most unlikely
        raise _taken(*suspects[0])
    for where, document in _read(path):
        if (place := places.pop(document.id, where)) != where:
            raise _taken(document.id, place)
        if not places:
            return


def _taken(identifier: str, where: str) -> BadInput:
    return BadInput(f"{where}: field 'id': {identifier!r} is taken; each needs its own")


def _document_from_json(line: object, where: str) -> Document:
    if not isinstance(line, dict):
        raise BadInput(f'{where}: expected a JSON object with the fields "id" and "contents"')
    for name in _FIELDS:
        if name not in line:
            raise BadInput(f"{where}: field {name!r} is missing")
    identifier, contents = line["id"], line["contents"]
    if not isinstance(identifier, str | int) or isinstance(identifier, bool):
        raise BadInput(f"{where}: field 'id': expected a string or a whole number")
    if not isinstance(contents, str):
        raise BadInput(f"{where}: field 'contents': expected a string")
    return Document(id=str(identifier), contents=contents)
