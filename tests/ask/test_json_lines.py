import io
import json

import pytest

pytest.importorskip("torch")

from tspo.ask.json_lines import JsonLines

HOSTILE = "\x1b]0;evil\x07\x9b2J"


def told(agent, question="What is the capital?"):
    stream = io.StringIO()
    agent.answer(question, JsonLines(stream))
    assert stream.getvalue().isascii()
    assert stream.getvalue().replace("\n", "").isprintable()
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_an_episode_line_by_line(agent):
    lines = told(agent(["<think>I look.</think><search>Paris</search>", f"<answer>Paris{HOSTILE}</answer>"]))
    paris = {"number": 1, "id": "p", "title": "Paris", "text": "Paris is the capital of France.", "score": 2.0}
    assert [line.pop("event") for line in lines] == ["question", "turn", "passages", "turn", "answer"]
    question, search, passages, turn, answer = lines
    assert question == {"question": "What is the capital?"}
    assert (search["turn"], search["thought"], search["query"]) == (1, "I look.", "Paris")
    assert passages == {"turn": 1, "passages": [paris]}
    assert (turn["turn"], turn["query"], turn["text"]) == (2, None, f"<answer>Paris{HOSTILE}</answer>")
    assert (answer["answer"], answer["sources"], answer["stop_reason"]) == (f"Paris{HOSTILE}", [], "answer")
    assert (answer["searches"], answer["passages_read"]) == (1, 1)


def test_the_sources_of_an_answer(agent):
    last = told(agent(["<search>Paris</search>", "<search>city.</search>", "<answer>France</answer>"]))[-1]
    assert [(source["number"], source["title"]) for source in last["sources"]] == [(1, "Paris"), (2, "France")]
