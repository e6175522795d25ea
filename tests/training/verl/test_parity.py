"""The same trajectories through TRL's path and through verl's: turn rewards, advantages, masks and loss are equal."""

import asyncio
import dataclasses
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("verl")
pytest.importorskip("trl")

from datasets import Dataset  # noqa: E402
from omegaconf import OmegaConf  # noqa: E402
from tensordict import TensorDict  # noqa: E402
from trl import GRPOConfig  # noqa: E402
from verl import DataProto  # noqa: E402
from verl.trainer.ppo.ray_trainer import compute_advantage  # noqa: E402
from verl.utils import tensordict_utils as tu  # noqa: E402
from verl.utils.config import omega_conf_to_dataclass  # noqa: E402
from verl.workers.utils.losses import ppo_loss  # noqa: E402

from tspo.advantages import ADVANTAGES  # noqa: E402
from tspo.config import RunConfig  # noqa: E402
from tspo.credit import CreditConfig, assign_credit  # noqa: E402
from tspo.datasets.questions import Question  # noqa: E402
from tspo.rollout.codec import Codec  # noqa: E402
from tspo.rollout.completion import completion_of  # noqa: E402
from tspo.rollout.episode import Limits  # noqa: E402
from tspo.training.trainer import TSPOTrainer  # noqa: E402
from tspo.training.verl.agent_loop import output_of  # noqa: E402
from tspo.training.verl.carried import CarriedRow, Handover, carried_row, handed_over  # noqa: E402
from tspo.training.verl.reward_manager import TSPORewardManager  # noqa: E402
from tspo.training.verl.translation import translate  # noqa: E402
from tspo.trajectory import StopReason, Trajectory, Turn  # noqa: E402

pytestmark = pytest.mark.verl

GROUPS, GROUP_SIZE, TEMPERATURE = 4, 4, 0.7
QUESTIONS = [Question(f"q{i}", f"question {i}", (f"answer{i}",), "made") for i in range(GROUPS)]
CREDITS = [
    *(credit for credit in map(CreditConfig, ADVANTAGES) if not (credit.rewards.needs or credit.needs_critic)),
    CreditConfig(alpha=0.3, credit="through_first_turn", baseline="reached", scale="none"),
    CreditConfig(level="turn_if_all_wrong"),
]


