import json
import re

import pytest

pytest.importorskip("matplotlib")

from tspo.errors import BadInput
from tspo.evaluation.comparison_report import write_report

FILES = ("compare.json", "compare.md", "curves.svg", "curves.png", "arms.svg", "arms.png")


def report(folder, finished, unfinished=None, target=0.5, against=None):
    return write_report(folder, finished, dict.fromkeys(finished, 20), unfinished or {}, target, against)


@pytest.fixture
def finished(tmp_path, write_finished_run):
    """Two arms over two seeds; the second is right about one question more."""
    scores = {"tspo": {"a": 1.0, "b": 1.0, "c": 0.0}, "grpo": {"a": 1.0, "b": 0.0, "c": 0.0}}
    runs = {}
    for arm in ("grpo", "tspo"):
        for seed in (0, 1):
            folder = tmp_path / arm / f"seed-{seed}"
            source = {"a": "hop1", "b": "hop2", "c": "hop2"}.get
            curve = [0.1 * k + (0.3 if arm == "tspo" else 0.0) for k in range(7)]
            write_finished_run(folder, curve, scores[arm], source, near_miss_share=[0.5] * 7, grad_norm=[1.0] * 7)
            runs.setdefault(arm, {})[seed] = folder
    return runs


def cells(line):
    return [cell.strip() for cell in line.strip("| \n").split("|")]


def test_the_report_says_what_the_runs_did(tmp_path, finished):
    text = report(tmp_path, finished)
    rows = {tuple(cells(line)[:2]): cells(line) for line in text.splitlines() if line.startswith("|")}
    assert rows["grpo", "2"][3].startswith("0.333 [")
    assert rows["tspo", "2"][3].startswith("0.667 [")
    assert rows["arm", "seeds"][-2:] == ["EM, hop1", "EM, hop2"]
    assert rows["tspo", "EM"][4].startswith("+0.333 [")
    assert rows["tspo", "EM"][5].startswith("+100.0% [")
    assert rows["tspo", "EM, hop2"][5] == "undefined"
    assert rows["tspo", "area under EM"][4] == "+0.300 [+0.300, +0.300]"
    # tspo's five-step mean is 0.5 at step 5; grpo's ends at 0.4
    assert [cells(line) for line in text.splitlines() if "not reached" in line] == [
        ["grpo", "140", "700", "0.300 [0.300, 0.300]", "0/2", "not reached", "not reached", "not reached"]
    ]
    assert "| 2/2 |" in re.sub(" +", " ", text)
    assert "grad_norm" in text
    assert "all_wrong_share" not in text
    assert "Not finished" not in text


def test_the_files_hold_the_same_and_are_the_same_again(tmp_path, finished):
    text = report(tmp_path, finished)
    written = {name: (tmp_path / name).read_bytes() for name in FILES}
    assert written["compare.md"].decode().startswith(text)
    loaded = json.loads(written["compare.json"])
    assert loaded["arms"]["tspo"]["held_out"]["metrics"]["exact_match"]["per_seed"] == {"0": 2 / 3, "1": 2 / 3}
    svg = written["curves.svg"].decode()
    assert ">exact match<" in svg
    assert ">near misses<" in svg
    assert ">searches<" not in svg, "a chart of a metric that no run has"
    arms = written["arms.svg"].decode()
    assert [arms.count(f">{word}<") for word in ("grpo", "tspo", "difference from grpo")] == [1, 1, 1]
    assert report(tmp_path, finished) == text
    assert written == {name: (tmp_path / name).read_bytes() for name in FILES}


def test_what_is_not_finished_is_told(tmp_path, finished):
    text = report(tmp_path, {"grpo": finished["grpo"], "tspo": {}}, {"grpo": [], "tspo": [0, 1]})
    assert text.endswith("Not finished, and in no number above (seeds):\n\n- tspo: 0, 1\n")
    assert "Differences" not in text
    assert "difference" not in (tmp_path / "arms.svg").read_text()
    assert json.loads((tmp_path / "compare.json").read_text())["unfinished"] == {"grpo": [], "tspo": [0, 1]}


def test_the_target_is_one_s_own(tmp_path, finished):
    assert "EM 0.25" in report(tmp_path, finished, target=0.25)


def test_any_arm_may_be_what_others_are_compared_with(tmp_path, finished):
    text = report(tmp_path, finished, against="tspo")
    assert "## Differences from tspo, paired by seed and question" in text
    rows = {tuple(cells(line)[:2]): cells(line) for line in text.splitlines() if line.startswith("|")}
    assert rows["grpo", "EM"][4].startswith("-0.333 [")
    assert list(json.loads((tmp_path / "compare.json").read_text())["arms"]) == ["grpo", "tspo"]


def test_an_arm_that_there_is_not_is_named(tmp_path, finished):
    with pytest.raises(BadInput, match=r"--against 'rloo': no arm with a finished run; there are: 'grpo', 'tspo'"):
        report(tmp_path, finished, against="rloo")


def test_nothing_to_report_is_said_and_nothing_written(tmp_path):
    with pytest.raises(BadInput, match="no run is finished yet"):
        report(tmp_path, {"grpo": {}})
    assert list(tmp_path.iterdir()) == []
