"""MT-GRPO's verifiable rewards (Zeng et al. 2025, arXiv 2505.11821): searching, finding, and answering.

    before the last turn:  0.2 if passages came back, and 0.5 more if they hold an answer
    in the last turn:      1 if the answer is right, and 0.5 more if it contains a golden answer

The weights are those of the authors' code. Left out are its two rewards for tags (0.2 each), which judge a grammar of
its own (<reasoning>, <tool>); it compares answers in lower case, here they are normalised as everywhere (SQuAD).
"""

from __future__ import annotations

from collections.abc import Iterable

from tspo.rewards.folr import first_occurrence
from tspo.rewards.matching import Match, exact_match, substring_match
from tspo.trajectory import Trajectory

EXECUTED, FOUND = 0.2, 0.5
RIGHT, CONTAINED = 1.0, 0.5


def evidence_rewards(
    trajectory: Trajectory, *, match: Match = "token", ignore: Iterable[str] = ("yes", "no")
) -> list[float]:
    """What each turn earns by the rules above; the last turn's is the outcome's alone."""
    golden = trajectory.golden_answers
    rewards = []
    for turn in trajectory.turns[:-1]:
        found = first_occurrence([turn.feedback], golden, match, ignore) is not None
        rewards.append(EXECUTED * (turn.feedback is not None) + FOUND * found)
    answer = trajectory.answer
    return [*rewards, RIGHT * exact_match(answer, golden) + CONTAINED * substring_match(answer, golden)]
