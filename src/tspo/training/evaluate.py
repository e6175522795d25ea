"""Evaluating a model as a configuration says, into a folder that tells with which settings."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from accelerate import PartialState
from rich.console import Console

from tspo.config import RunConfig
from tspo.credit import CreditConfig, score
from tspo.datasets.questions import Question
from tspo.errors import BadInput
from tspo.evaluation.metrics import FIRST_OCCURRENCE, Summary
from tspo.evaluation.places import SUMMARY
from tspo.evaluation.runner import Share, evaluate_questions, forget_evaluation, read_evaluation
from tspo.files import atomic_write
from tspo.retrieval.places import identity_of, is_remote
from tspo.rollout.models import resolve_model
from tspo.training.agent import agent_loop
from tspo.training.materials import Materials
from tspo.training.processes import of_main
from tspo.training.run_folder import changed_settings
from tspo.training.token_details import add_token_ends
from tspo.trajectory import Trajectory

_SETTINGS = "settings.json"

_NO_MATTER = frozenset({"concurrency", "retriever_deadline", "retriever_give_up_after", "query_cache", "retriever"})
"""Fields of `rollout` that do not decide what an episode is; the retriever is told by its identity."""


def evaluate_model(
    model: str,
    config: RunConfig,
    materials: Materials,
    folder: Path,
    console: Console,
    label: str,
    state: PartialState,
    *,
    again: bool,
) -> Summary:
    """Evaluate `model` on the test questions into `folder`, or go on with what is there; the summary.

    With `again`, an evaluation with other settings is replaced; without it that raises BadInput. Each process runs
    its share of the episodes.
    """
    settings = evaluation_settings(model, config, materials)
    done = of_main(_open_folder(folder, settings, again) if state.is_main_process else None)
    if done is not None:
        return done

    credit = config.credit.to_config()

    def complete(trajectory: Trajectory) -> None:
        """Where the answer was found, by the rule of the run's credit; scores are read from there."""
        _, trajectory.extra[FIRST_OCCURRENCE] = score(trajectory, credit)
        if config.training.token_details:
            add_token_ends(trajectory, materials.codec.tokenizer)

    with agent_loop(
        model, materials.codec, materials.retriever, config, temperature=config.evaluation.temperature
    ) as loop:
        return evaluate_questions(
            loop,
            materials.test,
            folder,
            samples=config.evaluation.samples,
            seed=config.seed,
            console=console,
            label=label,
            complete=complete,
            share=Share(state.process_index, state.num_processes, state.wait_for_everyone),
        )


def evaluation_settings(model: str, config: RunConfig, materials: Materials) -> dict[str, Any]:
    """What decides an evaluation's episodes: two with the same may be put together."""
    rollout = json.loads(config.rollout.model_dump_json())
    credit, usual = config.credit.to_config(), CreditConfig()
    rule = {
        name: getattr(credit, name) for name in ("match", "ignore") if getattr(credit, name) != getattr(usual, name)
    }
    return {
        "model": {"name": model, "files": _stamps(model)},
        "seed": config.seed,
        "evaluation": {"temperature": config.evaluation.temperature, "samples": config.evaluation.samples},
        "rollout": {name: value for name, value in rollout.items() if name not in _NO_MATTER},
        "retriever": _retriever_identity(config, materials),
        "questions": _digest(materials.test),
    } | ({"credit": json.loads(json.dumps(rule))} if rule else {})


def _open_folder(folder: Path, settings: dict[str, Any], again: bool) -> Summary | None:
    """Make `folder` ready for these settings; the summary of an evaluation that is there and whole."""
    path = folder / _SETTINGS
    changed = [] if not (folder / SUMMARY).exists() else ["everything: it does not say with which"]
    if path.is_file():
        try:
            changed = changed_settings(json.loads(path.read_text(encoding="utf-8")), settings, frozenset())
        except (ValueError, TypeError, AttributeError):
            changed = ["everything: its settings are damaged"]
    if changed and not again:
        raise BadInput(
            f"{folder}: holds an evaluation with other settings for {', '.join(changed)}; choose another --out, or "
            "replace it with --again"
        )
    if changed:
        forget_evaluation(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"{folder}: cannot write here ({error.strerror}); choose another --out") from None
    with atomic_write(path) as stream:
        json.dump(settings, stream, indent=1)
    return read_evaluation(folder)


def _stamps(model: str) -> dict[str, list[int]]:
    """Size and time of change of each file of a model's folder; empty for a model of the hub."""
    folder = Path(resolve_model(model))
    if not folder.is_dir():
        return {}
    stats = {path.name: path.stat() for path in sorted(folder.iterdir()) if path.is_file()}
    return {name: [stat.st_size, stat.st_mtime_ns] for name, stat in stats.items()}


def _retriever_identity(config: RunConfig, materials: Materials) -> str:
    place = config.rollout.retriever
    if place is not None:
        return place if is_remote(place) else identity_of(place, materials.retriever)
    assert materials.corpus is not None  # the settings were checked
    return f"BM25 over {materials.corpus}, {materials.corpus.stat().st_size} bytes"


def _digest(questions: Iterable[Question]) -> str:
    digest = hashlib.sha256()
    for question in questions:
        digest.update(json.dumps([question.id, question.question, question.golden_answers]).encode())
    return digest.hexdigest()
