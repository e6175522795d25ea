import hashlib
import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tspo.datasets.corpus import Document
from tspo.errors import BadInput
from tspo.retrieval import stored_documents
from tspo.retrieval.stored_documents import DocumentWriter, StoredDocuments, chunks

# half of a surrogate pair is text that JSON can hold
ANY_TEXT = st.text(st.characters(), max_size=30)


def write(folder, documents):
    with DocumentWriter(folder) as writer:
        for chunk in chunks(documents):
            writer.add(chunk)
        return writer.sha256


@settings(max_examples=50, deadline=None)
@given(st.lists(st.builds(Document, ANY_TEXT, ANY_TEXT), min_size=1, max_size=20))
def test_any_text_comes_back(tmp_path_factory, documents):
    folder = tmp_path_factory.mktemp("stored")
    digest = write(folder, documents)
    stored = StoredDocuments(folder, len(documents))
    assert list(stored) == documents
    assert [stored[place] for place in range(len(stored))] == documents
    assert stored[1:3] == documents[1:3]
    assert digest == hashlib.sha256((folder / "passages.jsonl").read_bytes()).hexdigest()


def test_there_is_no_passage_outside(tmp_path):
    write(tmp_path, [Document("a", "b")])
    stored = StoredDocuments(tmp_path, 1)
    for place in (-1, 1):
        with pytest.raises(IndexError):
            stored[place]


def test_files_that_do_not_go_together_are_refused(tmp_path):
    write(tmp_path, [Document(str(n), "text") for n in range(5)])
    with pytest.raises(BadInput, match="disagree"):
        StoredDocuments(tmp_path, 4)
    os.truncate(tmp_path / "passages.jsonl", 20)
    with pytest.raises(BadInput, match="disagree"):
        StoredDocuments(tmp_path, 5)
    np.save(tmp_path / "passages.offsets.npy", np.array(["x"], dtype=object))
    with pytest.raises(BadInput, match="not a whole index"):
        StoredDocuments(tmp_path, 5)


def test_chunks_are_bounded_by_documents_and_by_text(monkeypatch):
    monkeypatch.setattr(stored_documents, "_CHUNK_DOCUMENTS", 3)
    monkeypatch.setattr(stored_documents, "_CHUNK_CHARACTERS", 10)
    documents = [Document(str(n), "x" * length) for n, length in enumerate([1, 1, 1, 1, 9, 100, 0])]
    assert [len(chunk) for chunk in chunks(documents)] == [3, 2, 1, 1]
    assert [document for chunk in chunks(documents) for document in chunk] == documents
