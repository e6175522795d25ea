"""`tspo warmup`: only the warm start of a run."""

from __future__ import annotations

import argparse

from tspo.commands.config_argument import config_and_overrides
from tspo.commands.train import add_config_arguments

_DESCRIPTION = """\
Teach a model the protocol: build demonstrations from the training questions' supporting_titles (search each
hop, read what the retriever returns, answer) and fine-tune on them, with the loss on the policy's own tokens
only. The model is written to output_dir/warmup; `tspo train` with the same file takes it from there.
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `tspo warmup` to the command line."""
    parser = subparsers.add_parser(
        "warmup",
        help="teach a model the protocol from demonstrations",
        description=_DESCRIPTION,
        epilog="example:\n  tspo warmup configs/smollm2-wiki-qa.yaml warmup.epochs=2\n",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_config_arguments(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Warm up; 0 when it is done."""
    from tspo.commands.setup import console, load_run_config, stoppable

    config = load_run_config(*config_and_overrides(args.overrides))
    screen = console()

    def warm_up() -> None:
        from tspo.training.run import run_warmup

        folder = run_warmup(config, console=screen)
        screen.print(f"model: {folder}", markup=False, highlight=False, soft_wrap=True)

    return stoppable(warm_up, screen, "nothing was written, start it again")
