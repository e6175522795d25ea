"""An update against the objective written once more, on trajectories made by hand."""

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest

pytest.importorskip("peft")

import torch

from tspo.credit import CreditConfig, assign_credit
from tspo.training.batch import Batch
from tspo.training.objective import Objective
from tspo.training.update import score_batch, update_policy, with_other_policies
from tspo.training.update.scoring import scorer_of
from tspo.trajectory import StopReason, Trajectory

Rows = list[torch.Tensor]
"""One tensor (sampled tokens,) a trajectory."""

BETA = 0.05
ALL_WRONG = slice(4, 8)


def plain_terms(objective: Objective, advantages: Rows, logprobs: Rows, old: Rows, reference: Rows | None) -> Rows:
    """surrogate + beta KL at each token, a trajectory at a time."""
    low, high = 1 - objective.epsilon, 1 + objective.epsilon_high
    terms = []
    for i, (advantage, new) in enumerate(zip(advantages, logprobs, strict=True)):
        ratio = torch.exp(new - old[i])
        if objective.surrogate == "gspo":
            whole = torch.exp((new - old[i]).sum() / len(new)).detach()
            ratio = whole * new.exp() / new.exp().detach()  # the trajectory's, with the token's own gradient
        match objective.surrogate:
            case "cispo":
                term = -torch.minimum(ratio, torch.tensor(high)).detach() * advantage * new
            case "reinforce":
                term = -advantage * new
            case _:
                term = -torch.min(ratio * advantage, torch.clip(ratio, low, high) * advantage)
        if reference is not None:
            gap = new - reference[i]
            term = term + objective.beta * (gap if objective.kl == "k1" else torch.exp(-gap) + gap - 1)
        terms.append(term)
    return terms


def plain_mean(objective: Objective, terms: Rows) -> torch.Tensor:
    if objective.average == "trajectories":
        return torch.stack([term.mean() for term in terms]).mean()
    divisor = {"tokens": sum(map(len, terms)), "constant": len(terms) * objective.average_length}
    return torch.cat(terms).sum() / divisor[objective.average]


def token_advantages(trajectories: Sequence[Trajectory], credit: CreditConfig) -> Rows:
    return [
        torch.cat([torch.full((len(turn.token_ids),), a) for turn, a in zip(t.turns, c.turn_advantages, strict=True)])
        for t, c in zip(trajectories, assign_credit(trajectories, credit), strict=True)
    ]


def noise(rows: Rows) -> Rows:
    """So much that ratios, a trajectory's too, are on both sides of the range."""
    generator = torch.Generator().manual_seed(7)
    return [
        0.4 * torch.randn(len(row), generator=generator) + 0.4 * torch.randn(1, generator=generator) for row in rows
    ]


@pytest.fixture
def reference(tiny_model: Any, another: Callable[..., Any]) -> Any:
    return another(tiny_model)


@pytest.fixture
def expected(trajectories: list[Trajectory], plain_logprobs: Callable[..., Any]) -> Callable[..., Any]:
    """A function: the objective's loss and gradient, the mean size of its terms, and the terms, all made plainly."""

    def make(
        policy: Any,
        objective: Objective,
        credit: CreditConfig | None = None,
        old: Rows | None = None,
        reference: Any = None,
    ) -> tuple[torch.Tensor, torch.Tensor, float, Rows]:
        logprobs = [plain_logprobs(policy, trajectory) for trajectory in trajectories]
        with torch.no_grad():
            others = None if reference is None else [plain_logprobs(reference, t) for t in trajectories]
        before = [row.detach() for row in logprobs] if old is None else old
        advantages = token_advantages(trajectories, credit or CreditConfig())
        terms = plain_terms(objective, advantages, logprobs, before, others)
        loss = plain_mean(objective, terms)
        learning = [parameter for parameter in policy.parameters() if parameter.requires_grad]
        gradient = torch.cat([part.flatten() for part in torch.autograd.grad(loss, learning, retain_graph=True)])
        return loss.detach(), gradient, torch.cat(terms).abs().mean().item(), terms

    return make


