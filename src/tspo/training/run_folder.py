"""The folder of a run: one run at a time, never over another, resumed only with the settings it began with."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Set
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from tspo.config import RunConfig, default_of
from tspo.errors import BadInput
from tspo.evaluation.report.run_files import read_settings
from tspo.files import atomic_write, only_one
from tspo.old_settings import without_old_settings
from tspo.training.checkpoints import check_has_state, checkpoints_in, is_whole, last_whole_checkpoint

if TYPE_CHECKING:
    from transformers import PreTrainedModel

MAY_CHANGE = frozenset(
    {
        "rollout.query_cache",
        "rollout.retriever_deadline",
        "rollout.retriever_give_up_after",
        "training.gradient_checkpointing",
        "training.hub",
        "training.keep_checkpoints",
        "training.max_skipped",
        "training.micro_batch",
        "training.pass_tokens",
        "training.project",
        "training.report_to",
        "training.run_name",
        "training.save_every",
        "training.token_details",
    }
)
"""Settings that do not make another experiment of a run that is gone on with, with all that is under them."""


@contextmanager
def only_run_in(folder: Path) -> Iterator[None]:
    """Hold the folder's lock, so that two runs never write to one place."""
    taken = f"{folder}: another run is writing here; choose another output_dir"
    lock, is_new = folder / ".lock", not folder.exists()
    try:
        with only_one(lock, taken=taken, where="choose another output_dir"):
            yield
    except BadInput:
        if is_new and folder.is_dir() and [*folder.iterdir()] == [lock]:  # a run that was refused leaves nothing
            lock.unlink()
            folder.rmdir()
        raise


def prepare_output(config: RunConfig, resume: bool) -> None:
    """Check that the folder is fresh, or that it holds a run that can be resumed, and write its settings."""
    path = config.output_dir / "config.yaml"
    settings = json.loads(config.model_dump_json())
    traces = [path, config.output_dir / "metrics.jsonl", *checkpoints_in(config.output_dir)]
    if not resume and any(trace.exists() for trace in traces):
        raise BadInput(f"{config.output_dir}: holds a run already; add --resume, or choose another output_dir")
    if path.exists():
        before = without_old_settings(read_settings(path), path)
        if changed := changed_settings(before, settings, MAY_CHANGE | {"training.steps"}):
            raise BadInput(f"{path}: the run to resume had other settings for {', '.join(changed)}")
    elif resume:
        raise BadInput(f"{config.output_dir}: holds no run to resume; start without --resume")
    checkpoint = last_whole_checkpoint(config.output_dir)
    if checkpoint is not None and not is_whole(config.output_dir / "model"):
        check_has_state(checkpoint)
    with atomic_write(path) as stream:
        yaml.safe_dump(settings, stream, sort_keys=False)


def check_disk(model: PreTrainedModel, config: RunConfig) -> None:
    """Raise BadInput where the checkpoints will not fit: weights and two moments in float32 each."""
    trained = sum(p.numel() for p in model.parameters())
    checkpoint = trained * 4 * (1 if config.training.lora else 3)
    needed = checkpoint * (config.training.keep_checkpoints + 1)
    free = shutil.disk_usage(config.output_dir).free
    if free < needed:
        raise BadInput(
            f"{config.output_dir}: {free / 1e9:.1f} GB free, but {config.training.keep_checkpoints} checkpoints and "
            f"one being written take {needed / 1e9:.1f} GB; free some space or lower training.keep_checkpoints"
        )


def changed_settings(before: Any, now: dict[str, Any], may_change: Set[str], place: str = "") -> list[str]:
    """Dotted keys, sorted, that differ and are neither in `may_change` nor under one that is.

    What `before` lacks had its default: files of older versions do not know newer settings.
    """
    changed = []
    for key in sorted({*before, *now}):
        at = f"{place}{key}"
        if at in may_change:
            continue
        old, new = before.get(key, default_of(at)), now.get(key)
        if old and new and isinstance(old, dict) and isinstance(new, dict):
            changed += changed_settings(old, new, may_change, f"{at}.")
        elif old != new:
            changed.append(at)
    return changed
