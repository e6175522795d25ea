import math

import pytest

from tspo.credit import Credit, CreditConfig, assign_credit
from tspo.rollout.batched_search import SearchLog
from tspo.training.diagnostics import all_wrong, credit_entropy, reward_variance, rollout_metrics, search_metrics
from tspo.trajectory import StopReason, Trajectory, Turn


def search(feedback, tokens=2):
    return Turn("<search>x</search>", "x", feedback, [5] * tokens, [-1.0] * tokens, [6] * 3)


def answer(text, tokens=1):
    logprob = -2.0 if tokens == 4 else -1.0
    return Turn(f"<answer>{text}</answer>", token_ids=[7] * tokens, logprobs=[logprob] * tokens)


def trajectory(group, *turns, answered=None, stop=StopReason.ANSWER):
    return Trajectory(group, f"{group}-x", "who?", ["Jane"], list(turns), answered, stop, prompt_token_ids=[1] * 10)


# q1: one right, one near miss. q2: all wrong, one near miss, one that never searched. q3: all wrong, nothing found.
GROUPS = [
    trajectory("q1", search("by Jane"), answer("Jane"), answered="Jane"),
    trajectory("q1", search("none"), search("by Jane"), answer("Bob", 4), answered="Bob"),
    trajectory("q2", search("by Jane"), answer("Bob"), answered="Bob"),
    trajectory("q2", Turn("hm", token_ids=[5], logprobs=[-1.0]), stop=StopReason.NO_ACTION),
    trajectory("q3", search("none"), answer("Bob"), answered="Bob"),
    trajectory("q3", Turn("<search>x</search>", "x", token_ids=[5], logprobs=[-1.0]), stop=StopReason.RETRIEVER_ERROR),
]


@pytest.mark.parametrize("algorithm", ["tspo", "grpo"])
def test_hand_worked_groups(algorithm):
    config = CreditConfig(algorithm=algorithm, alpha=0.5, credit="first_turn")
    metrics = rollout_metrics(GROUPS, assign_credit(GROUPS, config), config, seconds=2.0)
    turns = 2 + 3 + 2 + 1 + 2 + 1
    sampled = 3 + 8 + 3 + 1 + 3 + 1
    # a correct trajectory earns 1 a turn, each of the two near misses one alpha under TSPO
    rewards = 2.0 + (0.5 + 0.5 if algorithm == "tspo" else 0.0)
    assert metrics == pytest.approx(
        {
            "exact_match": 1 / 6,
            "turn_reward": rewards / turns,
            "answer_in_feedback": 3 / 6,
            "near_miss_share": 2 / 6,
            "all_wrong_share": 2 / 3,  # q2 and q3
            "turns": turns / 6,
            "searches": 5 / 6 + 1 / 6,
            "search_turn_share": 6 / turns,
            "sampled_tokens": sampled / 6,
            "trained_tokens": 6 * 10 + sampled + 5 * 3,
            "entropy": (4 * 2.0 + (sampled - 4) * 1.0) / sampled,
            "rollout_seconds": 2.0,
            "rollout_tokens_per_second": sampled / 2,
            "no_variance_share_grpo": 2 / 3,  # q2 and q3: every outcome is 0
            "no_variance_share_tspo": 1 / 3,  # q3: no near miss either
            "reward_variance_grpo": (0.5 + 0.0 + 0.0) / 3,  # the outcomes of q1 are 1, 0
            # q1: {1, 0}, {1, 0.5}, {1, 0}; q2: {0.5, 0}, {0, 0}; q3: nothing
            "reward_variance_tspo": ((0.5 + 0.125 + 0.5) / 3 + (0.125 + 0.0) / 2 + 0.0) / 3,
            "credit_entropy_grpo": 1.0,
            # q1: two turns of the same advantage, three of the same; q2: one of two turns
            "credit_entropy_tspo": (1.0 + 1.0 + 0.0) / 3,
            "stop/answer": 4 / 6,
            "stop/max_turns": 0.0,
            "stop/max_tokens": 0.0,
            "stop/no_action": 1 / 6,
            "stop/retriever_error": 1 / 6,
        }
    )
    assert {type(value) for value in metrics.values()} == {float}


