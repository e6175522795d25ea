"""Text to tokens and back, so that text from outside can never become a special token.

Trusted text (the chat template, the protocol's own tags) is encoded as the tokenizer has it. Text from
outside is neutralised and then encoded with every special token split into plain pieces.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from tspo.errors import BadInput
from tspo.protocol import (
    INFORMATION_CLOSE,
    INFORMATION_OPEN,
    PROMPT,
    STOP_STRINGS,
    neutralise,
    render_passages,
    tag_like,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_QUESTION_MARK = "\u2063question\u2063"
_HALF_PAIR = re.compile("[\ud800-\udfff]")
_MARKUP = re.compile(r"[<\[{|].*[>\]}|]\Z", re.DOTALL)
_OPENED = re.compile(r"<think>\s*(?:</think>\s*)?\Z")
_CLOSED = re.compile("([a-z/<]*)>")


class Codec:
    """One tokenizer's view of the protocol.

    `prompt_template` holds `{question}` once; where the tokenizer has a chat template, the prompt is
    sent as the user's message, unless `chat_template` says that somebody else sees to it. A turn ends with the
    tokenizer's end token, and with `end_token_ids` (`models.end_token_ids`).
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        prompt_template: str = PROMPT,
        *,
        chat_template: bool = True,
        end_token_ids: Iterable[int] = (),
    ) -> None:
        if prompt_template.count("{question}") != 1:
            raise BadInput("rollout.prompt: the prompt must hold {question} exactly once")
        self.tokenizer = tokenizer
        self.special_tokens = sorted(_special_tokens(tokenizer), key=len, reverse=True)
        text = prompt_template.replace("{question}", _QUESTION_MARK)
        if chat_template and tokenizer.chat_template:
            text = tokenizer.apply_chat_template(
                [{"role": "user", "content": text}], tokenize=False, add_generation_prompt=True
            )
            if text.count(_QUESTION_MARK) != 1:
                raise BadInput("model: its chat template does not show a user's message once, as it stands; mend it")
            before, after = text.split(_QUESTION_MARK)
            self._begin: list[int] = []
        else:
            before, after = text.split(_QUESTION_MARK)
            bos = tokenizer.bos_token_id
            self._begin = [bos] if bos is not None else []
        self._before, self._after = before, after
        self._control_ids = frozenset(tokenizer.added_tokens_decoder) | frozenset(tokenizer.all_special_ids)
        opened = _OPENED.search(after)
        self.opened = "" if opened is None else opened.group()
        """A thought that the template opens for the policy's first turn, or opens and closes; most open none."""
        self._of_template = self._controls(self._trusted(before) + self._trusted(after))
        self._open = self._trusted(INFORMATION_OPEN)
        self._close = self._trusted(INFORMATION_CLOSE)
        self.eos_token_ids = frozenset([tokenizer.eos_token_id, *end_token_ids])
        # The sampler need not decode after any other token.
        vocabulary = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
        self.closing_token_ids = frozenset(i for i, token in enumerate(vocabulary) if token and _may_close(token))

    def prompt(self, question: str) -> list[int]:
        """The token ids of the prompt that asks `question`: the tokenizer's own, for the text as a whole.

        A question with a tag or a special token in it, or one that the tokenizer would turn into such, is encoded
        apart from what stands around it.
        """
        if self.neutral(question) == question:
            ids = self._trusted(self._before + question + self._after)
            if self._controls(ids) == self._of_template:
                return [*self._begin, *ids]
        return [*self._begin, *self._trusted(self._before), *self.plain(question), *self._trusted(self._after)]

    def policy(self, text: str) -> list[int]:
        """The token ids of a turn written for the policy (a demonstration); its tags are real tags."""
        return self._trusted(text)

    def reported(self, text: str) -> list[int]:
        """The token ids of a turn that a server says the policy wrote: its tags are real tags, nothing else is special.

        Not always those that were sampled: a text has several tokenizations.
        """
        return self._split(_HALF_PAIR.sub("\ufffd", text))

    def feedback(self, contents: Sequence[str], max_tokens: int) -> tuple[str, list[int]]:
        """The passages as the policy reads them: their text, and the token ids with the tags around it.

        At most `max_tokens` tokens of passages are kept; the text is what those tokens say.
        """
        text, ids = self._outside(render_passages(contents) if contents else "No passage was found.\n")
        if len(ids) > max_tokens:
            ids = ids[:max_tokens]
            text = self.decode(ids)
        return text, [*self._open, *ids, *self._close]

    def plain(self, text: str) -> list[int]:
        """The token ids of text from outside: neutralised, and without any special token."""
        return self._outside(text)[1]

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of `token_ids`, special tokens written out."""
        return str(self.tokenizer.decode(token_ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))

    def neutral(self, text: str) -> str:
        """Text from outside without tags and special tokens; half a surrogate pair, which has no token, is U+FFFD."""
        return neutralise(_HALF_PAIR.sub("\ufffd", text), self.special_tokens)

    def _outside(self, text: str) -> tuple[str, list[int]]:
        """Text from outside as the policy will read it, and its token ids."""
        text = self.neutral(text)
        ids = self._split(text)
        if (said := self.decode(ids)) != text:
            # The tokenizer normalised the text, perhaps into a tag, or put its unknown token into it.
            text = self.neutral(said)
            ids = self._split(text)
        return text, ids

    def _controls(self, token_ids: Sequence[int]) -> tuple[list[int], list[str]]:
        """What of a text steers: its added tokens, and the beginnings of tags in what the tokens say."""
        return [token for token in token_ids if token in self._control_ids], tag_like(self.decode(token_ids))

    def _split(self, text: str) -> list[int]:
        return list(self.tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True))

    def _trusted(self, text: str) -> list[int]:
        return list(self.tokenizer.encode(text, add_special_tokens=False))


def _special_tokens(tokenizer: PreTrainedTokenizerBase) -> set[str]:
    """The tokens that no text from outside may become: special ones, and others that look like markup.

    Words that were added to the vocabulary are words.
    """
    added = {
        str(token) for token in tokenizer.added_tokens_decoder.values() if token.special or _MARKUP.match(str(token))
    }
    return added | set(tokenizer.all_special_tokens)


def _may_close(token: str) -> bool:
    """Whether a search or an answer may be closed in `token`: nothing before a ">" of its own says otherwise.

    Only what stands for itself in every vocabulary counts: the byte "<0x3E>" is a ">" too.
    """
    tags = [stop.removesuffix(">") for stop in STOP_STRINGS]
    return any(tag.endswith(end) or end.endswith(tag) for end in _CLOSED.findall(token) for tag in tags)
