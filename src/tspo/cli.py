"""The `tspo` command: parse, call, print."""

from __future__ import annotations

import argparse
import difflib
import os
import re
import sys
from collections.abc import Sequence
from typing import NoReturn

from tspo import __version__
from tspo.commands import (
    ask,
    benchmark,
    compare,
    compare_evaluations,
    credit,
    data,
    evaluate,
    evaluate_retriever,
    index,
    report,
    serve,
    settings,
    train,
    view,
    warmup,
    world,
)
from tspo.errors import BadInput

COMMANDS = (
    train,
    report,
    view,
    compare,
    warmup,
    evaluate,
    compare_evaluations,
    ask,
    credit,
    data,
    world,
    index,
    evaluate_retriever,
    serve,
    benchmark,
    settings,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0, 2 for bad input, 130 for Ctrl-C, 141 for a closed pipe."""
    parser = _parser()
    args, rest = parser.parse_known_args(arguments)
    # argparse takes no positional after an option: settings may stand anywhere all the same.
    if "overrides" in args and not any(argument.startswith("-") for argument in rest):
        args.overrides += rest
    elif rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if "run" not in args:
        parser.print_help(sys.stderr)
        return 2
    try:
        code: int = args.run(args)
        sys.stdout.flush()
        return code
    except BadInput as error:
        if os.environ.get("LOCAL_RANK", "0") == "0":  # of several processes that read the same, one says so
            print(f"tspo: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # Python flushes standard output once more as it exits, and would complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


class _Parser(argparse.ArgumentParser):
    """Says which command a mistyped one probably is."""

    def error(self, message: str) -> NoReturn:
        """See argparse; exits with 2."""
        names = [command.__name__.rpartition(".")[2].replace("_", "-") for command in COMMANDS]
        mistyped = re.search(r"invalid choice: '([^']*)'", message)
        near = difflib.get_close_matches(mistyped.group(1), names, n=1) if mistyped else []
        super().error(f"{message}; did you mean {near[0]}?" if near else message)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="tspo", description="Train language models to search, turn by turn, and see why it works.")
    parser.add_argument("--version", action="version", version=f"tspo {__version__}")
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND")
    for command in COMMANDS:
        command.add_parser(subparsers)
    return parser
