import json

import numpy as np
import pytest

from tspo.advantages import ADVANTAGES
from tspo.credit import CreditConfig, assign_credit
from tspo.errors import BadInput
from tspo.trajectory import trajectory_from_json
from tspo.viewer.group_view import group_view
from tspo.viewer.listing import Wanted, page_of_groups


@pytest.fixture
def view(make_run, make_index):
    """The view of the group at a step, and the run."""
    run = make_run()
    index = make_index(run)

    def show(step, place=0):
        return group_view(index, page_of_groups(index, Wanted(first=step, last=step), 0)["groups"][place]["id"])

    return show, run


def trajectories(run, step, group_id):
    lines = (run / "trajectories" / f"{step:06d}.jsonl").read_text().splitlines()
    return [trajectory_from_json(json.loads(line), "test", "") for line in lines if f'"group_id": "{group_id}"' in line]


def test_credit_is_what_assign_credit_says_under_every_estimator_that_a_group_decides(view):
    show, run = view
    members = trajectories(run, 2, "2-0")
    found = show(2)["credit"]
    # igpo wants numbers that these trajectories do not carry
    assert set(found) == {name for name, estimator in ADVANTAGES.items() if estimator.over == "group"} - {"igpo"}
    for name in found:
        expected = assign_credit(members, CreditConfig(algorithm=name))
        assert [one["advantages"] for one in found[name]] == [credit.turn_advantages for credit in expected]
        assert [one["rewards"] for one in found[name]] == [credit.turn_rewards for credit in expected]


def test_an_estimator_over_the_whole_step_is_shown_as_the_run_recorded_it(make_run, make_index, make_group):
    recorded = [[0.25, 0.5], [-2.0, 1.0]]
    lines = make_group("g", "right", "wrong", tokens=False)
    for line, advantages in zip(lines, recorded, strict=True):
        line |= {"turn_rewards": [0.0, 1.0], "turn_advantages": advantages}
    index = make_index(make_run("batch", steps={1: lines}, algorithm="reinforce_plus_plus"))
    shown = group_view(index, page_of_groups(index, Wanted(first=1, last=1), 0)["groups"][0]["id"])
    assert shown["trained_with"] == "reinforce_plus_plus"
    assert [one["advantages"] for one in shown["credit"]["reinforce_plus_plus"]] == recorded
    assert "reinforce_plus_plus_baseline" not in shown["credit"]


def test_tokens_make_up_the_text_and_have_their_numbers(view):
    show, run = view
    members = trajectories(run, 1, "1-0")
    ratios = np.exp(np.load(run / "trajectories" / "000001.log_ratios.npy").astype(float))
    start = 0
    for member, trajectory in zip(show(1)["members"], members, strict=True):
        for shown, turn in zip(member["turns"], trajectory.turns, strict=True):
            tokens = shown["tokens"]
            assert "".join(token["text"] for token in tokens) == turn.text
            assert [token["logprob"] for token in tokens] == turn.logprobs
            assert [token["ratio"] for token in tokens] == pytest.approx(ratios[start : start + len(tokens)])
            start += len(tokens)
    assert {token["text"] for token in tokens if token["tag"]} >= {"<answ"}
    assert not any(token["tag"] for token in tokens if token["text"] in turn.text[10:-10])


def test_without_ratios_tokens_have_none_and_without_places_there_are_no_tokens(view):
    show, _ = view
    assert {token["ratio"] for turn in show(2)["members"][0]["turns"] for token in turn["tokens"]} == {None}
    assert {turn["tokens"] for turn in show(-2)["members"][0]["turns"]} == {None}


@pytest.mark.parametrize("ends", [[3], [5, 2, 51], ["5"], None])
def test_places_that_do_not_fit_are_not_used(tmp_path, write, make_group, make_index, ends):
    (line,) = make_group("g", "wrong")
    turn = line["turns"][0]
    turn["token_ends"] = ends
    turn["token_ids"] = [7] * len(ends or [1])
    turn["logprobs"] = [0.0] * len(ends or [1])
    write(tmp_path / "a.jsonl", [line])
    index = make_index(tmp_path / "a.jsonl")
    turns = group_view(index, 1)["members"][0]["turns"]
    assert turns[0]["tokens"] is None
    assert "".join(text for _, text in turns[0]["text"]) == turn["text"]


def test_the_answer_is_marked_where_it_first_came_up(view):
    show, _ = view
    near = show(1)["members"][1]["turns"]
    assert [turn["first_occurrence"] for turn in near] == [True, False]
    assert [piece for piece in near[0]["feedback"] if piece[0] == "mark"] == [["mark", "Ann Arbor"]]
    wrong = show(1)["members"][0]["turns"]
    assert not any(kind == "mark" for turn in wrong for kind, _ in turn["feedback"] or ())


def test_credit_that_the_file_contradicts_is_told(view, tmp_path, write, make_group, make_index):
    show, _ = view
    assert show(1)["as_recorded"]
    lines = make_group("g", "right", "wrong")
    lines[0] |= {"turn_rewards": [1.0, 1.0], "turn_advantages": [0.1, 0.1]}
    write(tmp_path / "a.jsonl", lines)
    assert not group_view(make_index(tmp_path / "a.jsonl"), 1)["as_recorded"]


def test_a_file_that_changed_under_the_index_is_told(view):
    show, run = view
    path = run / "trajectories" / "000001.jsonl"
    path.write_bytes(b"x" * path.stat().st_size)
    with pytest.raises(BadInput, match=r"000001\.jsonl: has changed since it was read"):
        show(1)


def test_there_is_no_view_of_a_group_that_is_not_there(make_run, make_index):
    assert group_view(make_index(make_run()), 999) is None


def test_long_texts_are_cut_and_the_mark_stays(tmp_path, write, make_group, make_index):
    (line,) = make_group("g", "near miss")
    line["turns"][0]["feedback"] = "x " * 40_000 + "Ann Arbor" + " y" * 40_000
    write(tmp_path / "a.jsonl", [line])
    pieces = group_view(make_index(tmp_path / "a.jsonl"), 1)["members"][0]["turns"][0]["feedback"]
    assert sum(len(text) for _, text in pieces) < 25_000
    assert ["mark", "Ann Arbor"] in pieces
