import asyncio
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from tspo.datasets.questions import Question
from tspo.protocol import INFORMATION_CLOSE, INFORMATION_OPEN, render_passages
from tspo.retrieval.base import Passage, RetrieverError, RetrieverGone
from tspo.retrieval.query_cache import QueryCache
from tspo.rollout.codec import Codec
from tspo.rollout.completion import completion_of
from tspo.rollout.episode import AgentLoop, Limits, Request
from tspo.rollout.sampler import Sampled
from tspo.trajectory import StopReason

SEARCH, ANSWER, THOUGHT = "<think>t</think><search> {} </search>", "<answer> {} </answer>", "<think>hm</think>"


@pytest.fixture(scope="session")
def codec(tiny_tokenizer):
    return Codec(tiny_tokenizer, "Question: {question}\n")


class Scripted:
    """Replays each episode's turns, found by its seed, as the codec encodes them; notes what it was asked.

    A number among the turns is so many steps to wait before the next turn.
    """

    def __init__(self, codec, scripts):
        self.codec = codec
        self.scripts = {seed: list(script) for seed, script in scripts.items()}
        self.asked = {seed: [] for seed in scripts}

    @asynccontextmanager
    async def session(self, seed):
        yield _Scripted(self, seed)

    def limits_of(self, seed):
        return [max_tokens for _, max_tokens in self.asked[seed]]


class _Scripted:
    def __init__(self, sampler, seed):
        self.sampler, self.seed = sampler, seed

    async def sample(self, new_token_ids, max_tokens):
        script = self.sampler.scripts[self.seed]
        self.sampler.asked[self.seed].append((new_token_ids, max_tokens))
        while isinstance(script[0], int):
            for _ in range(script.pop(0)):
                await asyncio.sleep(0)
        text = script.pop(0)
        ids = self.sampler.codec.policy(text)
        finish = "length" if len(ids) >= max_tokens else "end"
        ids = ids[:max_tokens]
        text = self.sampler.codec.decode(ids)
        if text.endswith(("</search>", "</answer>")):
            finish = "stop"
        return Sampled(ids, [-0.5] * len(ids), text, finish)


class Echo:
    """Finds a passage that repeats the query; raises what `broken` gives for a query."""

    def __init__(self, **broken):
        self.batches = []
        self.broken = broken

    def search(self, queries, top_k):
        self.batches.append((list(queries), top_k))
        for query in queries:
            if query in self.broken:
                raise self.broken[query]
        return [passages(query, top_k) for query in queries]


def passages(query, top_k):
    return [Passage(str(i), f'"{query}"\ntext {i}', 1.0) for i in range(top_k)]


def shown(query, top_k=3):
    return render_passages([passage.contents for passage in passages(query, top_k)])


def request(seed):
    return Request(Question(f"id-{seed}", f"Who is {seed}?", ("Jane", "J."), "source"), f"g-{seed}", f"t-{seed}", seed)


def rollout(codec, scripts, limits=None, retriever=None):
    sampler, retriever = Scripted(codec, scripts), retriever or Echo()
    loop = AgentLoop(sampler, codec, retriever, limits or Limits())
    return loop.rollout([request(seed) for seed in scripts]), sampler, retriever


def one(codec, script, limits=None, retriever=None):
    (trajectory,), sampler, retriever = rollout(codec, {"a": script}, limits, retriever)
    return trajectory, sampler, retriever


def length(trajectory):
    return len(trajectory.prompt_token_ids) + len(completion_of(trajectory).token_ids)


def test_an_episode_from_question_to_answer(codec):
    script = [SEARCH.format("first"), SEARCH.format("second"), ANSWER.format("Jane")]
    trajectory, _, retriever = one(codec, script, Limits(top_k=2))
    assert (trajectory.answer, trajectory.stop_reason) == ("Jane", StopReason.ANSWER)
    assert (trajectory.group_id, trajectory.trajectory_id, trajectory.question) == ("g-a", "t-a", "Who is a?")
    assert (trajectory.golden_answers, trajectory.extra) == (["Jane", "J."], {"data_source": "source"})
    assert [turn.text for turn in trajectory.turns] == script
    assert [turn.query for turn in trajectory.turns] == ["first", "second", None]
    assert [turn.feedback for turn in trajectory.turns] == [shown("first", 2), shown("second", 2), None]
    assert [turn.token_ids for turn in trajectory.turns] == [codec.policy(text) for text in script]
    assert trajectory.turns[2].feedback_token_ids is None
    assert trajectory.prompt_token_ids == codec.prompt("Who is a?")
    assert retriever.batches == [(["first"], 2), (["second"], 2)]


