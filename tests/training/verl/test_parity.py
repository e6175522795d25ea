"""The same trajectories through our update and through verl's: turn rewards, advantages, masks and loss are equal."""

import asyncio
import dataclasses
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("verl")

import torch
from omegaconf import OmegaConf
from tensordict import TensorDict
from verl import DataProto
from verl.trainer.ppo.ray_trainer import compute_advantage
from verl.utils import tensordict_utils as tu
from verl.utils.config import omega_conf_to_dataclass
from verl.workers.utils.losses import ppo_loss

from tspo.advantages import ADVANTAGES
from tspo.config import RunConfig
from tspo.credit import CreditConfig, assign_credit
from tspo.rollout.codec import Codec
from tspo.rollout.completion import completion_of
from tspo.training.batch import Batch
from tspo.training.objective import Objective
from tspo.training.run import step_settings
from tspo.training.update import Learner, update_policy, with_other_policies
from tspo.training.verl.agent_loop import output_of
from tspo.training.verl.carried import CarriedRow, Handover, carried_row, handed_over
from tspo.training.verl.reward_manager import TSPORewardManager
from tspo.training.verl.translation import translate
from tspo.trajectory import StopReason, Trajectory, Turn

pytestmark = pytest.mark.verl

GROUPS, GROUP_SIZE, TEMPERATURE = 4, 4, 0.7
CREDITS = [
    *(credit for credit in map(CreditConfig, ADVANTAGES) if not (credit.rewards.needs or credit.needs_critic)),
    CreditConfig(alpha=0.3, credit="through_first_turn", baseline="reached", scale="none"),
    CreditConfig(level="turn_if_all_wrong"),
]


def made_up(codec: Codec, seed: int, failing: float = 0.1) -> list[Trajectory]:
    """Groups of trajectories of 1 to 4 turns: right, near misses, wrong, and a share whose retriever failed."""
    chance = random.Random(seed)
    trajectories = []
    for i in range(GROUPS * GROUP_SIZE):
        group, member = divmod(i, GROUP_SIZE)
        golden = f"answer{group}"
        failed = chance.random() < failing
        turns = []
        for _ in range(chance.randrange(4)):
            feedback, ids = codec.feedback([f'"T"\nit is {chance.choice([golden, "nothing", "elsewhere"])}'], 40)
            turns.append(make_turn(codec, "<search>it</search>", chance, "it", feedback, ids))
        answer = chance.choice([golden, "wrong"])
        turns.append(
            make_turn(codec, "<search>more</search>" if failed else f"<answer>{answer}</answer>", chance, None)
        )
        trajectories.append(
            Trajectory(
                group_id=f"q{group}",
                trajectory_id=f"q{group}-{member}",
                question=f"question {group}",
                golden_answers=[golden],
                turns=turns,
                answer=None if failed else answer,
                stop_reason=StopReason.RETRIEVER_ERROR if failed else StopReason.ANSWER,
                prompt_token_ids=codec.prompt(f"question {group}"),
            )
        )
    return trajectories


def make_turn(codec: Codec, action: str, chance: random.Random, *rest: Any) -> Turn:
    text = f"<think>{'so ' * chance.randrange(1, 6)}</think>{action}"
    ids = codec.policy(text)
    query, feedback, feedback_ids = (*rest, None, None, None)[:3]
    return Turn(text, query, feedback, ids, [-chance.random() for _ in ids], feedback_ids)


@dataclasses.dataclass
class Sides:
    """One run on both sides: what learns here, a batch and what it is made of; and verl's settings."""

    learner: Learner
    objective: Objective
    codec: Codec
    trajectories: list[Trajectory]
    batch: Batch
    reference: Any
    verl: Any


