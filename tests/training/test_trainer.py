"""TSPOTrainer against a plain implementation of the objective, on trajectories made by hand."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("trl")

from datasets import Dataset  # noqa: E402
from trl import GRPOConfig  # noqa: E402

from tspo.credit import CreditConfig, assign_credit  # noqa: E402
from tspo.datasets.questions import Question  # noqa: E402
from tspo.rollout.codec import Codec  # noqa: E402
from tspo.rollout.completion import completion_of  # noqa: E402
from tspo.rollout.episode import Limits  # noqa: E402
from tspo.training import policy_tokens  # noqa: E402
from tspo.training.row_parts import order_step, row_passes  # noqa: E402
from tspo.training.token_details import log_ratio_file  # noqa: E402
from tspo.training.trainer import TSPOTrainer  # noqa: E402
from tspo.trajectory import StopReason, Trajectory, Turn, read_records  # noqa: E402

QUESTIONS = [Question("q0", "who wrote it", ("Ann Lee",), "made"), Question("q1", "where is it", ("Oslo",), "made")]
GROUP_SIZE = 4
TEMPERATURE = 0.7
EPSILON = 0.2
BETA = 0.05


@dataclass
class Setting:
    trainer: TSPOTrainer
    trajectories: list[Trajectory]
    inputs: dict[str, Any]


def make_trajectory(codec: Codec, group: int, member: int, turns: list[tuple[str, str | None]]) -> Trajectory:
    """A trajectory of (policy text, passage or None) turns, tokens as a rollout would have them."""
    question = QUESTIONS[group]
    made = []
    for text, passage in turns:
        ids = codec.policy(text)
        feedback, feedback_ids = codec.feedback([f'"T"\n{passage}'], 50) if passage else (None, None)
        made.append(Turn(text, "q" if passage else None, feedback, ids, [-1.0] * len(ids), feedback_ids))
    answer = turns[-1][0].removeprefix("<answer>").removesuffix("</answer>") if turns[-1][1] is None else None
    return Trajectory(
        group_id=f"g{group}",
        trajectory_id=f"g{group}-{member}",
        question=question.question,
        golden_answers=list(question.golden_answers),
        turns=made,
        answer=answer,
        stop_reason=StopReason.ANSWER,
        prompt_token_ids=codec.prompt(question.question),
    )


def hand_made(codec: Codec) -> list[Trajectory]:
    """Two groups: one with a right answer and a near miss, one all wrong with a near miss in the second turn."""
    search = "<think>look</think><search>it</search>"
    rows = [
        [(search, "Ann Lee wrote it"), ("<answer>Ann Lee</answer>", None)],
        [(search, "Ann Lee wrote it"), ("<answer>Bob</answer>", None)],
        [("<answer>nobody at all</answer>", None)],
        [(search, "nothing here"), (search, "still nothing"), ("<answer>Bob</answer>", None)],
        [(search, "in Rome"), (search, "it is in Oslo"), ("<answer>Rome</answer>", None)],
        [(search, "in Rome"), ("<answer>Rome</answer>", None)],
        [("<answer>Rome</answer>", None)],
        [(search, "no"), (search, "no"), ("<answer>Bergen</answer>", None)],
    ]
    return [make_trajectory(codec, i // GROUP_SIZE, i % GROUP_SIZE, turns) for i, turns in enumerate(rows)]


def rows_of_a_step() -> list[dict[str, Any]]:
    return [{"prompt": QUESTIONS[i // GROUP_SIZE].question, "index": i // GROUP_SIZE} for i in range(8)]


class NoRetriever:
    def search(self, queries: list[str], top_k: int) -> list[list[Any]]:
        raise AssertionError("the trajectories are made by hand")


@pytest.fixture
def make_setting(tiny_model_folder: Path, tiny_tokenizer: Any, tmp_path: Path) -> Callable[..., Setting]:
    from transformers import AutoModelForCausalLM

    def make(
        credit: CreditConfig,
        micro_batch: int = 8,
        steps_per_update: int | None = None,
        peft_config: Any = None,
        trajectory_dir: Path | None = None,
        **settings: Any,
    ) -> Setting:
        model = AutoModelForCausalLM.from_pretrained(tiny_model_folder, dtype=torch.float32)
        codec = Codec(tiny_tokenizer, "Answer.\nQuestion: {question}")
        trainer = TSPOTrainer(
            model,
            questions=QUESTIONS,
            retriever=NoRetriever(),
            codec=codec,
            limits=Limits(),
            credit=credit,
            args=GRPOConfig(
                output_dir=str(tmp_path),
                per_device_train_batch_size=micro_batch,
                gradient_accumulation_steps=steps_per_update or 8 // micro_batch,
                steps_per_generation=8 // micro_batch,
                num_generations=GROUP_SIZE,
                temperature=TEMPERATURE,
                use_bias_correction_kl=False,
                use_cpu=True,
                activation_checkpointing=False,
                report_to=[],
                **({"beta": BETA, "epsilon": EPSILON, "bf16": False, "max_steps": 1} | settings),
            ),
            peft_config=peft_config,
            trajectory_dir=trajectory_dir,
            train_dataset=Dataset.from_dict({"prompt": [q.question for q in QUESTIONS], "index": [0, 1]}),
            processing_class=tiny_tokenizer,
        )
        trajectories = hand_made(codec)
        trainer._run_episodes = lambda requests: trajectories
        # The reference must not be the policy itself, or its KL would be 0 whatever the code does.
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for parameter in trainer.ref_model.parameters() if trainer.ref_model else ():
                parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
        trainer.model.train()
        trainer.current_gradient_accumulation_steps = trainer.args.gradient_accumulation_steps
        torch.manual_seed(0)
        return Setting(trainer, trajectories, trainer._generate_and_score_completions(rows_of_a_step()))

    return make


def plain_logprobs(model: Any, trajectory: Trajectory) -> torch.Tensor:
    """log pi(token | all before it) of every completion token, from one unpadded forward pass."""
    completion = completion_of(trajectory)
    ids = torch.tensor([[*trajectory.prompt_token_ids, *completion.token_ids.tolist()]])
    logprobs = (model(input_ids=ids).logits[0, :-1] / TEMPERATURE).log_softmax(-1)
    return logprobs.gather(1, ids[0, 1:, None])[-len(completion.token_ids) :, 0]


def plain_terms(setting: Setting, old_shift: dict[int, torch.Tensor] | None = None) -> list[torch.Tensor]:
    """The objective's terms, one tensor (policy tokens,) a trajectory:

    -min(ratio A, clip(ratio) A) + beta (exp(d) - d - 1), d = log ref - log pi.
    """
    trainer = setting.trainer
    credits = assign_credit(setting.trajectories, trainer.credit)
    terms = []
    for i, (trajectory, credit) in enumerate(zip(setting.trajectories, credits, strict=True)):
        logprobs = plain_logprobs(trainer.model, trajectory)
        completion = completion_of(trajectory)
        sampled = torch.tensor(completion.sampled).bool()
        turns = torch.tensor([*credit.turn_advantages, 0.0])  # the last is feedback's, whose index is -1
        advantage = turns[completion.turn_index]
        shift = old_shift[i] if old_shift else torch.zeros(len(logprobs))
        ratio = torch.exp(logprobs - (logprobs.detach() + shift))
        term = -torch.min(ratio * advantage, ratio.clamp(1 - EPSILON, 1 + EPSILON) * advantage)
        if trainer.beta:
            with torch.no_grad():
                reference = plain_logprobs(trainer.ref_model, trajectory)
            delta = reference - logprobs
            term = term + trainer.beta * (torch.exp(delta) - delta - 1)
        terms.append(term[sampled])
    return terms


def plain_gradient(setting: Setting, rows: Iterable[int]) -> torch.Tensor:
    """The gradient of the terms of some trajectories, in the mean over the policy tokens of all."""
    terms = plain_terms(setting)
    loss = torch.cat([terms[row] for row in rows]).sum() / sum(len(term) for term in terms)
    gradient = torch.autograd.grad(loss, list(setting.trainer.model.parameters()))
    return torch.cat([part.flatten() for part in gradient])


def gradients(model: Any) -> torch.Tensor:
    return torch.cat([parameter.grad.flatten() for parameter in model.parameters() if parameter.requires_grad])


@pytest.mark.parametrize(
    "credit",
    [
        CreditConfig(),
        CreditConfig(algorithm="grpo"),
        CreditConfig(alpha=0.3, credit="through_first_turn", baseline="reached", scale="none"),
        CreditConfig(algorithm="reinforce_plus_plus"),
        CreditConfig(algorithm="igpo"),
    ],
)
@pytest.mark.parametrize("off_policy", [False, True])
def test_loss_and_gradient_equal_the_plain_objective(make_setting, credit: CreditConfig, off_policy: bool) -> None:
    setting = make_setting(credit)
    trainer, inputs = setting.trainer, dict(setting.inputs)
    generator = torch.Generator().manual_seed(7)
    shift = {}
    width = inputs["completion_ids"].shape[1]
    old = torch.zeros(len(setting.trajectories), width)
    for i, trajectory in enumerate(setting.trajectories):
        length = len(completion_of(trajectory).token_ids)
        noise = 0.4 * torch.randn(length, generator=generator) if off_policy else torch.zeros(length)
        shift[i] = noise
        with torch.no_grad():
            old[i, :length] = plain_logprobs(trainer.model, trajectory) + noise
    if off_policy:
        inputs["old_per_token_logps"] = old

    trainer.model.zero_grad()
    loss = trainer._compute_loss(trainer.model, inputs)
    loss.backward()
    ours = gradients(trainer.model)
    trainer.model.zero_grad()
    terms = torch.cat(plain_terms(setting, shift))
    expected, size = terms.mean(), terms.abs().mean().item()  # the terms nearly cancel: float32 is relative to them
    expected.backward()
    plain = gradients(trainer.model)

    assert expected.item() != 0
    assert abs(loss.item() - expected.item()) < 1e-5 * size
    assert (ours - plain).norm() / plain.norm() < 1e-5


def test_dr_grpo_divides_the_sum_over_tokens_by_a_constant(make_setting) -> None:
    settings = {"loss_type": "dr_grpo", "max_completion_length": 100}
    setting = make_setting(CreditConfig(algorithm="dr_grpo"), **settings)
    (batch,) = order_step([setting.inputs], BETA)
    loss = setting.trainer._compute_loss(setting.trainer.model, batch)
    ours = gradients(setting.trainer.model)
    setting.trainer.model.zero_grad()
    terms = torch.cat(plain_terms(setting))
    expected = terms.sum() / (len(setting.trajectories) * 100)
    expected.backward()
    plain = gradients(setting.trainer.model)
    assert abs(loss.item() - expected.item()) < 1e-5 * terms.abs().mean().item()
    assert (ours - plain).norm() / plain.norm() < 1e-5


def test_golden_passages_come_from_the_questions(make_setting) -> None:
    setting = make_setting(CreditConfig())
    trainer = setting.trainer
    trainer.credit = CreditConfig(algorithm="gigpo", reward="stepsearch")
    texts = ("Ann Lee wrote it", "it is in Oslo")
    trainer.questions = [
        replace(question, supporting_passages=(text,)) for question, text in zip(QUESTIONS, texts, strict=True)
    ]
    trainer._generate_and_score_completions(rows_of_a_step())
    assert [item.extra["supporting_passages"] for item in setting.trajectories[::GROUP_SIZE]] == [[t] for t in texts]
    assert trainer._credits[0].turn_rewards == pytest.approx([1.0, 1.0])
    assert trainer._credits[3].turn_rewards[0] == 0.0


def test_micro_batches_add_up_to_the_whole_batch(make_setting) -> None:
    from trl.trainer.utils import split_tensor_dict

    whole = make_setting(CreditConfig())
    whole.trainer._compute_loss(whole.trainer.model, whole.inputs).backward()
    parts = make_setting(CreditConfig(), micro_batch=2)
    for part in split_tensor_dict(parts.inputs, 4):
        parts.trainer._compute_loss(parts.trainer.model, part).backward()
    difference = gradients(whole.trainer.model) - gradients(parts.trainer.model)
    assert difference.norm() / gradients(whole.trainer.model).norm() < 1e-5


def test_short_passes_give_the_gradient_of_one(make_setting, monkeypatch) -> None:
    """A step's own backward passes: the gradient is there without a call of `backward` on what is returned."""
    found = {}
    for tokens in (1024, 64):
        monkeypatch.setattr(policy_tokens, "_PASS_TOKENS", {"cpu": tokens})
        setting = make_setting(CreditConfig())
        (batch,) = order_step([setting.inputs], BETA)
        passes = row_passes(batch["parts"], batch["prompt_mask"].sum(1) + batch["completion_mask"].sum(1), tokens)
        setting.trainer._compute_loss(setting.trainer.model, batch)
        means = {
            name: values for name, values in setting.trainer._metrics["train"].items() if "clip" in name or "kl" in name
        }
        found[tokens] = (len(passes), gradients(setting.trainer.model), means)
    (few, whole, whole_means), (many, parts, parts_means) = found.values()
    assert few < many
    assert (whole - parts).norm() / whole.norm() < 1e-5
    assert all(len(values) == 1 for name, values in parts_means.items() if "clip" in name or name == "kl")
    assert whole_means["kl"] == pytest.approx(parts_means["kl"], rel=1e-5)


