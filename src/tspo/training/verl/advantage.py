"""This project's advantage estimators under verl's `register_adv_est`, one for each name in `ADVANTAGES`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from omegaconf import DictConfig, OmegaConf
from torch.nn.functional import pad
from verl.trainer.ppo.core_algos import register_adv_est

from tspo.advantages import ADVANTAGES
from tspo.advantages.ppo import gae
from tspo.advantages.whiten import whitened
from tspo.credit import CreditConfig, assign_credit, reward_trajectory, step_rewards
from tspo.training.verl.carried import CarriedRow, what_was_handed_over
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
    # turns are counted from 1, and what nobody sampled is 0
    return pad(advantages, (1, 0)).gather(1, _turn_number(rows, response_mask))


def critic_advantages(
    rows: Sequence[CarriedRow], values: torch.Tensor, response_mask: torch.Tensor, credit: CreditConfig
) -> tuple[torch.Tensor, torch.Tensor]:
    """PPO's advantages, and what the critic learns; like `values` (rows, response tokens), float32.

    A turn's reward is that of its last token that counts. Where `response_mask` is 0, and in rows that verl padded the
    batch with, advantages are 0 and the critic learns its own values.
    """
    padding = torch.tensor([row.padding for row in rows])[:, None]
    number = _turn_number(rows, response_mask.masked_fill(padding, 0)).numpy()
    lengths = (number > 0).sum(1)
    # tokens that count are moved to the front, in their order: (rows, most of them)
    order = np.argsort(number == 0, axis=1, kind="stable")[:, : lengths.max(initial=0)]
    turn = np.take_along_axis(number, order, 1)
    expected = np.take_along_axis(values.double().cpu().numpy(), order, 1)
    last = turn != np.pad(turn, ((0, 0), (0, 1)))[:, 1:]
    earned = np.pad(_step_rewards(rows, credit), ((0, 0), (1, 0)))
    rewards = np.where(last, np.take_along_axis(earned, turn, 1), 0.0)

    raw = gae(rewards, lengths, expected, credit.gamma, credit.gae_lambda)
    advantages, returns = torch.zeros(values.shape), values.float().cpu().clone()
    rest = torch.from_numpy(order)
    advantages.scatter_(1, rest, torch.from_numpy(whitened(raw, lengths)).float())
    returns.scatter_add_(1, rest, torch.from_numpy(raw).float())
    return advantages, returns


def _step_rewards(rows: Sequence[CarriedRow], credit: CreditConfig) -> NDArray[np.float64]:
    """(rows, most turns): what each turn adds, zeros past the end."""
    num_turns = np.array([len(row.trajectory.turns) for row in rows])
    rewards = np.zeros((len(rows), num_turns.max(initial=0)))
    for i, row in enumerate(rows):
        rewards[i, : num_turns[i]] = reward_trajectory(row.trajectory, credit)
    return step_rewards(rewards, num_turns, credit)


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
        """verl's advantages and returns, (rows, response tokens) each; the rewards are ours, not verl's scalars."""
        credit = credit_of(config)
        if credit.algorithm != algorithm:
            raise ValueError(
                f"algorithm.adv_estimator is {algorithm}, algorithm.{SETTINGS}.algorithm {credit.algorithm}"
            )
        given = what_was_handed_over()
        if len(given.rows) != len(response_mask):
            raise ValueError(f"{len(given.rows)} rows were handed over for a batch of {len(response_mask)}")
        if credit.needs_critic:
            if given.values is None:
                raise ValueError(f"{algorithm} needs a critic; set critic.enable=true")
            advantages, returns = critic_advantages(given.rows, given.values, response_mask, credit)
            return advantages.to(token_level_rewards.device), returns.to(token_level_rewards.device)
        advantages = token_advantages(given.rows, index, response_mask, credit).to(token_level_rewards.device)
        return advantages, advantages

    return estimate


for _algorithm in ADVANTAGES:
    register_adv_est(estimator_name(_algorithm))(_estimator(_algorithm))
