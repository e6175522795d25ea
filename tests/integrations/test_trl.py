"""TSPOTrainer on TRL against a plain implementation of the objective, on trajectories whose texts are given."""

import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("trl")

from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback  # noqa: E402
from trl import GRPOConfig, GRPOTrainer  # noqa: E402

from tspo.credit import Credit, CreditConfig  # noqa: E402
from tspo.datasets.questions import Question  # noqa: E402
from tspo.errors import BadInput  # noqa: E402
from tspo.integrations.trl import TSPOTrainer  # noqa: E402
from tspo.retrieval.base import Passage, RetrieverError  # noqa: E402
from tspo.rollout.codec import Codec  # noqa: E402
from tspo.rollout.episode import Limits  # noqa: E402
from tspo.rollout.sampler import Sampled  # noqa: E402
from tspo.trajectory import Trajectory  # noqa: E402

GROUP_SIZE, TEMPERATURE, EPSILON, BETA = 4, 0.7, 0.2, 0.05

# Each query is what is found. There are right answers and near misses in the first group and the last, none right in
# the second.
TURNS = {
    Question("q0", "who wrote it", ("Ann Lee",), "made"): [
        ["Ann Lee wrote it", "Ann Lee"],
        ["Ann Lee wrote it", "Bob"],
        ["nobody at all"],
        ["nothing here", "still nothing", "Bob"],
    ],
    Question("q1", "where is it then", ("Oslo",), "made"): [
        ["in Rome", "it is in Oslo", "Rome"],
        ["in Rome", "Rome"],
        ["Rome"],
        ["no", "no", "Bergen"],
    ],
    Question("q2", "when", ("1999",), "made"): [
        ["in 1999", "1999"],
        ["1998"],
        ["in 1999", "in 1998", "1998"],
        ["in 1998", "1999"],
    ],
}


class Script:
    """A sampler that says the given turns; the last one answers."""

    def __init__(self, codec: Any) -> None:
        self.codec = codec

    def refresh(self) -> None: ...

    def close(self) -> None: ...

    @asynccontextmanager
    async def session(self, seed: str) -> Any:
        yield Saying(self.codec, int(seed.rpartition("/")[2]) % GROUP_SIZE)


class Saying:
    def __init__(self, codec: Any, member: int) -> None:
        self.codec, self.member = codec, member
        self.turns: Iterator[str] = iter(())

    async def sample(self, new_token_ids: list[int], max_tokens: int) -> Sampled:
        said = self.codec.decode(new_token_ids)
        for question, members in TURNS.items():
            if question.question in said:
                *searches, answer = members[self.member]
                self.turns = iter(
                    [*(f"<think>?</think><search>{it}</search>" for it in searches), f"<answer>{answer}</answer>"]
                )
        text = next(self.turns)
        ids = self.codec.policy(text)
        return Sampled(ids, [-1.0] * len(ids), text, "stop")


class Echo:
    """A retriever that finds what it is asked, but for what is `lost`."""

    def __init__(self, lost: str = "") -> None:
        self.lost = lost

    def search(self, queries: Sequence[str], top_k: int) -> list[list[Passage]]:
        if self.lost in queries:
            raise RetrieverError("lost")
        return [[Passage("0", f'"T"\n{query}', 1.0)] for query in queries]