def assert_equal(update: Any, gradient: torch.Tensor, expected: tuple[torch.Tensor, torch.Tensor, float, Rows]) -> None:
    """To 1e-5; terms nearly cancel, so that a loss in float32 is relative to their size."""
    loss, plain, size, _ = expected
    assert plain.norm() > 0
    assert abs(update.metrics["loss"] - loss.item()) < 1e-5 * size
    assert (gradient - plain).norm() / plain.norm() < 1e-5


def norm_of_all_wrong(policy: Any, terms: Rows) -> float:
    """The norm of the second group's part of the gradient of the terms' mean over tokens."""
    part = torch.cat(terms[ALL_WRONG]).sum() / sum(map(len, terms))
    gradient = torch.autograd.grad(part, [parameter for parameter in policy.parameters() if parameter.requires_grad])
    return torch.cat([of_one.flatten() for of_one in gradient]).norm().item()


CREDITS = [
    CreditConfig(),
    CreditConfig(algorithm="grpo"),
    CreditConfig(alpha=0.3, credit="through_first_turn", baseline="reached", scale="none"),
    CreditConfig(algorithm="reinforce_plus_plus"),
    CreditConfig(algorithm="igpo"),
]


@pytest.mark.parametrize("credit", CREDITS, ids=lambda credit: credit.algorithm)
@pytest.mark.parametrize(("off_policy", "beta"), [(False, 0.0), (True, BETA)])
def test_loss_and_gradient_equal_the_plain_objective(
    new_learner, reference, trajectories, batch_of, expected, plain_logprobs, gradient_of, credit, off_policy, beta
) -> None:
    learner = new_learner(reference=reference if beta else None)
    batch = with_other_policies(learner, batch_of(trajectories, credit), 1, beta)
    old = None
    if off_policy:
        with torch.no_grad():
            now = [plain_logprobs(learner.model, trajectory) for trajectory in trajectories]
        old = [row + shift for row, shift in zip(now, noise(now), strict=True)]
        batch = replace(batch, old_logprobs=torch.cat(old))
    objective = Objective(beta=beta)
    update = update_policy(learner, batch, objective)
    plain = expected(learner.model, objective, credit, old, reference if beta else None)
    assert_equal(update, gradient_of(learner.model), plain)


@pytest.mark.parametrize("surrogate", ["ppo", "gspo", "cispo", "reinforce"])
@pytest.mark.parametrize("average", ["tokens", "trajectories", "constant"])
@pytest.mark.parametrize("kl", ["k3", "k1"])
def test_every_objective_equals_the_plain_one(
    new_learner, reference, trajectories, batch_of, expected, plain_logprobs, gradient_of, surrogate, average, kl
) -> None:
    objective = Objective(
        surrogate=surrogate, average=average, average_length=100, epsilon=0.2, epsilon_high=0.3, beta=BETA, kl=kl
    )
    learner = new_learner(reference=reference, max_rows=3)
    with torch.no_grad():
        now = [plain_logprobs(learner.model, trajectory) for trajectory in trajectories]
    old = [row + shift for row, shift in zip(now, noise(now), strict=True)]
    batch = replace(
        with_other_policies(learner, batch_of(trajectories), updates=1, beta=BETA), old_logprobs=torch.cat(old)
    )
    update = update_policy(learner, batch, objective)
    assert_equal(update, gradient_of(learner.model), expected(learner.model, objective, None, old, reference))


