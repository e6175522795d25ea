"""Time of turn advantages, and rate of the search for answers in feedback; on one core, no torch.

python benchmarks/credit.py
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable

import numpy as np

from tspo.credit import CreditConfig, turn_advantages, turn_rewards
from tspo.rewards.matching import normalize_answer, occurs, occurs_in_raw

QUESTIONS, GROUP_SIZE, MAX_TURNS = 512, 5, 4
FEEDBACKS, FEEDBACK_TOKENS = 500, 500
GROWTH = (1_000, 10_000, 100_000, 1_000_000)
REPEATS = 30

HEADER = f"""\
Median, least and greatest of {REPEATS} repeats.
Advantages: {QUESTIONS} questions x {GROUP_SIZE} trajectories x {MAX_TURNS} turns, in ms; less is better.
Occurrence: turns a second on one core, {FEEDBACK_TOKENS} words of feedback each; more is better. 'hit': the
answer is the feedback's last words; 'miss': it is not there; 'apart': its words are, but not together. 'normalised':
the feedback was normalised beforehand. 'é': a tenth of the words hold a letter beyond ASCII, which is slower.
"""


def measure(function: Callable[[], object]) -> list[float]:
    """Seconds of each repeat, after one that is not counted."""
    function()
    seconds = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - start)
    return seconds


def print_row(name: str, values: list[float], unit: str) -> None:
    """One line of the table."""
    middle, least, greatest = statistics.median(values), min(values), max(values)
    print(f"{name:<38} {middle:>12,.2f} {least:>12,.2f} {greatest:>12,.2f}  {unit}")


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


def make_feedbacks(last_words: str, share_beyond_ascii: float) -> list[str]:
    """Passages with the articles, capitals and punctuation of an encyclopedia, about 5 letters a word."""
    generator = random.Random(0)
    words = "the of and in to a was founded by company (American) 1998, river's an party-art city known film;"
    vocabulary = [*words.split(), "album", "Northern", "released", "between", "history", "first", "Team."]
    feedbacks = []
    for _ in range(FEEDBACKS):
        chosen = generator.choices(vocabulary, k=FEEDBACK_TOKENS - 1)
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
    print(HEADER)
    print(f"{'':<38} {'median':>12} {'least':>12} {'greatest':>12}")
    benchmark_advantages()
    benchmark_occurrence()
