"""The tag grammar that the policy and the environment speak, as Search-R1 has it; text only, no tokens.

Only the policy may open or close a tag. Text from anywhere else (passages, questions) goes through
`neutralise` before the policy sees it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

TAGS = ("think", "search", "information", "answer")
STOP_STRINGS = ("</search>", "</answer>")
INFORMATION_OPEN = "\n\n<information>"
INFORMATION_CLOSE = "</information>\n\n"

PROMPT = (
    "Answer the given question. "
    "You must conduct reasoning inside <think> and </think> first every time you get new information. "
    "After reasoning, if you find you lack some knowledge, you can call a search engine by "
    "<search> query </search> and it will return the top searched results between "
    "<information> and </information>. You can search as many times as you want. "
    "If you find no further external knowledge needed, you can directly provide the answer inside "
    "<answer> and </answer>, without detailed illustrations. For example, <answer> Beijing </answer>. "
    "Question: {question}\n"
)

ANSWER_CUE = "<think> Now there is enough information to answer. </think>\n<answer>"
"""What is written for the policy where it is asked how likely an answer is; after IGPO's authors."""

_ACTION = re.compile(r"<(search|answer)>(.*?)</\1>", re.DOTALL)
_ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
_PASSAGE = re.compile(r"^Doc \d+\(Title: (?:\"[^\n]*?\"|[^\n]*?)\) ", re.MULTILINE)
_NAME = rf"\s*/?\s*(?:{'|'.join(TAGS)})\b"
_TAG_LIKE = re.compile(rf"<(?={_NAME})", re.IGNORECASE)
_TAG_NAME = re.compile(f"<{_NAME}", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Search:
    """The policy asks the retriever."""

    query: str


@dataclass(frozen=True, slots=True)
class Answer:
    """The policy ends the trajectory with an answer."""

    text: str


def parse_action(turn_text: str) -> Search | Answer | None:
    """The first complete search or answer in one turn's text, or None if there is neither.

    A search for nothing but white space is no action.
    """
    match = _ACTION.search(turn_text)
    if match is None:
        return None
    content = match.group(2).strip()
    if match.group(1) == "answer":
        return Answer(content)
    return Search(content) if content else None


def last_answer(turn_texts: Sequence[str]) -> str | None:
    """The text of the last `<answer>..</answer>` that the policy wrote, or None."""
    for text in reversed(turn_texts):
        if found := _ANSWER.findall(text):
            return str(found[-1]).strip()
    return None


def ends_turn(text: str) -> bool:
    """Whether the policy has closed a search or an answer in `text`."""
    return any(stop in text for stop in STOP_STRINGS)


def neutralise(text: str, special_tokens: Iterable[str] = ()) -> str:
    """Text from outside, with every protocol tag and every special token broken by a space.

    Only spaces are put in, so that breaking one tag can never join another. Special tokens of one character
    or of white space alone are let through: they cannot be broken.
    """
    text = _TAG_LIKE.sub("< ", text)
    for token in special_tokens:
        if len(token) > 1 and not token.isspace() and token in text:
            # a lookahead, so that occurrences which overlap are all broken
            text = re.sub(f"(?={re.escape(token)}).", r"\g<0> ", text, flags=re.DOTALL)
    return text


def tag_like(text: str) -> list[str]:
    """What could be read as a tag of the protocol: from its "<" to the end of its name, in their order."""
    return [match.group() for match in _TAG_NAME.finditer(text)]


def render_passages(contents: Sequence[str]) -> str:
    """Passages as the policy reads them: `Doc 1(Title: "T") text`, one a line (Search-R1's format).

    `contents` are corpus entries, the quoted title on the first line.
    """
    lines = []
    for number, content in enumerate(contents, start=1):
        title, _, text = content.partition("\n")
        lines.append(f"Doc {number}(Title: {title}) {text}\n")
    return "".join(lines)


def split_passages(feedback: str) -> list[str]:
    """The texts of the passages in feedback of `render_passages`, without their titles; none in any other text."""
    return [text.strip() for text in _PASSAGE.split(feedback)[1:]]
