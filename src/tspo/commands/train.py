"""`tspo train`: a whole run from one configuration file."""

from __future__ import annotations

import argparse

from tspo.commands.config_argument import config_and_overrides
from tspo.errors import BadInput

_DESCRIPTION = """\
Train a search agent from one configuration file: evaluate the model, warm it up on demonstrations if the
file asks for that, train it with turn-level credit, and evaluate it again. Everything is written to
output_dir: the model, checkpoints, metrics.jsonl, trajectories, evaluations, and report.html.

Without a file it trains the small starter policy that comes with tspo, in an embedded fictional world:
minutes on two CPU cores, nothing to download.

Ctrl-C (or SIGTERM) saves and stops after the step under way; --resume goes on from there.

--engine verl runs the same experiment on verl: a Ray cluster, FSDP and vLLM (docs/verl.md).
"""

_EXAMPLES = """\
examples:
  tspo train
  tspo train credit.algorithm=grpo output_dir=runs/default-grpo
  tspo train configs/smollm2-wiki-qa.yaml
  tspo train configs/smollm2-wiki-qa.yaml output_dir=runs/grpo credit.algorithm=grpo seed=1
  tspo train configs/smollm2-wiki-qa.yaml --resume
  tspo train configs/smollm2-wiki-qa.yaml training.epochs=2 training.lora='{r: 8}'
  tspo train --engine verl CONFIG.yaml verl.gpus_per_node=8 --print-config
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `tspo train` to the command line."""
    parser = subparsers.add_parser(
        "train",
        help="train a search agent from one configuration file",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_config_arguments(parser)
    parser.add_argument("--resume", action="store_true", help="go on from the last whole checkpoint")
    parser.add_argument("--engine", metavar="{tspo,verl}", default="tspo", help="what trains (default: tspo)")
    parser.add_argument("--print-config", action="store_true", help="print verl's configuration of the run, and stop")
    parser.set_defaults(run=run)


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments that name a run's configuration."""
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="[CONFIG.yaml] key=value",
        help="the run's settings, and what goes over them; without a file the embedded default",
    )


def run(args: argparse.Namespace) -> int:
    """Train; 0 when the run is complete, 1 when a worker failed, 128 + the signal's number when one stopped it."""
    if args.engine == "verl":
        return _run_verl(args)
    if args.engine != "tspo":
        renamed = "is named tspo now, and the default" if args.engine == "trl" else "there are tspo and verl"
        raise BadInput(f"--engine {args.engine}: {renamed}")
    if args.print_config:
        raise BadInput("--print-config: prints verl's configuration; add --engine verl")
    from tspo.commands.setup import console, load_run_config, stoppable

    config = load_run_config(*config_and_overrides(args.overrides))
    screen = console()

    def train() -> None:
        from tspo.training.run import run_training

        run_training(config, resume=args.resume, console=screen)

    return stoppable(train, screen, "--resume goes on from here")


def _run_verl(args: argparse.Namespace) -> int:
    from tspo.commands.setup import console, require
    from tspo.config import load_config

    path, overrides = config_and_overrides(args.overrides)
    config = load_config(path, overrides)
    require("verl", "torch", "transformers", "verl", "ray")
    from tspo.training.verl.launch import print_translation, run_verl

    if args.print_config:
        print_translation(config)
        return 0
    return run_verl(config, resume=args.resume, console=console())
