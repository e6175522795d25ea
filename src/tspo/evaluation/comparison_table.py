"""The report of a comparison as Markdown tables, which are read as they are printed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_HELD_OUT_WORDS = {
    "exact_match": ("EM", 3),
    "f1": ("F1", 3),
    "answer_in_feedback": ("answer found", 3),
    "searches": ("searches", 2),
}
"""Each held-out score's name in a table and its digits."""

_ABSENT = "-"


def format_report(report: Mapping[str, Any]) -> str:
    """The tables of what `compared_arms.compare_arms` returns; `unfinished` is optional there."""
    parts = [
        ("Held-out questions, after training", _held_out(report)),
        ("Learning, on training questions", _learning(report)),
        (f"Differences from {report['baseline']}, paired by seed and question", _differences(report)),
        ("Signal in the groups, first third -> last third of the steps", _signal(report)),
    ]
    text = "\n".join(f"## {title}\n\n{_table(rows)}" for title, rows in parts if len(rows) > 1)
    return text + _unfinished(report.get("unfinished", {}))


def _held_out(report: Mapping[str, Any]) -> list[list[str]]:
    sources = sorted({source for arm in report["arms"].values() for source in arm["held_out_by_source"]})
    heading = ["arm", "seeds", "questions", *(name for name, _ in _HELD_OUT_WORDS.values())]
    rows = [[*heading, *(f"EM, {source}" for source in sources)]]
    for name, arm in report["arms"].items():
        whole = arm["held_out"]
        cells = [_estimate(whole["metrics"][metric], digits) for metric, (_, digits) in _HELD_OUT_WORDS.items()]
        for source in sources:
            part = arm["held_out_by_source"].get(source)
            cells.append(_estimate(part["metrics"]["exact_match"], 3) if part else _ABSENT)
        rows.append([name, str(len(arm["seeds"])), str(whole["questions"]), *cells])
    return rows


def _learning(report: Mapping[str, Any]) -> list[list[str]]:
    target = f"EM {report['target_exact_match']:g}"
    spent = ["episodes a run", "tokens a run"]
    rows = [
        ["arm", *spent, "area under EM", f"seeds at {target}", f"steps to {target}", "tokens to it", "episodes to it"]
    ]
    for name, arm in report["arms"].items():
        if learning := arm["learning"]:
            tokens = learning["spent"]["tokens"]
            reached = learning["target"]
            rows.append(
                [
                    name,
                    f"{learning['spent']['episodes']:,}",
                    _ABSENT if tokens is None else f"{tokens:,.0f}",
                    _estimate(learning["area"], 3),
                    f"{reached['reached']}/{reached['seeds']}",
                    *(_number(reached["median"][unit]) for unit in ("steps", "tokens", "episodes")),
                ]
            )
    return rows


def _differences(report: Mapping[str, Any]) -> list[list[str]]:
    count = len(report["differences"])
    rows = [["arm", "measure", "seeds", "questions", "difference", "relative", f"all {count} at once"]]
    for name, difference in report["differences"].items():
        if difference is None:
            rows.append([name, "no seed or question in common", "0", "0", _ABSENT, _ABSENT, _ABSENT])
            continue
        measured = [
            (words, digits, difference["held_out"][metric]) for metric, (words, digits) in _HELD_OUT_WORDS.items()
        ]
        for source, metrics in difference["held_out_by_source"].items():
            measured.append((f"EM, {source}", 3, metrics["exact_match"]))
        for words, digits, gap in measured:
            sizes = [str(gap["seeds"]), str(gap["questions"])]
            widest = _interval(gap["simultaneous"], f"+.{digits}f")
            rows.append([name, words, *sizes, _estimate(gap["absolute"], digits, "+"), _relative(gap), widest])
        if area := difference["area"]:
            rows.append([name, "area under EM", str(area["seeds"]), _ABSENT, _estimate(area, 3, "+"), _ABSENT, _ABSENT])
    return rows if count > 1 else [row[:-1] for row in rows]


def _signal(report: Mapping[str, Any]) -> list[list[str]]:
    arms = report["arms"]
    rows = [["measure", *arms]]
    for measure in dict.fromkeys(measure for arm in arms.values() for measure in arm["signal"]):
        thirds = [arm["signal"].get(measure) for arm in arms.values()]
        rows.append([measure, *(f"{_short(of['first'])} -> {_short(of['last'])}" if of else _ABSENT for of in thirds)])
    return rows


def _unfinished(unfinished: Mapping[str, Sequence[int]]) -> str:
    lines = [f"- {arm}: {', '.join(map(str, seeds))}\n" for arm, seeds in unfinished.items() if seeds]
    return "\nNot finished, and in no number above (seeds):\n\n" + "".join(lines) if lines else ""


def _estimate(estimate: Mapping[str, Any], digits: int, sign: str = "") -> str:
    form = f"{sign}.{digits}f"
    if estimate["low"] is None:
        return format(estimate["mean"], form)
    return f"{estimate['mean']:{form}} {_interval((estimate['low'], estimate['high']), form)}"


def _interval(ends: Sequence[float], form: str) -> str:
    low, high = ends
    return f"[{low:{form}}, {high:{form}}]"


def _relative(gap: Mapping[str, Any]) -> str:
    if gap["relative"] is None:
        return "undefined"
    if gap["relative_interval"] is None:
        return f"{gap['relative']:+.1%} [undefined]"
    return f"{gap['relative']:+.1%} {_interval(gap['relative_interval'], '+.1%')}"


def _short(value: float | None) -> str:
    return _ABSENT if value is None else f"{value:.3g}"


def _number(value: float | None) -> str:
    return "not reached" if value is None else f"{value:,.0f}" if value == int(value) else f"{value:,.1f}"


def _table(rows: Sequence[Sequence[str]]) -> str:
    """Aligned Markdown: the first column to the left, the others to the right; the first row is the heading."""
    # A bar would end its cell.
    cells = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    first, *others = (max(3, *map(len, column)) for column in zip(*cells, strict=True))
    rule = "| " + " | ".join(["-" * first, *("-" * (width - 1) + ":" for width in others)]) + " |\n"
    lines = []
    for name, *values in cells:
        padded = (value.rjust(width) for value, width in zip(values, others, strict=True))
        lines.append("| " + " | ".join([name.ljust(first), *padded]) + " |\n")
    return lines[0] + rule + "".join(lines[1:])
