"""What the retrieval service counts, as Prometheus reads it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_QUERIES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class ServerMetrics:
    """The counts of one service; `waiting` gives the number of queries that wait just now."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self, waiting: Callable[[], int]) -> None:
        self.under_way = 0
        """Requests that have no reply yet."""
        self._registry = registry = CollectorRegistry()
        self._requests = Counter(
            "tspo_retrieve_requests", "requests to /retrieve, by status", ["status"], registry=registry
        )
        self._queries = Counter("tspo_retrieve_queries", "queries answered", registry=registry)
        self._request_seconds = Histogram(
            "tspo_retrieve_request_seconds", "from a request to its reply", buckets=_SECONDS, registry=registry
        )
        self._search_seconds = Histogram(
            "tspo_search_seconds", "one search of a batch of queries", buckets=_SECONDS, registry=registry
        )
        self._batch_queries = Histogram(
            "tspo_search_batch_queries", "different queries of one search", buckets=_QUERIES, registry=registry
        )
        Gauge("tspo_waiting_queries", "queries taken and not answered", registry=registry).set_function(waiting)
        Gauge("tspo_requests_under_way", "requests to /retrieve without a reply yet", registry=registry).set_function(
            lambda: self.under_way
        )
        ProcessCollector(registry=registry)

    @contextmanager
    def request(self) -> Iterator[Callable[[int, int], None]]:
        """Time one request; the block is given a function that takes its status and the queries answered."""
        started = time.perf_counter()
        self.under_way += 1
        try:
            yield self._answered
        finally:
            self.under_way -= 1
            self._request_seconds.observe(time.perf_counter() - started)

    def searched(self, queries: int, seconds: float) -> None:
        """Count one search of a batch."""
        self._batch_queries.observe(queries)
        self._search_seconds.observe(seconds)

    def render(self) -> bytes:
        """All of it in Prometheus' text format."""
        return generate_latest(self._registry)

    def _answered(self, status: int, queries: int) -> None:
        self._requests.labels(status).inc()
        self._queries.inc(queries)
