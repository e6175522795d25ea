"""A few steps of a run, and how far the machine was from what it can do."""

from __future__ import annotations

import json
import statistics
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from rich.console import Console

from tspo.config import RunConfig
from tspo.training.agent import device_of
from tspo.training.machine_floor import num_parameters, product_rate
from tspo.training.run import run_steps


@dataclass(frozen=True, slots=True)
class Rates:
    """One kind of work: tokens a second of each step, and what the machine could do at most."""

    name: str
    tokens_per_second: list[float]
    floor: float

    @property
    def share(self) -> float:
        """The median as a share of the floor."""
        return statistics.median(self.tokens_per_second) / self.floor


def benchmark(config: RunConfig, steps: int, console: Console) -> tuple[float, list[Rates]]:
    """The machine's rate in GFLOP/s, and the rates of sampling and of the update over `steps` training steps.

    The floor is what large matrix products of the precision in use would allow: two a parameter and sampled token,
    six a parameter and trained token. A step before those that count is not counted. Nothing is kept.
    """
    dtypes = {"sampled": config.rollout.dtype or "float32", "trained": config.training.dtype}
    products = {
        dtype: product_rate(getattr(torch, dtype), device_of(config)) for dtype in dict.fromkeys(dtypes.values())
    }
    with TemporaryDirectory(prefix="tspo-benchmark-") as folder:
        training = config.training.model_copy(update={"steps": steps + 1, "report_to": []})
        run_steps(config.model_copy(update={"output_dir": Path(folder) / "run", "training": training}), console=console)
        lines = (Path(folder) / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()[1:]
    parameters = num_parameters(config.model)
    measured = [json.loads(line) for line in lines]
    sampled, trained = (
        [line[name] for line in measured] for name in ("rollout_tokens_per_second", "update_tokens_per_second")
    )
    return max(products.values()) / 1e9, [
        Rates("sampled", sampled, products[dtypes["sampled"]] / 2 / parameters),
        Rates("trained", trained, products[dtypes["trained"]] / 6 / parameters),
    ]
