"""The same numbers as the authors' functions, which were run once; each reward's source is in authors_numbers.json."""

import json
from pathlib import Path

import pytest

from tspo.protocol import last_answer, render_passages
from tspo.rewards.search_r1 import search_r1_rewards
from tspo.rewards.stepsearch import stepsearch_rewards
from tspo.trajectory import StopReason, Trajectory, Turn

NUMBERS = json.loads((Path(__file__).parent / "authors_numbers.json").read_text(encoding="utf-8"))


def trajectory(turns, **extra):
    return Trajectory(
        "q", "q-0", "Who?", ["Ann Lee"], turns, last_answer([t.text for t in turns]), StopReason.ANSWER, extra=extra
    )


@pytest.mark.parametrize("case", NUMBERS["search_r1"]["cases"])
def test_search_r1(case):
    item = trajectory([Turn(text, feedback=feedback) for text, feedback in case["turns"]])
    options = ({}, {"broken_format_score": 0.1}, {"broken_format_score": 0.1, "retrieval_score": 0.1})
    scores = [search_r1_rewards(item, match="substring", **given) for given in options]
    assert [len(one) for one in scores] == [len(item.turns)] * 3
    assert [one[0] for one in scores] == pytest.approx(case["scores"], abs=1e-12)


@pytest.mark.parametrize("case", NUMBERS["stepsearch"]["cases"])
def test_stepsearch(case):
    searches = [
        render_passages([f'"Title (of {n})"\n{text}' for n, text in enumerate(found)]) for found in case["searches"]
    ]
    turns = [Turn("<search>x</search>", feedback=feedback) for feedback in searches]
    item = trajectory([*turns, Turn("<answer>Lee</answer>")], supporting_passages=case["supporting_passages"])
    expected = [gain - penalty for gain, penalty in zip(case["gains"], case["penalties"], strict=True)]
    *earned, answer = stepsearch_rewards(item)
    assert earned == pytest.approx(expected, abs=1e-8)
    assert answer == pytest.approx(2 / 3)
    assert stepsearch_rewards(item, process_scale=0.6)[:-1] == pytest.approx([0.6 * one for one in expected], abs=1e-8)
