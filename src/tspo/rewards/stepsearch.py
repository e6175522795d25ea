"""StepSearch (Wang et al. 2025, arXiv 2505.15107): what a search adds to the evidence, less what was known already.

    m_j[k] = greatest TF-IDF cosine of golden passage j with any passage of turns 0..k
    r[k]   = process_scale (mean over j of (m_j[k] - m_j[k-1]) - share of turn k's passages seen before)
    r[last] = F1 of the answer

The golden passages are annotation: `supporting_passages`, a list of texts. The authors' code counts a passage that is
twice in one answer as seen before, as this does; it scales the process reward by 0.6, gives -1 to a text that goes on
after its answer (here there is no such text), and adds 0.618 times how well the queries match annotated sub-questions,
which are only in its own data: left out here. It trains with PPO and a critic (docs/methods.md).
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence

from tspo.errors import BadInput
from tspo.protocol import split_passages
from tspo.rewards.matching import f1, normalize_answer
from tspo.trajectory import Trajectory

FIELD = "supporting_passages"
"""Where a trajectory carries the texts of its question's golden passages."""

_WORD = re.compile(r"\b\w\w+\b")


def stepsearch_rewards(trajectory: Trajectory, *, process_scale: float = 1.0) -> list[float]:
    """What each turn earns by the rule above. Raises BadInput where the golden passages are not there."""
    golden = [normalize_answer(text) for text in _supporting_passages(trajectory)]
    matched = [0.0] * len(golden)
    seen: set[str] = set()
    rewards = []
    for turn in trajectory.turns[:-1]:
        passages = split_passages(turn.feedback or "")
        before = sum(matched)
        repeated = 0
        for passage in passages:
            matched = [
                max(pair) for pair in zip(matched, tfidf_cosines(normalize_answer(passage), golden), strict=True)
            ]
            repeated += passage in seen
            seen.add(passage)
        gain = (sum(matched) - before) / len(golden)
        rewards.append(process_scale * (gain - repeated / max(len(passages), 1)))
    return [*rewards, f1(trajectory.answer, trajectory.golden_answers)]


def tfidf_cosines(text: str, others: Sequence[str]) -> list[float]:
    """Cosine of `text` with each of `others` in the TF-IDF space of all of them together; 0 without a common word.

    Words have two letters or more, idf is ln((1 + n) / (1 + df)) + 1: scikit-learn's defaults, which the authors use.
    """
    counts = [Counter(_WORD.findall(document.lower())) for document in (text, *others)]
    documents = Counter(word for count in counts for word in count)
    idf = {word: math.log((1 + len(counts)) / (1 + df)) + 1 for word, df in documents.items()}
    first, *rest = ({word: n * idf[word] for word, n in count.items()} for count in counts)
    return [_cosine(first, other) for other in rest]


def _cosine(a: dict[str, float], b: dict[str, float]) -> float:
    common = sum(weight * b[word] for word, weight in a.items() if word in b)
    return common and common / math.sqrt(sum(x * x for x in a.values()) * sum(x * x for x in b.values()))


def _supporting_passages(trajectory: Trajectory) -> list[str]:
    passages = trajectory.extra.get(FIELD)
    if not isinstance(passages, list) or not passages or not all(isinstance(text, str) for text in passages):
        raise BadInput(
            f"trajectory {trajectory.trajectory_id}: reward stepsearch needs {FIELD!r}, a list of the texts that "
            "hold the evidence"
        )
    return passages