def test_the_policy_is_shown_what_is_recorded(codec):
    trajectory, sampler, _ = one(codec, [SEARCH.format("first"), SEARCH.format("second"), ANSWER.format("Jane")])
    shown_ids = [ids for ids, _ in sampler.asked["a"]]
    recorded = [turn.feedback_token_ids for turn in trajectory.turns[:2]]
    assert shown_ids == [trajectory.prompt_token_ids, *recorded]
    for turn in trajectory.turns[:2]:
        assert codec.decode(turn.feedback_token_ids) == INFORMATION_OPEN + turn.feedback + INFORMATION_CLOSE


def test_the_search_of_the_last_turn_is_not_run(codec):
    script = [SEARCH.format("first"), SEARCH.format("last"), ANSWER.format("never")]
    trajectory, _, retriever = one(codec, script, Limits(max_turns=2))
    assert (trajectory.answer, trajectory.stop_reason) == (None, StopReason.MAX_TURNS)
    assert [turn.query for turn in trajectory.turns] == ["first", "last"]
    assert (trajectory.turns[1].feedback, trajectory.turns[1].feedback_token_ids) == (None, None)
    assert retriever.batches == [(["first"], 3)]


def test_an_answer_in_the_last_turn_counts(codec):
    trajectory, _, _ = one(codec, [SEARCH.format("first"), ANSWER.format("Jane")], Limits(max_turns=2))
    assert (trajectory.answer, trajectory.stop_reason) == ("Jane", StopReason.ANSWER)


@pytest.mark.parametrize("text", [THOUGHT, "", "<search>open", "<search>  </search>", "closed</answer>"])
def test_neither_search_nor_answer_ends_the_episode(codec, text):
    trajectory, _, retriever = one(codec, [f"{text}<|im_end|>", ANSWER.format("never")])
    assert (trajectory.answer, trajectory.stop_reason) == (None, StopReason.NO_ACTION)
    assert len(trajectory.turns) == 1
    assert trajectory.turns[0].query is None
    assert retriever.batches == []


def test_a_turn_that_reaches_its_limit(codec):
    trajectory, sampler, _ = one(codec, [SEARCH.format("a"), THOUGHT * 20], Limits(max_turn_tokens=40))
    assert trajectory.stop_reason is StopReason.MAX_TOKENS
    assert len(trajectory.turns[1].token_ids) == 40
    assert sampler.limits_of("a") == [40, 40]


def test_an_action_that_is_closed_by_the_last_token_of_its_turn(codec):
    answer = ANSWER.format("Jane")
    trajectory, _, _ = one(codec, [answer], Limits(max_turn_tokens=len(codec.policy(answer))))
    assert (trajectory.answer, trajectory.stop_reason) == ("Jane", StopReason.ANSWER)


def test_the_total_limit_shortens_a_turn(codec):
    first = SEARCH.format("a")
    taken = len(codec.prompt("Who is a?")) + len(codec.policy(first)) + len(codec.feedback([], 500)[1])
    limits = Limits(max_total_tokens=taken + 9, max_feedback_tokens=1, top_k=1)
    used = len(codec.feedback([passages("a", 1)[0].contents], 1)[1])
    trajectory, sampler, _ = one(codec, [first, THOUGHT * 20], limits)
    room = limits.max_total_tokens - len(codec.prompt("Who is a?"))
    assert sampler.limits_of("a") == [room, room - len(codec.policy(first)) - used]
    assert trajectory.stop_reason is StopReason.MAX_TOKENS
    assert length(trajectory) == limits.max_total_tokens


