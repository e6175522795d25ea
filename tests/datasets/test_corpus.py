import pytest

from tspo.datasets.corpus import Document, normalise_title, read_corpus, titles_index
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
