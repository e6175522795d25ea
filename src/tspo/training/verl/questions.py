"""Questions as the rows of verl's data sets, and back."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tspo.datasets.questions import Question
from tspo.errors import BadInput


def write_rows(questions: Sequence[Question], path: Path) -> None:
    """Write `questions` as a Parquet file in verl's columns, whole or not at all.

    The prompt is the question alone: the agent loop puts it into the protocol's prompt.
    """
    import pyarrow  # type: ignore[import-untyped]
    from pyarrow import parquet

    rows = [
        {
            "data_source": question.data_source,
            "prompt": [{"role": "user", "content": question.question}],
            "ability": "search",
            "reward_model": {"style": "rule", "ground_truth": {"target": list(question.golden_answers)}},
            "extra_info": {
                "index": index,
                "id": question.id,
                "supporting_passages": list(question.supporting_passages),
            },
        }
        for index, question in enumerate(questions)
    ]
    part = path.with_name(f".{path.name}.part")
    try:
        parquet.write_table(pyarrow.Table.from_pylist(rows), part)
        os.replace(part, path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise BadInput(f"{path}: not written ({error.strerror or error}); choose another output_dir") from None


def question_of_row(row: Mapping[str, Any]) -> Question:
    """The question in a row that `write_rows` wrote, as verl hands it to an agent loop."""
    return Question(
        id=str(row["extra_info"]["id"]),
        question=str(row["raw_prompt"][0]["content"]),
        golden_answers=tuple(str(answer) for answer in row["reward_model"]["ground_truth"]["target"]),
        data_source=str(row["data_source"]),
        supporting_passages=tuple(str(text) for text in row["extra_info"]["supporting_passages"]),
    )
