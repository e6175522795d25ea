from typing import Any

import pytest

pytest.importorskip("transformers")

from tspo.datasets.world import make_world, passages
from tspo.protocol import render_passages
from tspo.rollout.codec import Codec
from tspo.training.starter.recipe import PROMPT
from tspo.training.starter.tokenizer import END, START, make_tokenizer


def test_the_protocols_tags_are_one_token_each(tokenizer: Any) -> None:
    codec = Codec(tokenizer, PROMPT)
    for tag in ("<think>", " </think>", "<search>", " </search>", "<answer>", " </answer>"):
        assert len(codec.policy(tag)) == 1


def test_any_text_comes_back_as_it_was(tokenizer: Any) -> None:
    codec = Codec(tokenizer, PROMPT)
    for text in ("Zürich 1987 — 東京", "a\tb\n\n c  d", "é\u200b😀", "x" * 300, "Doc 1(Title: ", "() \"')"):
        assert codec.decode(codec.policy(text)) == text


def test_a_passages_tag_is_not_the_protocols_tag(tokenizer: Any) -> None:
    codec = Codec(tokenizer, PROMPT)
    (answer,) = codec.policy("<answer>")
    (end,) = tokenizer.convert_tokens_to_ids([END])
    ids = codec.plain(f"He said <answer> {END} {START}")
    assert answer not in ids
    assert end not in ids


def test_the_same_worlds_give_the_same_tokenizer(tokenizer: Any) -> None:
    assert make_tokenizer(1024, worlds=1).backend_tokenizer.to_str() == tokenizer.backend_tokenizer.to_str()


def test_names_of_a_world_it_has_not_seen_are_short(tokenizer: Any) -> None:
    codec = Codec(tokenizer, PROMPT)
    contents = [document.contents for document in passages(make_world(300, 77))]
    rendered = render_passages(contents[:30])
    assert len(codec.policy(rendered)) < 0.4 * len(rendered)