def test_the_gap_to_the_sampler_is_measured(make_setting) -> None:
    setting = make_setting(CreditConfig())
    (batch,) = order_step([setting.inputs], BETA)
    setting.trainer._compute_loss(setting.trainer.model, batch)
    expected = []
    for trajectory in setting.trajectories:
        completion = completion_of(trajectory)
        with torch.no_grad():
            difference = plain_logprobs(setting.trainer.model, trajectory) - torch.tensor(completion.logprobs)
        expected.append(difference.abs()[torch.tensor(completion.sampled).bool()])
    (gap,) = setting.trainer._metrics["train"]["tspo/logprob_gap"]
    assert gap == pytest.approx(torch.cat(expected).mean().item(), rel=1e-4)


@pytest.mark.parametrize("micro_batch", [8, 4])
def test_each_token_of_the_file_has_its_ratio_in_the_update(make_setting, tmp_path: Path, micro_batch: int) -> None:
    setting = make_setting(CreditConfig(), micro_batch=micro_batch, trajectory_dir=tmp_path)
    setting.trajectories[2].stop_reason = StopReason.RETRIEVER_ERROR
    setting.inputs = setting.trainer._generate_and_score_completions(rows_of_a_step())
    halves = [
        {name: value[rows] if getattr(value, "ndim", 0) else value for name, value in setting.inputs.items()}
        for rows in torch.arange(8).split(micro_batch)
    ]
    for batch in order_step(halves, BETA):
        setting.trainer._compute_loss(setting.trainer.model, batch)
    setting.trainer._log_ratios.write(setting.trainer._log_ratios.rows)

    found = torch.tensor(np.load(log_ratio_file(tmp_path / "000001.jsonl")).astype("float32"))
    with (tmp_path / "000001.jsonl").open("rb") as stream:
        written = [trajectory for _, trajectory in read_records(stream, "file")]
    start = 0
    for trajectory in written:
        completion = completion_of(trajectory)
        with torch.no_grad():
            difference = plain_logprobs(setting.trainer.model, trajectory) - torch.tensor(completion.logprobs)
        expected = difference[torch.tensor(completion.sampled).bool()].float()
        own, start = found[start : start + len(expected)], start + len(expected)
        if trajectory.retriever_failed:
            assert own.isnan().all()
        else:
            assert torch.allclose(own, expected, atol=2e-3)
        assert all(len(turn.extra["token_ends"]) == len(turn.token_ids) for turn in trajectory.turns)
    assert start == len(found)


