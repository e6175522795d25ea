"""`tspo serve`: an index as a service that speaks Search-R1's protocol."""

from __future__ import annotations

import argparse
from pathlib import Path

_DESCRIPTION = """\
Serve an index over HTTP: POST /retrieve as Search-R1's retrieval server has it, GET /healthz, GET /metrics.
Requests that wait are searched together; when too many wait, more are refused with 429 (or 503) and Retry-After.

Without a token the service is for this machine alone. Clients find the token where the server does: in the
environment variable TSPO_RETRIEVER_TOKEN.

Ctrl-C (or SIGTERM) stops it: nothing new is taken, what was taken is answered. A second one stops it at once.
"""

_EXAMPLES = """\
examples:
  tspo serve indexes/wiki
  tspo serve searxng+http://localhost:8888
  TSPO_RETRIEVER_TOKEN=... tspo serve indexes/wiki --host 0.0.0.0 --port 8000
  curl localhost:8000/retrieve --json '{"queries": ["Who wrote Faust?"], "topk": 3, "return_scores": true}'
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `tspo serve` to the command line."""
    parser = subparsers.add_parser(
        "serve",
        help="serve an index over HTTP, as Search-R1 does",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("place", metavar="DIR", help="the folder of an index, made by tspo index; or an address")
    parser.add_argument("--encoder", metavar="MODEL", help="where the index's encoder lies now, if it has moved")
    parser.add_argument("--reranker", metavar="MODEL", help="a cross-encoder that orders what the index finds")
    parser.add_argument("--checksums", action="store_true", help="first read the whole index and check it")
    parser.add_argument("--host", default="127.0.0.1", help="the address to listen on (default: 127.0.0.1)")
    parser.add_argument("--port", type=int, default=8000, help="0 takes any that is free (default: 8000)")
    parser.add_argument(
        "--topk", type=int, default=3, metavar="N", help="passages for requests that name no topk (default: 3)"
    )
    parser.add_argument("--max-topk", type=int, metavar="N", help="passages a query may ask for (default: 100)")
    parser.add_argument("--max-queries", type=int, metavar="N", help="queries of one request (default: 4096)")
    parser.add_argument(
        "--max-waiting", type=int, metavar="N", help="queries that may wait before more are refused (default: 16384)"
    )
    parser.add_argument("--max-requests", type=int, metavar="N", help="requests under way at once (default: 2048)")
    parser.add_argument(
        "--when-full",
        type=int,
        choices=(429, 503),
        metavar="STATUS",
        help="what a request is refused with then: 429 (default), or 503, which verl's client tries again",
    )
    parser.add_argument("--timeout", type=float, metavar="SECONDS", help="for the search of a request (default: 60)")
    parser.add_argument("--token-file", type=Path, metavar="FILE", help="the token, instead of TSPO_RETRIEVER_TOKEN")
    parser.add_argument("--no-token", action="store_true", help="let everyone search who can reach the address")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Serve until a signal; 0 when everything that was taken is answered."""
    from tspo.commands.setup import require

    require("serve", "fastapi", "uvicorn", "prometheus_client")
    from tspo.errors import BadInput
    from tspo.retrieval.bearer_token import TOKEN_VARIABLE, find_token
    from tspo.retrieval.places import identity_of, open_place
    from tspo.retrieval.retrieve_request import ServerLimits
    from tspo.retrieval.server import create_app
    from tspo.retrieval.serving import Service, address_of, bind, is_loopback
    from tspo.training.signals import stop_on_signals

    given = {"top_k": args.max_topk, "queries": args.max_queries, "waiting": args.max_waiting, "seconds": args.timeout}
    given |= {"requests": args.max_requests, "when_full": args.when_full}
    limits = ServerLimits(**{name: value for name, value in given.items() if value is not None})
    token = None if args.no_token else find_token(args.token_file)
    with bind(args.host, args.port) as bound:
        if token is None and not args.no_token and not is_loopback(bound):
            raise BadInput(
                f"--host {args.host}: others could search without a token; set {TOKEN_VARIABLE}, or name a "
                "--token-file, or say --no-token"
            )
        retriever = open_place(args.place, encoder=args.encoder, reranker=args.reranker, checksums=args.checksums)
        index = " ".join(part for part in (identity_of(args.place, retriever), args.reranker) if part)
        app = create_app(retriever, top_k=args.topk, limits=limits, token=token, index=index)
        service = Service(
            app,
            bound,
            drain_seconds=limits.seconds + 5,
            on_ready=lambda: print(f"listening on {address_of(bound)}", flush=True),
        )
        with stop_on_signals(service.stop):
            service.run()
    return 0
