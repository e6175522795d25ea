"""`tspo settings`: every key that a run's configuration may have."""

from __future__ import annotations

import argparse

_DESCRIPTION = "List every setting of a run's configuration file: its key, type, default and meaning, as Markdown."


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `tspo settings` to the command line."""
    parser = subparsers.add_parser(
        "settings", help="list every setting of a configuration file", description=_DESCRIPTION
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the list."""
    from tspo.config import describe_settings

    print(describe_settings())
    return 0
