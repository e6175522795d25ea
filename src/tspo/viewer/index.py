"""The index of a run's trajectories: which groups there are, how each ended, and where in which file it stands.

An SQLite file beside the run. What is read of a trajectory file is written in transactions together with how far it
was read, so that the index is right whenever it is cut off, goes on where it stopped, and grows with the run.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import sqlite3
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

from tspo.errors import BadInput
from tspo.evaluation.report.choose import State, state
from tspo.evaluation.report.text import clean
from tspo.trajectory import Trajectory, read_json_lines, trajectory_from_json
from tspo.viewer.source import Source, TrajectoryFile

_VERSION = 1
_TAIL = 256
"""Bytes before the place that a file was read to; where they are others now, the file is another one."""
_LINES_A_TRANSACTION = 1000
_BYTES_A_TRANSACTION = 2**24
_LONGEST_SHOWN = 400

_TABLES = """
CREATE TABLE made_with (what TEXT);
CREATE TABLE file (
    id INTEGER PRIMARY KEY, path BLOB UNIQUE, bytes INTEGER, lines INTEGER, tokens INTEGER, tail BLOB, mtime INTEGER);
CREATE TABLE attempts (
    id INTEGER PRIMARY KEY, file INTEGER, name BLOB, at INTEGER, question_key BLOB, question TEXT, words TEXT,
    members INTEGER, right INTEGER, near INTEGER, wrong INTEGER, UNIQUE (file, name));
CREATE INDEX by_step ON attempts (at, id);
CREATE INDEX by_question ON attempts (question_key, at, id);
CREATE TABLE member (attempts INTEGER, place INTEGER, start INTEGER, length INTEGER, first_token INTEGER, state TEXT);
CREATE INDEX by_group ON member (attempts, place);
"""

Progress = Callable[[int, int], None]
"""Called with (bytes read, bytes in all)."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a trajectory stands: bytes of a file, and its first policy token among all of that file."""

    path: Path
    start: int
    length: int
    first_token: int


