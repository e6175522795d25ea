"""The table of data sets that go by name, as `tspo data list` prints it."""

from __future__ import annotations

from pathlib import Path

from tspo.datasets.benchmarks import BENCHMARKS, SUITE, Benchmark
from tspo.datasets.names import Split
from tspo.datasets.prepared import is_prepared

_HEADING = ("name", "split", "questions", "MB", "prepared", "hops", "licence (original)")


def format_benchmarks(folder: Path) -> str:
    """A row a split, an asterisk at the one that is evaluated on; below it where each data set comes from."""
    rows = [_HEADING]
    for benchmark in BENCHMARKS.values():
        licence = f"{benchmark.licence} ({benchmark.original_licence})"
        for number, (name, file) in enumerate(benchmark.files.items()):
            evaluated = "*" if name == benchmark.evaluation and benchmark.name != "search-r1" else ""
            count = "" if benchmark.kind != "questions" else f"{file.rows:,}" if file.rows else "unknown"
            first = number == 0
            rows.append(
                (
                    benchmark.name if first else "",
                    name + evaluated,
                    count,
                    f"{file.megabytes:,.2f}",
                    "yes" if is_prepared(Split(benchmark, name), folder) else "",
                    benchmark.hops if first else "",
                    licence if first else "",
                )
            )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    right = {2, 3}
    lines = [
        "  ".join(
            cell.rjust(width) if place in right else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    sources = dict.fromkeys(f"{_names_of(one)}: {one.repository} at {one.revision[:12]}" for one in BENCHMARKS.values())
    return "\n".join(
        [*lines, "", f"* evaluated on; all of these together are {SUITE!r}", "", *sources, f"prepared in: {folder}", ""]
    )


def _names_of(benchmark: Benchmark) -> str:
    return ", ".join(one.name for one in BENCHMARKS.values() if one.repository == benchmark.repository)
