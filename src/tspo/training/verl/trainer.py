"""The one shim: verl's trainers, which also hand each trajectory's turns to the advantage estimator.

verl's trainer gives an estimator the token-level rewards, the mask and the group of each row, but none of the extra
fields that the agent loop returned (`PPOTrainer._compute_advantage` of 0.9.1 selects seven fields, and
`compute_advantage` passes non-tensor fields to its own gdpo alone). So each of verl's trainer modes gets a
subclass, registered under verl's `register_trainer`, that fetches them first. Nothing of verl is replaced.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import transfer_queue as tq
from verl.trainer.ppo.v1.trainer_base import TRAINER_REGISTRY, register_trainer

from tspo.training.diagnostics import rollout_metrics
from tspo.training.step_files import save_step
from tspo.training.verl.advantage import credit_of
from tspo.training.verl.carried import CarriedRow, Handover, carried_row, credit_that_was, handed_over
from tspo.training.verl.names import METRIC_PREFIX, MODE_PREFIX, SETTINGS


class HandsOverTurns:
    """A mixin before one of verl's trainers."""

    config: Any
    global_steps: int
    use_critic: bool
    timing_raw: dict[str, float]

    def __init__(self, config: Any) -> None:
        # verl asks for its own modes by name in many places
        config.trainer.v1.trainer_mode = config.trainer.v1.trainer_mode.removeprefix(MODE_PREFIX)
        super().__init__(config)  # type: ignore[call-arg]

    def _compute_advantage(self, batch: Any, metrics: dict[str, Any]) -> Any:
        wanted = ["extra_fields", "values"] if self.use_critic else ["extra_fields"]
        fields = tq.kv_batch_get(keys=batch.keys, partition_id=batch.partition_id, select_fields=wanted)
        rows = [carried_row(*row) for row in zip(fields["extra_fields"], batch.tags, strict=True)]
        values = fields["values"].to_padded_tensor(0.0) if self.use_critic else None
        with handed_over(Handover(rows, values)):
            batch = super()._compute_advantage(batch, metrics)  # type: ignore[misc]
        metrics |= self._record_step(rows, batch)
        return batch

    def _record_step(self, rows: list[CarriedRow], batch: Any) -> dict[str, float]:
        """Write what this step learns from to the run's folder, and give its metrics, as with every other trainer."""
        fields = tq.kv_batch_get(keys=batch.keys, partition_id=batch.partition_id, select_fields=["advantages"])
        config = credit_of(self.config.algorithm)
        learnt = [
            (row, advantages.tolist())
            for row, advantages in zip(rows, fields["advantages"].unbind(), strict=True)
            if not row.padding
        ]
        credits = [credit_that_was(row, advantages, config) for row, advantages in learnt]
        trajectories = [row.trajectory for row, _ in learnt]
        folder = Path(self.config.actor_rollout_ref.rollout.custom[SETTINGS].trajectories)
        save_step(trajectories, credits, self.global_steps, folder)
        own = rollout_metrics(trajectories, credits, config, seconds=self.timing_raw["gen"])
        return {METRIC_PREFIX + name: value for name, value in own.items()}


for _mode, _trainer in list(TRAINER_REGISTRY.items()):
    if not _mode.startswith(MODE_PREFIX):
        register_trainer(MODE_PREFIX + _mode)(type(f"TSPO{_trainer.__name__}", (HandsOverTurns, _trainer), {}))
