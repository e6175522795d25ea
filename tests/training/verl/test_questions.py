from pathlib import Path

import pytest

pytest.importorskip("pyarrow")

from tspo.datasets.parquet import read_rows
from tspo.datasets.questions import Question, read_questions
from tspo.errors import BadInput
from tspo.training.verl.questions import question_of_row, write_rows

QUESTIONS = [
    Question("nq_0", "who wrote it?", ("Ann Lee", "A. Lee"), "nq"),
    Question("own-id", "<answer>x</answer> ${oc.env:HOME} \u2063", ("é",), "made up"),
    Question("q-2", "where?", ("sea",), "own", supporting_passages=("a town by the sea", "it is é")),
]


def test_questions_come_back_from_verls_rows(tmp_path: Path) -> None:
    write_rows(QUESTIONS, tmp_path / "rows.parquet")
    rows = [
        row for _, row in read_rows(tmp_path / "rows.parquet", ("data_source", "prompt", "reward_model", "extra_info"))
    ]
    assert [question_of_row(row | {"raw_prompt": row["prompt"]}) for row in rows] == QUESTIONS
    assert [row["extra_info"]["index"] for row in rows] == [0, 1, 2]


def test_the_files_of_search_r1_become_rows(tmp_path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    row = {
        "id": "train_0",
        "question": "who wrote it?",
        "golden_answers": ["Ann Lee"],
        "data_source": "nq",
        "prompt": [{"role": "user", "content": "Answer the given question. Question: who wrote it?"}],
        "ability": "fact-reasoning",
        "reward_model": {"ground_truth": {"target": ["Ann Lee"]}, "style": "rule"},
        "extra_info": {"index": 0, "split": "train"},
    }
    parquet.write_table(pyarrow.Table.from_pylist([row]), tmp_path / "train.parquet")
    write_rows(read_questions([tmp_path / "train.parquet"]), tmp_path / "rows.parquet")
    ((_, made),) = read_rows(tmp_path / "rows.parquet", ("data_source", "prompt", "reward_model", "extra_info"))
    assert question_of_row(made | {"raw_prompt": made["prompt"]}) == Question(
        "nq_0", "who wrote it?", ("Ann Lee",), "nq"
    )


def test_a_folder_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="not written"):
        write_rows(QUESTIONS, tmp_path / "nowhere" / "rows.parquet")
    assert list(tmp_path.iterdir()) == []
