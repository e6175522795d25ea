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
from tspo.files import atomic_write, only_one
from tspo.training.checkpoints import checkpoints_in

if TYPE_CHECKING:
    from transformers import PreTrainedModel

MAY_CHANGE = frozenset(
    {f"training.{name}" for name in ("save_every", "keep_checkpoints", "report_to", "micro_batch", "token_details")}
    | {f"rollout.{name}" for name in ("retriever_deadline", "retriever_give_up_after")}
    | {f"rollout.query_cache{name}" for name in ("", ".entries", ".path")}
)
"""Settings that do not make another experiment of a run that is gone on with."""


@contextmanager
def only_run_in(folder: Path) -> Iterator[None]:
    """Hold the folder's lock, so that two runs never write to one place."""
    taken = f"{folder}: another run is writing here; choose another output_dir"
    with only_one(folder / ".lock", taken=taken, where="choose another output_dir"):
        yield


def prepare_output(config: RunConfig, resume: bool) -> None:
    """Check that the folder is fresh, or that it holds the run to resume, and write its settings."""
    path = config.output_dir / "config.yaml"
    settings = json.loads(config.model_dump_json())
    traces = [path, config.output_dir / "metrics.jsonl", *checkpoints_in(config.output_dir)]
    if not resume and any(trace.exists() for trace in traces):
        raise BadInput(f"{config.output_dir}: holds a run already; add --resume, or choose another output_dir")
    if path.exists():
        changed = changed_settings(
            yaml.safe_load(path.read_text(encoding="utf-8")), settings, MAY_CHANGE | {"training.steps"}
        )
        if changed:
            raise BadInput(f"{path}: the run to resume had other settings for {', '.join(changed)}")
    elif resume:
        raise BadInput(f"{config.output_dir}: holds no run to resume; start without --resume")
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
    """Dotted keys, sorted, that differ and are not in `may_change`.

    What `before` lacks had its default: files of older versions do not know newer settings.
    """
    changed = []
    for key in sorted({*before, *now}):
        at = f"{place}{key}"
        old, new = before.get(key, default_of(at)), now.get(key)
        if old and new and isinstance(old, dict) and isinstance(new, dict):
            changed += changed_settings(old, new, may_change, f"{at}.")
        elif old != new and at not in may_change:
            changed.append(at)
    return changed
