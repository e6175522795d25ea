import pytest

from tspo.credit import CreditConfig
from tspo.evaluation.report.choose import choose_groups
from tspo.evaluation.report.run_files import read_run, read_trajectories
from tspo.evaluation.report.views import group_view, question_view

CONFIG = CreditConfig()


@pytest.fixture
def view(make_run):
    def make(trajectories, config=CONFIG, limit=1000):
        run = read_run(make_run(steps={4: trajectories}))
        (chosen,) = choose_groups(run.steps, read_trajectories, config)
        return group_view(chosen, config, limit)

    return make


def bars(turn):
    return [(bar.method, bar.reward, bar.advantage, bar.sign, bar.width) for bar in turn.bars]


def test_each_turn_has_its_reward_and_advantage_under_both_methods(view, make_group):
    group = view(make_group("g", "wrong", "near miss"))
    assert (group.step, group.phase, group.golden_answers) == (4, "early", "Ann Arbor")
    wrong, near = group.members
    assert bars(near.turns[0]) == [("TSPO", "0.5", "+0.71", "plus", 100), ("GRPO", "0", "0", "zero", 0)]
    assert bars(wrong.turns[0]) == [("TSPO", "0", "−0.71", "minus", 100), ("GRPO", "0", "0", "zero", 0)]
    assert bars(near.turns[2]) == [("TSPO", "0", "0", "zero", 0), ("GRPO", "0", "0", "zero", 0)]


def test_the_runs_own_credit_settings_count(view, make_group):
    group = view(make_group("g", "wrong", "late near miss"), CreditConfig(alpha=0.25, credit="through_first_turn"))
    assert [turn.bars[0].reward for turn in group.members[1].turns] == ["0.25", "0.25", "0"]


def test_the_turn_and_the_place_of_the_first_occurrence_are_marked(view, make_group):
    group = view(make_group("g", "wrong", "late near miss"))
    wrong, near = group.members
    assert [turn.is_first_occurrence for turn in near.turns] == [False, True, False]
    assert [piece.text for piece in near.turns[1].feedback if piece.kind == "mark"] == ["Ann Arbor"]
    assert not any(turn.is_first_occurrence for turn in wrong.turns)


@pytest.mark.parametrize(
    ("endings", "lesson"),
    [
        (
            ("wrong", "near miss", "wrong"),
            "All 3 answers are wrong. In 1 of the wrong ones the feedback held the answer. "
            "GRPO gives every turn 0; TSPO tells the turns apart.",
        ),
        (
            ("right", "near miss"),
            "1 of 2 answers are right. In 1 of the wrong ones the feedback held the answer. "
            "GRPO gives all turns of a trajectory the same advantage; TSPO gives each its own.",
        ),
        (("right", "wrong"), "1 of 2 answers are right. Both methods give the same advantages."),
        (
            ("right", "right"),
            "2 of 2 answers are right. Neither method gives any turn an advantage: nothing is learned here.",
        ),
        (
            ("wrong", "wrong"),
            "All 2 answers are wrong. Neither method gives any turn an advantage: nothing is learned here.",
        ),
    ],
)
def test_a_group_says_what_it_shows(endings, lesson, view, make_group):
    assert view(make_group("g", *endings)).lesson == lesson


def test_a_large_group_shows_some_of_each_ending(view, make_group):
    group = view(make_group("g", *["wrong"] * 30, "near miss", "right"))
    assert group.members_in_all == 32
    assert [member.name for member in group.members[-2:]] == ["Trajectory 31", "Trajectory 32"]
    assert len(group.members) == 8


def test_a_long_trajectory_shows_the_turn_that_counts_and_the_last(view, make_group):
    lines = make_group("g", "wrong", "wrong")
    search = lines[0]["turns"][0]
    found = search | {"feedback": "It is Ann Arbor."}
    lines[0]["turns"] = [search] * 14 + [found] + [search] * 5 + [lines[0]["turns"][-1]]
    member = view(lines).members[0]
    assert [turn.number for turn in member.turns] == [1, 2, 3, 4, 5, 6, 15, 21]
    assert member.turns_in_all == 21
    assert member.turns[6].is_first_occurrence


def test_what_a_trajectory_did_and_how_it_ended(view, make_group):
    lines = make_group("g", "right", "wrong", "wrong")
    lines[1]["turns"].append({"text": "hm", "query": None, "feedback": None})
    lines[1] |= {"answer": None, "stop_reason": "max_tokens"}
    lines[2]["turns"][-1] = {"text": "<search>more</search>", "query": "more", "feedback": None}
    right, none, cut_off = view(lines).members
    assert [turn.action for turn in right.turns] == ["search", "search", "answer"]
    assert (right.state, right.answer, right.stop) == ("right", "Ann Arbor", "")
    assert none.turns[3].action == "no action"
    assert (none.answer, none.stop) == (None, "reached the limit of tokens")
    assert (cut_off.turns[2].action, cut_off.turns[2].feedback) == ("search", None)
    assert cut_off.stop == "searched in its last turn"


def test_long_texts_are_cut(view, make_group):
    lines = make_group("g", "wrong", "wrong", question="q" * 5000, golden="g" * 5000)
    lines[0]["golden_answers"] = ["g" * 5000, "b", "c", "d", "e", "f", "g"]
    group = view(lines, limit=100)
    assert len(group.question) < 150
    assert group.golden_answers.endswith("/ b / c / d / e (and 2 more)")


def test_a_held_out_question_has_no_credit(make_run):
    evaluated = read_run(make_run()).evaluated
    view = question_view({"then": evaluated["before"][0], "now": evaluated["after-training"][0]}, CONFIG, 100)
    assert [(attempt.name, attempt.state) for attempt in view.attempts] == [("then", "wrong"), ("now", "right")]
    assert view.source == "one hop"
    assert all(not turn.bars for attempt in view.attempts for turn in attempt.turns)
