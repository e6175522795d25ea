"""Where questions come from: the command line, lines of standard input, or a person at a prompt."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tspo.ask.agent import Agent
from tspo.ask.screen import Screen
from tspo.ask.teller import Teller
from tspo.errors import BadInput

_KEPT = 1000
"""Questions that the history keeps."""


def ask_all(agent: Agent, questions: Iterable[str], teller: Teller) -> None:
    """Ask one question after the other; blank lines are passed over. Raises BadInput where there is none."""
    asked = 0
    for question in questions:
        if question.strip():
            agent.answer(question.strip(), teller)
            asked += 1
    if not asked:
        raise BadInput("no question; write it after tspo ask, or one a line on standard input")


def converse(agent: Agent, screen: Screen, history: Path) -> None:
    """Ask what a person types, until Ctrl-D; Ctrl-C stops the answer under way, or empties the line."""
    with _remembered(history) as remember:
        while True:
            try:
                question = input("> ").strip()
            except KeyboardInterrupt:
                print()
                continue
            except EOFError:
                print()
                return
            if not question:
                continue
            remember(question)
            try:
                agent.answer(question, screen)
            except KeyboardInterrupt:
                continue
            except BadInput as error:
                screen.say(f"{error}")


@contextmanager
def _remembered(history: Path) -> Iterator[Callable[[str], None]]:
    """Line editing with the questions of earlier times; the block is given what adds one to the file."""
    try:
        import readline
    except ImportError:  # not on every system; a prompt without it is still a prompt
        yield lambda question: None
        return
    readline.set_auto_history(False)
    readline.set_history_length(_KEPT)  # the file is cut to it as well
    readline.clear_history()
    with suppress(OSError):
        readline.read_history_file(history)

    def remember(question: str) -> None:
        readline.add_history(question)
        # at once, for other prompts may be open; a history that cannot be written keeps nobody from asking
        with suppress(OSError):
            history.parent.mkdir(parents=True, exist_ok=True)
            os.close(os.open(history, os.O_CREAT, 0o600))
            readline.append_history_file(1, history)

    yield remember
