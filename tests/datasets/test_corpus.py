import json

import pytest

from tspo.datasets import corpus, unique_ids
from tspo.datasets.corpus import Document, count_documents, normalise_title, read_corpus, titles_index
from tspo.errors import BadInput


def write(path, text):
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_documents_come_in_order_with_text_ids(tmp_path):
    path = write(tmp_path / "c.jsonl", '{"id": 7, "contents": "\\"A\\"\\nx"}\n\n{"id": "b", "contents": "", "z": 1}')
    assert list(read_corpus(path)) == [Document("7", '"A"\nx'), Document("b", "")]


def test_reading_streams(tmp_path):
    path = write(tmp_path / "c.jsonl", '{"id": 1, "contents": "x"}\nnot JSON\n')
    documents = read_corpus(path)
    assert next(documents) == Document("1", "x")
    with pytest.raises(BadInput, match="line 2: not JSON"):
        next(documents)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"id": "1", "contents": "y"}', r"line 2: field 'id': '1' is taken"),
        ('{"contents": "y"}', r"line 2: field 'id' is missing"),
        ('{"id": 2}', r"line 2: field 'contents' is missing"),
        ('{"id": 2, "contents": null}', r"line 2: field 'contents': expected a string"),
        ('{"id": 2, "contents": ["y"]}', r"line 2: field 'contents': expected a string"),
        ('{"id": true, "contents": "y"}', r"line 2: field 'id': expected a string or a whole number"),
        ('{"id": 1.5, "contents": "y"}', r"line 2: field 'id'"),
        ('{"id": null, "contents": "y"}', r"line 2: field 'id'"),
        ("[]", r"line 2: expected a JSON object"),
        ('{"id": 2, ', r"line 2: not JSON"),
        (b"\xff", r"line 2: not UTF-8"),
    ],
)
def test_a_bad_line_is_named(tmp_path, line, message):
    line = line if isinstance(line, bytes) else line.encode()
    path = write(tmp_path / "c.jsonl", b'{"id": 1, "contents": "x"}\n' + line)
    with pytest.raises(BadInput, match=message) as caught:
        list(read_corpus(path))
    assert str(path) in str(caught.value)


def test_an_id_taken_long_ago_is_named_with_its_line(tmp_path, monkeypatch):
    monkeypatch.setattr(corpus, "UniqueIds", lambda: unique_ids.UniqueIds(recent=10))
    lines = [{"id": n if n != 77 else 3, "contents": "x"} for n in range(100)]
    path = write(tmp_path / "c.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(BadInput, match=r"c\.jsonl, line 78: field 'id': '3' is taken"):
        list(read_corpus(path))


def test_ids_that_only_share_a_hash_are_no_duplicates(tmp_path, monkeypatch):
    monkeypatch.setattr(corpus, "UniqueIds", lambda: unique_ids.UniqueIds(recent=10))
    monkeypatch.setattr(unique_ids, "hash", len, raising=False)
    lines = "".join(json.dumps({"id": n, "contents": "x"}) + "\n" for n in range(100))
    assert len(list(read_corpus(write(tmp_path / "c.jsonl", lines)))) == 100


def write_parquet(path, **columns):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(pyarrow.table(columns), path, row_group_size=700)
    return path


@pytest.mark.parametrize("ids", [list(range(2500)), [f"d{n}" for n in range(2500)]], ids=["numbers", "text"])
def test_parquet_is_read_as_json_lines_are(tmp_path, ids):
    contents = [f'"T{n}"\ntext {n}' for n in range(2500)]
    path = write_parquet(tmp_path / "c.parquet", id=ids, contents=contents, url=["x"] * 2500)
    assert list(read_corpus(path)) == [Document(str(i), text) for i, text in zip(ids, contents, strict=True)]
    assert count_documents(path) == 2500


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"id": [1, 2], "text": ["a", "b"]}, "row 0: field 'contents' is missing"),
        ({"id": [1, 2], "contents": ["a", None]}, "row 1: field 'contents': expected a string"),
        ({"id": ["a", "a"], "contents": ["a", "b"]}, "row 1: field 'id': 'a' is taken"),
        ({"id": [0.5], "contents": ["a"]}, "row 0: field 'id': expected a string or a whole number"),
    ],
)
def test_a_bad_row_is_named(tmp_path, columns, message):
    path = write_parquet(tmp_path / "c.parquet", **columns)
    with pytest.raises(BadInput, match=message) as caught:
        list(read_corpus(path))
    assert str(path) in str(caught.value)


def test_parquet_that_is_empty_cut_or_missing_is_refused(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    nothing = {"id": pyarrow.array([], "int64"), "contents": pyarrow.array([], "string")}
    with pytest.raises(BadInput, match="holds no documents"):
        list(read_corpus(write_parquet(tmp_path / "empty.parquet", **nothing)))
    whole = write_parquet(tmp_path / "whole.parquet", id=[1], contents=["a"]).read_bytes()
    with pytest.raises(BadInput, match="not a whole Parquet file"):
        list(read_corpus(write(tmp_path / "cut.parquet", whole[:-9])))
    with pytest.raises(BadInput, match="cannot be read"):
        list(read_corpus(tmp_path / "none.parquet"))


def test_documents_are_counted_by_lines(tmp_path):
    assert count_documents(write(tmp_path / "c.jsonl", "{}\n" * 1234)) == 1234
    assert count_documents(tmp_path / "none.jsonl") is None


@pytest.mark.parametrize("text", ["", "\n \n"])
def test_an_empty_corpus_is_refused(tmp_path, text):
    with pytest.raises(BadInput, match="holds no documents"):
        list(read_corpus(write(tmp_path / "c.jsonl", text)))


def test_what_cannot_be_read_is_named(tmp_path):
    for path in (tmp_path, tmp_path / "none.jsonl"):
        with pytest.raises(BadInput, match="cannot be read") as caught:
            list(read_corpus(path))
        assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("contents", "title"),
    [
        ('"Rome"\nThe city', "Rome"),
        ('""Heroes""\nA song', '"Heroes"'),
        ("Rome\nThe city", "Rome"),
        ('"Rome" \nThe city', "Rome"),
        ('"', '"'),
        ("", ""),
    ],
)
def test_the_title_is_the_first_line_without_its_quotes(contents, title):
    assert Document("1", contents).title == title


def test_titles_are_found_whichever_side_is_escaped():
    escaped, plain = Document("1", '"Simon &amp; Simon"\nx'), Document("2", '"Simon & Simon"\ny')
    index = titles_index([escaped, plain])
    assert index[normalise_title("Simon &amp; Simon")] == [escaped, plain]
    assert index[normalise_title(" Simon  & Simon")] == [escaped, plain]


def test_the_real_corpus_is_whole(wiki_qa):
    documents = list(read_corpus(wiki_qa / "corpus.jsonl"))
    assert len(documents) > 8000
    assert all(document.title and document.contents for document in documents)
