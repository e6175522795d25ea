"""One card for a run's folder, its checkpoints and its model: what was run, on what, and what it reached so far."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from tspo import __version__
from tspo.evaluation.card.provenance import DataFile, data_files_of, source_commit
from tspo.evaluation.charts import chart_grid, to_png
from tspo.evaluation.report.curves import card_charts
from tspo.evaluation.report.headline import changes, column_names, sentence, setting, steps_done, table
from tspo.evaluation.report.run_files import RunFiles, read_run
from tspo.evaluation.report.settings import settings_text
from tspo.evaluation.report.text import clean
from tspo.files import atomic_write

CARD = "README.md"
CURVES = "curves.png"
CARD_FILES = frozenset({CARD, CURVES})
"""What `write_card` writes; both are written anew as a run goes on."""

_LIBRARIES = ("transformers", "torch", "accelerate", "peft", "tokenizers")
_RECENT = 20
"""Steps at the end of training whose mean is told."""
_ROLLOUT_METRICS = {
    "exact_match": "exact match",
    "answer_in_feedback": "answer found",
    "near_miss_share": "near misses",
    "searches": "searches",
}
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


def write_card(
    run_folder: Path, folder: Path, settings: dict[str, Any] | None = None, hub_id: str | None = None
) -> None:
    """Write README.md and, where there are steps, curves.png to `folder`, about the run as it is by now.

    Its metadata is that of huggingface_hub's ModelCard. `settings` are for a run that may not have written them,
    `hub_id` is where the model is pushed to. Names, settings and data sources are text of others: they are escaped.
    Raises BadInput where a file cannot be read or written.
    """
    run = read_run(run_folder, settings)
    data = data_files_of(run.settings)
    run = replace(run, settings=_without_places(run.settings))
    charts = card_charts(run.metrics)
    if charts:
        with atomic_write(folder / CURVES) as stream:
            stream.buffer.write(to_png(chart_grid(charts, one_legend=False)))
    text = _render(run, data, folder, hub_id, bool(charts))
    with atomic_write(folder / CARD) as stream:
        stream.write(text)


def _render(run: RunFiles, data: Sequence[DataFile], folder: Path, hub_id: str | None, has_curves: bool) -> str:
    environment = Environment(
        loader=PackageLoader("tspo.evaluation.card", "."),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # Markdown: every text of others goes through `plain` or `fenced`
    )
    environment.filters |= {"plain": plain, "fenced": fenced}
    recent = run.metrics[-_RECENT:]
    return environment.get_template("card.md.jinja").render(
        metadata=_metadata(run, hub_id),
        name=hub_id or run.folder.resolve().name,
        hub_id=hub_id,
        is_run=folder.resolve() == run.folder.resolve(),
        sentence=sentence(run),
        steps=steps_done(run),
        columns=column_names(),
        rows=table(run),
        changes=changes(run),
        recent=_means(recent),
        recent_steps=len(recent),
        has_curves=has_curves,
        algorithm=str(setting(run.settings, "credit", "algorithm") or ""),
        data=data,
        world=setting(run.settings, "data", "world"),
        retriever=setting(run.settings, "rollout", "retriever"),
        settings=settings_text(run.settings),
        version=__version__,
        commit=source_commit(),
        libraries=[(name, found) for name in _LIBRARIES if (found := _version(name))],
    )


def _metadata(run: RunFiles, hub_id: str | None) -> str:
    """The front matter without its lines of dashes."""
    from huggingface_hub import EvalResult, ModelCardData

    algorithm = setting(run.settings, "credit", "algorithm")
    model = str(setting(run.settings, "model") or "")
    last = run.summaries[list(run.summaries)[-1]] if run.summaries else None
    results = [
        EvalResult(
            task_type="question-answering",
            task_name="Question answering with search",
            dataset_type=source,
            dataset_name=source,
            metric_type=metric,
            metric_name=name,
            metric_value=round(summary.metrics[metric].mean, 4),
        )
        for source, summary in (last.by_source.items() if last else ())
        for metric, name in (("exact_match", "Exact match"), ("f1", "F1"))
    ]
    fields: dict[str, Any] = {"library_name": "transformers", "pipeline_tag": "text-generation"}
    if _HUB_NAME.fullmatch(model) and not Path(model).exists():
        fields["base_model"] = model
    if results:
        fields |= {"model_name": hub_id or run.folder.resolve().name, "eval_results": results}
    tags = ["tspo", "search-agent", "reinforcement-learning"]
    if algorithm and algorithm not in tags:
        tags.append(str(algorithm))
    return ModelCardData(**fields, tags=tags).to_yaml()


def plain(value: Any) -> str:
    """Text of others in a line of Markdown or a cell of a table: shown as it is, without effect."""
    text = " ".join(clean(str(value)).split())
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    # an underscore within a word means nothing, and reads better bare
    return re.sub(r"([\\`*\[\]|#~]|(?<!\w)_|_(?!\w))", r"\\\1", text).replace("://", ":&#47;&#47;")


def fenced(text: str, language: str) -> str:
    """A block of code that `text` cannot end."""
    text = clean(text).rstrip("\n")
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return f"{fence}{language}\n{text}\n{fence}"


def _without_places(value: Any) -> Any:
    """The settings with the last part of every absolute path alone: where it lay is nobody else's business."""
    if isinstance(value, dict):
        return {key: _without_places(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_without_places(inner) for inner in value]
    return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value


def _means(steps: Sequence[dict[str, float]]) -> list[tuple[str, str]]:
    """The mean over steps of the metrics that they have."""
    found = []
    for metric, name in _ROLLOUT_METRICS.items():
        if values := [step[metric] for step in steps if metric in step]:
            found.append((name, f"{sum(values) / len(values):.3f}"))
    return found


def _version(library: str) -> str | None:
    try:
        return version(library)
    except PackageNotFoundError:
        return None
