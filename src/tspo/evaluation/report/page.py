"""The report's page: what is in it, put into the template. Nothing in it is fetched, and nothing in it runs."""

from __future__ import annotations

import importlib.util
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from tspo.credit import CreditConfig
from tspo.evaluation.report import headline
from tspo.evaluation.report.choose import (
    Chosen,
    State,
    choose_groups,
    choose_questions,
    first_attempts,
    methods,
    state_changes,
)
from tspo.evaluation.report.curves import curves, smoothing
from tspo.evaluation.report.next_steps import next_steps
from tspo.evaluation.report.run_files import STAGES, RunFiles, credit_of, read_run, read_trajectories
from tspo.evaluation.report.settings import settings_text
from tspo.evaluation.report.text import clean, cut
from tspo.evaluation.report.views import group_view, question_view
from tspo.files import atomic_write

_MOST_BYTES = 3_000_000
_LIMITS = (4000, 1200, 400, 120)
"""Characters shown of a long text: the first of these with which the page is small enough, or else the last."""
_MOST_QUESTIONS = 6


def write_report(run: Path) -> Path:
    """Write `run`/report.html, whole or not at all, and return its path; the same run gives the same bytes.

    Raises BadInput where `run` holds no run, or a damaged one, or cannot be written to.
    """
    page = render(read_run(run))
    path = run / "report.html"
    with atomic_write(path) as stream:
        stream.write(page)
    return path


def render(run: RunFiles) -> str:
    """The page as HTML, of about 3 MB at most."""
    config = credit_of(run.settings, run.folder / "config.yaml")
    template = _template()
    whole = _whole_run(run, config)
    groups = choose_groups(run.steps, read_trajectories, config)
    page = ""
    for limit in _LIMITS:
        page = template.render(whole | _samples(run, groups, config, limit))
        if len(page.encode("utf-8")) <= _MOST_BYTES:
            break
    return page


def _whole_run(run: RunFiles, config: CreditConfig) -> dict[str, Any]:
    """What the page says about the run as a whole."""
    can_draw = importlib.util.find_spec("matplotlib") is not None
    return {
        "name": run.folder.resolve().name,
        "sentence": headline.sentence(run),
        "stages": headline.stages(run),
        "changes": headline.changes(run),
        "columns": headline.column_names(),
        "rows": headline.table(run),
        "curves": curves(run.metrics) if can_draw else [],
        "smoothing": smoothing(len(run.metrics)),
        "lacks_matplotlib": bool(run.metrics) and not can_draw,
        "methods": [method.upper() for method in methods(config)],
        "has_settings": bool(run.settings),
        "next_steps": next_steps(run),
    }


def _samples(run: RunFiles, groups: Sequence[Chosen], config: CreditConfig, limit: int) -> dict[str, Any]:
    """Trajectories of training and of the evaluations, and the settings: all that is cut to `limit`."""
    attempts = {STAGES[stage]: first_attempts(all_) for stage, all_ in run.evaluated.items()}
    changes = {}
    names = list(attempts)
    if names:
        # Training began with the model of the stage before the last; a single stage is compared with itself.
        changes = state_changes(attempts[names[max(len(names) - 2, 0)]], attempts[names[-1]], config)
    counts = Counter(changes.values())
    shown = [
        {name: tried[question] for name, tried in attempts.items() if question in tried}
        for question in choose_questions(changes, _MOST_QUESTIONS)
    ]
    return {
        "groups": [group_view(chosen, config, limit) for chosen in groups],
        "questions": [question_view(tried, config, limit) for tried in shown],
        "compared": names[-2:],
        "states": list(State),
        "counts": [[counts[before, after] for after in State] for before in State],
        "settings": cut(settings_text(run.settings), 4 * limit),
    }


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("tspo.evaluation.report", ""),
        autoescape=True,
        finalize=_shown,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html.jinja")


def _shown(value: object) -> object:
    """Every value on its way into the page: nothing unseen in it; only our own charts are markup already."""
    return value if isinstance(value, Markup) else clean(str(value))
