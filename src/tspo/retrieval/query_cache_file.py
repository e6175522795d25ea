"""Answers of retrievers in an SQLite file that several processes may use at one time."""

from __future__ import annotations

import json
import logging
import sqlite3
from collections.abc import Iterable
from dataclasses import astuple
from pathlib import Path

from tspo.errors import BadInput
from tspo.retrieval.base import Passage

_log = logging.getLogger(__name__)

_APPLICATION = int.from_bytes(b"tspo")
_VERSION = 1
_WAIT = 30.0
"""Seconds to wait while another process writes."""


class QueryCacheFile:
    """Passages by key. Raises BadInput where the file is something else or cannot be used.

    A file that fails later (a full disk, say) is used no more, and the log says so: a cache stops no run.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._connection: sqlite3.Connection | None = _open(path)
        except (OSError, sqlite3.Error) as error:
            raise BadInput(f"{path}: cannot be used as a query cache ({error}); delete it or choose another") from None

    def get(self, key: bytes) -> list[Passage] | None:
        """The passages, or None where there are none for the key."""
        if self._connection is None:
            return None
        try:
            row = self._connection.execute("SELECT passages FROM answers WHERE key = ?", (key,)).fetchone()
            return None if row is None else [Passage(*fields) for fields in json.loads(row[0])]
        except (sqlite3.Error, ValueError, TypeError) as error:
            self._give_up(error)
            return None

    def put(self, answers: Iterable[tuple[bytes, list[Passage]]]) -> None:
        """Keep the passages of each key."""
        if self._connection is None:
            return
        rows = [(key, json.dumps([astuple(passage) for passage in passages])) for key, passages in answers]
        try:
            with self._connection:
                self._connection.executemany("INSERT OR REPLACE INTO answers VALUES (?, ?)", rows)
        except sqlite3.Error as error:
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        _log.warning("%s: the query cache is used no more (%s)", self._path, error)
        self._connection = None


def _open(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=_WAIT, isolation_level="IMMEDIATE", check_same_thread=False)
    connection.execute("BEGIN IMMEDIATE")  # two processes may come first
    with connection:
        (application,) = connection.execute("PRAGMA application_id").fetchone()
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        (tables,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
        if tables == 0:
            connection.execute(f"PRAGMA application_id = {_APPLICATION}")
            connection.execute(f"PRAGMA user_version = {_VERSION}")
            connection.execute("CREATE TABLE answers (key BLOB PRIMARY KEY, passages TEXT NOT NULL) WITHOUT ROWID")
        elif (application, version) != (_APPLICATION, _VERSION):
            raise sqlite3.DatabaseError("it is something else, or of another version")
    connection.execute("PRAGMA journal_mode = WAL")
    # what the last moments before a power cut added may be lost; the file stays whole
    connection.execute("PRAGMA synchronous = NORMAL")
    return connection
