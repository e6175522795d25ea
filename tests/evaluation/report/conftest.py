import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tspo.evaluation.metrics import summarize
from tspo.evaluation.table import summary_to_json
from tspo.trajectory import trajectory_from_json, write_json_line

SETTINGS = {
    "model": "some/model",
    "output_dir": "/elsewhere/run",
    "data": {"train": ["/data/hops_train.jsonl"], "test": ["/data/hops_test.jsonl"], "corpus": "/data/corpus.jsonl"},
    "credit": {"algorithm": "tspo", "alpha": 0.5, "credit": "first_turn", "ignore": ["yes", "no"]},
    "training": {"steps": 3, "groups_per_step": 2, "group_size": 3, "trl": {}},
    "warmup": {"epochs": 2.0},
}

METRICS = (
    "exact_match",
    "answer_in_feedback",
    "near_miss_share",
    "no_variance_share_grpo",
    "no_variance_share_tspo",
    "turns",
    "searches",
    "entropy",
    "kl",
    "grad_norm",
    "rollout_tokens_per_second",
)


def attempt(group: str, ending: str, member: int = 0, question: str = "Where is it?", golden: str = "Ann Arbor") -> Any:
    """A trajectory as JSON: "right", "near miss" (found in the first turn), "late near miss" or "wrong"."""
    found, empty = f"Doc 1(Title: X) They live in {golden}.\n", "Doc 1(Title: Y) Nothing of interest.\n"
    feedbacks = {"wrong": (empty, empty), "late near miss": (empty, found)}.get(ending, (found, empty))
    turns = [
        {"text": f"<think>Look.</think>\n<search>query {k}</search>", "query": f"query {k}", "feedback": feedback}
        for k, feedback in enumerate(feedbacks)
    ]
    answer = golden if ending == "right" else "Bob"
    turns.append({"text": f"<answer>{answer}</answer>", "query": None, "feedback": None})
    return {
        "group_id": group,
        "trajectory_id": f"{group}-{member}",
        "question": question,
        "golden_answers": [golden],
        "turns": turns,
        "data_source": "two hops" if group.endswith("2") else "one hop",
    }


def group(name: str, *endings: str, **others: Any) -> list[Any]:
    return [attempt(name, ending, member, **others) for member, ending in enumerate(endings)]


EVALUATIONS = {
    "before": [attempt("q1", "wrong"), attempt("q2", "near miss")],
    "after-warm-up": [attempt("q1", "near miss"), attempt("q2", "near miss")],
    "after-training": [attempt("q1", "right"), attempt("q2", "near miss")],
}

STEPS = {
    1: [*group("1-0", "wrong", "near miss", "late near miss"), *group("1-1", "wrong", "wrong", "wrong")],
    2: [*group("2-0", "right", "near miss", "wrong"), *group("2-1", "wrong", "wrong", "wrong")],
    3: [*group("3-0", "right", "right", "right"), *group("3-1", "right", "wrong", "wrong")],
}


def metrics(steps: int) -> list[dict[str, float]]:
    return [{"step": step} | dict.fromkeys(METRICS, step / (steps + 1)) for step in range(1, steps + 1)]


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Path]:
    """Writes a run folder; a part that is given stands for the usual one, and one that is empty is left out."""

    def make(
        name: str = "some-run",
        settings: dict[str, Any] | None = None,
        lines: list[dict[str, float]] | None = None,
        evaluations: dict[str, Any] | None = None,
        steps: dict[int, Any] | None = None,
    ) -> Path:
        run = tmp_path / name
        run.mkdir()
        if settings := SETTINGS if settings is None else settings:
            (run / "config.yaml").write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")
        if lines := metrics(3) if lines is None else lines:
            (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        for stage, trajectories in (EVALUATIONS if evaluations is None else evaluations).items():
            folder = run / "evaluation" / stage
            folder.mkdir(parents=True)
            write_lines(folder / "trajectories.jsonl", trajectories)
            read = [trajectory_from_json(line, "test", "id") for line in trajectories]
            (folder / "summary.json").write_text(json.dumps(summary_to_json(summarize(read))), encoding="utf-8")
        for step, trajectories in (STEPS if steps is None else steps).items():
            (run / "trajectories").mkdir(exist_ok=True)
            write_lines(run / "trajectories" / f"{step:06d}.jsonl", trajectories)
        return run

    return make


@pytest.fixture
def make_group() -> Callable[..., list[Any]]:
    """Trajectories of one question as JSON, one for each ending."""
    return group


@pytest.fixture
def hostile_run() -> Callable[[str], dict[str, Any]]:
    """What `make_run` takes, with text that means harm, or wants something from an address, wherever text can be."""
    return _hostile_run


def write_lines(path: Path, trajectories: list[Any]) -> None:
    with path.open("w", encoding="utf-8") as stream:
        for line in trajectories:
            write_json_line(line, stream)


def _hostile_text(address: str) -> str:
    """Markup of many kinds that would run a script or fetch something from `address`."""
    return (
        f"<script>document.title = 'taken over'; fetch('{address}/fetch')</script>"
        f'<img src="{address}/image" onerror="document.title = \'taken over\'">'
        f"</q></div></li></details></section></main><iframe src={address}/frame></iframe>"
        f"<style>@import url({address}/style); body {{ display: none; background: url({address}/background) }}</style>"
        f"<link rel=stylesheet href={address}/link><meta http-equiv=refresh content='0; url={address}/refresh'>"
        f"<svg onload=\"document.title = 'taken over'\"><base href={address}/base></svg>"
        "\" onmouseover=\"document.title = 'taken over'\" ' x='</title></style></script>"
        "<!-- {{ 7 * 191 }} {% raw %} &lt;b&gt;"
        "\x00\x07\x1b\x85\ud800 \u202eevil\u202c \u2067 ]]> "
    )


def _hostile_run(address: str) -> dict[str, Any]:
    """What `make_run` takes, with hostile text wherever a run has text from outside."""
    bad = _hostile_text(address)

    def attempt(group: str, member: int, found: bool, right: bool) -> dict[str, Any]:
        feedback = f"{bad} {'Ann Arbor' if found else 'nothing'} {bad}"
        return {
            "group_id": f"{group}{bad}",
            "trajectory_id": f"{member}{bad}",
            "question": f"Who? {bad}",
            "golden_answers": ["Ann Arbor", bad],
            "turns": [
                {"text": f"<search>{bad}</search>", "query": bad, "feedback": feedback},
                {"text": f"<answer>{bad}</answer>", "query": None, "feedback": None},
            ],
            "answer": "Ann Arbor" if right else "no" + bad,
            "data_source": f"{'a' if member else 'b'}{bad}",
        }

    attempts = [attempt("q", member, member > 0, member > 1) for member in range(3)]
    return {
        "settings": {
            "model": bad,
            "credit": {"algorithm": "tspo"},
            "training": {"steps": bad, "groups_per_step": bad, "group_size": bad, "trl": {bad: bad}},
            "warmup": {"epochs": bad},
            "data": {"train": [bad], "test": bad},
        },
        "lines": [{"step": 1, "exact_match": 0.5, bad: 0.5}],
        "evaluations": {
            "before": [attempt(f"q{k}", k, False, False) for k in range(2)],
            "after-training": [attempt(f"q{k}", k, True, k == 0) for k in range(2)],
        },
        "steps": {1: attempts, 2: attempts, 3: attempts},
    }
