"""Pairs of evaluations as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tspo.evaluation.metrics import Estimate
from tspo.evaluation.paired_runs import PairedRuns, PairedSet, holm
from tspo.evaluation.table import columns_of_text, printable

_DIFFERENCES = {
    "exact_match": ("exact match", 3),
    "f1": ("F1", 3),
    "substring_match": ("substring EM", 3),
    "answer_in_feedback": ("answer found", 3),
    "searches": ("searches", 2),
}


def format_pairs(pairs: Mapping[tuple[str, str], PairedRuns]) -> str:
    """A table a pair: how much the second is above the first, with 95 % intervals, and McNemar's exact test."""
    tested = {names: pair.overall.mcnemar for names, pair in pairs.items() if pair.overall.mcnemar is not None}
    corrected = dict(zip(tested, holm([test.p for test in tested.values()]), strict=True))
    parts = []
    for (first, second), pair in pairs.items():
        lines = [f"{printable(second)} minus {printable(first)}\n", columns_of_text(_rows(pair))]
        if pair.left_out:
            lines.append(f"left out, for only one of the two answered them: {pair.left_out:,}\n")
        if pair.overall.mcnemar is None:
            lines.append("no McNemar test: questions were tried more than once, and tries of one are not independent\n")
        elif len(tested) > 1:
            lines.append(
                f"p over all questions, corrected for {len(tested)} pairs (Holm): {corrected[first, second]:.3g}\n"
            )
        parts.append("".join(lines))
    return "\n".join(parts)


def _rows(pair: PairedRuns) -> list[list[str]]:
    heads = [name for name, _ in _DIFFERENCES.values()]
    rows = [["", "questions", "EM of each", *heads, "only first, only second right", "McNemar p"]]
    sets: dict[str, PairedSet] = pair.by_source if len(pair.by_source) > 1 else {}
    rows += [_row(printable(name), part) for name, part in sets.items()]
    if pair.macro:
        rows.append(["macro average", f"{len(pair.by_source)} sets", "", *_differences(pair.macro), "", ""])
    rows.append(_row("all questions", pair.overall))
    return rows


def _row(name: str, part: PairedSet) -> list[str]:
    means = f"{part.first['exact_match']:.3f}, {part.second['exact_match']:.3f}"
    test = part.mcnemar
    tested = ["-", "-"] if test is None else [f"{test.only_first}, {test.only_second}", f"{test.p:.3g}"]
    return [name, f"{part.questions:,}", means, *_differences(part.difference), *tested]


def _differences(differences: Mapping[str, Estimate]) -> Sequence[str]:
    return [
        f"{one.mean:+.{digits}f} [{one.low:+.{digits}f}, {one.high:+.{digits}f}]"
        for one, digits in ((differences[metric], digits) for metric, (_, digits) in _DIFFERENCES.items())
    ]
