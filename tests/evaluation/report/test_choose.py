import pytest

from tspo.credit import CreditConfig
from tspo.evaluation.report.choose import (
    Kind,
    State,
    _phases,
    choose_groups,
    choose_questions,
    first_attempts,
    methods,
    state_changes,
)
from tspo.evaluation.report.run_files import read_run, read_trajectories

R, N, W = State.RIGHT, State.NEAR_MISS, State.WRONG
CONFIG = CreditConfig()


def chosen(run, config=CONFIG):
    return choose_groups(read_run(run).steps, read_trajectories, config)


def test_groups_are_chosen_for_what_they_show(make_run):
    found = [(one.step, one.phase, one.kind, one.group.group_id) for one in chosen(make_run())]
    assert found == [
        (1, "early", Kind.NEAR_MISS, "1-0"),
        (2, "middle", Kind.MIXED, "2-0"),
        (3, "late", Kind.ALL_RIGHT, "3-0"),
        (3, "late", Kind.MIXED, "3-1"),
    ]


def test_credit_is_that_of_both_methods(make_run):
    early = chosen(make_run())[0]
    assert list(early.credits) == ["tspo", "grpo"]
    assert all(advantage == 0 for credit in early.credits["grpo"] for advantage in credit.turn_advantages)
    assert [credit.turn_rewards for credit in early.credits["tspo"]] == [[0, 0, 0], [0.5, 0, 0], [0.5, 0.5, 0]]


def test_the_runs_own_method_comes_first():
    assert methods(CreditConfig("tspo")) == ["tspo", "grpo"]
    assert methods(CreditConfig("grpo")) == ["grpo", "tspo"]
    assert methods(CreditConfig("ppo")) == ["tspo", "grpo"]  # what its critic expected is not in the trajectories


def test_where_nothing_teaches_one_group_says_so(make_run, make_group):
    run = make_run(steps={1: [*make_group("a", "wrong", "wrong"), *make_group("b", "near miss", "near miss")]})
    assert [(one.kind, one.group.group_id) for one in chosen(run)] == [(Kind.NOTHING, "a")]


def test_the_more_varied_group_is_taken_and_of_two_alike_the_earlier(make_run, make_group):
    alike, varied = ("wrong", "near miss"), ("wrong", "near miss", "late near miss")
    steps = {k: make_group(f"g{k}", *(varied if k in (3, 4) else alike)) for k in range(1, 25)}
    assert chosen(make_run(steps=steps))[0].group.group_id == "g3"


@pytest.mark.parametrize(
    ("steps", "phases"),
    [
        ([], {}),
        ([5], {"early": [5]}),
        ([1, 2], {"early": [1], "late": [2]}),
        ([1, 2, 3], {"early": [1], "middle": [2], "late": [3]}),
        ([1, 2, 3, 4], {"early": [1], "middle": [3], "late": [4]}),
        ([*range(100)], {"early": [*range(8)], "middle": [*range(46, 54)], "late": [*range(92, 100)]}),
    ],
)
def test_phases_do_not_overlap_and_are_of_bounded_size(steps, phases):
    assert _phases(steps) == phases


def test_what_became_of_questions(make_run):
    evaluated = read_run(make_run()).evaluated
    before, after = (first_attempts(evaluated[stage]) for stage in ("before", "after-training"))
    assert state_changes(before, after, CONFIG) == {"q1": (W, R), "q2": (N, N)}


def test_of_more_samples_the_first_counts(make_run, make_group):
    run = make_run(evaluations={"before": make_group("q", "wrong", "right")})
    attempts = first_attempts(read_run(run).evaluated["before"])
    assert attempts["q"].trajectory_id == "q-0"


def test_questions_that_changed_either_way_come_first():
    changes = {"same": (W, W), "gained": (W, R), "lost": (R, W), "found": (W, N), "gained too": (W, R), "kept": (R, R)}
    assert choose_questions(changes, 4) == ["gained", "lost", "found", "kept"]
    assert choose_questions(changes, 9) == ["gained", "lost", "found", "kept", "same", "gained too"]
    assert choose_questions({}, 9) == []