@pytest.mark.parametrize("spare", [0, 1])
def test_feedback_that_leaves_no_room_is_not_shown(codec, spare):
    first = SEARCH.format("a")
    feedback = codec.feedback([passage.contents for passage in passages("a", 3)], 500)[1]
    taken = len(codec.prompt("Who is a?")) + len(codec.policy(first)) + len(feedback)
    trajectory, sampler, _ = one(codec, [first, THOUGHT], Limits(max_total_tokens=taken + spare))
    assert trajectory.stop_reason is StopReason.MAX_TOKENS
    assert (trajectory.turns[0].query, len(trajectory.turns)) == ("a", 1 + spare)
    assert (trajectory.turns[0].feedback is None) == (spare == 0)
    assert sampler.limits_of("a")[1:] == [1] * spare


@pytest.mark.parametrize("max_total_tokens", range(60, 260, 7))
def test_no_episode_is_longer_than_its_limit(codec, max_total_tokens):
    script = [SEARCH.format("a"), THOUGHT + SEARCH.format("b"), SEARCH.format("c"), ANSWER.format("Jane")]
    trajectory, _, _ = one(codec, script, Limits(max_total_tokens=max_total_tokens, max_feedback_tokens=20))
    assert length(trajectory) <= max_total_tokens
    completion = completion_of(trajectory)
    assert (trajectory.stop_reason is StopReason.ANSWER) == (trajectory.answer == "Jane")
    assert completion.turn_index[-1] == len(trajectory.turns) - 1 or trajectory.stop_reason is StopReason.MAX_TOKENS


def test_feedback_is_cut_to_its_limit(codec):
    trajectory, _, _ = one(codec, [SEARCH.format("a"), THOUGHT], Limits(max_feedback_tokens=9))
    turn = trajectory.turns[0]
    assert shown("a").startswith(turn.feedback)
    around = len(codec.policy(INFORMATION_OPEN)) + len(codec.policy(INFORMATION_CLOSE))
    assert len(turn.feedback_token_ids) == 9 + around


def test_queries_of_one_step_are_one_batch(codec):
    scripts = {
        "a": [SEARCH.format("a1"), SEARCH.format("a2"), ANSWER.format("A")],
        "b": [SEARCH.format("b1"), ANSWER.format("B")],
        "c": [5, SEARCH.format("c1"), ANSWER.format("C")],
        "d": [ANSWER.format("D")],
        "e": [SEARCH.format("e1"), SEARCH.format("a2"), ANSWER.format("E")],
    }
    trajectories, _, retriever = rollout(codec, scripts)
    assert [queries for queries, _ in retriever.batches] == [["a1", "b1", "e1"], ["a2", "a2"], ["c1"]]
    assert [t.answer for t in trajectories] == ["A", "B", "C", "D", "E"]
    assert [t.trajectory_id for t in trajectories] == ["t-a", "t-b", "t-c", "t-d", "t-e"]
    for trajectory in trajectories:
        for turn in trajectory.turns:
            assert turn.feedback == (shown(turn.query) if turn.query else None)


def test_results_come_in_the_order_of_requests_and_on_done_as_they_end(codec):
    sampler = Scripted(codec, {"slow": [9, ANSWER.format("S")], "fast": [ANSWER.format("F")], "mid": [4, THOUGHT]})
    done = []
    loop = AgentLoop(sampler, codec, Echo(), Limits())
    trajectories = loop.rollout([request(seed) for seed in sampler.scripts], done.append)
    assert [t.trajectory_id for t in trajectories] == ["t-slow", "t-fast", "t-mid"]
    assert [t.trajectory_id for t in done] == ["t-fast", "t-mid", "t-slow"]


def test_a_rollout_inside_a_running_loop_as_a_notebook_has(codec):
    async def cell():
        sampler = Scripted(codec, {"a": [ANSWER.format("A")]})
        return AgentLoop(sampler, codec, Echo(), Limits()).rollout([request("a")])

    (trajectory,) = asyncio.run(cell())
    assert trajectory.answer == "A"


