import asyncio
import time

import pytest

from tspo.retrieval.search_queue import MAX_BATCH, QueueFull, SearchQueue


def run(shelf, scenario, max_waiting=10_000, **options):
    async def main():
        queue = SearchQueue(shelf, max_waiting, **options)
        try:
            async with asyncio.timeout(10):
                await scenario(queue)
            assert queue.waiting == 0
        finally:
            shelf.open.set()
            queue.close()

    asyncio.run(main())


async def begun(shelf, batches=1):
    while len(shelf.batches) < batches:
        await asyncio.sleep(0.001)


def ask(queue, *queries, top_k=2):
    return asyncio.create_task(queue.search(list(queries), top_k))


def test_what_comes_during_a_search_is_searched_together_and_once(shelf, found):
    async def scenario(queue):
        shelf.open.clear()
        first = ask(queue, "a")
        await begun(shelf)
        others = [ask(queue, "b", "c"), ask(queue, "c", "a"), ask(queue, "c")]
        await asyncio.sleep(0.01)
        assert queue.waiting == 6
        shelf.open.set()
        assert await first == [found("a", 2)]
        assert [await other for other in others] == [
            [found("b", 2), found("c", 2)],
            [found("c", 2), found("a", 2)],
            [found("c", 2)],
        ]

    run(shelf, scenario)
    assert shelf.batches == [(["a"], 2), (["b", "c", "a"], 2)]
    assert len(shelf.threads) == 1


def test_requests_of_another_top_k_wait_their_turn(shelf, found):
    async def scenario(queue):
        shelf.open.clear()
        first = ask(queue, "a", top_k=1)
        await begun(shelf)
        others = [ask(queue, "b", top_k=1), ask(queue, "b", top_k=3), ask(queue, "c", top_k=1)]
        await asyncio.sleep(0)
        shelf.open.set()
        await first
        assert [await other for other in others] == [[found("b", 1)], [found("b", 3)], [found("c", 1)]]

    run(shelf, scenario)
    assert shelf.batches == [(["a"], 1), (["b", "c"], 1), (["b"], 3)]


def test_a_request_of_nothing_is_answered_with_nothing(shelf):
    async def scenario(queue):
        assert await queue.search([], 3) == []

    run(shelf, scenario)
    assert shelf.batches == []


def test_a_full_queue_takes_nothing_more_and_then_takes_again(shelf, found):
    async def scenario(queue):
        shelf.open.clear()
        waiting = [ask(queue, "a"), ask(queue, "b", "c")]
        await begun(shelf)
        with pytest.raises(QueueFull):
            await queue.search(["d", "e"], 2)
        assert 1 <= queue.retry_after() <= 30
        last = ask(queue, "f")
        shelf.open.set()
        await asyncio.gather(*waiting, last)
        assert await queue.search(["d", "e"], 2) == [found("d", 2), found("e", 2)]

    run(shelf, scenario, max_waiting=4)
    assert not any("d" in queries for queries, _ in shelf.batches[:-1])


def test_a_large_request_lets_a_small_one_in_between(shelf, found):
    many = [f"q{i}" for i in range(3 * MAX_BATCH + 1)]

    async def scenario(queue):
        shelf.open.clear()
        large = ask(queue, *many)
        await begun(shelf)
        small = ask(queue, "small")
        await asyncio.sleep(0)
        shelf.open.set()
        assert await small == [found("small", 2)]
        assert not large.done()
        assert await large == [found(query, 2) for query in many]

    run(shelf, scenario)
    assert max(len(queries) for queries, _ in shelf.batches) == MAX_BATCH
    assert "small" in shelf.batches[1][0]


def test_a_query_that_breaks_the_search_fails_its_own_request(shelf, found):
    async def scenario(queue):
        shelf.open.clear()
        first = ask(queue, "a")
        await begun(shelf)
        good, bad, other = ask(queue, "b"), ask(queue, "c", "broken"), ask(queue, "d")
        await asyncio.sleep(0)
        shelf.open.set()
        await first
        assert (await good, await other) == ([found("b", 2)], [found("d", 2)])
        with pytest.raises(RuntimeError, match="cannot be read"):
            await bad
        assert await queue.search(["e"], 2) == [found("e", 2)]

    run(shelf, scenario)


def test_a_retriever_that_loses_a_query_fails_and_does_not_hang():
    class Loses:
        def search(self, queries, top_k):
            return []

    async def main():
        queue = SearchQueue(Loses(), 10)
        with pytest.raises(ValueError, match="shorter"):
            await queue.search(["a"], 1)
        queue.close()

    asyncio.run(main())


def test_whoever_stops_waiting_leaves_its_place(shelf, found):
    async def scenario(queue):
        shelf.open.clear()
        first = ask(queue, "a")
        await begun(shelf)
        gone, stays = ask(queue, "b"), ask(queue, "c")
        await asyncio.sleep(0)
        gone.cancel()
        first.cancel()
        await asyncio.gather(gone, first, return_exceptions=True)
        assert queue.waiting == 1
        shelf.open.set()
        assert await stays == [found("c", 2)]

    run(shelf, scenario)
    assert shelf.batches == [(["a"], 2), (["c"], 2)]


def test_each_batch_is_told(shelf):
    told = []

    async def scenario(queue):
        await queue.search(["a", "b", "a"], 2)

    run(shelf, scenario, on_batch=lambda queries, seconds: told.append((queries, seconds)))
    ((queries, seconds),) = told
    assert queries == 2
    assert 0 <= seconds < 5


def test_the_time_to_come_back_grows_with_what_waits(shelf):
    class Slow:
        def search(self, queries, top_k):
            time.sleep(0.05 * len(queries))
            return shelf.search(queries, top_k)

    async def main():
        queue = SearchQueue(Slow(), 100_000)
        for _ in range(6):
            await queue.search(["a", "b"], 1)
        assert queue.retry_after() == 1
        waiting = ask(queue, *map(str, range(200)))
        await asyncio.sleep(0)
        assert queue.retry_after() > 3
        waiting.cancel()
        queue.close()

    asyncio.run(main())
