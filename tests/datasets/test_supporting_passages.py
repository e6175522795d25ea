import json

import pytest

from tspo.datasets.questions import Question
from tspo.datasets.supporting_passages import with_supporting_passages
from tspo.errors import BadInput


@pytest.fixture
def corpus(tmp_path):
    contents = ['"Oslo"\nA town.', '"A &amp; B"\nA firm.', '"Oslo"\nBy the sea.', '"Rome"\nAnother.']
    path = tmp_path / "corpus.jsonl"
    path.write_text("".join(json.dumps({"id": str(n), "contents": text}) + "\n" for n, text in enumerate(contents)))
    return path


def question(*titles):
    return Question("q1", "where?", ("Oslo",), "made", titles)


def test_a_title_has_the_texts_of_its_passages(corpus):
    (found,) = with_supporting_passages([question("A & B", "Oslo")], corpus)
    assert found.supporting_passages == ("A firm.", "A town. By the sea.")
    assert found.supporting_titles == ("A & B", "Oslo")


def test_what_is_missing_is_named(corpus):
    with pytest.raises(BadInput, match="question 'q1' has no 'supporting_titles'"):
        with_supporting_passages([question()], corpus)
    with pytest.raises(BadInput, match="question 'q1': its supporting title 'Bergen' is not in the corpus"):
        with_supporting_passages([question("Oslo", "Bergen")], corpus)
    with pytest.raises(BadInput, match=r"data\.corpus: reward stepsearch"):
        with_supporting_passages([question("Oslo")], None)
