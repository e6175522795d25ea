"""Every term by hand; that an update computes them is in update/test_update.py."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("torch")

import torch

from tspo.training.objective import (
    Objective,
    cispo,
    clipped,
    kl_estimate,
    ppo_clip,
    ratio,
    reinforce,
    surrogate,
    token_losses,
    token_weights,
    trajectory_ratio,
)

T = torch.tensor


def test_the_ratio_of_two_policies() -> None:
    assert ratio(T([-1.0, -2.0]), T([-1.0, -3.0])).tolist() == pytest.approx([1.0, math.e])


@pytest.mark.parametrize(
    ("r", "advantage", "loss"),
    [
        (1.0, 2.0, -2.0),
        (1.1, 2.0, -2.2),
        (1.5, 2.0, -2.0 * 1.3),  # clip-higher: the range above is another
        (1.5, -2.0, 3.0),  # what makes a bad token likelier is not clipped
        (0.5, -2.0, 2.0 * 0.8),
        (0.5, 2.0, -1.0),
    ],
)
def test_ppo_clip(r: float, advantage: float, loss: float) -> None:
    assert ppo_clip(T([r]), T([advantage]), 0.8, 1.3).item() == pytest.approx(loss)


def test_a_trajectorys_ratio_is_the_geometric_mean_of_its_tokens() -> None:
    logprobs = T([math.log(2.0), math.log(8.0), math.log(3.0)], requires_grad=True)
    of_row = trajectory_ratio(logprobs, torch.zeros(3), T([0, 0, 2]))
    assert of_row.tolist() == pytest.approx([4.0, 4.0, 3.0])
    of_row[0].backward()
    assert logprobs.grad.tolist() == pytest.approx([4.0, 0.0, 0.0]), "the gradient is the token's own"


def test_cispo_bounds_the_weight_above_and_drops_no_gradient() -> None:
    logprobs = T([-1.0, -2.0, -3.0], requires_grad=True)
    loss = cispo(logprobs, T([0.1, 1.1, 9.0]), T([1.0, -1.0, 2.0]), high=1.3)
    assert loss.tolist() == pytest.approx([0.1, -2.2, 1.3 * 6.0])
    loss.sum().backward()
    assert logprobs.grad.tolist() == pytest.approx([-0.1, 1.1, -2.6])


def test_reinforce() -> None:
    assert reinforce(T([-1.0, -2.0]), T([1.0, -0.5])).tolist() == [1.0, -1.0]


def test_kl_estimates() -> None:
    logprobs, reference = T([-1.0, -1.0]), T([-1.0, -1.0 + math.log(2.0)])
    assert kl_estimate("k1", logprobs, reference).tolist() == pytest.approx([0.0, -math.log(2.0)])
    assert kl_estimate("k3", logprobs, reference).tolist() == pytest.approx([0.0, 2.0 - math.log(2.0) - 1.0])


@given(st.lists(st.floats(-20, 0), min_size=1), st.floats(-20, 0))
def test_k3_is_never_below_0(reference: list[float], logprob: float) -> None:
    assert (kl_estimate("k3", torch.full((len(reference),), logprob), T(reference)) >= -1e-6).all()


@pytest.mark.parametrize(
    ("name", "losses"),
    [
        ("ppo", [-1.2, 2.4]),  # both ratios, 2 and 1/2, are past the range
        ("gspo", [-1.0, 3.0]),  # the trajectory's ratio is 1
        ("cispo", [-1.2 * math.log(0.5), 0.5 * 3.0 * math.log(0.25)]),
        ("reinforce", [-math.log(0.5), 3.0 * math.log(0.25)]),
    ],
)
def test_surrogates_by_name(name: str, losses: list[float]) -> None:
    logprobs, old = T([0.5, 0.25]).log(), T([0.25, 0.5]).log()
    found = surrogate(Objective(surrogate=name), logprobs, old, T([1.0, -3.0]), T([0, 0]))
    assert found.tolist() == pytest.approx(losses)


def test_kl_is_added_by_its_weight() -> None:
    logprobs, reference, row = T([-1.0]), T([-2.0]), T([0])
    policy = token_losses(Objective(), logprobs, logprobs, T([2.0]), row, None)
    both = token_losses(Objective(beta=0.5, kl="k1"), logprobs, logprobs, T([2.0]), row, reference)
    assert (policy.item(), both.item()) == (-2.0, -1.5)


@pytest.mark.parametrize(
    ("average", "total", "weights"),
    [
        ("tokens", 8, [1 / 8, 1 / 8, 1 / 8]),
        ("trajectories", 2, [1 / (2 * 2), 1 / 2, 1 / (2 * 6)]),  # the second has no token to weigh
        ("constant", 2, [1 / (2 * 100)] * 3),
    ],
)
def test_weights_make_the_sum_a_mean(average: str, total: int, weights: list[float]) -> None:
    found = token_weights(Objective(average=average, average_length=100), T([2, 0, 6]), total)
    assert found.tolist() == pytest.approx(weights)


def test_an_update_without_tokens_has_finite_weights() -> None:
    for average in ("tokens", "trajectories", "constant"):
        assert token_weights(Objective(average=average), T([0]), 0).isfinite().all()


def test_clipped_are_the_tokens_that_have_no_gradient() -> None:
    objective = Objective(epsilon=0.2, epsilon_high=0.3)
    ratios, advantages = T([1.25, 1.35, 1.35, 0.7, 0.7, 0.9]), T([1.0, 1.0, -1.0, -1.0, 1.0, -1.0])
    assert clipped(objective, ratios, advantages).tolist() == [False, True, False, True, False, False]

    logprobs = ratios.log().requires_grad_()
    surrogate(objective, logprobs, torch.zeros(6), advantages, torch.arange(6)).sum().backward()
    assert (logprobs.grad == 0).tolist() == [False, True, False, True, False, False]


def test_cispo_has_no_range_below() -> None:
    assert clipped(Objective(surrogate="cispo"), T([1.3, 0.1]), T([1.0, -1.0])).tolist() == [True, False]
