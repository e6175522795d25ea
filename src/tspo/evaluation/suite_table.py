"""An evaluation as text: a row a data set, the macro average, rows by hops; and what others have published."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tspo.datasets.benchmarks import BENCHMARKS, SEVEN
from tspo.evaluation.metrics import Estimate, SourceSummary, Summary
from tspo.evaluation.published import PUBLISHED, Published
from tspo.evaluation.table import columns_of_text, estimate_cell, printable

_COLUMNS = {
    "exact_match": ("exact match", 3),
    "f1": ("F1", 3),
    "substring_match": ("substring EM", 3),
    "answer_in_feedback": ("answer found", 3),
    "searches": ("searches", 2),
    "tokens": ("tokens", 1),
}
"""Each metric's head and its digits."""

_ABSENT = "-"


def format_suite(summary: Summary) -> str:
    """Means over questions with 95 % intervals; pass@k where questions were tried more than once."""
    order = [name for name in SEVEN if name in summary.by_source]
    rows = {name: summary.by_source[name] for name in dict.fromkeys([*order, *summary.by_source])}
    tables = [_scores(rows, summary)]
    if summary.by_hops and len(summary.by_hops) > 1:
        hops = {f"{hops} hop{'s' if hops > 1 else ''}": part for hops, part in summary.by_hops.items()}
        tables.append(_table([_heading("by hops"), *(_row(name, part) for name, part in hops.items())]))
    if summary.overall.pass_at:
        tables.append(_pass_at({**rows, "all questions": summary.overall}))
    if others := _hotpot_f1({**rows, "all questions": summary.overall}):
        tables.append(f"F1 by HotpotQA's script: {others}\n")
    reasons = ", ".join(f"{reason} {count:,}" for reason, count in summary.overall.stop_reasons.items())
    return "\n".join([*tables, f"{summary.overall.trajectories:,} trajectories ended by: {reasons}\n"])


def _hotpot_f1(rows: Mapping[str, SourceSummary]) -> str:
    """What HotpotQA's F1 is where it is not SQuAD's."""
    return ", ".join(
        f"{printable(name)} {one.metrics['hotpot_f1'].mean:.3f}"
        for name, one in rows.items()
        if "hotpot_f1" in one.metrics and one.differs_by_hotpotqa
    )


def format_published(summary: Summary) -> str:
    """Our exact match between the rows that others have published; empty where no data set is one of the seven."""
    ours = {name: summary.by_source[name] for name in SEVEN if name in summary.by_source}
    if not ours:
        return ""
    quoted = [one for one in PUBLISHED if any(name in one.exact_match for name in ours)]
    known = [part.metrics["exact_match"].mean for part in ours.values()]
    mine = ["this run", "", *(f"{value:.3f}" for value in known), _mean(known) if len(ours) == 7 else _ABSENT, ""]
    sources = list(dict.fromkeys(one.source for one in quoted))
    rows = [
        ["exact match", "model", *ours, "mean of 7", ""],
        mine,
        *(_quoted(one, list(ours), sources.index(one.source) + 1) for one in quoted),
    ]
    notes = [f"[{number}] quoted: {source}" for number, source in enumerate(sources, start=1)]
    parts = [
        f"{name}: {part.questions:,} of {total:,} questions"
        for name, part in ours.items()
        if (total := _evaluated_rows(name)) is not None and part.questions != total
    ]
    if parts:
        notes.append("Not comparable with the quoted rows, which are of whole splits: " + "; ".join(parts))
    return _table(rows) + "\n" + "".join(f"{note}\n" for note in notes)


def _scores(rows: Mapping[str, SourceSummary], summary: Summary) -> str:
    lines = [_heading("")]
    lines += [_row(name, part) for name, part in rows.items()]
    if summary.macro:
        cells = [_cell(summary.macro, metric, digits) for metric, (_, digits) in _COLUMNS.items()]
        lines.append(["macro average", str(len(rows)) + " sets", *cells])
    if len(rows) != 1:
        lines.append(_row("all questions", summary.overall))
    return _table(lines)


def _heading(first: str) -> list[str]:
    return [first, "questions", *(name for name, _ in _COLUMNS.values())]


def _row(name: str, part: SourceSummary) -> list[str]:
    cells = [_cell(part.metrics, metric, digits) for metric, (_, digits) in _COLUMNS.items()]
    return [name, f"{part.questions:,}", *cells]


def _cell(metrics: Mapping[str, Estimate], metric: str, digits: int) -> str:
    return estimate_cell(metrics[metric], digits) if metric in metrics else _ABSENT


def _pass_at(parts: Mapping[str, SourceSummary]) -> str:
    ks = sorted({k for part in parts.values() for k in part.pass_at})
    rows = [["tried more than once", *(f"pass@{k}" for k in ks)]]
    for name, part in parts.items():
        rows.append([name, *(estimate_cell(part.pass_at[k], 3) if k in part.pass_at else _ABSENT for k in ks)])
    return _table(rows)


def _quoted(one: Published, names: Sequence[str], number: int) -> list[str]:
    cells = [f"{one.exact_match[name]:.3f}" if name in one.exact_match else _ABSENT for name in names]
    return [one.method, one.model, *cells, _ABSENT if one.average is None else f"{one.average:.3f}", f"[{number}]"]


def _evaluated_rows(name: str) -> int | None:
    benchmark = BENCHMARKS[name]
    return benchmark.files[benchmark.evaluation].rows if benchmark.evaluation else None


def _mean(values: Sequence[float]) -> str:
    return f"{sum(values) / len(values):.3f}"


def _table(rows: Sequence[Sequence[str]]) -> str:
    return columns_of_text([[printable(cell) for cell in row] for row in rows])
