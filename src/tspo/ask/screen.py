"""An episode in a terminal, as it happens: thoughts, searches, what was found, the answer and where it stands."""

from __future__ import annotations

from collections.abc import Sequence

from rich.cells import set_cell_size
from rich.console import Console
from rich.text import Text

from tspo.ask.sources import Source, Sources
from tspo.ask.teller import Ending
from tspo.ask.turn_text import Kind, Piece, TurnText
from tspo.evaluation.report.text import clean
from tspo.retrieval.base import Passage, RetrieverError
from tspo.rewards.answer_span import answer_span
from tspo.rollout.codec import Codec
from tspo.trajectory import StopReason, Turn

_LABELS: dict[Kind, tuple[str, str]] = {
    "text": ("says", ""),
    "think": ("thinks", "dim"),
    "search": ("searches", "cyan"),
    "answer": ("answers", "bold green"),
}
_INDENT = 10
_PLAIN_WIDTH = 160
"""Characters of a passage's line where the output is no terminal, which has no width."""
_BEFORE = 30
"""Characters, or a word more, that are shown before an answer in its passage."""

_WHY_NO_ANSWER = {
    StopReason.MAX_TURNS: "it still searched in its last turn (rollout.max_turns)",
    StopReason.MAX_TOKENS: "a turn or the whole context was full (rollout.max_turn_tokens, rollout.max_total_tokens)",
    StopReason.NO_ACTION: "it ended its turn with neither a search nor an answer",
    StopReason.RETRIEVER_ERROR: "the retriever did not answer",
}


class Screen:
    """A `Teller`. Text from policies, passages and people is shown, never obeyed: no markup, no control character."""

    def __init__(self, console: Console, codec: Codec) -> None:
        self._console = console
        self._codec = codec
        self._sources = Sources(codec)
        self._start_turn()

    def begin(self, question: str, sources: Sources) -> Screen:
        """See `Teller`."""
        self._sources = sources
        self._start_turn()
        self._line(("asked".ljust(_INDENT), "bold"), (question, "bold"))
        return self

    def sampled(self, token_ids: Sequence[int]) -> None:
        """See `Watcher`."""
        if token_ids[-1] in self._codec.eos_token_ids:
            token_ids = token_ids[:-1]
        # the last character may be half decoded
        self._show_up_to(self._codec.decode(token_ids).rstrip("\ufffd"))

    def ended_turn(self, turn: Turn) -> None:
        """See `Watcher`."""
        ids = turn.token_ids or []
        self._show_up_to(self._codec.decode(ids[:-1]) if ids and ids[-1] in self._codec.eos_token_ids else turn.text)
        self._show(self._text.end())
        self._end_line()
        self._start_turn()

    def found(self, turn: Turn, passages: Sequence[Passage]) -> None:
        """See `Watcher`."""
        found = self._sources.add(passages, turn.feedback or "")
        if not found:
            self._line((" " * _INDENT + "nothing was found", "dim"))
        for source in found:
            self._source(source, " ".join(source.text.split()), None if source.read else "not read, too long")

    def failed(self, turn: Turn, error: RetrieverError) -> None:
        """See `Watcher`."""
        self._line((" " * _INDENT, ""), (str(error), "red"))

    def end(self, ending: Ending) -> None:
        """See `Teller`."""
        answer = ending.trajectory.answer
        if answer is None:
            why = _WHY_NO_ANSWER.get(ending.trajectory.stop_reason, str(ending.trajectory.stop_reason))
            self._line(("no answer".ljust(_INDENT), "bold yellow"), (why, ""))
        elif ending.sources:
            self._line(("its words stand in", "bold"))
            for source in ending.sources:
                self._source(source, _around(source.read, answer), None, answer)
        elif ending.passages_read:
            self._line(("no passage that was read holds these words", "yellow"))
        else:
            self._line(("nothing was read: this is from memory", "yellow"))
        counts = [(ending.searches, "search", "searches"), (ending.passages_read, "passage", "passages")]
        counts.append((ending.tokens, "token", "tokens"))
        said = [f"{count:,} {one if count == 1 else many}" for count, one, many in counts]
        self._line((f"{', '.join(said)}, {ending.seconds:.1f} s\n", "dim"))

    def stopped(self) -> None:
        """See `Teller`."""
        self._end_line()
        self._start_turn()
        self._line(("stopped\n", "yellow"))

    def say(self, text: str) -> None:
        """A remark of this program."""
        self._line((text, "dim"))

    def _start_turn(self) -> None:
        self._text = TurnText()
        self._shown = ""
        self._kind: Kind | None = None
        self._space = ""

    def _show_up_to(self, text: str) -> None:
        """Show what `text` has beyond what was shown; a decoder that changed its mind is heard at the turn's end."""
        if text.startswith(self._shown):
            self._show(self._text.feed(text[len(self._shown) :]))
            self._shown = text

    def _show(self, pieces: Sequence[Piece]) -> None:
        for kind, text in pieces:
            self._show_piece(kind, text)

    def _show_piece(self, kind: Kind, text: str) -> None:
        label, style = _LABELS[kind]
        if kind != self._kind:
            text = text.lstrip()
            if not text:
                return
            self._end_line()
            self._kind, self._space = kind, ""
            self._print((label.ljust(_INDENT), "bold"))
        text = self._space + text
        shown = text.rstrip()  # a tag may end the line before the space is needed
        self._space = text[len(shown) :]
        self._print((shown, style))

    def _end_line(self) -> None:
        if self._kind is not None:
            self._console.print()
            self._kind = None

    def _source(self, source: Source, text: str, note: str | None, answer: str | None = None) -> None:
        """One line: number, title, and of `text` what fits."""
        head = Text.assemble((f"{f'[{source.number}]':>{_INDENT - 1}} ", "dim"), (clean(source.title), "bold"), "  ")
        room = (self._console.width if self._console.is_terminal else _PLAIN_WIDTH) - head.cell_len - 1
        text = clean(text)
        line = Text(text if len(text) < room else set_cell_size(text, max(room - 1, 0)).rstrip() + "…", "dim")
        if answer is not None and (span := answer_span(line.plain, [answer])):
            line.stylize("bold green not dim", *span)
        self._console.print(head + (line if note is None else Text(note, "yellow")), soft_wrap=True)

    def _line(self, *parts: tuple[str, str]) -> None:
        self._print(*parts, end="\n")

    def _print(self, *parts: tuple[str, str], end: str = "") -> None:
        self._console.print(Text.assemble(*((clean(text), style) for text, style in parts)), end=end, soft_wrap=True)


def _around(text: str, answer: str) -> str:
    """`text` on one line, from a little before where `answer` stands in it."""
    text = " ".join(text.split())
    span = answer_span(text, [answer])
    start = text.rfind(" ", 0, max(span[0] - _BEFORE, 0)) + 1 if span else 0
    return f"…{text[start:]}" if start else text
