"""A retriever's quality over questions, with its uncertainty, as a table and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tspo.evaluation.metrics import Estimate, bootstrap_interval
from tspo.evaluation.table import columns_of_text, estimate_cell
from tspo.retrieval.quality import QuestionQuality


@dataclass(frozen=True, slots=True)
class RetrieverSummary:
    """Means over questions, by name: recall@k for each k, and MRR@k for the largest."""

    questions: int
    metrics: dict[str, Estimate]


def summarize_retriever(qualities: Sequence[QuestionQuality]) -> dict[str, RetrieverSummary]:
    """A summary by data source, where there are several, and of "all" questions, of which there is at least one."""
    by_source: dict[str, list[QuestionQuality]] = {}
    for quality in qualities:
        by_source.setdefault(quality.data_source, []).append(quality)
    sources = dict(sorted(by_source.items())) if len(by_source) > 1 else {}
    return {name: _summarize(members) for name, members in (*sources.items(), ("all", qualities))}


def format_retriever(summaries: dict[str, RetrieverSummary]) -> str:
    """A column a data source; means with their 95 % intervals."""
    rows = [["", *summaries], ["questions", *(str(summary.questions) for summary in summaries.values())]]
    for name in summaries["all"].metrics:
        rows.append([name, *(estimate_cell(summary.metrics[name], 3) for summary in summaries.values())])
    return columns_of_text(rows)


def retriever_to_json(summaries: dict[str, RetrieverSummary]) -> dict[str, Any]:
    """`{name: {"questions": .., "metrics": {name: {"mean": .., "low": .., "high": ..}}}}`."""
    return {name: asdict(summary) for name, summary in summaries.items()}


def _summarize(qualities: Sequence[QuestionQuality]) -> RetrieverSummary:
    ks = list(qualities[0].recall)
    columns = {f"recall@{k}": [quality.recall[k] for quality in qualities] for k in ks}
    columns[f"MRR@{max(ks)}"] = [quality.reciprocal_rank for quality in qualities]
    return RetrieverSummary(
        questions=len(qualities),
        metrics={
            name: Estimate(sum(values) / len(values), *bootstrap_interval(values)) for name, values in columns.items()
        },
    )