def test_feedback_tokens_have_exactly_no_gradient(make_setting) -> None:
    setting = make_setting(CreditConfig())
    trainer = setting.trainer
    leaf = torch.full(setting.inputs["completion_ids"].shape, -1.0, requires_grad=True)
    trainer._get_per_token_logps_and_entropies = lambda *_, **__: (leaf, torch.zeros_like(leaf), None)
    trainer._compute_loss(trainer.model, setting.inputs).backward()
    for row, trajectory in enumerate(setting.trajectories):
        sampled = torch.tensor(completion_of(trajectory).sampled).bool()
        assert (leaf.grad[row, : len(sampled)][~sampled] == 0.0).all()
        assert (leaf.grad[row, len(sampled) :] == 0.0).all()
    assert (leaf.grad != 0).any()


def test_a_trajectory_whose_retriever_failed_is_outside_the_loss(make_setting, monkeypatch) -> None:
    setting = make_setting(CreditConfig())
    setting.trajectories[0].stop_reason = StopReason.RETRIEVER_ERROR
    inputs = setting.trainer._generate_and_score_completions(rows_of_a_step())
    assert inputs["tool_mask"][0, : inputs["completion_mask"][0].sum()].sum() == 0
    assert inputs["tool_mask"][1].sum() > 0
    assert torch.isfinite(setting.trainer._compute_loss(setting.trainer.model, inputs))


