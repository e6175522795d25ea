import json
import sys

import pytest

from tspo.datasets.corpus import normalise_title, read_corpus, titles_index
from tspo.datasets.questions import Question, read_questions
from tspo.errors import BadInput
from tspo.protocol import PROMPT

WHOLE = {
    "id": "q1",
    "question": "Who?",
    "golden_answers": ["Jane", "J."],
    "data_source": "hotpotqa",
    "supporting_titles": ["A", "B"],
}


def write(path, *lines):
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return path


def write_parquet(path, rows):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    names = dict.fromkeys(name for row in rows for name in row)
    parquet.write_table(pyarrow.table({name: [row.get(name) for row in rows] for name in names}), path)
    return path


def search_r1_row(index=0, **changes):
    row = {
        "id": "train_0",
        "data_source": "nq",
        "prompt": [{"role": "user", "content": PROMPT.format(question=f"Question: no. {index}?")}],
        "ability": "fact-reasoning",
        "reward_model": {"style": "rule", "ground_truth": {"target": ["one", "1"]}},
        "extra_info": {"split": "train", "index": index},
    }
    return {name: value for name, value in (row | changes).items() if value is not None}


def test_a_whole_line(tmp_path):
    (question,) = read_questions([write(tmp_path / "q.jsonl", WHOLE)])
    assert question == Question("q1", "Who?", ("Jane", "J."), "hotpotqa", ("A", "B"), hops=2)


def test_defaults_come_from_the_file(tmp_path):
    line = {"question": "Who?", "golden_answers": ["Jane"]}
    questions = read_questions([write(tmp_path / "mine.jsonl", line, line, line | {"id": 7})])
    assert [question.id for question in questions] == ["mine_0", "mine_1", "7"]
    assert {question.data_source for question in questions} == {"mine"}
    assert questions[0].supporting_titles == ()


def test_files_are_read_in_order(tmp_path):
    paths = [write(tmp_path / name, WHOLE | {"id": name}) for name in ("b.jsonl", "a.jsonl")]
    assert [question.id for question in read_questions(map(str, paths))] == ["b.jsonl", "a.jsonl"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"golden_answers": []}, "field 'golden_answers'"),
        ({"golden_answers": "Jane"}, "field 'golden_answers'"),
        ({"golden_answers": None}, "field 'golden_answers'"),
        ({"question": ""}, "field 'question'"),
        ({"question": None}, "field 'question'"),
        ({"id": True}, "field 'id'"),
        ({"id": ""}, "field 'id'"),
        ({"data_source": 3}, "field 'data_source'"),
        ({"supporting_titles": "A"}, "field 'supporting_titles'"),
        ({"supporting_titles": [1]}, "field 'supporting_titles'"),
        ("[]", "expected a JSON object"),
        ("Who?", "not JSON"),
        ({"id": "q0"}, r"id 'q0' is taken by .*line 1"),
    ],
)
def test_a_bad_line_is_named(tmp_path, line, message):
    line = line if isinstance(line, str) else WHOLE | line
    path = write(tmp_path / "q.jsonl", WHOLE | {"id": "q0"}, line)
    with pytest.raises(BadInput, match=f"line 2: .*{message}|line 2: {message}") as caught:
        read_questions([path])
    assert str(path) in str(caught.value)


def test_ids_are_unique_across_files(tmp_path):
    paths = [write(tmp_path / name, WHOLE) for name in ("a.jsonl", "b.jsonl")]
    with pytest.raises(BadInput, match=r"b\.jsonl, line 1: id 'q1' is taken by .*a\.jsonl, line 1"):
        read_questions(paths)


def test_what_cannot_be_read_is_named(tmp_path):
    folder = tmp_path / "folder.parquet"
    folder.mkdir()
    for path in (tmp_path, tmp_path / "none.jsonl", folder, tmp_path / "none.parquet"):
        with pytest.raises(BadInput, match="cannot be read") as caught:
            read_questions([path])
        assert str(path) in str(caught.value)


def test_an_empty_file_is_refused(tmp_path):
    with pytest.raises(BadInput, match="holds no questions"):
        read_questions([write(tmp_path / "full.jsonl", WHOLE), write(tmp_path / "empty.jsonl")])


