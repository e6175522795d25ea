"""Turn-level advantages beside verl's GRPO on the same batch: from outcomes to a matrix of token advantages.

    python benchmarks/advantages.py                 # ours alone
    python benchmarks/advantages.py --threads 2     # in an environment that has verl, beside verl's two estimators

512 questions x 5 trajectories x 4 turns, 2,000 tokens a trajectory, two of three sampled. Ours: FOLR and TSPO's
advantages of every turn from outcomes and first occurrences (NumPy, one core), then spread over the tokens; verl's take
the outcome from a matrix of token rewards, and give one advantage a trajectory, spread over the response's tokens. Its
vectorised estimator and its default loop are both there. In milliseconds: median, [least, greatest] of 30 rounds in
which they take turns; ratio: verl's vectorised over ours, round by round.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from torch.nn.functional import pad

from tspo.credit import CreditConfig, turn_advantages, turn_rewards

QUESTIONS, GROUP_SIZE, TURNS, TOKENS = 512, 5, 4, 2000
ROUNDS = 30


def estimators() -> dict[str, Callable[[], object]]:
    """What is measured, by name."""
    generator = np.random.default_rng(0)
    n = QUESTIONS * GROUP_SIZE
    outcome = generator.integers(0, 2, n)
    num_turns = np.full(n, TURNS)
    first = generator.integers(-1, TURNS, n)
    group_index = np.repeat(np.arange(QUESTIONS), GROUP_SIZE)
    place = np.arange(TOKENS)
    numbers = np.where(place % 3 < 2, 1 + place * TURNS // TOKENS, 0)
    turn_number = torch.from_numpy(numbers).expand(n, TOKENS).contiguous()
    config = CreditConfig()

    def turns() -> np.ndarray:
        rewards = turn_rewards(outcome, num_turns, first, config)
        return turn_advantages(rewards, num_turns, group_index, outcome, config)

    found: dict[str, Callable[[], object]] = {
        "tspo, turns": turns,
        "tspo, turns and tokens": lambda: pad(torch.from_numpy(turns()).float(), (1, 0)).gather(1, turn_number),
    }
    try:
        from verl.trainer.ppo import core_algos
    except ImportError:
        return found
    mask = (turn_number > 0).float()
    rewards = torch.zeros(n, TOKENS)
    rewards[:, -1] = torch.from_numpy(outcome).float()
    names = np.array([str(group) for group in group_index], dtype=object)
    found["verl, grpo_vectorized"] = lambda: core_algos.compute_grpo_vectorized_outcome_advantage(rewards, mask, names)
    found["verl, grpo"] = lambda: core_algos.compute_grpo_outcome_advantage(rewards, mask, names)
    return found


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    torch.set_num_threads(parser.parse_args().threads)
    found = estimators()
    seconds: dict[str, list[float]] = {name: [] for name in found}
    for _ in range(ROUNDS + 1):
        for name, estimate in found.items():
            started = time.perf_counter()
            estimate()
            seconds[name].append(time.perf_counter() - started)
    peer = seconds.get("verl, grpo_vectorized")
    print((__doc__ or "").partition("\n\n")[2])
    print(f"{'':<26}{'ms':<28}ratio")
    for name, all_taken in seconds.items():
        taken = [1e3 * one for one in all_taken[1:]]  # the first is not counted
        ratio = f"{statistics.median(p * 1e3 / t for p, t in zip(peer[1:], taken, strict=True)):.2f}" if peer else "-"
        print(f"{name:<26}{f'{statistics.median(taken):.2f} [{min(taken):.2f}, {max(taken):.2f}]':<28}{ratio}")


if __name__ == "__main__":
    main()
