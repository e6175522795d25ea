"""The files that a run reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tspo.config import DataSection
from tspo.datasets.world.files import world_files
from tspo.rollout.models import cache_dir


@dataclass(frozen=True, slots=True)
class DataFiles:
    """The files that a run reads."""

    train: Sequence[Path]
    test: Sequence[Path]
    corpus: Path | None


def data_files(data: DataSection) -> DataFiles:
    """The files that the settings name, or those of the embedded world, made now if they are not there yet."""
    if data.world is not None:
        world = world_files(data.world.to_settings(), cache_dir() / "worlds")
        return DataFiles([world.train], [world.test] if data.world.test_questions else [], world.corpus)
    return DataFiles(data.train, data.test, data.corpus)