class Checked(TSPOTrainer):
    """Keeps the losses of an update, and compares them and their gradient with the plain objective."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.seen: list[tuple[list[Trajectory], list[Credit]]] = []
        self.losses: list[torch.Tensor] = []
        self.apart: list[tuple[float, float]] = []
        super().__init__(*args, on_rollout=lambda _, *sampled: self.seen.append(sampled), **kwargs)
        self.first = AutoModelForCausalLM.from_pretrained(kwargs["model"].name_or_path, dtype=torch.float32)
        trainer = self

        class Compare(TrainerCallback):
            def on_pre_optimizer_step(self, *_: Any, **__: Any) -> None:
                trainer.compare()

        self.add_callback(Compare())

    def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
        loss = super().compute_loss(*args, **kwargs)
        if self.model.training:
            self.losses.append(loss.detach())
        return loss

    def compare(self) -> None:
        if not self.seen:
            return  # all that was sampled is seen by the main process alone
        terms = plain_terms(self.model, self.first, *self.seen[-1])
        expected, size = terms.mean(), terms.abs().mean()  # the terms nearly cancel: float32 is relative to them
        parameters = [p for p in self.model.parameters() if p.requires_grad]
        plain = torch.cat([g.flatten() for g in torch.autograd.grad(expected, parameters)])
        ours = torch.cat([p.grad.flatten() for p in parameters])
        assert plain.norm() > 0
        loss_apart = (sum(self.losses) - expected.detach()).abs() / size
        self.apart.append((loss_apart.item(), ((ours - plain).norm() / plain.norm()).item()))
        self.losses = []


def plain_terms(policy: Any, first: Any, trajectories: list[Trajectory], credits: list[Credit]) -> torch.Tensor:
    """-min(ratio A, clip(ratio) A) + beta (exp(d) - d - 1) of each token that the policy sampled, d = log ref - log pi.

    `first` is both the policy that sampled and the reference.
    """
    terms = []
    for trajectory, credit in zip(trajectories, credits, strict=True):
        if trajectory.retriever_failed:
            continue
        ids, advantage = list(trajectory.prompt_token_ids), [0.0] * len(trajectory.prompt_token_ids)
        sampled = [False] * len(ids)
        for turn, earned in zip(trajectory.turns, credit.turn_advantages, strict=True):
            for said, by_policy in ((turn.token_ids, True), (turn.feedback_token_ids or [], False)):
                ids += said
                advantage += [earned] * len(said)
                sampled += [by_policy] * len(said)
        row, where = torch.tensor([ids]), torch.tensor(sampled[1:])

        def logprobs(model: Any, row: Any = row, where: Any = where) -> torch.Tensor:
            every = (model(input_ids=row).logits[0, :-1] / TEMPERATURE).log_softmax(-1)
            return every.gather(1, row[0, 1:, None])[where, 0]

        now, earned = logprobs(policy), torch.tensor(advantage[1:])[where]
        with torch.no_grad():
            then = logprobs(first)
        ratio, delta = torch.exp(now - then), then - now
        term = -torch.min(ratio * earned, ratio.clamp(1 - EPSILON, 1 + EPSILON) * earned)
        terms.append(term + BETA * (torch.exp(delta) - delta - 1))
    return torch.cat(terms)


def make_trainer(model: Path, output: Path, kind: Callable[..., Any] = Checked, **changes: Any) -> Any:
    settings = {
        "output_dir": str(output),
        "per_device_train_batch_size": 12,
        "num_generations": GROUP_SIZE,
        "max_steps": 1,
        "temperature": TEMPERATURE,
        "beta": BETA,
        "use_bias_correction_kl": False,
        "epsilon": EPSILON,
        "learning_rate": 3e-3,
        "max_grad_norm": 0.0,
        "bf16": False,
        "use_cpu": True,
        "report_to": [],
        "disable_tqdm": True,
        "save_strategy": "no",
        "logging_steps": 1,
    }
    tokenizer = AutoTokenizer.from_pretrained(model)
    given = {
        "questions": list(TURNS),
        "retriever": Echo(),
        "limits": Limits(max_turn_tokens=100, max_total_tokens=1000),
        "prompt": "Answer.\nQuestion: {question}",
        "make_sampler": lambda _: Script(Codec(tokenizer)),
        "processing_class": tokenizer,
        "model": AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32),
    }
    for name, value in changes.items():
        (given if name in given or name in ("credit", "eval_questions", "peft_config") else settings)[name] = value
    return kind(args=GRPOConfig(**settings), **given)


@pytest.mark.parametrize(
    ("steps", "changes"),
    [
        (1, {}),
        (1, {"credit": CreditConfig(algorithm="grpo")}),
        (1, {"credit": CreditConfig(algorithm="igpo")}),
        (1, {"per_device_train_batch_size": 3, "gradient_accumulation_steps": 4, "pad_to_multiple_of": 16}),
        (2, {"num_iterations": 2}),
        (2, {"num_iterations": 2, "eval_questions": list(TURNS)[:1], "eval_strategy": "steps", "eval_steps": 1}),
        (1, {"retriever": Echo("it is in Oslo")}),
    ],
    ids=["plain", "grpo", "igpo", "micro-batches", "iterations", "evaluation between", "retriever fails"],
)
def test_loss_and_gradient_equal_the_plain_objective(
    tiny_model_folder: Path, tmp_path: Path, steps: int, changes: dict[str, Any]
) -> None:
    trainer = make_trainer(tiny_model_folder, tmp_path, max_steps=steps, per_device_eval_batch_size=4, **changes)
    trainer.train()
    assert len(trainer.apart) == steps
    assert len(trainer.seen) == 1
    assert all(loss < 1e-5 and gradient < 1e-5 for loss, gradient in trainer.apart), trainer.apart


def test_advantages_land_on_the_tokens_of_their_turn(
    tiny_model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where all are wrong, turn 2 has one near miss of 0.5 beside three zeros: mean 0.125, deviation (n - 1) 0.25."""
    batches = []
    theirs = GRPOTrainer.compute_loss

    def spy(self: Any, model: Any, inputs: dict[str, Any], *args: Any) -> Any:
        batches.append(inputs)
        return theirs(self, model, inputs, *args)

    monkeypatch.setattr(GRPOTrainer, "compute_loss", spy)
    trainer = make_trainer(tiny_model_folder, tmp_path, TSPOTrainer, credit=CreditConfig(credit="first_turn"))
    trainer.train()
    found = {}
    for ids, advantages in zip(batches[0]["completion_ids"], batches[0]["advantages"], strict=True):
        before, earned, after = (trainer.processing_class.decode(part) for part in around(ids, advantages))
        if "Oslo" in before + earned or "Bergen" in after:
            found[earned] = (float(advantages.sum() / (advantages != 0).sum()), before.count("</information>"))
    near_miss, nothing = "<think>?</think><search>it is in Oslo</search>", "<think>?</think><search>no</search>"
    assert found == {near_miss: (pytest.approx(1.5, abs=1e-3), 1), nothing: (pytest.approx(-0.5, abs=1e-3), 1)}


