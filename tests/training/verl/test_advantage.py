"""What verl's estimator gets beyond a plain batch: padding rows, masks with holes, and calls that do not fit."""

from dataclasses import replace
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("verl")

from omegaconf import OmegaConf  # noqa: E402
from verl.trainer.ppo.core_algos import compute_gae_advantage_return, get_adv_estimator_fn  # noqa: E402

from tspo.credit import CreditConfig  # noqa: E402
from tspo.training.verl.advantage import critic_advantages, token_advantages  # noqa: E402
from tspo.training.verl.carried import CarriedRow, Handover, handed_over  # noqa: E402
from tspo.trajectory import StopReason, Trajectory, Turn  # noqa: E402

pytestmark = pytest.mark.verl


def row(feedback: str, *, stop_reason: StopReason = StopReason.ANSWER, padding: bool = False) -> CarriedRow:
    """A search that brings `feedback`, and a wrong answer after it."""
    turns = [Turn("<search>a</search>", "a", feedback), Turn("<answer>c</answer>")]
    return CarriedRow([0, 0, -1, 1], Trajectory("g", "g-0", "q", ["b"], turns, "c", stop_reason), padding)


NEAR_MISS, WRONG = row("it is b"), row("it is not there")
PADDING = row("it is b", padding=True)
FAILED = row("it is b", stop_reason=StopReason.RETRIEVER_ERROR)


def advantages(rows: list[CarriedRow], group: list[str], mask: list[list[int]]) -> Any:
    return token_advantages(rows, group, torch.tensor(mask), CreditConfig())


def test_each_turn_has_its_own_advantage_and_feedback_none() -> None:
    found = advantages([NEAR_MISS, WRONG], ["a", "a"], [[1, 1, 0, 1]] * 2)
    assert found[0, 0] == found[0, 1] == pytest.approx(2**-0.5, abs=1e-5)
    assert found[1].tolist() == pytest.approx([-(2**-0.5), -(2**-0.5), 0, 0], abs=1e-5)
    assert found[0, 2:].tolist() == [0, 0]
    assert found.dtype == torch.float32


def test_a_padding_row_is_in_no_group_and_gets_nothing() -> None:
    """verl copies a real row's extra fields into rows that it pads a batch with; their mask is 0."""
    alone = advantages([NEAR_MISS, WRONG], ["a", "a"], [[1, 1, 0, 1]] * 2)
    padded = advantages([NEAR_MISS, WRONG, PADDING], ["a", "a", "a"], [[1, 1, 0, 1]] * 2 + [[0, 0, 0, 0]])
    assert torch.equal(padded[:2], alone)
    assert not padded[2].any()


def test_tokens_that_verl_rejects_have_no_advantage_and_change_no_other() -> None:
    whole = advantages([NEAR_MISS, WRONG], ["a", "a"], [[1, 1, 0, 1]] * 2)
    holes = advantages([NEAR_MISS, WRONG], ["a", "a"], [[1, 0, 0, 1], [0, 0, 0, 0]])
    assert holes[0].tolist() == [whole[0, 0], 0, 0, 0]
    assert not holes[1].any()


def test_a_row_whose_retriever_failed_is_in_nobodys_baseline() -> None:
    with_failed = advantages([NEAR_MISS, WRONG, FAILED], ["a"] * 3, [[1, 1, 0, 1]] * 2 + [[0, 0, 0, 0]])
    assert torch.equal(with_failed[:2], advantages([NEAR_MISS, WRONG], ["a", "a"], [[1, 1, 0, 1]] * 2))
    assert not with_failed[2].any()


def call(algorithm: str, rows: list[CarriedRow] | None, batch: int = 2, configured: str = "tspo") -> Any:
    mask = torch.tensor([[1, 1, 0, 1]] * batch)
    config = OmegaConf.create({"tspo": {"algorithm": configured}})
    estimate = get_adv_estimator_fn(algorithm)
    arguments = {"token_level_rewards": torch.zeros(mask.shape), "response_mask": mask, "index": ["a"] * batch}
    if rows is None:
        return estimate(**arguments, config=config)
    with handed_over(Handover(rows)):
        return estimate(**arguments, config=config)


def test_verl_finds_the_estimator_by_name() -> None:
    found, returns = call("tspo", [NEAR_MISS, WRONG])
    assert torch.equal(found, returns)
    assert torch.equal(found, advantages([NEAR_MISS, WRONG], ["a", "a"], [[1, 1, 0, 1]] * 2))


def test_calls_that_do_not_fit_are_refused() -> None:
    with pytest.raises(RuntimeError, match="tspo_sync"):
        call("tspo", None)
    with pytest.raises(ValueError, match="batch of 2"):
        call("tspo", [NEAR_MISS])
    with pytest.raises(ValueError, match="adv_estimator is grpo"):
        call("tspo_grpo", [NEAR_MISS, WRONG])
    with pytest.raises(ValueError, match=r"critic\.enable=true"):
        call("tspo_ppo", [NEAR_MISS, WRONG], configured="ppo")


PPO = CreditConfig(algorithm="ppo", reward="evidence", gamma=0.9, gae_lambda=0.8)


def test_with_a_critic_a_turns_reward_is_its_last_tokens() -> None:
    """Against verl's own function, given the rewards token by token: 0.7 and 0.2 for the searches, 0 for answers."""
    mask = torch.tensor([[1, 1, 0, 1]] * 2)
    values = torch.tensor([[0.1, -0.2, 5.0, 0.3], [0.4, 0.2, -5.0, 0.1]])
    token_rewards = torch.tensor([[0, 0.7, 0, 0], [0, 0.2, 0, 0]])
    expected, returns = compute_gae_advantage_return(token_rewards, values, mask, 0.9, 0.8)
    found, learnt = critic_advantages([NEAR_MISS, WRONG], values, mask, PPO)
    torch.testing.assert_close(found, expected * mask)
    torch.testing.assert_close(learnt * mask, returns * mask)
    assert found.dtype == learnt.dtype == torch.float32


def test_with_a_critic_rows_that_do_not_count_change_nothing() -> None:
    mask = torch.tensor([[1, 1, 0, 1]] * 2 + [[0, 0, 0, 0]] + [[1, 0, 0, 0]])
    values = torch.arange(16).reshape(4, 4) / 8
    alone, _ = critic_advantages([NEAR_MISS, WRONG], values[:2], mask[:2], PPO)
    found, learnt = critic_advantages([NEAR_MISS, WRONG, FAILED, PADDING], values, mask, PPO)
    assert torch.equal(found[:2], alone)
    assert not found[2:].any()
    assert torch.equal(learnt[2:], values[2:])


def test_a_trajectorys_one_reward_is_the_last_tokens_that_counts() -> None:
    right = CarriedRow([0, 0, -1, 1, 1], replace(NEAR_MISS.trajectory, answer="b"))
    values = torch.zeros(1, 5)
    _, learnt = critic_advantages([right], values, torch.tensor([[1, 1, 0, 1, 0]]), CreditConfig(algorithm="ppo"))
    assert learnt.tolist() == [[1, 1, 0, 1, 0]]
