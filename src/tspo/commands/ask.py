"""`tspo ask`: a question to a trained policy, and its way to the answer."""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tspo.ask.agent import Agent
    from tspo.ask.choice import Choice
    from tspo.ask.screen import Screen

_DESCRIPTION = """\
Ask a policy a question and watch it think, search, read and answer. It is the last one that a run in ./runs
made, with that run's settings and passages; where there is none, the small starter policy that comes with
tspo, in its embedded fictional world.

Without a question there is a prompt with history: Ctrl-C stops an answer, Ctrl-D leaves. Where standard input
is no terminal, each of its lines is a question.

--json prints JSON Lines as things happen: question, turn, passages, retriever_error, answer (with its sources)
or stopped, named by the field "event"; each question's last line is its answer. Equal settings and questions
have equal answers; evaluation.temperature=0 is greedy.
"""

_EXAMPLES = """\
examples:
  tspo ask
  tspo ask "Who taught Durdre Neldrilrur?"
  tspo ask --run runs/default "Who taught Durdre Neldrilrur?" evaluation.temperature=0
  tspo ask --run runs/default/checkpoint-50 --json < questions.txt
  tspo ask --run configs/smollm2-wiki-qa.yaml rollout.retriever=indexes/wiki "Where was Ada Lovelace born?"
  tspo ask model=Qwen/Qwen2.5-3B-Instruct rollout.retriever=http://127.0.0.1:8000 "Who wrote Dune?"
"""

_SETTING = re.compile(r"[a-z_]+(\.[a-z_]+)*=")


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `tspo ask` to the command line."""
    parser = subparsers.add_parser(
        "ask",
        help="ask a trained policy, and see what its answer rests on",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="[QUESTION] key=value",
        help="the question, and settings that go over those of the run",
    )
    parser.add_argument(
        "--run",
        dest="named",
        type=Path,
        metavar="RUN",
        help="a run's folder, one of its checkpoints, or a configuration file; default: the last run in ./runs",
    )
    parser.add_argument("--json", action="store_true", help="JSON Lines instead of text")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Ask; 0 when every question has been asked, answered or not."""
    from tspo.ask.choice import choose
    from tspo.commands.setup import ready_for_models

    settings = [argument for argument in args.overrides if _SETTING.match(argument)]
    words = [argument for argument in args.overrides if not _SETTING.match(argument)]
    choice = choose(args.named, settings)
    ready_for_models("torch", "transformers")
    from tspo.ask.agent import open_agent
    from tspo.training.agent import quiet_libraries

    with quiet_libraries(), open_agent(choice.config) as agent:
        _ask(agent, choice, [" ".join(words)] if words else None, args.json)
    return 0


def _ask(agent: Agent, choice: Choice, questions: list[str] | None, as_json: bool) -> None:
    from tspo.ask.asking import ask_all, converse
    from tspo.ask.json_lines import JsonLines
    from tspo.ask.screen import Screen
    from tspo.cache_folder import cache_dir
    from tspo.commands.setup import console

    given = sys.stdin if questions is None and not sys.stdin.isatty() else questions
    if as_json:
        ask_all(agent, sys.stdin if given is None else given, JsonLines(sys.stdout))
        return
    screen = Screen(console(), agent.codec)
    _introduce(screen, choice)
    if given is None:
        converse(agent, screen, cache_dir() / "ask-history")
    else:
        ask_all(agent, given, screen)


def _introduce(screen: Screen, choice: Choice) -> None:
    """Who answers, from what, and a question that it can be asked."""
    from tspo.ask.agent import example_question

    config = choice.config
    place = config.rollout.retriever or config.data.corpus
    if place is None:
        world = config.data.world
        assert world is not None  # the settings were checked
        place = f"a small invented world ({world.passages:,} passages; nothing in it is real)"
    screen.say(f"{choice.why}, searching {place}")
    if example := example_question(config):
        screen.say(f"for example: {example}")