def test_a_retriever_that_does_not_answer_ends_those_who_asked(codec):
    scripts = {
        "a": [SEARCH.format("away"), ANSWER.format("never")],
        "b": [5, SEARCH.format("b1"), ANSWER.format("B")],
        "c": [ANSWER.format("C")],
    }
    retriever = Echo(away=RetrieverError("no reply"))
    trajectories, _, _ = rollout(codec, scripts, retriever=retriever)
    assert [t.stop_reason for t in trajectories] == [
        StopReason.RETRIEVER_ERROR,
        StopReason.ANSWER,
        StopReason.ANSWER,
    ]
    failed = trajectories[0]
    assert (failed.answer, len(failed.turns)) == (None, 1)
    assert (failed.turns[0].query, failed.turns[0].feedback) == ("away", None)


class FarEcho(Echo):
    """`Echo` far away: a search takes as many steps as its query says; what `broken` gives for a query is its own."""

    async def asearch(self, queries, top_k):
        self.batches.append((list(queries), top_k))
        for query in queries:
            for _ in range(int(query.partition(" ")[2] or 0)):
                await asyncio.sleep(0)
            if isinstance(self.broken.get(query), RetrieverGone):
                raise self.broken[query]
        return [self.broken.get(query) or passages(query, top_k) for query in queries]


def test_episodes_go_on_while_others_wait_for_a_far_retriever(codec):
    scripts = {
        "slow": [SEARCH.format("a 50"), ANSWER.format("S")],
        "fast": [3, SEARCH.format("b 1"), 2, SEARCH.format("c"), ANSWER.format("F")],
        "thinks": [9, ANSWER.format("T")],
    }
    retriever, done = FarEcho(), []
    loop = AgentLoop(Scripted(codec, scripts), codec, retriever, Limits())
    trajectories = loop.rollout([request(seed) for seed in scripts], done.append)
    assert [t.trajectory_id for t in done] == ["t-thinks", "t-fast", "t-slow"]
    assert [t.answer for t in trajectories] == ["S", "F", "T"]
    assert trajectories[0].turns[0].feedback == shown("a 50")
    assert (len(loop.searches.seconds), loop.searches.failed) == (3, 0)


def test_a_far_retriever_that_fails_one_query_ends_that_episode_alone(codec):
    scripts = {"a": [SEARCH.format("lost"), ANSWER.format("never")], "b": [SEARCH.format("b"), ANSWER.format("B")]}
    retriever = FarEcho(lost=RetrieverError("no reply"))
    trajectories, _, _ = rollout(codec, scripts, retriever=retriever)
    assert [t.stop_reason for t in trajectories] == [StopReason.RETRIEVER_ERROR, StopReason.ANSWER]
    assert retriever.batches == [(["lost", "b"], 3)]


@pytest.mark.parametrize("kind", [Echo, FarEcho])
def test_a_retriever_that_is_gone_stops_the_rollout_with_its_line(codec, kind):
    gone = RetrieverGone("http://x: has answered nothing for 300 s")
    scripts = {"a": [SEARCH.format("gone")], "b": [SEARCH.format("b")], "c": [9, 9, 9, ANSWER.format("C")]}
    with pytest.raises(RetrieverGone) as raised:
        rollout(codec, scripts, retriever=kind(gone=gone))
    assert raised.value is gone


def test_searches_are_counted_those_of_the_cache_among_them(codec):
    cache = QueryCache(Echo(away=RetrieverError("no reply")), "echo", 10)
    scripts = {
        "a": [SEARCH.format("x"), SEARCH.format("y"), ANSWER.format("A")],
        "b": [30, SEARCH.format("x"), SEARCH.format("away")],
    }
    loop = AgentLoop(Scripted(codec, scripts), codec, cache, Limits())
    loop.rollout([request(seed) for seed in scripts])
    assert (len(loop.searches.seconds), loop.searches.failed) == (4, 1)
    assert (loop.searches.cache_hits, loop.searches.cache_misses) == (1, 3)


@pytest.mark.parametrize("error", [ValueError("a bug"), KeyError("x"), OSError(28, "No space left on device")])
def test_any_other_error_is_raised_as_it_is(codec, error):
    scripts = {"a": [SEARCH.format("away")], "b": [SEARCH.format("b1")], "c": [9, 9, 9, ANSWER.format("C")]}
    with pytest.raises(type(error)) as raised:
        rollout(codec, scripts, retriever=Echo(away=error))
    assert raised.value is error