def around(ids: torch.Tensor, advantages: torch.Tensor) -> list[torch.Tensor]:
    """The tokens before the first that has an advantage, from that one to the last, and after it."""
    places = advantages.nonzero()[:, 0].tolist() or [0]
    return [ids[: places[0]], ids[places[0] : places[-1] + 1], ids[places[-1] + 1 :]]


def test_trl_logs_the_rollout(tiny_model_folder: Path, tmp_path: Path) -> None:
    trainer = make_trainer(tiny_model_folder, tmp_path, TSPOTrainer)
    trainer.train()
    (line,) = [line for line in trainer.state.log_history if "reward" in line]
    assert line["reward"] == line["rewards/exact_match/mean"] == line["tspo/exact_match"] == 3 / 12
    assert line["tspo/near_miss_share"] == 3 / 12
    assert line["tspo/no_variance_share_grpo"] == pytest.approx(1 / 3)
    assert line["tspo/no_variance_share_tspo"] == 0


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("mask_truncated_completions", True),
        ("max_completion_length", 64),
        ("max_tool_calling_iterations", 3),
        ("scale_rewards", "none"),
        ("reward_weights", [1.0]),
        ("multi_objective_aggregation", "normalize_then_sum"),
        ("use_vllm", True),
        ("use_transformers_continuous_batching", True),
        ("cache_implementation", "static"),
        ("repetition_penalty", 1.1),
        ("generation_kwargs", {"num_beams": 2}),
        ("chat_template_kwargs", {"enable_thinking": False}),
    ],
)
def test_settings_that_would_do_nothing_or_harm_are_refused(tmp_path: Path, setting: str, value: Any) -> None:
    args = GRPOConfig(str(tmp_path), use_cpu=True, bf16=False, **{setting: value})
    with pytest.raises(BadInput, match=f"^GRPOConfig: {setting}: "):
        TSPOTrainer("not loaded", questions=list(TURNS), retriever=Echo(), args=args)


def test_the_divisor_of_dr_grpo_can_be_set(tiny_model_folder: Path, tmp_path: Path) -> None:
    make_trainer(tiny_model_folder, tmp_path, TSPOTrainer, loss_type="dr_grpo", max_completion_length=64)


@pytest.mark.parametrize("argument", ["train_dataset", "eval_dataset", "reward_funcs", "rollout_func", "tools"])
def test_arguments_that_have_no_place_are_refused(argument: str) -> None:
    with pytest.raises(BadInput, match=f"^TSPOTrainer: {argument}: "):
        TSPOTrainer("not loaded", questions=list(TURNS), retriever=Echo(), **{argument: []})


def test_questions_are_told_apart(tiny_model_folder: Path, tmp_path: Path) -> None:
    first = next(iter(TURNS))
    for changes in ({"id": "other"}, {"question": "other"}):
        questions = [first, replace(first, golden_answers=("Bob",), **changes)]
        with pytest.raises(BadInput, match=r"^questions: .*another question has its id or its prompt"):
            make_trainer(tiny_model_folder, tmp_path, TSPOTrainer, questions=questions)
    with pytest.raises(BadInput, match=r"^questions: q0: a prompt of .* tokens; raise limits\.max_total_tokens"):
        make_trainer(tiny_model_folder, tmp_path, TSPOTrainer, limits=Limits(max_total_tokens=5))


@pytest.mark.slow
def test_two_processes_have_the_gradient_of_one(tiny_model_folder: Path, tmp_path: Path) -> None:
    """Six trajectories each: half of the second group is on either."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    result = subprocess.run(
        [*launch, __file__, str(tiny_model_folder), str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    processes, apart = result.stdout.splitlines()[-1].split()
    assert processes == "2"
    assert float(apart) < 1e-5


if __name__ == "__main__":
    trainer = make_trainer(Path(sys.argv[1]), Path(sys.argv[2]), per_device_train_batch_size=6)
    trainer.train()
    if trainer.accelerator.is_main_process:
        print(trainer.accelerator.num_processes, trainer.apart[0][1])
