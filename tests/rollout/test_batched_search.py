import asyncio

import pytest

from tspo.retrieval.base import Passage, RetrieverError, RetrieverGone
from tspo.rollout.batched_search import BatchedSearch, SearchLog


def passages(query):
    return [Passage("1", query, 1.0)]


class Near:
    def __init__(self):
        self.batches = []

    def search(self, queries, top_k):
        self.batches.append((list(queries), top_k))
        return [passages(query) for query in queries]


class Far(Near):
    """Answers each batch when its future in `gates` is done; "lost" has no answer, "gone" ends everything."""

    def __init__(self):
        super().__init__()
        self.gates = []

    async def asearch(self, queries, top_k):
        results = self.search(queries, top_k)
        self.gates.append(asyncio.get_running_loop().create_future())
        await self.gates[-1]
        if "gone" in queries:
            raise RetrieverGone("the service is gone")
        return [RetrieverError("no answer") if q == "lost" else r for q, r in zip(queries, results, strict=True)]


def run(retriever, scenario):
    log = SearchLog()

    async def main():
        search = BatchedSearch(retriever, 3, log).search
        async with asyncio.timeout(5):
            await scenario(lambda query: asyncio.create_task(search(query)))

    asyncio.run(main())
    return log


async def steps(count=5):
    for _ in range(count):
        await asyncio.sleep(0)


def test_queries_of_one_step_are_one_batch():
    near = Near()

    async def scenario(search):
        tasks = [search("a"), search("b")]
        await steps()
        assert all(task.done() for task in tasks)
        assert await search("c") == passages("c")
        assert [await task for task in tasks] == [passages("a"), passages("b")]

    log = run(near, scenario)
    assert near.batches == [(["a", "b"], 3), (["c"], 3)]
    assert (len(log.seconds), log.failed) == (3, 0)


def test_a_far_retriever_keeps_nobody_waiting_and_batches_may_overtake():
    far = Far()

    async def scenario(search):
        first = [search("a"), search("b")]
        await steps()
        second = search("c")
        await steps()
        assert far.batches == [(["a", "b"], 3), (["c"], 3)]
        far.gates[1].set_result(None)
        assert await second == passages("c")
        assert not first[0].done()
        far.gates[0].set_result(None)
        assert [await task for task in first] == [passages("a"), passages("b")]

    run(far, scenario)


def test_one_querys_failure_is_its_own():
    far = Far()

    async def scenario(search):
        good, lost, other = search("a"), search("lost"), search("b")
        await steps()
        far.gates[0].set_result(None)
        assert [await good, await other] == [passages("a"), passages("b")]
        with pytest.raises(RetrieverError, match="no answer"):
            await lost

    log = run(far, scenario)
    assert (len(log.seconds), log.failed) == (3, 1)
    assert min(log.seconds) > 0


def test_a_retriever_that_is_gone_is_everybodys_failure():
    far = Far()

    async def scenario(search):
        tasks = [search("a"), search("gone")]
        await steps()
        far.gates[0].set_result(None)
        for task in tasks:
            with pytest.raises(RetrieverGone):
                await task

    assert run(far, scenario).failed == 0


def test_an_episode_that_is_cancelled_takes_nothing_from_the_others():
    far = Far()

    async def scenario(search):
        stays, leaves, lost = search("a"), search("b"), search("lost")
        await steps()
        leaves.cancel()
        lost.cancel()
        await steps()
        far.gates[0].set_result(None)
        assert await stays == passages("a")

    run(far, scenario)


@pytest.mark.parametrize("results", [[], [[], []]])
def test_a_far_retriever_that_loses_a_query_is_an_error_and_not_a_hang(results):
    class Loses(Near):
        async def asearch(self, queries, top_k):
            return results

    async def scenario(search):
        with pytest.raises(ValueError, match=f"{len(results)} results for 1 queries"):
            await search("a")

    run(Loses(), scenario)