def made_up(codec: Codec, seed: int) -> list[Trajectory]:
    """Groups of trajectories of 1 to 4 turns: right, near misses, wrong, and some whose retriever failed."""
    chance = random.Random(seed)
    trajectories = []
    for i in range(GROUPS * GROUP_SIZE):
        question = QUESTIONS[i // GROUP_SIZE]
        golden = question.golden_answers[0]
        failed = chance.random() < 0.1
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
                group_id=f"g{i // GROUP_SIZE}",
                trajectory_id=f"g{i // GROUP_SIZE}-{i % GROUP_SIZE}",
                question=question.question,
                golden_answers=list(question.golden_answers),
                turns=turns,
                answer=None if failed else answer,
                stop_reason=StopReason.RETRIEVER_ERROR if failed else StopReason.ANSWER,
                prompt_token_ids=codec.prompt(question.question),
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
    """One step on TRL's side: the trainer, its trajectories and its batch; and verl's settings of the same run."""

    trainer: TSPOTrainer
    trajectories: list[Trajectory]
    inputs: dict[str, Any]
    verl: Any


@pytest.fixture
def make_sides(tiny_model_folder: Path, tiny_tokenizer: Any, tmp_path: Path) -> Callable[..., Sides]:
    from transformers import AutoModelForCausalLM

    def make(credit: CreditConfig, seed: int, beta: float = 0.05) -> Sides:
        config = RunConfig.model_validate(
            {
                "model": str(tiny_model_folder),
                "output_dir": tmp_path,
                "device": "cpu",
                "data": {"world": {}},
                "rollout": {"temperature": TEMPERATURE},
                "credit": dataclasses.asdict(credit),
                "training": {"beta": beta, "dtype": "float32", "groups_per_step": GROUPS, "group_size": GROUP_SIZE},
                "verl": {"gpus_per_node": 1},
            }
        )
        codec = Codec(tiny_tokenizer, "Answer.\nQuestion: {question}")
        trainer = TSPOTrainer(
            AutoModelForCausalLM.from_pretrained(tiny_model_folder, dtype=torch.float32),
            questions=QUESTIONS,
            retriever=None,
            codec=codec,
            limits=Limits(),
            credit=credit,
            args=GRPOConfig(
                output_dir=str(tmp_path),
                per_device_train_batch_size=GROUPS * GROUP_SIZE,
                num_generations=GROUP_SIZE,
                temperature=TEMPERATURE,
                use_bias_correction_kl=False,
                beta=beta,
                epsilon=config.training.epsilon,
                bf16=False,
                use_cpu=True,
                max_steps=1,
                report_to=[],
            ),
            train_dataset=Dataset.from_dict({"prompt": [q.question for q in QUESTIONS], "index": range(GROUPS)}),
            processing_class=tiny_tokenizer,
        )
        trajectories = made_up(codec, seed)
        trainer._run_episodes = lambda requests: trajectories
        # Another policy, but a near one: verl bounds a token's KL estimate at 10, TRL does not.
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for parameter in trainer.ref_model.parameters() if trainer.ref_model else ():
                parameter += 0.01 * torch.randn(parameter.shape, generator=generator)
        trainer.model.train()
        trainer.current_gradient_accumulation_steps = 1
        rows = [{"prompt": QUESTIONS[i // GROUP_SIZE].question, "index": i // GROUP_SIZE} for i in range(16)]
        inputs = trainer._generate_and_score_completions(rows)
        return Sides(trainer, trajectories, inputs, translate(config, None, resume=False))

    return make


def rewarded(sides: Sides) -> list[CarriedRow]:
    """What the trajectories carry once verl's reward worker has seen them."""
    manager = TSPORewardManager(sides.verl, sides.trainer.codec.tokenizer, None)
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
    sides = make_sides(credit, seed)
    carried = [row.trajectory for row in rewarded(sides)]
    assert [earned.turn_rewards for earned in assign_credit(carried, credit)] == [
        made.turn_rewards for made in sides.trainer._credits
    ]

    batch, inputs = verl_batch(sides).batch, sides.inputs
    mask = inputs["completion_mask"] * inputs["tool_mask"]
    assert torch.equal(batch["response_mask"], mask)
    assert inputs["advantages"].abs().max() > 0
    torch.testing.assert_close(batch["advantages"], inputs["advantages"] * mask, rtol=0, atol=1e-6)


@pytest.mark.parametrize("credit", CREDITS, ids=str)
@pytest.mark.parametrize("beta", [0.05, 0.0])
def test_loss_and_gradient_are_equal(make_sides, credit: CreditConfig, beta: float) -> None:
    sides = make_sides(credit, seed=5, beta=beta)
    trainer, model = sides.trainer, sides.trainer.model
    outputs = [output_of(trajectory) for trajectory in sides.trajectories]
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():  # off policy: ratios on both sides of the clip
        responses = [whole_logprobs(model, output)[len(output.prompt_ids) - 1 : -1] for output in outputs]
        old = [values + 0.4 * torch.randn(values.shape, generator=generator) for values in responses]

    inputs = dict(sides.inputs)
    inputs["old_per_token_logps"] = torch.nn.utils.rnn.pad_sequence(old, batch_first=True)
    model.zero_grad()
    trl_loss = trainer._compute_loss(model, inputs)
    trl_loss.backward()
    trl_gradient = torch.cat([parameter.grad.flatten() for parameter in model.parameters()])

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
    if beta:
        with torch.no_grad():
            reference = [
                whole_logprobs(trainer.ref_model, output)[len(output.prompt_ids) - 1 : -1] for output in outputs
            ]
        data["ref_log_prob"] = jagged(reference)
        assert max((theirs - ours).max() for theirs, ours in zip(reference, responses, strict=True)) < 2
    tokens = sum(sum(output.response_mask) for output in outputs)
    tu.assign_non_tensor(data, dp_size=1, batch_num_tokens=tokens, global_batch_size=len(outputs))
    model.zero_grad()
    actor = omega_conf_to_dataclass(sides.verl.actor_rollout_ref.actor)
    verl_loss, _ = ppo_loss(actor, {"log_probs": jagged_with_grad(model, outputs)}, data)
    verl_loss.backward()
    verl_gradient = torch.cat([parameter.grad.flatten() for parameter in model.parameters()])

    assert trl_loss.item() != 0
    assert abs(trl_loss.item() - verl_loss.item()) < 1e-6
    assert (trl_gradient - verl_gradient).norm() / verl_gradient.norm() < 1e-5


def jagged_with_grad(model: Any, outputs: list[Any]) -> torch.Tensor:
    rows = [whole_logprobs(model, output) for output in outputs]
    lengths = torch.tensor([0, *(len(row) for row in rows)])
    return torch.nested.nested_tensor_from_jagged(torch.cat(rows), offsets=lengths.cumsum(0))


def test_completions_are_the_same_tokens(make_sides) -> None:
    sides = make_sides(CreditConfig(), 0)
    for row, trajectory in enumerate(sides.trajectories):
        output = output_of(trajectory)
        assert output.response_ids == completion_of(trajectory).token_ids.tolist()
        count = int(sides.inputs["completion_mask"][row].sum())
        assert output.response_ids == sides.inputs["completion_ids"][row, :count].tolist()
