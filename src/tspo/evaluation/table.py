"""Summaries as plain text for people, and as JSON for programs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from tspo.evaluation.metrics import Estimate, SourceSummary, Summary

_METRIC_ROWS = {
    "exact_match": ("exact match", 3),
    "f1": ("F1", 3),
    "substring_match": ("substring EM", 3),
    "answer_in_feedback": ("answer found", 3),
    "turns": ("turns", 2),
    "searches": ("searches", 2),
    "search_share": ("turns that search", 3),
    "tokens": ("tokens", 1),
    "hotpot_f1": ("F1 of HotpotQA", 3),
}
"""Each metric's name in a table and its digits."""


def format_comparison(summaries: Mapping[str, Summary]) -> str:
    """A column a summary, by name; a table of all questions and, if there are more, one a data source."""
    sources = sorted({source for summary in summaries.values() for source in summary.by_source})
    tables = [_format({name: summary.overall for name, summary in summaries.items()})]
    if len(sources) > 1:
        for source in sources:
            columns = {
                name: summary.by_source[source] for name, summary in summaries.items() if source in summary.by_source
            }
            tables.append(f"{source}\n{_format(columns)}")
    return "\n".join(tables)


def summary_to_json(summary: Summary) -> dict[str, Any]:
    """`{"all": .., "macro": .., "by_source": {name: ..}, "by_hops": {hops: ..}}`.

    A metric is `{"mean": .., "low": .., "high": ..}`.
    """
    return {
        "all": asdict(summary.overall),
        "macro": {name: asdict(estimate) for name, estimate in summary.macro.items()},
        "by_source": {name: asdict(source) for name, source in summary.by_source.items()},
        "by_hops": {str(hops): asdict(part) for hops, part in summary.by_hops.items()},
    }


def _format(columns: Mapping[str, SourceSummary]) -> str:
    sources = columns.values()
    rows = [
        ["", *columns],
        ["questions", *(str(source.questions) for source in sources)],
        ["trajectories", *(str(source.trajectories) for source in sources)],
    ]
    for metric, (name, digits) in _METRIC_ROWS.items():
        if metric == "hotpot_f1" and not any(one.differs_by_hotpotqa for one in sources):
            continue
        if any(metric in source.metrics for source in sources):
            known = (source.metrics.get(metric) for source in sources)
            rows.append([name, *("-" if one is None else estimate_cell(one, digits) for one in known)])
    for reason in sorted({reason for source in sources for reason in source.stop_reasons}):
        rows.append([f"stopped: {reason}", *(str(source.stop_reasons.get(reason, 0)) for source in sources)])

    return columns_of_text(rows)


def columns_of_text(rows: Sequence[Sequence[str]]) -> str:
    """Lines of the rows' cells below each other, the first to the left and all others to the right."""
    first, *others = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for name, *cells in rows:
        aligned = (cell.rjust(width) for cell, width in zip(cells, others, strict=True))
        lines.append("  ".join([name.ljust(first), *aligned]) + "\n")
    return "".join(lines)


def estimate_cell(estimate: Estimate, digits: int) -> str:
    """A mean with its interval."""
    return f"{estimate.mean:.{digits}f} [{estimate.low:.{digits}f}, {estimate.high:.{digits}f}]"


def printable(text: str) -> str:
    """`text` as one line for a terminal; names come from files, and no control character of theirs gets through."""
    return "".join(character if character.isprintable() else "\ufffd" for character in text)