class Index:
    """The index of one source; safe to use from several threads."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.credit = source.credit()
        self._made_with = f"{_VERSION} {sorted(asdict(self.credit).items())}"
        self._lock = threading.Lock()
        self._here = threading.local()
        self._own_folder: tempfile.TemporaryDirectory[str] | None = None
        self.path = source.index_path
        if not self._usable():
            self._own_folder = tempfile.TemporaryDirectory(prefix="tspo-view-")
            self.path = Path(self._own_folder.name) / "index.sqlite"
            if not self._usable():
                raise BadInput(f"{self.path}: cannot write an index here; set TMPDIR to a folder with room")

    @property
    def connection(self) -> sqlite3.Connection:
        """This thread's connection."""
        if not hasattr(self._here, "connection"):
            self._here.connection = sqlite3.connect(self.path, timeout=60)
        connection: sqlite3.Connection = self._here.connection
        return connection

    def refresh(self, on_progress: Progress | None = None, *, growing: bool = True) -> None:
        """Read what is new. Unless the files may be `growing`, a last line cut short is an error too.

        Raises BadInput that names the file and line where one cannot be read.
        """
        try:
            with self._lock, self._alone():
                files = self.source.files()
                sizes = [one.path.stat().st_size for one in files]
                done = 0
                self._forget_all_but(files)
                for one, size in zip(files, sizes, strict=True):
                    for read in self._read(one, growing):
                        if on_progress is not None:
                            on_progress(done + read, sum(sizes))
                    done += size
        except sqlite3.OperationalError as error:
            raise BadInput(f"{self.path}: the index cannot be written ({error}); mend that, or delete it") from None
        except OSError as error:
            raise BadInput(f"{error.filename}: cannot be read ({error.strerror})") from None

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Let no other viewer of the same run index it at the same time."""
        with self.path.with_name(f"{self.path.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _usable(self) -> bool:
        """Open the index, made anew where it is damaged, or was made with other settings or by another version."""
        try:
            with self._alone(), closing(sqlite3.connect(self.path, timeout=60)) as connection, connection:
                if connection.execute("SELECT 1 FROM sqlite_master").fetchone():
                    if connection.execute("SELECT what FROM made_with").fetchone() == (self._made_with,):
                        connection.execute("BEGIN IMMEDIATE")  # may it be written to?
                        return True
                    for kind, name in connection.execute(
                        "SELECT type, name FROM sqlite_master WHERE sql IS NOT NULL ORDER BY type"
                    ).fetchall():
                        connection.execute(f"DROP {kind} {name}")
                connection.executescript(f"BEGIN IMMEDIATE; {_TABLES}")
                connection.execute("INSERT INTO made_with VALUES (?)", (self._made_with,))
            return True
        except (sqlite3.OperationalError, OSError):  # no place to write to
            return False
        except sqlite3.DatabaseError:
            self.path.unlink()
            return self._usable()

    def _forget_all_but(self, files: list[TrajectoryFile]) -> None:
        paths = {self._name(one.path) for one in files}
        with self.connection:
            for number, path in self.connection.execute("SELECT id, path FROM file").fetchall():
                if path not in paths:
                    self._forget(number)

    def _forget(self, number: int) -> None:
        self.connection.execute(
            "DELETE FROM member WHERE attempts IN (SELECT id FROM attempts WHERE file = ?)", (number,)
        )
        self.connection.execute("DELETE FROM attempts WHERE file = ?", (number,))
        self.connection.execute("DELETE FROM file WHERE id = ?", (number,))

    def _read(self, one: TrajectoryFile, growing: bool) -> Iterator[int]:
        """Index what is new in one file; yields the bytes that are read, transaction by transaction."""
        with one.path.open("rb") as stream:
            about = one.path.stat()
            known = self.connection.execute("SELECT * FROM file WHERE path = ?", (self._name(one.path),)).fetchone()
            if known is not None:
                number, _, read, lines, tokens, tail, mtime = known
                if (about.st_size, about.st_mtime_ns) == (read, mtime):
                    return
                stream.seek(max(read - _TAIL, 0))
                if about.st_size < read or stream.read(min(read, _TAIL)) != tail or about.st_size == read:
                    known = None
                    with self.connection:
                        self._forget(number)
            if known is None:
                read = lines = tokens = 0
                with self.connection:
                    number = self.connection.execute(
                        "INSERT INTO file VALUES (NULL, ?, 0, 0, 0, x'', 0)", (self._name(one.path),)
                    ).lastrowid
            stream.seek(read)
            while batch := _whole_lines(stream, str(one.path), lines, growing):
                with self.connection:
                    for line, raw in enumerate(batch, start=lines + 1):
                        tokens += self._add(one, number, line, raw, read, tokens)
                        read += len(raw)
                    lines += len(batch)
                    stream.seek(max(read - _TAIL, 0))
                    tail = stream.read(min(read, _TAIL))
                    mtime = about.st_mtime_ns if read == about.st_size else 0
                    self.connection.execute(
                        "UPDATE file SET bytes = ?, lines = ?, tokens = ?, tail = ?, mtime = ? WHERE id = ?",
                        (read, lines, tokens, tail, mtime, number),
                    )
                yield read

    def _add(self, one: TrajectoryFile, file: int, line: int, raw: bytes, start: int, first_token: int) -> int:
        """Index one line; returns how many policy tokens it has."""
        for where, value in read_json_lines([raw], str(one.path), first_line=line):
            trajectory = trajectory_from_json(value, where, default_id="")
            step = trajectory.extra.get("step")
            at = step if one.at == 0 and type(step) is int and 0 <= step < 2**40 else one.at
            how = state(trajectory, self.credit)
            text = "".join(f"{part}\n" for part in _searched(trajectory)).casefold()
            row = self.connection.execute(
                "INSERT INTO attempts VALUES (NULL, ?, ?, ?, ?, ?, ?, 1, ?, ?, ?) ON CONFLICT (file, name) DO UPDATE "
                "SET words = words || excluded.words, members = members + 1, right = right + excluded.right, "
                "near = near + excluded.near, wrong = wrong + excluded.wrong RETURNING id, members",
                (
                    file,
                    _key(trajectory.group_id),
                    at,
                    _key(trajectory.question),
                    clean(trajectory.question)[:_LONGEST_SHOWN],
                    clean(text),
                    *(how is one for one in State),
                ),
            ).fetchone()
            self.connection.execute(
                "INSERT INTO member VALUES (?, ?, ?, ?, ?, ?)",
                (row[0], row[1] - 1, start, len(raw), first_token, str(how)),
            )
            return sum(len(turn.token_ids or ()) for turn in trajectory.turns)
        return 0

    def places(self, attempts: int) -> list[Place]:
        """Where the members of a group stand, in order; empty where there is no such group."""
        rows = self.connection.execute(
            "SELECT file.path, start, length, first_token FROM member JOIN attempts ON attempts.id = member.attempts "
            "JOIN file ON file.id = attempts.file WHERE attempts = ? ORDER BY place",
            (attempts,),
        )
        return [Place(self._folder / os.fsdecode(path), *rest) for path, *rest in rows]

    @property
    def _folder(self) -> Path:
        return self.source.path if self.source.path.is_dir() else self.source.path.parent

    def _name(self, path: Path) -> bytes:
        """A file's name in the index: the run may be looked at from elsewhere, or be moved."""
        return os.fsencode(path.relative_to(self._folder))


def _searched(trajectory: Trajectory) -> Iterator[str]:
    """The texts of a trajectory that a search looks through."""
    yield trajectory.question
    yield from trajectory.golden_answers
    yield from (turn.query for turn in trajectory.turns if turn.query is not None)
    yield trajectory.answer or ""


def _key(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _whole_lines(stream: BinaryIO, name: str, before: int, growing: bool) -> list[bytes]:
    """The next lines; one that is not ended yet is left for later where the file may be growing."""
    lines: list[bytes] = []
    start = stream.tell()
    while (
        len(lines) < _LINES_A_TRANSACTION
        and stream.tell() < start + _BYTES_A_TRANSACTION
        and (raw := stream.readline())
    ):
        if not raw.endswith(b"\n"):
            if growing:
                break
            try:
                list(read_json_lines([raw], name))
            except BadInput:
                number = before + len(lines) + 1
                raise BadInput(
                    f"{name}, line {number}: the file is cut in the middle of this line; "
                    f"keep the {number - 1:,} lines before it, or copy the file again"
                ) from None
        lines.append(raw)
    return lines