@pytest.fixture
def make_sides(
    tiny_model: Any,
    tiny_model_folder: Path,
    codec: Codec,
    new_learner: Callable[..., Learner],
    another: Callable[..., Any],
    batch_of: Callable[..., Batch],
    tmp_path: Path,
) -> Callable[..., Sides]:
    def make(credit: CreditConfig, seed: int, failing: float = 0.1, **training: Any) -> Sides:
        training = {"beta": 0.05, "dtype": "float32", "groups_per_step": GROUPS, "group_size": GROUP_SIZE} | training
        config = RunConfig.model_validate(
            {
                "model": str(tiny_model_folder),
                "output_dir": tmp_path,
                "device": "cpu",
                "data": {"world": {}},
                "rollout": {"temperature": TEMPERATURE},
                "credit": dataclasses.asdict(credit),
                "training": training,
                "verl": {"gpus_per_node": 1},
            }
        )
        # Another policy, but a near one: verl bounds a token's KL estimate at 10, we do not.
        reference = another(tiny_model, size=0.01) if training["beta"] else None
        trajectories = made_up(codec, seed, failing)
        learner = new_learner(reference=reference, max_rows=5)
        batch = with_other_policies(learner, batch_of(trajectories, credit), updates=1, beta=training["beta"])
        objective = step_settings(config).objective
        return Sides(learner, objective, codec, trajectories, batch, reference, translate(config, None, resume=False))

    return make


def rewarded(sides: Sides) -> list[CarriedRow]:
    """What the trajectories carry once verl's reward worker has seen them."""
    manager = TSPORewardManager(sides.verl, sides.codec.tokenizer, None)
    rows = []
    for trajectory in sides.trajectories:
        output = output_of(trajectory)
        fields = np.array([output.extra_fields], dtype=object)
        data = DataProto(TensorDict({"x": torch.zeros(1)}, batch_size=1), {"tool_extra_fields": fields})
        reward = asyncio.run(manager.run_single(data))
        output.extra_fields["reward_extra_info"] = reward["reward_extra_info"]
        rows.append(carried_row(output.extra_fields, {}))
    return rows


def verl_batch(sides: Sides) -> DataProto:
    """verl's batch with the advantages of the estimator that its settings name."""
    outputs = [output_of(trajectory) for trajectory in sides.trajectories]
    rows = rewarded(sides)
    masks = [torch.tensor(output.response_mask) for output in outputs]
    mask = torch.nn.utils.rnn.pad_sequence(masks, batch_first=True)
    data = DataProto(
        TensorDict(
            {"response_mask": mask, "token_level_rewards": torch.zeros(mask.shape)}, batch_size=len(sides.trajectories)
        ),
        {"uid": np.array([trajectory.group_id for trajectory in sides.trajectories], dtype=object)},
    )
    with handed_over(Handover(rows)):
        return compute_advantage(
            data, adv_estimator=sides.verl.algorithm.adv_estimator, config=OmegaConf.create(sides.verl.algorithm)
        )


def whole_logprobs(model: Any, output: Any) -> torch.Tensor:
    """As verl's engine gives them: at each token, the log-probability of the next; (prompt + response,)."""
    ids = torch.tensor([[*output.prompt_ids, *output.response_ids]])
    logprobs = (model(input_ids=ids).logits[0] / TEMPERATURE).log_softmax(-1)
    return torch.cat([logprobs[:-1].gather(1, ids[0, 1:, None])[:, 0], torch.zeros(1)])


def jagged(rows: list[Any]) -> torch.Tensor:
    return torch.nested.as_nested_tensor([torch.as_tensor(row) for row in rows], layout=torch.jagged)


@pytest.mark.parametrize("credit", CREDITS, ids=str)
@pytest.mark.parametrize("seed", range(3))
def test_turn_rewards_advantages_and_masks_are_equal(make_sides, credit: CreditConfig, seed: int) -> None:
    sides = make_sides(credit, seed, beta=0.0)
    carried = [row.trajectory for row in rewarded(sides)]
    assert [earned.turn_rewards for earned in assign_credit(carried, credit)] == [
        made.turn_rewards for made in assign_credit(sides.trajectories, credit)
    ]

    batch, mask = verl_batch(sides).batch, verl_batch(sides).batch["response_mask"].bool()
    assert mask.sum(1).tolist() == sides.batch.loss_tokens.tolist()
    for row, in_loss, output in zip(
        mask, sides.batch.in_loss.split(sides.batch.lengths.tolist()), map(output_of, sides.trajectories), strict=True
    ):
        assert torch.equal(row[: len(output.response_ids)], in_loss[len(output.prompt_ids) :])
    assert sides.batch.advantages.abs().max() > 0
    torch.testing.assert_close(batch["advantages"][mask], sides.batch.advantages, rtol=0, atol=1e-6)
    assert (batch["advantages"][~mask] == 0).all()


