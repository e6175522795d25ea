"""What rollouts.py found: counts that have to agree, and tables."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from rollout_workload import TURNS, Round, Workload


@dataclass(slots=True)
class Measured:
    """The rounds of one engine with so many episodes."""

    episodes: int
    rounds: list[Round] = field(default_factory=list)
    peak: float = 0.0

    def rates(self) -> list[float]:
        """Episodes a second of each round."""
        return [self.episodes / one.seconds for one in self.rounds]

    def token_rates(self) -> list[float]:
        """Sampled tokens a second of each round."""
        return [one.sampled_tokens / one.seconds for one in self.rounds]

    def least_work_rates(self) -> list[float]:
        """Tokens that have to be computed a second."""
        return [(one.prompt_tokens + one.feedback_tokens + one.sampled_tokens) / one.seconds for one in self.rounds]


def check(found: Mapping[str, Measured], workload: Workload) -> None:
    """Stop where an engine did other work than it was given, or than the others did."""
    for name, measured in found.items():
        wanted = measured.episodes * TURNS * workload.turn_tokens
        for one in measured.rounds:
            if one.sampled_tokens != wanted:
                raise SystemExit(f"{name} sampled {one.sampled_tokens} tokens, not {wanted}")
            if one.log_probabilities not in (None, wanted):
                raise SystemExit(f"{name} has {one.log_probabilities} finite log-probabilities of {wanted}")
    if len({one.read for measured in found.values() for one in measured.rounds}) > 1:
        raise SystemExit("the engines did not read the same passages")


def spread(values: Sequence[float], form: str) -> str:
    """The median and, in brackets, the least and the greatest."""
    middle, least, greatest = (format(value, form) for value in (statistics.median(values), min(values), max(values)))
    return _cells(middle, f"[{least}, {greatest}]")


def _cells(middle: str, brackets: str = "") -> str:
    return f"{middle:>8} {brackets:<17}"


def print_table(found: Mapping[str, Measured], floor: float) -> None:
    """A line an engine, and under it what they did."""
    names = "".join(map(_cells, ("eps/s", "tokens/s", "ours/it")))
    print(f"{'':<6}{names}{'of floor':>8}{'least':>8}{'peak':>8}{'log-p':>7}")
    ours = found.get("ours")
    for name, measured in found.items():
        times = [mine / its for mine, its in zip(ours.rates(), measured.rates(), strict=True)] if ours else []
        print(
            f"{name:<6}{spread(measured.rates(), '.3f')}{spread(measured.token_rates(), ',.1f')}"
            f"{spread(times, '.2f') if times else _cells('-')}"
            f"{statistics.median(measured.token_rates()) / floor:>8.1%}"
            f"{statistics.median(measured.least_work_rates()) / floor:>8.1%}{measured.peak:>8,.0f}"
            f"{'no' if measured.rounds[0].log_probabilities is None else 'yes':>7}"
        )
    print()
    for name, measured in found.items():
        one = measured.rounds[0]
        print(
            f"{name:<6}{one.sampled_tokens:,} tokens sampled, {one.feedback_tokens:,} of passages and their tags, "
            f"{one.prompt_tokens:,} of prompts; passages {one.read[:12]}"
        )


def print_growth(found: Mapping[int, Mapping[str, Measured]]) -> None:
    """Episodes a second: a line an engine, columns a number of episodes."""
    print(f"{'eps/s':<6}" + "".join(_cells(f"{episodes:,}") for episodes in found))
    for name in next(iter(found.values())):
        print(f"{name:<6}" + "".join(spread(measured[name].rates(), ".3f") for measured in found.values()))
