"""The same numbers as the authors' functions, which were run once; each method's source is in authors_numbers.json."""

import json
from pathlib import Path

import numpy as np
import pytest

from tspo.advantages import ADVANTAGES, group_relative

NUMBERS = json.loads((Path(__file__).parent / "authors_numbers.json").read_text(encoding="utf-8"))


def cases(name):
    return pytest.mark.parametrize("case", NUMBERS[name]["cases"])


def advantages(name, case, **options):
    rewards, num_turns, group = (np.array(case[key]) for key in ("turn_rewards", "num_turns", "group"))
    return ADVANTAGES[name].advantages(rewards.astype(float), num_turns, group, rewards.sum(1), **options)


@cases("gigpo")
def test_gigpo(case):
    anchors = 10 * np.array(case["group"])[:, None] + np.array(case["states"])
    options = {name: case[name] for name in ("gamma", "turn_weight", "scale")}
    result = advantages("gigpo", case, anchors=anchors, **options)
    np.testing.assert_allclose(result, case["advantages"], rtol=1e-5, atol=2e-6)


@cases("igpo")
def test_igpo(case):
    result = advantages("igpo", case, order="accumulate_first", scale="none")
    np.testing.assert_allclose(result, case["advantages"], rtol=1e-5, atol=2e-6)


@cases("igpo")
def test_igpo_as_the_paper_has_it_is_something_else(case):
    assert not np.allclose(advantages("igpo", case), case["advantages"], rtol=0.05)


@cases("mt_grpo")
def test_mt_grpo(case, monkeypatch):
    monkeypatch.setattr(group_relative, "EPSILON", 1e-4)  # what theirs adds to the standard deviation
    result = advantages("mt_grpo", case, turn_weight=case["turn_weight"], unsearched="combined")
    np.testing.assert_allclose(result, case["advantages"], rtol=1e-5, atol=2e-6)