@pytest.mark.parametrize(
    ("max_rows", "max_tokens", "packed"),
    [(8, 10_000, False), (3, 10_000, False), (1, 10_000, False), (8, 150, False), (3, 10_000, True)],
)
def test_metrics_are_means_over_tokens_however_they_are_cut_into_passes(
    new_learner,
    tiny_model,
    reference,
    trajectories,
    batch_of,
    expected,
    plain_logprobs,
    gradient_of,
    max_rows,
    max_tokens,
    packed,
) -> None:
    learner = new_learner(reference=deepcopy(reference), max_rows=max_rows, max_tokens=max_tokens, packed=packed)
    with torch.no_grad():
        now = [plain_logprobs(tiny_model, trajectory) for trajectory in trajectories]
        others = [plain_logprobs(reference, trajectory) for trajectory in trajectories]
    shifts = noise(now)
    old = [row + shift for row, shift in zip(now, shifts, strict=True)]
    batch = replace(
        with_other_policies(learner, batch_of(trajectories), updates=1, beta=BETA), old_logprobs=torch.cat(old)
    )
    objective = Objective(beta=BETA)
    update = update_policy(learner, batch, objective)

    assert_equal(update, gradient_of(learner.model), expected(tiny_model, objective, None, old, reference))
    assert torch.allclose(update.logprobs, torch.cat(now), atol=1e-5)  # in the batch's order
    sampled = torch.tensor([logprob for t in trajectories for turn in t.turns for logprob in turn.logprobs])
    gap = torch.cat(others) - torch.cat(now)
    ratios, advantages = torch.exp(-torch.cat(shifts)), torch.cat(token_advantages(trajectories, CreditConfig()))
    clipped = ((ratios > 1.2) & (advantages > 0)) | ((ratios < 0.8) & (advantages < 0))
    assert 0 < clipped.sum() < len(clipped)
    assert update.metrics["logprob_gap"] == pytest.approx((torch.cat(old) - sampled).abs().mean().item(), rel=1e-4)
    assert update.metrics["kl"] == pytest.approx((gap.exp() - gap - 1).mean().item(), rel=1e-4)
    assert update.metrics["clip_share"] == pytest.approx(clipped.float().mean().item())
    assert update.metrics["grad_norm"] == pytest.approx(gradient_of(learner.model).norm().item(), rel=1e-5)


def test_there_is_no_metric_that_cannot_change(new_learner, reference, trajectories, batch_of) -> None:
    always = {"loss", "logprob_gap", "grad_norm", "grad_norm_all_wrong", "learning_rate", "skipped"}
    learner, batch = new_learner(), batch_of(trajectories)
    old = with_other_policies(learner, batch, updates=2, beta=BETA)
    assert update_policy(learner, batch, Objective()).metrics.keys() == always
    assert update_policy(learner, old, Objective(surrogate="reinforce")).metrics.keys() == always
    assert update_policy(learner, old, Objective()).metrics.keys() == always | {"clip_share"}
    learner = new_learner(reference=reference)
    batch = with_other_policies(learner, batch, updates=1, beta=BETA)
    assert update_policy(learner, batch, Objective(beta=BETA)).metrics.keys() == always | {"kl"}


@pytest.mark.parametrize("algorithm", ["tspo", "grpo"])
@pytest.mark.parametrize("beta", [0.0, BETA])
@pytest.mark.parametrize(("max_rows", "whole"), [(8, True), (3, True), (8, False)])
def test_the_gradient_from_all_wrong_groups_is_measured_on_the_way(
    new_learner, reference, trajectories, batch_of, expected, gradient_of, algorithm, beta, max_rows, whole
) -> None:
    reference = reference if beta else None
    credit, objective = CreditConfig(algorithm=algorithm), Objective(beta=beta)
    learner = new_learner(reference=reference, max_rows=max_rows)
    if not whole:
        learner = replace(
            learner, score=scorer_of(learner.model, temperature=0.7, autocast=None, whole=False, packed=False)
        )
    update = update_policy(learner, with_other_policies(learner, batch_of(trajectories, credit), 1, beta), objective)
    plain = expected(learner.model, objective, credit, None, reference)
    assert_equal(update, gradient_of(learner.model), plain)

    norm = norm_of_all_wrong(learner.model, plain[-1])
    assert update.metrics["grad_norm_all_wrong"] == pytest.approx(norm, rel=1e-5)
    assert (norm == 0.0) == (algorithm == "grpo" and beta == 0.0)


