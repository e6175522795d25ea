import io
import re

import pytest

pytest.importorskip("torch")

from rich.console import Console

from tspo.ask.screen import Screen
from tspo.errors import BadInput
from tspo.retrieval.base import RetrieverError

HOSTILE = "\x1b]0;evil\x07 [bold]no[/bold] \x9b2J :smile: \u202eback"
SHOWN = "‹U+001B›]0;evil‹U+0007› [bold]no[/bold] ‹U+009B›2J :smile: ‹U+202E›back"
TURNS = ["<think>I look.</think>\n<search>Paris</search>", "<think>I know.</think><answer> Paris </answer>"]


def told(agent, question="What is the capital?", terminal=False, width=100, **environ):
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=terminal, width=width, _environ={"TERM": "xterm-256color", **environ})
    agent.answer(question, Screen(console, agent.codec))
    return stream.getvalue()


@pytest.mark.parametrize("streams", [True, False])
def test_an_episode_is_told_as_it_went(agent, streams):
    text = told(agent(TURNS, streams=streams))
    assert re.sub(r"[\d.]+ s\n", "0.1 s\n", text) == (
        "asked     What is the capital?\n"
        "thinks    I look.\n"
        "searches  Paris\n"
        "      [1] Paris  Paris is the capital of France.\n"
        "thinks    I know.\n"
        "answers   Paris\n"
        "its words stand in\n"
        '      [1] Paris  Doc 1(Title: "Paris") Paris is the capital of France.\n'
        f"1 search, 1 passage, {sum(len(agent([]).codec.policy(turn)) for turn in TURNS)} tokens, 0.1 s\n\n"
    )


def test_only_a_terminal_is_coloured(agent):
    assert "\x1b" not in told(agent(TURNS))
    coloured = told(agent(TURNS), terminal=True)
    assert "\x1b[1;32mParis" in coloured
    assert re.search(r"\x1b\[[\d;]*3[0-7]", told(agent(TURNS), terminal=True, NO_COLOR="1")) is None


@pytest.mark.parametrize("streams", [True, False])
@pytest.mark.parametrize("terminal", [True, False])
def test_nothing_that_is_shown_is_obeyed(agent, terminal, streams):
    turns = [f"{HOSTILE}<think>{HOSTILE}</think><search>hostile {HOSTILE}</search>", f"<answer>{HOSTILE}</answer>"]
    text = told(agent(turns, streams=streams), question=f"hostile {HOSTILE}?", terminal=terminal, width=400)
    text = re.sub(r"\x1b\[[\d;]*m", "", text)  # what this program itself writes
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", text)
    assert text.count(SHOWN) >= 6  # question, text, thought, query, title, passage, answer


def test_an_answer_that_was_read_nowhere_is_told(agent):
    assert "no passage that was read holds these words" in told(agent([TURNS[0], "<answer>Rome</answer>"]))
    assert "nothing was read: this is from memory" in told(agent(["<answer>Paris</answer>"]))


@pytest.mark.parametrize(
    ("turns", "settings", "why"),
    [
        ([TURNS[0]] * 2, ["rollout.max_turns=2"], "it still searched in its last turn"),
        (["<think>hm</think>"], [], "neither a search nor an answer"),
        (TURNS, ["rollout.max_total_tokens=80"], "a turn or the whole context was full"),
    ],
)
def test_why_there_is_no_answer(agent, turns, settings, why):
    assert re.search(rf"no answer .*{why}", told(agent(turns, *settings)))


def test_a_retriever_that_fails_is_told_with_its_reason(agent):
    class Away:
        def search(self, queries, top_k):
            raise RetrieverError("http://x: no route to it\x1b[2J")

    text = told(agent(TURNS, retriever=Away()))
    assert "http://x: no route to it‹U+001B›[2J" in text
    assert "no answer the retriever did not answer" in text


def test_a_long_passage_takes_one_line_of_a_terminal(agent):
    lines = told(agent(TURNS, "rollout.top_k=3"), terminal=True, width=40).split("\n")
    passages = [re.sub(r"\x1b\[[\d;]*m", "", line) for line in lines if "[1]" in line]
    assert len(passages) == 2
    for line in passages:
        assert len(line) < 40
        assert line.endswith("…")


def test_end_tokens_and_half_characters_are_not_shown(agent):
    text = told(agent([TURNS[0], "<think>naïve 日本</think><answer>日本</answer><|im_end|>"]))
    assert "thinks    naïve 日本\nanswers   日本\n" in text
    assert "im_end" not in text
    assert "\ufffd" not in text


@pytest.mark.parametrize(("question", "why"), [("  ", "is empty"), ("long " * 5000, "leaves no room")])
def test_a_question_that_cannot_be_asked(agent, question, why):
    with pytest.raises(BadInput, match=why):
        told(agent(TURNS), question)


def test_ctrl_c_ends_the_episode_and_the_next_one_is_as_ever(agent):
    stream = io.StringIO()
    stopped = agent([TURNS[0], None])
    screen = Screen(Console(file=stream), stopped.codec)
    with pytest.raises(KeyboardInterrupt):
        stopped.answer("What is the capital?", screen)
    assert stream.getvalue().endswith("[1] Paris  Paris is the capital of France.\nstopped\n\n")
    agent(TURNS).answer("What is the capital?", screen)
    assert "answers   Paris\n" in stream.getvalue()
