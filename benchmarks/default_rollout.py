"""How fast the default run's rollouts are: milliseconds of a decoding step, and tokens a second.

python benchmarks/default_rollout.py [--rollouts 7] [--threads 2]
PYTHONPATH=/path/to/another/checkout/src python benchmarks/default_rollout.py

A rollout is that of a training step of `tspo train` without a file: 40 episodes of the starter policy, real searches.
All rollouts are of the same questions and seeds, so that every checkout samples the same tokens: `sampled` is a digest
of them. Decoding steps are those that sample for any episode; each is one forward pass. CPU: processor time of all
threads, which other programs on the machine disturb less.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import statistics
import time

import torch

from tspo.config import default_config_path, load_config
from tspo.rollout.episode import AgentLoop, Request
from tspo.rollout.models import load_model
from tspo.rollout.transformers_sampler import TransformersSampler
from tspo.training.materials import read_materials


def main() -> None:
    """Print medians over the rollouts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rollouts", type=int, default=7, help="after one that is not counted")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    config = load_config(default_config_path())
    materials = read_materials(config)
    model = load_model(config.model).eval()
    steps = 0

    def count(*_: object) -> None:
        nonlocal steps
        steps += 1

    model.register_forward_pre_hook(count)
    sampler = TransformersSampler(
        model, materials.codec, rows=config.rollout.concurrency, capacity=config.rollout.max_total_tokens
    )
    loop = AgentLoop(sampler, materials.codec, materials.retriever, config.rollout.limits())
    size = config.training.group_size
    requests = [
        Request(materials.train[group], f"{group}", f"{group}-{member}", f"{config.seed}/0/{group * size + member}")
        for group in range(config.training.groups_per_step)
        for member in range(size)
    ]
    seconds, cpu_seconds = [], []
    for _ in range(args.rollouts + 1):
        steps = 0
        started, cpu_started = time.perf_counter(), time.process_time()
        trajectories = loop.rollout(requests)
        seconds.append(time.perf_counter() - started)
        cpu_seconds.append(time.process_time() - cpu_started)
    sampled = [turn.token_ids for trajectory in trajectories for turn in trajectory.turns]
    tokens = sum(map(len, sampled))
    digest = hashlib.sha256(json.dumps(sampled).encode()).hexdigest()[:12]
    print(
        f"{len(requests)} episodes, {tokens} tokens in {steps} decoding steps, sampled {digest}; {args.threads} threads"
    )
    for name, values in (("", seconds[1:]), ("CPU: ", cpu_seconds[1:])):
        median = statistics.median(values)
        print(
            f"{name}{median:.3f} s a rollout [{min(values):.3f}, {max(values):.3f}], "
            f"{1e3 * median / steps:.2f} ms a decoding step, {tokens / median:,.0f} tokens/s"
        )


if __name__ == "__main__":
    main()
