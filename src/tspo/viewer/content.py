"""What the page is given, from the server and in a static file alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tspo.evaluation.report.settings import settings_text
from tspo.evaluation.report.text import clean
from tspo.viewer.curves import charts
from tspo.viewer.index import Index
from tspo.viewer.listing import PAGE, summary


def runs_content(indexes: Sequence[Index], problems: Sequence[str | None]) -> dict[str, Any]:
    """Each run by name, with its settings and counts."""
    names = [index.source.name for index in indexes]
    runs = []
    for index, name, problem in zip(indexes, names, problems, strict=True):
        settings = index.source.settings()
        shown = name if names.count(name) == 1 else str(index.source.path)
        runs.append(
            {
                "name": clean(shown),
                "settings": clean(settings_text(settings)) if settings else "",
                "algorithm": index.credit.algorithm,
                "problem": None if problem is None else clean(problem),
            }
            | summary(index)
        )
    return {"runs": runs, "page": PAGE}


def curves_content(indexes: Sequence[Index]) -> dict[str, Any]:
    """The curves of all runs."""
    return charts([index.source.metrics() for index in indexes])
