"""The answers' log-probabilities that TSPOTrainer gives to IGPO's reward."""

import math

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("trl")

from tspo.rollout.codec import Codec  # noqa: E402
from tspo.training.answer_scores import answer_rows, score_answers  # noqa: E402
from tspo.trajectory import StopReason, Trajectory, Turn  # noqa: E402


class Counts:
    """A scorer that says how long the prefix is, and remembers what it was asked."""

    def __init__(self):
        self.asked = []

    def answer_log_probabilities(self, prefixes, answers):
        self.asked += zip(prefixes, answers, strict=True)
        return [-float(len(prefix)) for prefix in prefixes]


def trajectory(codec, *turns):
    made = [
        Turn(text, feedback=None, token_ids=codec.policy(text), feedback_token_ids=codec.plain(read) if read else None)
        for text, read in turns
    ]
    return Trajectory(
        "q", "q-0", "Who?", ["Ann </answer> Lee", "Bob"], made, None, StopReason.ANSWER, codec.prompt("Who?")
    )


def test_each_turn_is_asked_after_all_that_came_before_it(tiny_tokenizer):
    codec = Codec(tiny_tokenizer)
    item = trajectory(codec, ("look", "a passage"), ("look again", "more"), ("answer", None))
    same_start = trajectory(codec, ("answer", None))
    scorer = Counts()
    score_answers([item, same_start], codec, scorer, "<think> So. </think>\n<answer>")
    start, cue = codec.prompt("Who?"), codec.policy("<think> So. </think>\n<answer>")
    first = [*start, *item.turns[0].token_ids, *item.turns[0].feedback_token_ids]
    second = [*first, *item.turns[1].token_ids, *item.turns[1].feedback_token_ids]
    assert [list(prefix) for prefix, _ in scorer.asked] == [[*ids, *cue] for ids in (start, first, second)]
    # the first golden answer, whose tag is no tag
    assert {answer for _, answer in scorer.asked} == {tuple(codec.plain(" Ann </answer> Lee"))}
    assert "</answer>" not in codec.decode(scorer.asked[0][1])
    scores = [turn.extra["answer_log_probability"] for turn in item.turns]
    assert scores == [-float(len(ids) + len(cue)) for ids in (start, first, second)]
    assert same_start.turns[0].extra["answer_log_probability"] == scores[0]


def test_rows_are_padded_on_the_left():
    ids, attention, scored = answer_rows([[1, 2, 3], [4]], [[5], [6, 7]])
    assert ids.tolist() == [[1, 2, 3, 5], [0, 4, 6, 7]]
    assert attention.tolist() == [[1, 1, 1, 1], [0, 1, 1, 1]]
    assert scored.tolist() == [[0, 1], [1, 1]]


def test_the_trainer_scores_as_one_unpadded_pass_after_another(make_trainer):
    trainer = make_trainer()
    prefixes, answers = [[5, 9, 30, 7], [11], [8] * 40], [[20, 21, 22], [3], [50, 60]]
    result = trainer.answer_log_probabilities(prefixes, answers)
    for prefix, answer, mean in zip(prefixes, answers, result, strict=True):
        with torch.no_grad():
            logits = trainer.model(input_ids=torch.tensor([prefix + answer])).logits[0, :-1] / trainer.temperature
        logprobs = logits.log_softmax(-1)[torch.arange(len(prefix) - 1, len(prefix) + len(answer) - 1), answer]
        assert mean == pytest.approx(logprobs.mean().item(), abs=1e-5)
        assert mean <= 0
        assert not math.isnan(mean)
    assert trainer.model.training


@pytest.fixture
def make_trainer(tiny_model_folder, tiny_tokenizer, tmp_path):
    from datasets import Dataset
    from transformers import AutoModelForCausalLM
    from trl import GRPOConfig

    from tspo.credit import CreditConfig
    from tspo.datasets.questions import Question
    from tspo.rollout.episode import Limits
    from tspo.training.trainer import TSPOTrainer

    def make():
        trainer = TSPOTrainer(
            AutoModelForCausalLM.from_pretrained(tiny_model_folder, dtype=torch.float32),
            questions=[Question("q", "Who?", ("Ann",), "made")],
            retriever=None,
            codec=Codec(tiny_tokenizer),
            limits=Limits(),
            credit=CreditConfig(algorithm="igpo"),
            args=GRPOConfig(
                output_dir=str(tmp_path),
                num_generations=2,
                per_device_train_batch_size=2,
                use_cpu=True,
                bf16=False,
                temperature=0.7,
                report_to=[],
                max_steps=1,
            ),
            train_dataset=Dataset.from_dict({"prompt": ["Who?"], "index": [0]}),
            processing_class=tiny_tokenizer,
        )
        trainer.model.train()
        return trainer

    return make
