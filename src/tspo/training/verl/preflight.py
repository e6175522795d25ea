"""What has to be there before anything is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rich.console import Console

from tspo.config import RunConfig
from tspo.datasets.questions import Question, read_questions
from tspo.training.data_files import DataFiles
from tspo.training.verl.questions import write_rows
from tspo.training.verl.translation import row_files


@dataclass(frozen=True, slots=True)
class Questions:
    train: list[Question]
    test: list[Question]

    def write(self, config: RunConfig) -> None:
        train, test = row_files(config)
        train.parent.mkdir(parents=True, exist_ok=True)
        write_rows(self.train, train)
        if self.test:
            write_rows(self.test, test)


def check_ready(config: RunConfig, files: DataFiles, translated: Any, console: Console) -> Questions:
    return Questions(read_questions(files.train), read_questions(files.test) if files.test else [])
