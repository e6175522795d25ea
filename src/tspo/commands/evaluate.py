"""`tspo evaluate`: how well a model answers the test questions of a configuration."""

from __future__ import annotations

import argparse
from pathlib import Path

from tspo.commands.config_argument import config_and_overrides
from tspo.commands.train import add_config_arguments

_DESCRIPTION = """\
Let a model answer the test questions (data.test) and print exact match, F1, substring match, the share of
trajectories whose feedback held the answer, searches and tokens: by data set, as their macro average, and by number of
hops, each with a bootstrap 95 % interval; pass@k with evaluation.samples above 1. Where a data set is one of the seven
benchmarks, published results stand below, marked as quoted.

The trajectories and the summary are written to --out. A run that was stopped goes on where it was; one with other
settings is refused unless --again replaces it.
"""

_EXAMPLES = """\
examples:
  tspo evaluate model=runs/default/model
  tspo evaluate configs/smollm2-wiki-qa.yaml
  tspo evaluate config.yaml data.test=benchmarks --out runs/seven
  tspo evaluate configs/smollm2-wiki-qa.yaml model=runs/smollm2-wiki-qa/model --out runs/evaluation
  tspo evaluate configs/smollm2-wiki-qa.yaml evaluation.samples=4 evaluation.temperature=0.7
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `tspo evaluate` to the command line."""
    parser = subparsers.add_parser(
        "evaluate",
        help="measure a model on the test questions",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_config_arguments(parser)
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="default: output_dir/evaluation/MODEL")
    parser.add_argument("--again", action="store_true", help="replace what is there")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Evaluate, print the tables, write the files."""
    from tspo.commands.setup import console, load_run_config

    config = load_run_config(*config_and_overrides(args.overrides))
    from tspo.evaluation.suite_table import format_published, format_suite
    from tspo.training.run import run_evaluation

    screen = console()
    folder = args.out or config.output_dir / "evaluation" / Path(config.model).name.replace(":", "-")
    summary = run_evaluation(config, folder, again=args.again, console=screen)
    for text in (format_suite(summary), format_published(summary)):
        if text:
            screen.print(f"\n{text}", end="", markup=False, highlight=False, soft_wrap=True)
    screen.print(f"\nwritten to {folder}", markup=False, highlight=False, soft_wrap=True)
    return 0