def assert_equal_updates(sides: Sides) -> None:
    """Loss to 1e-6 and gradient to 1e-5, off policy: ratios are on both sides of the clip."""
    learner, model = sides.learner, sides.learner.model
    outputs = [output_of(trajectory) for trajectory in sides.trajectories]
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        responses = [whole_logprobs(model, output)[len(output.prompt_ids) - 1 : -1] for output in outputs]
    old = [values + 0.4 * torch.randn(values.shape, generator=generator) for values in responses]
    of_loss = [torch.tensor(output.response_mask).bool() for output in outputs]

    advantages = verl_batch(sides).batch["advantages"]
    data = TensorDict(
        {
            "prompts": jagged([output.prompt_ids for output in outputs]),
            "responses": jagged([output.response_ids for output in outputs]),
            "response_mask": jagged([output.response_mask for output in outputs]),
            "old_log_probs": jagged(old),
            "advantages": jagged(
                [row[: len(output.response_ids)] for row, output in zip(advantages, outputs, strict=True)]
            ),
        },
        batch_size=len(outputs),
    )
    if sides.reference is not None:
        with torch.no_grad():
            reference = [whole_logprobs(sides.reference, output)[len(output.prompt_ids) - 1 : -1] for output in outputs]
        data["ref_log_prob"] = jagged(reference)
        assert max((theirs - ours).max() for theirs, ours in zip(reference, responses, strict=True)) < 2
    tokens = sum(sum(output.response_mask) for output in outputs)
    tu.assign_non_tensor(data, dp_size=1, batch_num_tokens=tokens, global_batch_size=len(outputs))
    actor = omega_conf_to_dataclass(sides.verl.actor_rollout_ref.actor)
    verl_loss, _ = ppo_loss(actor, {"log_probs": jagged_with_grad(model, outputs)}, data)
    verl_loss.backward()
    verl_gradient = torch.cat([parameter.grad.flatten() for parameter in model.parameters()])

    batch = dataclasses.replace(
        sides.batch, old_logprobs=torch.cat([row[mask] for row, mask in zip(old, of_loss, strict=True)])
    )
    update = update_policy(learner, batch, sides.objective)
    gradient = torch.cat([parameter.grad.flatten() for parameter in model.parameters()])

    assert verl_loss.item() != 0
    assert abs(update.metrics["loss"] - verl_loss.item()) < 1e-6
    assert (gradient - verl_gradient).norm() / verl_gradient.norm() < 1e-5


@pytest.mark.parametrize("credit", CREDITS, ids=str)
@pytest.mark.parametrize("beta", [0.05, 0.0])
def test_loss_and_gradient_are_equal(make_sides, credit: CreditConfig, beta: float) -> None:
    assert_equal_updates(make_sides(credit, seed=5, beta=beta))


@pytest.mark.parametrize("objective", ["ppo", "gspo", "cispo", "reinforce"])
@pytest.mark.parametrize("average", ["tokens", "trajectories", "constant"])
@pytest.mark.parametrize("kl", ["k3", "k1"])
def test_every_objective_is_equal(make_sides, objective: str, average: str, kl: str) -> None:
    settings: dict[str, Any] = {"objective": objective, "average": average, "kl": kl}
    if objective != "reinforce":
        settings["epsilon_high"] = 0.28
    if average == "constant":
        settings["average_length"] = 100
    # verl's GSPO is its variant for advantages of tokens: the same thing where a trajectory has one
    credit = CreditConfig(algorithm="grpo") if objective == "gspo" else CreditConfig()
    # verl's means over trajectories count those outside the loss too
    assert_equal_updates(make_sides(credit, seed=4, failing=0.0, **settings))


def jagged_with_grad(model: Any, outputs: list[Any]) -> torch.Tensor:
    rows = [whole_logprobs(model, output) for output in outputs]
    lengths = torch.tensor([0, *(len(row) for row in rows)])
    return torch.nested.nested_tensor_from_jagged(torch.cat(rows), offsets=lengths.cumsum(0))


def test_completions_are_the_same_tokens(make_sides) -> None:
    sides = make_sides(CreditConfig(), 0)
    rows = sides.batch.token_ids.split(sides.batch.lengths.tolist())
    for row, trajectory in zip(rows, sides.trajectories, strict=True):
        output = output_of(trajectory)
        assert output.response_ids == completion_of(trajectory).token_ids.tolist()
        assert [*output.prompt_ids, *output.response_ids] == row.tolist()
