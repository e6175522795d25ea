import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from tspo.trajectory import write_json_line
from tspo.viewer.index import Index
from tspo.viewer.source import open_source

FOUND = 'Doc 1(Title: "X") They live in Ann Arbor, it says.\n'
EMPTY = 'Doc 1(Title: "Y") Nothing of interest.\n'


def attempt(group: str, member: int, ending: str, question: str = "Where is it?", tokens: bool = True) -> Any:
    """A trajectory as JSON that ends "right", as a "near miss" (found in its first turn) or "wrong"."""
    turns: list[dict[str, Any]] = [
        {
            "text": "<think>Look.</think><search>it</search>",
            "query": "it",
            "feedback": EMPTY if ending == "wrong" else FOUND,
        },
        {"text": f"<answer>{'Ann Arbor' if ending == 'right' else 'Bob'}</answer>", "query": None, "feedback": None},
    ]
    if tokens:
        for turn in turns:
            ends = [*range(5, len(turn["text"]), 5), len(turn["text"])]
            turn |= {"token_ids": [7] * len(ends), "logprobs": [-0.5 * (k + 1) for k in range(len(ends))]}
            turn["token_ends"] = ends
    return {
        "group_id": group,
        "trajectory_id": f"{group}-{member}",
        "question": question,
        "golden_answers": ["Ann Arbor"],
        "turns": turns,
    }


def group(name: str, *endings: str, **others: Any) -> list[Any]:
    return [attempt(name, member, ending, **others) for member, ending in enumerate(endings)]


STEPS = {
    1: [*group("1-0", "wrong", "near miss", "wrong"), *group("1-1", "wrong", "wrong", "wrong", question="Who?")],
    2: [*group("2-0", "right", "near miss", "wrong"), *group("2-1", "right", "right", "right", question="When?")],
    3: [*group("3-0", "right", "right", "near miss"), *group("3-1", "near miss", "wrong", "wrong", question="Who?")],
}
EVALUATION = {
    "before": [attempt("q1", 0, "wrong", tokens=False)],
    "after-training": [attempt("q1", 0, "right", tokens=False)],
}


def write_lines(path: Path, lines: list[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as stream:
        for line in lines:
            write_json_line(line, stream)


@pytest.fixture
def write() -> Callable[[Path, list[Any]], None]:
    """Writes a trajectory file."""
    return write_lines


@pytest.fixture
def make_group() -> Callable[..., list[Any]]:
    """Trajectories of one question as JSON, one for each ending."""
    return group


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Path]:
    """Writes a run folder: settings, metrics, three steps, two evaluations, token ratios of step 1."""

    def make(name: str = "some-run", steps: dict[int, Any] | None = None, algorithm: str = "tspo") -> Path:
        run = tmp_path / name
        run.mkdir()
        settings = {"model": "some/model", "credit": {"algorithm": algorithm}, "report": {"api_key": "hidden"}}
        (run / "config.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
        lines = [{"step": step, "exact_match": step / 4, "loss": 0.5, "own_metric": step} for step in (1, 2, 3)]
        (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        for step, trajectories in (STEPS if steps is None else steps).items():
            write_lines(run / "trajectories" / f"{step:06d}.jsonl", trajectories)
        for stage, trajectories in EVALUATION.items():
            write_lines(run / "evaluation" / stage / "trajectories.jsonl", trajectories)
        tokens = sum(len(turn.get("token_ids", ())) for line in STEPS[1] for turn in line["turns"])
        np.save(run / "trajectories" / "000001.log_ratios.npy", np.linspace(-0.5, 0.5, tokens).astype(np.float16))
        return run

    return make


@pytest.fixture
def make_index() -> Callable[[Path], Index]:
    """The index of a run, with all in it that is there."""

    def make(path: Path) -> Index:
        index = Index(open_source(path))
        index.refresh(growing=False)
        return index

    return make