def test_advantages_stand_on_the_tokens_of_their_turn(make_setting) -> None:
    setting = make_setting(CreditConfig())
    credits = assign_credit(setting.trajectories, CreditConfig())
    for row, (trajectory, credit) in enumerate(zip(setting.trajectories, credits, strict=True)):
        for token, k in enumerate(completion_of(trajectory).turn_index.tolist()):
            expected = credit.turn_advantages[k] if k >= 0 else 0.0
            assert setting.inputs["advantages"][row, token].item() == pytest.approx(expected, rel=1e-6)
    assert len({round(value, 6) for credit in credits for value in credit.turn_advantages}) > 3


def test_reference_and_policy_score_like_trl(make_setting) -> None:
    """At the policy's tokens our scoring equals TRL's own, which scores every position."""
    from trl import GRPOTrainer

    setting = make_setting(CreditConfig())
    trainer, inputs = setting.trainer, setting.inputs
    ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], 1)
    mask = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], 1)
    width = inputs["completion_ids"].shape[1]
    scored = (inputs["completion_mask"] * inputs["tool_mask"]).bool()
    trainer._scored = scored
    with torch.no_grad():
        ours = trainer._get_per_token_logps_and_entropies(trainer.model, ids, mask, width, 3, compute_entropy=True)
        theirs = GRPOTrainer._get_per_token_logps_and_entropies(
            trainer, trainer.model, ids, mask, width, 3, compute_entropy=True
        )
    torch.testing.assert_close(ours[0][scored], theirs[0][scored], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours[1][scored], theirs[1][scored], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("model_type", ["granite", "qwen2"])
def test_models_that_scale_their_logits_are_left_to_trl(make_setting, tiny_tokenizer: Any, model_type: str) -> None:
    """Granite divides its logits: our scoring sees that and hands over; Qwen2 does not, and is scored here."""
    from transformers import AutoConfig, AutoModelForCausalLM

    settings = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = AutoConfig.for_model(model_type, vocab_size=len(tiny_tokenizer), num_key_value_heads=1, **settings)
    if model_type == "granite":
        config.logits_scaling = 8.0
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).float()
    setting = make_setting(CreditConfig())
    trainer, inputs = setting.trainer, setting.inputs
    ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], 1)
    mask = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], 1)
    scores = trainer._score_policy_tokens(model, ids, mask, inputs["completion_mask"] * inputs["tool_mask"])
    assert (scores is None) == (model_type == "granite")


