"""Results that others have published on the seven benchmarks, quoted.

They were read in public transcriptions of the papers' tables, Search-R1's in several that agree, TSPO's in a listing.
All are exact match on whole evaluation splits. None of them was run here: retrievers, corpora and prompts differ from
paper to paper, and none reports an interval, so that they are a context for a number and no test of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tspo.datasets.benchmarks import SEVEN

_NAMES = ("nq", "triviaqa", "popqa", "hotpotqa", "2wikimultihopqa", "musique", "bamboogle")
_MULTI_HOP = ("hotpotqa", "2wikimultihopqa", "musique", "bamboogle")


@dataclass(frozen=True, slots=True)
class Published:
    """A row of somebody's table: exact match in [0, 1] by data set, as far as it is known."""

    method: str
    model: str
    exact_match: Mapping[str, float]
    source: str

    @property
    def average(self) -> float | None:
        """The mean over the seven, where all are known."""
        if not all(name in self.exact_match for name in SEVEN):
            return None
        return sum(self.exact_match[name] for name in SEVEN) / len(SEVEN)


def _row(method: str, model: str, source: str, *values: float) -> Published:
    return Published(method, model, dict(zip(_NAMES if len(values) == 7 else _MULTI_HOP, values, strict=True)), source)


_SEARCH_R1_2 = "Jin et al. 2025, arXiv 2503.09516v5, Table 2"
_SEARCH_R1_3 = "Jin et al. 2025, arXiv 2503.09516v5, Table 3"
_ZEROSEARCH = "Sun et al. 2025, arXiv 2505.04588, Table 3 (Google instead of Wikipedia 2018)"
_STEPSEARCH = "Wang et al. 2025, arXiv 2505.15107, Table 1 (wiki-18)"
_RESEARCH = "ReSearch (arXiv 2503.19470) as StepSearch's Table 1 reports it (arXiv 2505.15107, wiki-18)"
_TSPO = "Ma et al. 2026, arXiv 2601.22776, from a public listing; model size not stated there, table not read"

PUBLISHED: tuple[Published, ...] = (
    _row("no retrieval", "Qwen2.5-3B", _SEARCH_R1_2, 0.106, 0.288, 0.108, 0.149, 0.244, 0.020, 0.024),
    _row("RAG", "Qwen2.5-3B", _SEARCH_R1_2, 0.348, 0.544, 0.387, 0.255, 0.226, 0.047, 0.080),
    _row("Search-R1 (PPO)", "Qwen2.5-3B", _SEARCH_R1_2, 0.406, 0.587, 0.435, 0.284, 0.273, 0.049, 0.088),
    _row("Search-R1 (GRPO)", "Qwen2.5-3B", _SEARCH_R1_3, 0.421, 0.583, 0.413, 0.297, 0.274, 0.066, 0.128),
    _row("Search-R1 (PPO)", "Qwen2.5-3B-Instruct", _SEARCH_R1_2, 0.341, 0.545, 0.378, 0.324, 0.319, 0.103, 0.264),
    _row("Search-R1 (GRPO)", "Qwen2.5-3B-Instruct", _SEARCH_R1_3, 0.397, 0.565, 0.391, 0.331, 0.310, 0.124, 0.232),
    _row("ZeroSearch", "Qwen2.5-3B", _ZEROSEARCH, 0.430, 0.616, 0.414, 0.338, 0.346, 0.130, 0.1389),
    _row("StepSearch", "Qwen2.5-3B", _STEPSEARCH, 0.329, 0.339, 0.181, 0.328),
    _row("StepSearch", "Qwen2.5-3B-Instruct", _STEPSEARCH, 0.345, 0.320, 0.174, 0.344),
    _row("RAG", "Qwen2.5-7B", _SEARCH_R1_2, 0.349, 0.585, 0.392, 0.299, 0.235, 0.058, 0.208),
    _row("Search-R1 (PPO)", "Qwen2.5-7B", _SEARCH_R1_2, 0.480, 0.638, 0.457, 0.433, 0.382, 0.196, 0.432),
    _row("Search-R1 (GRPO)", "Qwen2.5-7B", _SEARCH_R1_3, 0.395, 0.560, 0.388, 0.326, 0.297, 0.125, 0.360),
    _row("Search-R1 (PPO)", "Qwen2.5-7B-Instruct", _SEARCH_R1_2, 0.393, 0.610, 0.397, 0.370, 0.414, 0.146, 0.368),
    _row("Search-R1 (GRPO)", "Qwen2.5-7B-Instruct", _SEARCH_R1_3, 0.429, 0.623, 0.427, 0.386, 0.346, 0.162, 0.400),
    _row("ZeroSearch", "Qwen2.5-7B", _ZEROSEARCH, 0.424, 0.664, 0.604, 0.320, 0.340, 0.180, 0.3333),
    _row("ReSearch", "Qwen2.5-7B-Instruct", _RESEARCH, 0.362, 0.354, 0.184, 0.424),
    _row("StepSearch", "Qwen2.5-7B", _STEPSEARCH, 0.380, 0.385, 0.216, 0.467),
    _row("StepSearch", "Qwen2.5-7B-Instruct", _STEPSEARCH, 0.386, 0.366, 0.226, 0.400),
    Published(
        "TSPO",
        "not stated",
        {"nq": 0.527, "triviaqa": 0.687, "2wikimultihopqa": 0.407, "musique": 0.151, "bamboogle": 0.416},
        _TSPO,
    ),
)
