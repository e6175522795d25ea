"""`tspo benchmark`: what a configuration reaches on this machine."""

from __future__ import annotations

import argparse
import statistics

from tspo.commands.config_argument import config_and_overrides
from tspo.commands.train import add_config_arguments

_DESCRIPTION = """\
Train a few steps of a configuration, from its model as it is, and print how many tokens a second were sampled
and trained, beside what the machine's own matrix products would allow (the floor). Nothing is kept.

Sampled tokens are those of the policy alone: prompts and passages, which have to be read too, count as time.
Trained tokens are those of whole trajectories. Beside TRL, vLLM and others: benchmarks/ in the repository.
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `tspo benchmark` to the command line."""
    parser = subparsers.add_parser(
        "benchmark",
        help="what a configuration reaches on this machine",
        description=_DESCRIPTION,
        epilog="example:\n  tspo benchmark configs/smollm2-wiki-qa.yaml --steps 2\n",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_config_arguments(parser)
    parser.add_argument("--steps", type=_positive, default=3, help="steps that count, after one that does not (3)")
    parser.set_defaults(run=run)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1 on, got {text!r}")
    return int(text)


def run(args: argparse.Namespace) -> int:
    """Measure; 0 when the table is printed."""
    from tspo.commands.setup import console, load_run_config, stoppable

    config = load_run_config(*config_and_overrides(args.overrides))
    screen = console()

    def measure() -> None:
        from tspo.training.benchmark import benchmark

        machine, rates = benchmark(config, args.steps, screen)
        screen.print(f"matrix products: {machine:,.0f} GFLOP/s", highlight=False)
        screen.print(f"{'tokens/s':<9}{'median':>10}{'least':>10}{'greatest':>10}{'floor':>12}{'of floor':>10}")
        for rate in rates:
            values = rate.tokens_per_second
            screen.print(
                f"{rate.name:<9}{statistics.median(values):>10,.0f}{min(values):>10,.0f}{max(values):>10,.0f}"
                f"{rate.floor:>12,.0f}{rate.share:>10.1%}",
                highlight=False,
            )

    return stoppable(measure, screen, "nothing was written, start it again")
