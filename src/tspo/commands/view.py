"""`tspo view`: a run's curves and trajectories in the browser."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import TaskID

    from tspo.viewer.index import Index

_DESCRIPTION = """\
Show runs in the browser: their curves laid over each other, and every trajectory turn by turn, with what each
turn earned under TSPO, GRPO and the other estimators.

A run may still be going: the page grows with it. The first look makes an index beside the run (.view.sqlite).
"""

_EXAMPLES = """\
examples:
  tspo view runs/default
  tspo view runs/tspo runs/grpo --port 8200
  tspo view samples.jsonl                      any trajectory file
  tspo view runs/default --static page.html    one file to pass on, no server
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `tspo view` to the command line."""
    parser = subparsers.add_parser(
        "view",
        help="look at runs in the browser",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "runs", nargs="+", type=Path, metavar="RUN", help="the output_dir of a run, or a trajectory file"
    )
    parser.add_argument("--host", default="127.0.0.1", help="the address to listen on (default: 127.0.0.1)")
    parser.add_argument("--port", type=int, default=8100, help="0 takes any that is free (default: 8100)")
    parser.add_argument("--static", type=Path, metavar="FILE", help="write one HTML file instead of serving")
    parser.add_argument(
        "--trajectories",
        type=int,
        default=1000,
        metavar="N",
        help="about how many trajectories a static file holds (default: 1000)",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Index the runs, then serve the page until a signal, or write it to a file."""
    from tspo.commands.setup import console, require

    require("serve", "fastapi", "uvicorn")
    from tspo.viewer.index import Index
    from tspo.viewer.source import open_source

    sources = [open_source(path) for path in args.runs]
    if args.static is not None:
        indexes = _indexed([Index(source) for source in sources])
        from tspo.viewer.static_page import write_static

        print(write_static(indexes, args.static, args.trajectories))
        return 0

    from tspo.retrieval.serving import Service, address_of, bind, is_loopback
    from tspo.training.signals import stop_on_signals
    from tspo.viewer.app import create_app

    with bind(args.host, args.port) as bound:
        indexes = _indexed([Index(source) for source in sources])
        if not is_loopback(bound):
            console().print("Everyone who can reach this address can read these runs.", highlight=False)
        service = Service(
            create_app(indexes, host=args.host),
            bound,
            drain_seconds=1,
            on_ready=lambda: print(f"open {address_of(bound)} (Ctrl-C ends)", flush=True),
        )
        with stop_on_signals(service.stop):
            service.run()
    return 0


def _indexed(indexes: list[Index]) -> list[Index]:
    """The indexes, with all in them that is there now."""
    from tspo.commands.setup import console
    from tspo.progress import bars

    with bars(console()) as progress:
        for index in indexes:
            task = progress.add_task(f"indexing {index.source.name}", total=None)

            def on_progress(read: int, size: int, task: TaskID = task) -> None:
                progress.update(task, completed=read, total=size)

            index.refresh(on_progress, growing=False)
            progress.update(task, visible=False)
    return indexes