def test_parquet_as_search_r1_writes_it(tmp_path):
    rows = [search_r1_row(4), search_r1_row(5, question="Asked?"), search_r1_row(4, data_source="hotpotqa")]
    assert read_questions([write_parquet(tmp_path / "train.parquet", rows)]) == [
        Question("nq_4", "Question: no. 4?", ("one", "1"), "nq", hops=1),
        Question("nq_5", "Asked?", ("one", "1"), "nq", hops=1),
        Question("hotpotqa_4", "Question: no. 4?", ("one", "1"), "hotpotqa", hops=2),
    ]


def test_parquet_asks_in_the_last_user_message(tmp_path):
    prompt = [
        {"role": "user", "content": "Question: first?"},
        {"role": "user", "content": "Question: last? "},
        {"role": "assistant", "content": "Question: mine?"},
    ]
    (question,) = read_questions([write_parquet(tmp_path / "t.parquet", [search_r1_row(prompt=prompt)])])
    assert question.question == "last?"


def test_parquet_with_plain_columns_only(tmp_path):
    rows = [{"question": "Who?", "golden_answers": ["Jane"]}]
    (question,) = read_questions([write_parquet(tmp_path / "mine.parquet", rows)])
    assert question == Question("mine_0", "Who?", ("Jane",), "mine")


def test_parquet_with_one_target_as_text(tmp_path):
    row = search_r1_row(reward_model={"ground_truth": {"target": "one"}})
    path = write_parquet(tmp_path / "t.parquet", [row])
    assert read_questions([path])[0].golden_answers == ("one",)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"reward_model": None}, "row 0: field 'golden_answers'"),
        ({"prompt": None}, "row 0: field 'question'"),
        ({"prompt": [{"role": "user", "content": "Who?"}]}, "row 0: field 'question'"),
        ({"prompt": "Question: who?"}, "row 0: field 'question'"),
    ],
)
def test_a_bad_row_is_named(tmp_path, changes, message):
    path = write_parquet(tmp_path / "t.parquet", [search_r1_row(**changes)])
    with pytest.raises(BadInput, match=message):
        read_questions([path])


def test_a_broken_or_empty_parquet_file_is_refused(tmp_path):
    whole = write_parquet(tmp_path / "whole.parquet", [search_r1_row()]).read_bytes()
    broken = tmp_path / "broken.parquet"
    for data in (b"", b"PAR1", whole[:-1], whole[: len(whole) // 2]):
        broken.write_bytes(data)
        with pytest.raises(BadInput, match="not a whole Parquet file"):
            read_questions([broken])
    pyarrow = pytest.importorskip("pyarrow")
    pytest.importorskip("pyarrow.parquet").write_table(pyarrow.table({"question": pyarrow.array([], "string")}), broken)
    with pytest.raises(BadInput, match="holds no questions"):
        read_questions([broken])


def test_parquet_without_pyarrow_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(BadInput, match=r"pip install 'tspo\[train\]'"):
        read_questions([tmp_path / "t.parquet"])


def test_every_supporting_title_of_the_real_questions_is_in_the_corpus(wiki_qa):
    questions = read_questions(sorted([*wiki_qa.glob("hotpotqa_*.jsonl"), *wiki_qa.glob("musique_*.jsonl")]))
    index = titles_index(read_corpus(wiki_qa / "corpus.jsonl"))
    assert len(questions) == 140
    assert all(question.supporting_titles for question in questions)
    titles = [title for question in questions for title in question.supporting_titles]
    assert [title for title in titles if normalise_title(title) not in index] == []


@pytest.mark.parametrize(("line", "hops"), [({"hops": 3}, 3), ({}, None), ({"id": "musique_4hop1__1"}, 4)])
def test_hops_where_they_are_known(tmp_path, line, hops):
    path = write(tmp_path / "mine.jsonl", WHOLE | {"data_source": "mine"} | line)
    assert read_questions([path])[0].hops == hops


@pytest.mark.parametrize("hops", [0, -1, 1.5, "2", True, [2]])
def test_hops_that_are_no_number(tmp_path, hops):
    with pytest.raises(BadInput, match=r"line 1: field 'hops': expected a whole number from 1"):
        read_questions([write(tmp_path / "mine.jsonl", WHOLE | {"hops": hops})])


def test_the_real_questions_have_their_hops(wiki_qa):
    assert {question.hops for question in read_questions([wiki_qa / "hotpotqa_test.jsonl"])} == {2}
    musique = read_questions([wiki_qa / "musique_test.jsonl", wiki_qa / "musique_train.jsonl"])
    assert {question.hops for question in musique} <= {2, 3, 4}