ALL_WRONG = range(GROUP_SIZE, 2 * GROUP_SIZE)
NORM = "tspo/grad_norm_all_wrong"


def update(setting: Setting, micro_batches: int) -> torch.Tensor:
    """The gradient that an optimizer step would be given."""
    trainer = setting.trainer
    trainer.model.zero_grad()
    for _ in range(micro_batches):
        trainer.training_step(trainer.model, rows_of_a_step(), None)
    return gradients(trainer.model)


@pytest.mark.parametrize("algorithm", ["tspo", "grpo"])
@pytest.mark.parametrize("beta", [0.0, BETA])
@pytest.mark.parametrize(("micro_batch", "left_to_trl"), [(8, False), (4, False), (2, False), (1, False), (8, True)])
def test_the_gradient_from_all_wrong_groups_is_measured_on_the_way(
    make_setting, monkeypatch, algorithm: str, beta: float, micro_batch: int, left_to_trl: bool
) -> None:
    setting = make_setting(CreditConfig(algorithm=algorithm), micro_batch, beta=beta)
    if left_to_trl:
        monkeypatch.setattr(TSPOTrainer, "_score_policy_tokens", lambda *_: None)
    ours = update(setting, 8 // micro_batch)
    (norm,) = setting.trainer._metrics["train"][NORM]
    plain = plain_gradient(setting, range(8))
    assert (ours - plain).norm() / plain.norm() < 1e-5
    assert norm == pytest.approx(plain_gradient(setting, ALL_WRONG).norm().item(), rel=1e-5)
    assert (norm == 0.0) == (algorithm == "grpo" and beta == 0.0)


def test_each_optimizer_step_of_a_rollout_measures_its_own_rows(make_setting) -> None:
    setting = make_setting(CreditConfig(), 2, steps_per_update=2)
    trainer = setting.trainer
    for step in range(2):
        update(setting, 2)
        rows = []
        for batch in trainer._buffered_inputs[2 * step : 2 * step + 2]:
            for ids, mask in zip(batch["completion_ids"], batch["completion_mask"].bool(), strict=True):
                made = [completion_of(trajectory).token_ids.tolist() for trajectory in setting.trajectories]
                rows.append(made.index(ids[mask].tolist()))
        all_wrong = [row for row in rows if row in ALL_WRONG]
        assert 0 < len(all_wrong) < len(rows) == 4, "the shuffle of this seed leaves nothing to tell apart"
        expected = 2 * plain_gradient(setting, all_wrong)  # the mean is over half the tokens
        assert trainer._metrics["train"][NORM][step] == pytest.approx(expected.norm().item(), rel=1e-5)


@pytest.mark.parametrize("setup", ["lora", "bf16"])
def test_adapters_and_autocast_measure_the_same(make_setting, setup: str) -> None:
    from peft import LoraConfig

    lora = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM") if setup == "lora" else None
    setting = make_setting(CreditConfig(), peft_config=lora, bf16=setup == "bf16", beta=0.0)
    trainer, inputs = setting.trainer, dict(setting.inputs)
    inputs["tool_mask"] = inputs["tool_mask"] * inputs["all_wrong"][:, None]
    trainer.model.zero_grad()
    trainer._compute_loss(trainer.model, inputs).backward()
    expected = gradients(trainer.model).norm().item()
    update(setting, 1)
    assert expected > 0
    assert trainer._metrics["train"][NORM] == pytest.approx([expected], rel=1e-2 if setup == "bf16" else 1e-5)


def test_where_all_is_wrong_it_is_the_gradient_at_every_update_of_a_rollout(make_setting) -> None:
    setting = make_setting(CreditConfig(), 4, num_iterations=2, max_steps=4, logging_steps=1, save_strategy="no")
    setting.trajectories[0].answer = "Bob"
    trainer = setting.trainer
    trainer._buffered_inputs, trainer._step = None, 0
    trainer.train()
    lines = [line for line in trainer.state.log_history if "loss" in line]
    assert ["tspo/all_wrong_share" in line for line in lines] == [True, False, True, False]
    assert min(line["grad_norm"] for line in lines) > 0
    assert [line[NORM] for line in lines] == pytest.approx([line["grad_norm"] for line in lines], rel=1e-6)


@pytest.mark.parametrize("micro_batch", [8, 2])
def test_rows_that_teach_nothing_leave_a_gradient_of_zero_and_not_none(make_setting, micro_batch: int) -> None:
    setting = make_setting(CreditConfig(algorithm="grpo"), micro_batch, beta=0.0)
    setting.trajectories[0].answer = "Bob"
    assert (update(setting, 8 // micro_batch) == 0.0).all()
    assert setting.trainer._metrics["train"][NORM] == [0.0]


def test_means_over_tokens_do_not_depend_on_micro_batches(make_setting) -> None:
    means = []
    for micro_batch in (8, 4, 1):
        setting = make_setting(CreditConfig(), micro_batch)
        update(setting, 8 // micro_batch)
        logged = setting.trainer._metrics["train"]
        means.append([sum(logged[name]) / len(logged[name]) for name in ("entropy", "kl")])
    assert means[1] == pytest.approx(means[0], rel=1e-5)
    assert means[2] == pytest.approx(means[0], rel=1e-5)


@pytest.mark.parametrize(
    "settings", [{"loss_type": "bnpo"}, {"top_entropy_quantile": 0.5}, {"steps_per_update": 16}], ids=str
)
def test_it_is_left_out_where_order_matters_or_a_step_has_several_rollouts(make_setting, settings) -> None:
    setting = make_setting(CreditConfig(), 1, **settings)
    assert update(setting, 8).norm() > 0
    assert NORM not in setting.trainer._metrics["train"]


@pytest.mark.parametrize("kind", ["DEEPSPEED", "FSDP"])
def test_it_is_left_out_where_parameters_are_spread_over_processes(make_setting, monkeypatch, kind: str) -> None:
    from accelerate import Accelerator
    from accelerate.utils import DistributedType

    setting = make_setting(CreditConfig())
    assert setting.trainer._adds_up_over_rows()
    monkeypatch.setattr(Accelerator, "distributed_type", DistributedType[kind])
    assert not setting.trainer._adds_up_over_rows()


def test_the_card_is_the_runs_or_else_trls_under_this_methods_name(
    make_setting: Callable[..., Setting], tmp_path: Path
) -> None:
    from huggingface_hub import ModelCard

    trainer = make_setting(CreditConfig()).trainer
    trainer.create_model_card(model_name="mine")
    card = ModelCard.load(tmp_path / "README.md")
    assert {"trl", "tspo"} <= set(card.data.tags)
    assert "trained with TSPO" in card.text
    assert "2601.22776" in card.text
    trainer.write_card = lambda folder: (folder / "README.md").write_text("the run's")
    trainer.create_model_card(model_name="mine")
    assert (tmp_path / "README.md").read_text() == "the run's"
