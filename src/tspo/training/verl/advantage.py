"""This project's advantage estimators under verl's `register_adv_est`, one for each name in `ADVANTAGES`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from verl.trainer.ppo.core_algos import register_adv_est

from tspo.advantages import ADVANTAGES
from tspo.credit import CreditConfig, assign_credit
from tspo.training.token_advantages import spread_over_tokens
from tspo.training.verl.carried import CarriedRow, rows_handed_over
from tspo.training.verl.names import SETTINGS, estimator_name

Estimate = Callable[..., tuple[torch.Tensor, torch.Tensor]]


def credit_of(algorithm_section: DictConfig) -> CreditConfig:
    """The options of credit in verl's `algorithm` section; the algorithm is one of them."""
    return CreditConfig(**OmegaConf.to_container(algorithm_section[SETTINGS], resolve=True))


def token_advantages(
    rows: Sequence[CarriedRow], group: Sequence[Any], response_mask: torch.Tensor, credit: CreditConfig
) -> torch.Tensor:
    """Advantages (rows, response tokens), float32, 0 where `response_mask` (rows, response tokens) is.

    `group` (rows) holds labels whose equality makes a group. Rows that verl padded the batch with are in no group.
    """
    counted = [(i, row) for i, row in enumerate(rows) if not row.padding]
    trajectories = [replace(row.trajectory, group_id=str(group[i])) for i, row in counted]
    advantages = torch.zeros(len(rows), max((len(row.trajectory.turns) for row in rows), default=0))
    for (i, _), earned in zip(counted, assign_credit(trajectories, credit), strict=True):
        advantages[i, : len(earned.turn_advantages)] = torch.tensor(earned.turn_advantages)
    return spread_over_tokens(advantages, _turn_number(rows, response_mask))


def _turn_number(rows: Sequence[CarriedRow], response_mask: torch.Tensor) -> torch.Tensor:
    """(rows, response tokens): the turn of a token that counts, from 1; 0 elsewhere."""
    number = torch.zeros(response_mask.shape, dtype=torch.int64)
    width = response_mask.shape[1]
    for i, row in enumerate(rows):
        index = torch.tensor(row.turn_index[:width])
        number[i, : len(index)] = index + 1
    return number * response_mask.bool()


def _estimator(algorithm: str) -> Estimate:
    def estimate(
        token_level_rewards: torch.Tensor, response_mask: torch.Tensor, index: Any, config: Any, **_: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """verl's advantages and returns, (rows, response tokens) each; the rewards are FOLR's, not verl's scalars."""
        credit = credit_of(config)
        if credit.algorithm != algorithm:
            raise ValueError(
                f"algorithm.adv_estimator is {algorithm}, algorithm.{SETTINGS}.algorithm {credit.algorithm}"
            )
        rows = rows_handed_over()
        if len(rows) != len(response_mask):
            raise ValueError(f"{len(rows)} rows were handed over for a batch of {len(response_mask)}")
        advantages = token_advantages(rows, index, response_mask, credit).to(token_level_rewards.device)
        return advantages, advantages

    return estimate


for _algorithm in ADVANTAGES:
    register_adv_est(estimator_name(_algorithm))(_estimator(_algorithm))
