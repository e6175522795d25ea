"""The corpus: JSON Lines of `{"id", "contents"}`, as Search-R1's retriever reads it."""

from __future__ import annotations

import html
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tspo.errors import BadInput
from tspo.trajectory import read_json_lines


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
    """Each document of a corpus file, in order, one line in memory at a time; integer ids become text.

    Raises BadInput, which names the file, the line and the field, where the file cannot be read, holds
    no documents, gives an id twice, or a line is not a document.
    """
    seen: set[str] = set()
    try:
        with open(path, "rb") as stream:
            for where, line in read_json_lines(stream, str(path)):
                document = _document_from_json(line, where)
                if document.id in seen:
                    raise BadInput(f"{where}: field 'id': {document.id!r} is taken; each needs its own")
                seen.add(document.id)
                yield document
    except OSError as error:
        raise BadInput(f"{path}: cannot be read ({error.strerror}); give a corpus in JSON Lines") from None
    if not seen:
        raise BadInput(f'{path}: holds no documents; give one JSON object {{"id", "contents"}} a line')


def normalise_title(title: str) -> str:
    """The form in which titles are compared: HTML entities resolved, white space collapsed."""
    return " ".join(html.unescape(title).split())


def titles_index(documents: Iterable[Document]) -> dict[str, list[Document]]:
    """Documents by `normalise_title` of their title, in corpus order; look up with a normalised title."""
    index: dict[str, list[Document]] = {}
    for document in documents:
        index.setdefault(normalise_title(document.title), []).append(document)
    return index


def _document_from_json(line: object, where: str) -> Document:
    if not isinstance(line, dict):
        raise BadInput(f'{where}: expected a JSON object with the fields "id" and "contents"')
    for name in ("id", "contents"):
        if name not in line:
            raise BadInput(f"{where}: field {name!r} is missing")
    identifier, contents = line["id"], line["contents"]
    if not isinstance(identifier, str | int) or isinstance(identifier, bool):
        raise BadInput(f"{where}: field 'id': expected a string or a whole number")
    if not isinstance(contents, str):
        raise BadInput(f"{where}: field 'contents': expected a string")
    return Document(id=str(identifier), contents=contents)