def test_where_all_is_wrong_that_is_the_gradient(new_learner, trajectories, batch_of) -> None:
    trajectories[0].answer = "Bob"
    for objective in (Objective(), Objective(average="trajectories")):
        metrics = update_policy(new_learner(max_rows=3), batch_of(trajectories), objective).metrics
        assert metrics["grad_norm_all_wrong"] == pytest.approx(metrics["grad_norm"], rel=1e-6)
        assert metrics["grad_norm"] > 0


@pytest.mark.parametrize("max_rows", [8, 2])
def test_rows_that_teach_nothing_leave_a_gradient_of_zero_and_not_none(
    new_learner, trajectories, batch_of, gradient_of, max_rows
) -> None:
    trajectories[0].answer = "Bob"
    learner = new_learner(max_rows=max_rows)
    update = update_policy(learner, batch_of(trajectories, CreditConfig(algorithm="grpo")), Objective())
    assert (gradient_of(learner.model) == 0.0).all()
    assert (update.metrics["loss"], update.metrics["grad_norm_all_wrong"]) == (0.0, 0.0)
    assert update.logprobs.isnan().all()
    assert "logprob_gap" not in update.metrics


def test_observations_have_exactly_no_gradient(new_learner, reference, trajectories, batch_of) -> None:
    learner = new_learner(reference=reference, max_rows=1)
    batch = with_other_policies(learner, batch_of(trajectories), updates=1, beta=BETA)
    states: dict[tuple[int, ...], torch.Tensor] = {}

    def keep(_: Any, __: Any, inputs: dict[str, Any], output: Any) -> None:
        output.last_hidden_state.retain_grad()
        states[tuple(inputs["input_ids"][0].tolist())] = output.last_hidden_state

    learner.model.model.register_forward_hook(keep, with_kwargs=True)
    update_policy(learner, batch, Objective(beta=BETA))
    for trajectory in trajectories:
        ids, sampled = list(trajectory.prompt_token_ids), [False] * len(trajectory.prompt_token_ids)
        for turn in trajectory.turns:
            ids += [*turn.token_ids, *(turn.feedback_token_ids or [])]
            sampled += [True] * len(turn.token_ids) + [False] * len(turn.feedback_token_ids or [])
        before = torch.tensor([*sampled[1:], False])
        gradient = states[tuple(ids)].grad[0]
        assert (gradient[before] != 0).any(1).all()
        assert (gradient[~before] == 0).all()


@pytest.mark.parametrize("average", ["tokens", "trajectories", "constant"])
def test_a_trajectory_whose_retriever_failed_is_outside(
    new_learner, reference, trajectories, batch_of, gradient_of, average
) -> None:
    objective = Objective(average=average, average_length=50, beta=BETA)
    trajectories[1].stop_reason = StopReason.RETRIEVER_ERROR
    found = []
    for some in (trajectories, [*trajectories[:1], *trajectories[2:]]):
        learner = new_learner(reference=reference)
        update = update_policy(learner, with_other_policies(learner, batch_of(some), updates=1, beta=BETA), objective)
        found.append((update, gradient_of(learner.model)))
    (with_it, gradient), (without, plain) = found
    assert with_it.metrics == pytest.approx(without.metrics, rel=1e-5, abs=1e-7)
    assert (gradient - plain).norm() / plain.norm() < 1e-5
    assert torch.allclose(with_it.logprobs, without.logprobs, atol=1e-6)


