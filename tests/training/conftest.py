"""Hand-made trajectories, what learns from them, and the policy's log-probabilities without any of the code under test.

Tests of the update read the gradient that the last update left in `.grad`; with a learning rate of 0 the policy stays
as it was.
"""

from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Any

import pytest

from tspo.credit import CreditConfig, assign_credit
from tspo.datasets.questions import Question
from tspo.trajectory import StopReason, Trajectory, Turn

GROUP_SIZE = 4
TEMPERATURE = 0.7

SEARCH = "<think>look</think><search>it</search>"
# One group with a right answer and a near miss; one all wrong, with a near miss in the second turn.
TURNS = {
    Question("q0", "who wrote it", ("Ann Lee",), "made", supporting_passages=("Ann Lee wrote it",)): [
        [(SEARCH, "Ann Lee wrote it"), ("<answer>Ann Lee</answer>", None)],
        [(SEARCH, "Ann Lee wrote it"), ("<answer>Bob</answer>", None)],
        [("<answer>nobody at all</answer>", None)],
        [(SEARCH, "nothing here"), (SEARCH, "still nothing"), ("<answer>Bob</answer>", None)],
    ],
    Question("q1", "where is it", ("Oslo",), "made", supporting_passages=("it is in Oslo",)): [
        [(SEARCH, "in Rome"), (SEARCH, "it is in Oslo"), ("<answer>Rome</answer>", None)],
        [(SEARCH, "in Rome"), ("<answer>Rome</answer>", None)],
        [("<answer>Rome</answer>", None)],
        [(SEARCH, "no"), (SEARCH, "no"), ("<answer>Bergen</answer>", None)],
    ],
}


@pytest.fixture
def questions() -> list[Question]:
    """What the two groups of `trajectories` answer."""
    return list(TURNS)


@pytest.fixture
def codec(tiny_tokenizer: Any) -> Any:
    from tspo.rollout.codec import Codec

    return Codec(tiny_tokenizer, "Answer.\nQuestion: {question}")


@pytest.fixture
def trajectories(codec: Any) -> list[Trajectory]:
    """Two groups of four: one with a right answer, one all wrong; tokens as a rollout would have them."""

    def turn(k: int, text: str, passage: str | None) -> Turn:
        ids = codec.policy(text)
        logprobs = [-1.0 - 0.1 * (i % 3) for i in range(len(ids))]
        feedback, feedback_ids = codec.feedback([f'"T"\n{passage}'], 50) if passage else (None, None)
        query = "it" if passage else None
        return Turn(text, query, feedback, ids, logprobs, feedback_ids, {"answer_log_probability": -2.0 / (k + 1)})

    return [
        Trajectory(
            group_id=question.id,
            trajectory_id=f"{question.id}-{member}",
            question=question.question,
            golden_answers=list(question.golden_answers),
            turns=[turn(k, *said) for k, said in enumerate(turns)],
            answer=turns[-1][0].removeprefix("<answer>").removesuffix("</answer>"),
            stop_reason=StopReason.ANSWER,
            prompt_token_ids=codec.prompt(question.question),
        )
        for question, members in TURNS.items()
        for member, turns in enumerate(members)
    ]


@pytest.fixture
def batch_of() -> Callable[..., Any]:
    """A function that makes the batch of trajectories, by default under TSPO."""
    pytest.importorskip("torch")
    from tspo.training.batch import make_batch
    from tspo.training.diagnostics import all_wrong

    def make(trajectories: Sequence[Trajectory], credit: CreditConfig | None = None) -> Any:
        credits = assign_credit(trajectories, credit or CreditConfig())
        group = [int(trajectory.group_id.removeprefix("q")) for trajectory in trajectories]
        return make_batch(trajectories, credits, group, all_wrong(trajectories, credits))

    return make


@pytest.fixture
def new_learner(tiny_model: Any) -> Callable[..., Any]:
    """A function that makes a learner of a policy, by default a copy of `tiny_model`, on the CPU.

    By default its learning rate is 0 and no gradient is clipped. Its arguments otherwise are LearnerSettings'.
    """
    pytest.importorskip("peft")
    from accelerate import Accelerator

    from tspo.training.learner import LearnerSettings, make_learner

    def make(policy: Any = None, reference: Any = None, **settings: Any) -> Any:
        usual = {"steps": 4, "learning_rate": 0.0, "optimizer": "sgd", "temperature": TEMPERATURE, "max_rows": 8}
        usual |= {"max_grad_norm": float("inf"), "with_reference": reference is not None}
        policy = deepcopy(tiny_model) if policy is None else policy
        return make_learner(policy, LearnerSettings(**usual | settings), Accelerator(cpu=True), reference)

    return make


@pytest.fixture
def another() -> Callable[..., Any]:
    """A function that copies a model and adds noise to what `learns` of it, or to all: another policy, but a near one.

    A reference must not be the policy itself, or its KL would be 0 whatever the code does.
    """
    torch = pytest.importorskip("torch")

    def make(model: Any, size: float = 0.05, learns: bool = False) -> Any:
        model, generator = deepcopy(model), torch.Generator().manual_seed(1)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad or not learns:
                    parameter += size * torch.randn(parameter.shape, generator=generator)
        return model

    return make


@pytest.fixture
def with_lora(tiny_model: Any, another: Callable[..., Any]) -> Callable[..., Any]:
    """A function that gives a copy of `tiny_model` adapters that have learned something, in `base_dtype` weights."""
    torch = pytest.importorskip("torch")
    peft = pytest.importorskip("peft")
    from tspo.training.learner import with_adapters

    def make(base_dtype: Any = torch.float32, dropout: float = 0.0) -> Any:
        lora = peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"], lora_dropout=dropout, task_type="CAUSAL_LM")
        torch.manual_seed(0)
        return another(with_adapters(deepcopy(tiny_model), lora, base_dtype), learns=True)

    return make


@pytest.fixture
def plain_logprobs() -> Callable[..., Any]:
    """A function: log pi(token | all before it) of a trajectory's sampled tokens, from one pass without padding."""
    torch = pytest.importorskip("torch")

    def logprobs(model: Any, trajectory: Trajectory, temperature: float = TEMPERATURE) -> Any:
        ids, sampled = list(trajectory.prompt_token_ids), [False] * len(trajectory.prompt_token_ids)
        for turn in trajectory.turns:
            feedback = turn.feedback_token_ids or []
            ids += [*turn.token_ids, *feedback]
            sampled += [True] * len(turn.token_ids) + [False] * len(feedback)
        row = torch.tensor([ids])
        of_all = (model(input_ids=row).logits[0, :-1].float() / temperature).log_softmax(-1)
        return of_all.gather(1, row[0, 1:, None])[torch.tensor(sampled[1:]), 0]

    return logprobs


@pytest.fixture
def gradient_of() -> Callable[..., Any]:
    """A function: the gradient that is left in a model's parameters that learn, as one vector."""
    torch = pytest.importorskip("torch")

    def gradient(model: Any) -> Any:
        learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
        return torch.cat([parameter.grad.flatten() for parameter in learning])

    return gradient