def test_a_group_whose_members_are_equal_has_no_variance_anywhere():
    group = [trajectory("q", answer("Jane"), answered="Jane") for _ in range(3)]
    config = CreditConfig()
    metrics = rollout_metrics(group, assign_credit(group, config), config, seconds=1.0)
    assert (metrics["no_variance_share_grpo"], metrics["no_variance_share_tspo"]) == (1.0, 1.0)
    assert (metrics["exact_match"], metrics["near_miss_share"], metrics["search_turn_share"]) == (1.0, 0.0, 0.0)
    assert (metrics["reward_variance_grpo"], metrics["reward_variance_tspo"]) == (0.0, 0.0)
    assert not {"credit_entropy_grpo", "credit_entropy_tspo"} & metrics.keys()


def test_the_options_of_the_run_reach_the_method_it_does_not_use():
    # alpha 0 makes a near miss earn nothing: TSPO then sees no variance in q2 either
    config = CreditConfig(algorithm="grpo", alpha=0.0)
    metrics = rollout_metrics(GROUPS, assign_credit(GROUPS, config), config, seconds=1.0)
    assert metrics["no_variance_share_tspo"] == pytest.approx(2 / 3)


def test_the_rewards_compared_are_those_of_the_runs_options():
    credits = assign_credit(GROUPS, CreditConfig(credit="first_turn"))
    right, wrong = credits[:2], credits[2:4]
    assert reward_variance(right, CreditConfig(credit="first_turn")) == pytest.approx((0.5 + 0.125 + 0.5) / 3)
    # the right one has no third turn, and of one reward there is no variance
    assert reward_variance(right, CreditConfig(baseline="reached", credit="first_turn")) == pytest.approx(
        (0.5 + 0.125 + 0.0) / 3
    )
    assert reward_variance(wrong, CreditConfig(baseline="reached", credit="first_turn")) == pytest.approx(
        (0.125 + 0.0) / 2
    )
    assert reward_variance(right, CreditConfig(level="turn_if_all_wrong", credit="first_turn")) == pytest.approx(0.5)
    assert reward_variance(wrong, CreditConfig(level="turn_if_all_wrong", credit="first_turn")) == pytest.approx(
        (0.125 + 0.0) / 2
    )
    assert reward_variance(right, CreditConfig(algorithm="grpo")) == pytest.approx(0.5)
    assert reward_variance([Credit(1.0, None, [1.0], [0.0])], CreditConfig()) == 0.0


def test_entropy_of_credit():
    assert credit_entropy([-0.7, -0.7, -0.7]) == pytest.approx(1.0)
    assert credit_entropy([0.0, 1.2, 0.0]) == 0.0
    share = (0.25, 0.75)
    expected = -sum(p * math.log(p) for p in share) / math.log(3)
    assert credit_entropy([0.5, 0.0, -1.5]) == pytest.approx(expected)
    assert credit_entropy([0.5]) is None
    assert credit_entropy([0.0, 0.0]) is None


def test_trajectories_that_the_retriever_cut_off_are_not_compared():
    cut = trajectory("q1", search("by Jane"), search(None), stop=StopReason.RETRIEVER_ERROR)
    alone = trajectory("q4", search(None), stop=StopReason.RETRIEVER_ERROR)
    config = CreditConfig()
    plain = rollout_metrics(GROUPS, assign_credit(GROUPS, config), config, seconds=1.0)
    with_cut = [*GROUPS, cut]
    metrics = rollout_metrics(with_cut, assign_credit(with_cut, config), config, seconds=1.0)
    for name in ("reward_variance_grpo", "reward_variance_tspo", "no_variance_share_tspo", "all_wrong_share"):
        assert metrics[name] == pytest.approx(plain[name])
    with_alone = [*GROUPS, alone]  # a group of nobody else
    metrics = rollout_metrics(with_alone, assign_credit(with_alone, config), config, seconds=1.0)
    assert metrics["reward_variance_tspo"] == pytest.approx(plain["reward_variance_tspo"] * 3 / 4)
    assert metrics["no_variance_share_tspo"] == pytest.approx((1 + 1) / 4)


def test_searches_of_all_processes():
    logs = [SearchLog([0.5, 1.5], failed=1, cache_hits=3, cache_misses=1), SearchLog([4.0], cache_misses=2)]
    metrics = search_metrics(logs)
    assert metrics == pytest.approx({"search_seconds": 2.0, "search_error_share": 1 / 3, "cache_hit_share": 0.5})
    assert {type(value) for value in metrics.values()} == {float}
    assert search_metrics([SearchLog([1.0])]) == {"search_seconds": 1.0, "search_error_share": 0.0}
    assert search_metrics([SearchLog(), SearchLog()]) == {}


def test_all_wrong_is_of_the_group():
    assert all_wrong(GROUPS, assign_credit(GROUPS, CreditConfig())) == [False, False, True, True, True, True]