def test_adapters_learn_and_the_reference_is_the_policy_without_them(
    new_learner, with_lora, tiny_model, trajectories, batch_of, expected, gradient_of
) -> None:
    learner = new_learner(with_lora(), with_reference=True)
    objective = Objective(beta=BETA)
    update = update_policy(
        learner, with_other_policies(learner, batch_of(trajectories), updates=1, beta=BETA), objective
    )
    plain = expected(learner.model, objective, None, None, tiny_model)
    assert_equal(update, gradient_of(learner.model), plain)
    assert update.metrics["grad_norm_all_wrong"] == pytest.approx(norm_of_all_wrong(learner.model, plain[-1]), rel=1e-5)
    assert update.metrics["kl"] > 0
    assert all(p.grad is None for name, p in learner.model.named_parameters() if "lora" not in name)


@pytest.mark.parametrize("lora", [False, True])
def test_under_autocast_weights_gradient_and_scores_stay_in_float32(
    new_learner, with_lora, trajectories, batch_of, expected, gradient_of, lora
) -> None:
    learner = new_learner(with_lora() if lora else None, autocast=torch.bfloat16)
    update = update_policy(learner, batch_of(trajectories), Objective())
    gradient = gradient_of(learner.model)
    loss, plain, size, terms = expected(learner.model, Objective())
    assert {gradient.dtype, update.logprobs.dtype, *(p.dtype for p in learner.model.parameters())} == {torch.float32}
    assert 0 < (gradient - plain).norm() / plain.norm() < 0.05
    assert update.metrics["loss"] == pytest.approx(loss.item(), abs=0.02 * size)
    norm = norm_of_all_wrong(learner.model, terms)
    assert update.metrics["grad_norm_all_wrong"] == pytest.approx(norm, rel=2e-2)


def test_a_base_in_bfloat16_learns_through_its_adapters(new_learner, with_lora, trajectories, batch_of) -> None:
    learner = new_learner(
        with_lora(torch.bfloat16), with_reference=True, autocast=torch.bfloat16, optimizer="adamw", learning_rate=1e-3
    )
    before = {name: p.detach().clone() for name, p in learner.model.named_parameters()}
    batch = with_other_policies(learner, batch_of(trajectories), updates=1, beta=BETA)
    update_policy(learner, batch, Objective(beta=BETA))
    changed = {name for name, p in learner.model.named_parameters() if not torch.equal(p, before[name])}
    assert changed == {name for name in before if "lora" in name}
    assert {before[name].dtype for name in changed} == {torch.float32}


def test_checkpointing_gives_the_same_gradient(new_learner, trajectories, batch_of, gradient_of) -> None:
    found = []
    for checkpointing in (False, True):
        learner = new_learner(checkpointing=checkpointing)
        update_policy(learner, batch_of(trajectories), Objective())
        found.append(gradient_of(learner.model))
    assert (found[0] - found[1]).norm() / found[0].norm() < 1e-6


def test_one_step_of_the_optimizer_on_the_clipped_gradient(new_learner, trajectories, batch_of, gradient_of) -> None:
    learner = new_learner(learning_rate=0.5, max_grad_norm=0.01, schedule="linear", steps=2)
    before = torch.cat([p.detach().flatten().clone() for p in learner.model.parameters()])
    update = update_policy(learner, batch_of(trajectories), Objective())
    after = torch.cat([p.detach().flatten() for p in learner.model.parameters()])
    gradient = gradient_of(learner.model)
    assert update.metrics["grad_norm"] > 0.01
    assert gradient.norm().item() == pytest.approx(0.01, rel=1e-4)
    assert torch.equal(after, before - 0.5 * gradient)
    assert update.metrics["learning_rate"] == 0.5
    assert learner.schedule.get_last_lr()[0] == 0.25


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_changes_nothing(new_learner, trajectories, batch_of, value) -> None:
    learner = new_learner(optimizer="adamw", learning_rate=0.1, max_grad_norm=1.0)
    batch, before = batch_of(trajectories), deepcopy(learner.model.state_dict())
    broken = replace(batch, advantages=torch.full_like(batch.advantages, value))
    update = update_policy(learner, broken, Objective())
    assert update.metrics["skipped"] == 1.0
    assert all(torch.equal(value, before[name]) for name, value in learner.model.state_dict().items())
    assert update_policy(learner, batch, Objective()).metrics["skipped"] == 0.0
    assert all(parameter.isfinite().all() for parameter in learner.model.parameters())
    assert any(not torch.equal(value, before[name]) for name, value in learner.model.state_dict().items())


