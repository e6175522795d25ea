"""One trajectory of a step in a few lines of plain text, for who watches a run."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from tspo.trajectory import read_json_lines

_WIDTH = 100


def sample_lines(path: Path) -> list[str]:
    """The first trajectory of a step's file: question, turns with what they earned, and the verdict."""
    with path.open("rb") as stream:
        _, line = next(iter(read_json_lines(stream, str(path))))
    found = line["first_occurrence"]
    lines = [f"  question: {_short(line['question'])}  (answer: {_short(line['golden_answers'][0])})"]
    for k, turn in enumerate(line["turns"]):
        lines.append(f"  turn {k + 1}: {_short(turn['text'])}")
        if turn.get("feedback") is not None:
            here = "  <- the answer is here" if k == found else ""
            lines.append(f"          {_titles(turn['feedback'])}{here}")
        lines.append(f"          reward {line['turn_rewards'][k]:.2f}  advantage {line['turn_advantages'][k]:+.2f}")
    return [*lines, f"  {_verdict(line)}"]


def _verdict(line: dict[str, Any]) -> str:
    if line["outcome"] == 1:
        return "right"
    near = ", but the answer was in what it read: a near miss" if line["first_occurrence"] is not None else ""
    return f"wrong ({line['stop_reason'].replace('_', ' ')}){near}"


def _titles(feedback: str) -> str:
    titles = re.findall(r'^Doc \d+\(Title: "?(.*?)"?\) ', feedback, re.MULTILINE)
    return _short("read: " + " | ".join(titles)) if titles else "read nothing"


def _short(text: str) -> str:
    """One line of printable text: control characters must not reach a terminal."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line if len(line) <= _WIDTH else line[: _WIDTH - 2] + " …"