def test_an_error_of_on_done_is_raised_as_it_is(codec):
    error = RuntimeError("stop")

    def fail(_):
        raise error

    loop = AgentLoop(Scripted(codec, {"a": [THOUGHT], "b": [9, THOUGHT]}), codec, Echo(), Limits())
    with pytest.raises(RuntimeError) as raised:
        loop.rollout([request("a"), request("b")], fail)
    assert raised.value is error


@pytest.mark.parametrize("results", [[], [[], []]])
def test_a_retriever_that_loses_a_query_is_an_error_and_not_a_hang(codec, results):
    class Loses:
        def search(self, queries, top_k):
            return results

    with pytest.raises(ValueError, match=f"{len(results)} results for 1 queries"):
        one(codec, [SEARCH.format("a"), THOUGHT], retriever=Loses())


def test_no_requests_no_trajectories(codec):
    assert rollout(codec, {})[0] == []


def test_tokens_of_a_rollout_are_masked_as_the_policy_wrote_them(codec):
    script = [SEARCH.format("a"), ANSWER.format("Jane")]
    trajectory, _, _ = one(codec, script)
    completion = completion_of(trajectory)
    policy = [codec.policy(text) for text in script]
    assert completion.token_ids[completion.sampled == 1].tolist() == policy[0] + policy[1]
    assert codec.decode(completion.token_ids[completion.sampled == 0].tolist()) == (
        INFORMATION_OPEN + shown("a") + INFORMATION_CLOSE
    )
    assert (completion.turn_index == 0).sum() == len(policy[0])
    assert (completion.turn_index == 1).sum() == len(policy[1])


class Notes:
    """A watcher that notes what it is told."""

    def __init__(self, codec):
        self.codec, self.told = codec, []

    def sampled(self, token_ids):
        self.told.append(("sampled", self.codec.decode(token_ids)))

    def ended_turn(self, turn):
        self.told.append(("ended", turn.text, turn.query))

    def found(self, turn, passages):
        self.told.append(("found", turn.feedback, [passage.id for passage in passages]))

    def failed(self, turn, error):
        self.told.append(("failed", turn.query, str(error)))


def watched(codec, script, retriever=None, sampler=Scripted):
    notes = Notes(codec)
    loop = AgentLoop(sampler(codec, {"a": script}), codec, retriever or Echo(), Limits())
    (trajectory,) = loop.rollout([replace(request("a"), watcher=notes)])
    return trajectory, notes.told


def test_a_watcher_sees_an_episode_as_it_goes(codec):
    script = [SEARCH.format("first"), ANSWER.format("Jane")]
    trajectory, told = watched(codec, script)
    assert told == [
        ("ended", script[0], "first"),
        ("found", shown("first"), ["0", "1", "2"]),
        ("ended", script[1], None),
    ]
    assert trajectory == one(codec, script)[0]


def test_a_watcher_sees_why_a_search_failed(codec):
    trajectory, told = watched(codec, [SEARCH.format("away")], Echo(away=RetrieverError("no reply")))
    assert told == [("ended", SEARCH.format("away"), "away"), ("failed", "away", "no reply")]
    assert trajectory.stop_reason is StopReason.RETRIEVER_ERROR


class Streams(Scripted):
    """`Scripted`, whose sessions stream."""

    @asynccontextmanager
    async def session(self, seed):
        yield _Streams(self, seed)


class _Streams(_Scripted):
    async def stream(self, new_token_ids, max_tokens, on_tokens):
        sampled = await self.sample(new_token_ids, max_tokens)
        for count in range(1, len(sampled.token_ids) + 1):
            on_tokens(sampled.token_ids[:count])
        return sampled


def test_a_watcher_sees_tokens_where_the_session_streams(codec):
    text = ANSWER.format("Jane")
    trajectory, told = watched(codec, [text], sampler=Streams)
    ids = codec.policy(text)
    assert told == [
        *(("sampled", codec.decode(ids[:count])) for count in range(1, len(ids) + 1)),
        ("ended", text, None),
    ]
    assert trajectory == one(codec, [text])[0]
