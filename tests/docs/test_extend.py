"""The blocks of docs/extend.md do what the page says."""

import re
from pathlib import Path

import numpy as np
import pytest

PAGE = Path(__file__).parents[2] / "docs" / "extend.md"
SECTIONS = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL))


def blocks(section):
    return re.findall(r"```python\n(.*?)```", SECTIONS[section], re.DOTALL)


def run(section, count=None):
    """The names that a section's blocks leave behind, the first `count` of them run one after the other."""
    names = {"__name__": "docs"}
    for block in blocks(section)[:count]:
        exec(compile(block, f"{PAGE.name}: {section}", "exec", dont_inherit=True), names)
    return names


def test_every_section_is_short():
    assert set(SECTIONS) == {"A retriever", "A reward", "An estimator", "A data set", "A sampler"}
    for section in SECTIONS:
        assert sum(block.count("\n") for block in blocks(section)) < 40


def test_the_retriever_finds_and_keeps_its_promises():
    glossary = run("A retriever", 1)["Glossary"]({"Paris": "In France.", "Paris, Texas": "A film."})
    found = glossary.search(["where is paris, texas?", "Rome", "Paris"], 1)
    assert [[passage.id for passage in passages] for passages in found] == [["Paris, Texas"], [], ["Paris"]]
    assert found[2][0].contents == '"Paris"\nIn France.'


def test_the_retriever_is_served_as_search_r1_does():
    pytest.importorskip("fastapi")
    pytest.importorskip("prometheus_client")
    testclient = pytest.importorskip("starlette.testclient")
    app = run("A retriever")["app"]
    with testclient.TestClient(app, base_url="http://127.0.0.1:8000") as client:
        reply = client.post("/retrieve", json={"queries": ["Where is Paris?"], "topk": 3, "return_scores": True})
    assert reply.status_code == 200
    (found,) = reply.json()["result"]
    assert found[0]["document"]["contents"] == '"Paris"\nParis is the capital of France.'


def test_the_reward_is_what_the_page_says():
    from tspo import Trajectory, Turn
    from tspo.trajectory import StopReason

    turns = [Turn("", "it", "It is in Oslo."), Turn("", "more", "Oslo again."), Turn("", None, None)]
    reward = run("A reward")["found_soon"]
    right = Trajectory("g", "t", "Where?", ["Oslo"], turns, "Oslo", StopReason.ANSWER)
    assert reward(right) == pytest.approx([0.4, -0.1, 1.0])
    wrong = Trajectory("g", "t", "Where?", ["Oslo"], turns[1:2], None, StopReason.MAX_TURNS)
    assert reward(wrong) == pytest.approx([0.4])


def test_the_estimator_is_known_and_right():
    from tspo.advantages import ADVANTAGES
    from tspo.credit import CreditConfig, turn_advantages

    before = dict(ADVANTAGES)
    try:
        run("An estimator")
        config = CreditConfig(algorithm="above_median")
        outcome, turns = np.array([1.0, 0.0, 0.0, 1.0]), np.array([1, 2, 2, 2])
        rewards = np.where(np.arange(2) < turns[:, None], outcome[:, None], 0.0)
        advantages = turn_advantages(rewards, turns, np.array([7, 7, 7, 3]), outcome, config)
        assert advantages.tolist() == [[1, 0], [0, 0], [0, 0], [0, 0]]
    finally:
        ADVANTAGES.clear()
        ADVANTAGES.update(before)


def test_the_data_set_is_read_as_it_was_meant(tmp_path):
    from tspo.datasets.corpus import read_corpus
    from tspo.datasets.questions import read_questions

    table = tmp_path / "table.csv"
    table.write_text('question,answers,title,text\n"Where, then?",Oslo|Kristiania,Ann,"Ann is ""from"" Oslo."\n')
    run("A data set")["convert"](table, tmp_path)
    (question,) = read_questions([tmp_path / "questions.jsonl"])
    assert (question.question, question.golden_answers) == ("Where, then?", ("Oslo", "Kristiania"))
    assert (question.supporting_titles, question.data_source) == (("Ann",), "mine")
    (document,) = read_corpus(tmp_path / "corpus.jsonl")
    assert (document.title, document.contents) == ("Ann", '"Ann"\nAnn is "from" Oslo.')


def test_the_sampler_runs_an_episode_with_the_retriever(tiny_tokenizer):
    from tspo.datasets.questions import Question
    from tspo.rollout.codec import Codec
    from tspo.rollout.episode import AgentLoop, Limits, Request

    codec = Codec(tiny_tokenizer, "Question: {question}\n")
    first, second = codec.policy("<search>Paris</search>"), codec.policy("<answer>France</answer> and more")

    def next_token(context):
        searched = codec.decode(context).count("</search>")
        turn = second if searched else first
        said = next(n for n in range(len(turn), -1, -1) if context[len(context) - n :] == turn[:n])
        return turn[said]

    glossary = run("A retriever", 1)["Glossary"]({"Paris": "In France."})
    sampler = run("A sampler")["FunctionSampler"](codec, next_token, rows=2, capacity=400)
    try:
        loop = AgentLoop(sampler, codec, glossary, Limits(max_turn_tokens=60, max_total_tokens=400))
        question = Question("q", "Where is Paris?", ("France",), "s")
        (trajectory,) = loop.rollout([Request(question, "g", "t", "seed")])
    finally:
        sampler.close()
    assert [turn.text for turn in trajectory.turns] == ["<search>Paris</search>", "<answer>France</answer>"]
    assert trajectory.answer == "France"
    assert trajectory.turns[0].feedback == 'Doc 1(Title: "Paris") In France.\n'