def test_the_policy_before_is_scored_only_where_it_will_have_moved(
    new_learner, reference, trajectories, batch_of
) -> None:
    learner, batch = new_learner(), batch_of(trajectories)
    assert with_other_policies(learner, batch, updates=1, beta=BETA).old_logprobs is None
    old = with_other_policies(learner, batch, updates=2, beta=BETA)
    assert torch.equal(old.old_logprobs, score_batch(learner, batch, learner.score))
    assert not old.old_logprobs.requires_grad
    assert old.reference_logprobs is None
    of_reference = with_other_policies(new_learner(reference=reference), batch, updates=1, beta=BETA).reference_logprobs
    assert not torch.allclose(of_reference, old.old_logprobs)


def test_scores_of_a_batch_are_in_its_order(new_learner, trajectories, batch_of, plain_logprobs) -> None:
    for rows in (8, 3, 1):
        learner = new_learner(max_rows=rows)
        with torch.no_grad():
            plain = torch.cat([plain_logprobs(learner.model, trajectory) for trajectory in trajectories])
        assert torch.allclose(score_batch(learner, batch_of(trajectories), learner.score), plain, atol=1e-5)


def test_a_process_without_trajectories_takes_its_step(new_learner, trajectories, batch_of, gradient_of) -> None:
    learner = new_learner()
    update = update_policy(learner, batch_of(trajectories).take([]), Objective())
    assert (gradient_of(learner.model) == 0).all()
    assert len(update.logprobs) == 0


class TestSpread:
    """A policy whose parameters, gradients or optimizer are spread over processes; here there is one of them."""

    def test_the_gradient_is_the_same_without_the_norm_on_the_way(
        self, new_learner, trajectories, batch_of, gradient_of
    ) -> None:
        whole, spread = new_learner(max_rows=3), replace(new_learner(max_rows=3), spread=True)
        plain = update_policy(whole, batch_of(trajectories), Objective())
        update = update_policy(spread, batch_of(trajectories), Objective())
        difference = gradient_of(whole.model) - gradient_of(spread.model)
        assert difference.norm() / gradient_of(whole.model).norm() < 1e-6
        del plain.metrics["grad_norm_all_wrong"]
        assert update.metrics == pytest.approx(plain.metrics)

    def test_a_process_with_fewer_passes_takes_part_in_all(
        self, new_learner, reference, trajectories, batch_of, gradient_of, monkeypatch
    ) -> None:
        learner = replace(new_learner(reference=reference, max_rows=3), spread=True)
        monkeypatch.setattr(learner.accelerator, "gather", lambda count: torch.tensor([int(count), int(count) + 2]))
        batch: Batch = batch_of(trajectories)
        passes = learner.passes(batch, range(len(batch)))
        assert [one.rows for one in passes[-2:]] == [[], []]
        assert not any(one.all_wrong for one in passes)
        monkeypatch.setattr(learner.accelerator, "gather", lambda count: count)
        assert [one.rows for one in learner.passes(batch, [])] == [[]]  # a step of zero gradients needs them too
        monkeypatch.setattr(learner.accelerator, "gather", lambda count: torch.tensor([int(count), int(count) + 2]))

        plain, objective = new_learner(reference=reference), Objective(beta=BETA)
        found = [
            update_policy(one, with_other_policies(one, batch, updates=2, beta=BETA), objective).metrics
            for one in (learner, plain)
        ]
        del found[1]["grad_norm_all_wrong"]
        assert found[0] == pytest.approx(found[1], rel=1e-5, abs=1e-7)
        difference = gradient_of(learner.model) - gradient_of(plain.model)
        assert difference.norm() / gradient_of(plain.model).norm() < 1e-5
