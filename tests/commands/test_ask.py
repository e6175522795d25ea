import fcntl
import io
import json
import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
import termios
import time

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from tspo.cli import main
from tspo.datasets.corpus import read_corpus
from tspo.retrieval.build_index import build_bm25_index
from tspo.training.checkpoints import mark_whole

TSPO = [sys.executable, "-m", "tspo"]
QUESTION = "Who is the governor of the region of Nisford?"
PATIENCE = 300.0
"""Seconds after which a prompt that says nothing hangs; a busy machine may pause it for long."""


def ask(*arguments, cwd, **options):
    return subprocess.run([*TSPO, "ask", *arguments], capture_output=True, text=True, cwd=cwd, **options)


@pytest.fixture
def run_folder(tmp_path, tiny_model_folder):
    """A run whose model is random, with a corpus of its own."""
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text(json.dumps({"id": "p", "contents": '"Paris"\nParis is in France.'}) + "\n")
    run = tmp_path / "runs" / "mine"
    shutil.copytree(tiny_model_folder, run / "model")
    mark_whole(run / "model")
    (run / "config.yaml").write_text(
        f"model: some/model\ndata: {{train: [t.jsonl], corpus: {corpus}}}\n"
        "rollout: {max_turn_tokens: 8, max_total_tokens: 512}\n"
    )
    return run


def error_of(capsys, *arguments):
    assert main(["ask", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("tspo: error: ")
    assert captured.err.count("\n") == 1
    return captured.err


def test_the_starter_says_what_it_is_and_answers_in_plain_text(tmp_path):
    result = ask(QUESTION, "evaluation.temperature=0", cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    assert "\x1b" not in result.stdout
    assert "the starter policy" in result.stdout
    assert "a small invented world (2,000 passages; nothing in it is real)" in result.stdout
    assert re.search(r"for example: .+\?\n", result.stdout)
    assert "searches  Nisford" in result.stdout
    assert list(tmp_path.iterdir()) == []


def test_questions_from_a_pipe_as_json_lines(tmp_path):
    result = ask("--json", cwd=tmp_path, input=f"{QUESTION}\n\nWho taught Durdre Neldrilrur?\n")
    events = [json.loads(line) for line in result.stdout.splitlines()]
    assert [event["question"] for event in events if event["event"] == "answer"] == [
        QUESTION,
        "Who taught Durdre Neldrilrur?",
    ]
    assert any(event["event"] == "passages" and event["passages"] for event in events)


def test_the_last_run_is_asked_with_its_own_passages(run_folder, capsys, monkeypatch):
    monkeypatch.chdir(run_folder.parents[1])
    assert main(["ask", "where", "is", "Paris?"]) == 0
    text = capsys.readouterr().out
    assert f"runs/mine/model, searching {run_folder.parents[1]}/corpus.jsonl\n" in text
    assert "asked     where is Paris?\n" in text


def test_a_model_on_a_server(run_folder, capsys, serve_app):
    fastapi = pytest.importorskip("fastapi")
    pytest.importorskip("httpx")
    app = fastapi.FastAPI()
    texts = iter(["<think>\x1b]0;evil\x07 look</think><search>Paris</search>", "<answer>France [bold]</answer>"])

    @app.post("/v1/completions")
    def complete():
        return {"choices": [{"text": next(texts), "finish_reason": "stop"}]}

    with serve_app(app) as address:
        server = ["rollout.sampler=openai", f"rollout.server={{url: '{address}/v1', model: m}}"]
        assert main(["ask", "--run", str(run_folder), "where?", "rollout.max_turn_tokens=99", *server]) == 0
    said = capsys.readouterr().out
    assert "thinks    ‹U+001B›]0;evil‹U+0007› look\nsearches  Paris\n" in said
    assert "answers   France [bold]\n" in said


def test_nobody_reads_any_more(tmp_path):
    reading, writing = os.pipe()
    os.close(reading)
    result = subprocess.run([*TSPO, "ask", QUESTION], stdout=writing, stderr=subprocess.PIPE, text=True, cwd=tmp_path)
    os.close(writing)
    assert (result.returncode, result.stderr) == (141, "")


def test_bad_input_is_one_line(run_folder, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n"))
    assert "no question; write it after tspo ask" in error_of(capsys, "--run", str(run_folder))
    assert "no question; write it after tspo ask" in error_of(capsys, "--run", str(run_folder), " ")
    assert "unknown key 'rollout.topk'; did you mean 'rollout.top_k'?" in error_of(capsys, "q?", "rollout.topk=1")
    assert "no such folder" in error_of(capsys, "q?", "model=./nowhere")


def test_a_checkpoint_without_tokenizer(run_folder, capsys):
    for file in (run_folder / "model").glob("tokenizer*"):
        file.unlink()
    mark_whole(run_folder / "model")
    error = error_of(capsys, "--run", str(run_folder), "q?")
    assert "a model and no tokenizer" in error
    assert "save one beside the model" in error


def test_an_index_of_another_version(run_folder, capsys, tmp_path):
    index = tmp_path / "index"
    build_bm25_index(read_corpus(tmp_path / "corpus.jsonl"), index)
    manifest = next(path for path in index.iterdir() if "manifest" in path.name)
    manifest.write_text(re.sub(r'"format_version": *\d+', '"format_version": 99', manifest.read_text()))
    error = error_of(capsys, "--run", str(run_folder), f"rollout.retriever={index}", "q?")
    assert str(index) in error
    assert "made by another version of tspo" in error


CONVERSATION = """
import asyncio, sys
from contextlib import asynccontextmanager
from pathlib import Path
from transformers import AutoTokenizer
from tspo.ask.agent import Agent
from tspo.ask.asking import converse
from tspo.ask.screen import Screen
from tspo.commands.setup import console
from tspo.config import load_config
from tspo.rollout.codec import Codec
from tspo.rollout.episode import AgentLoop, Limits
from tspo.rollout.sampler import Sampled

class Sampler:
    @asynccontextmanager
    async def session(self, seed):
        yield self
    async def stream(self, new_token_ids, max_tokens, on_tokens):
        question = codec.decode(new_token_ids)
        ids = codec.policy("<think>slow</think>" if "slow" in question else "<answer>Paris</answer>")
        on_tokens(ids)
        await asyncio.sleep(10000 if "slow" in question else 0)
        return Sampled(ids, None, codec.decode(ids), "stop")
    async def sample(self, new_token_ids, max_tokens):
        raise AssertionError

model, config, history = sys.argv[1:]
codec = Codec(AutoTokenizer.from_pretrained(model), "{question}")
agent = Agent(AgentLoop(Sampler(), codec, None, Limits()), load_config(Path(config)))
converse(agent, Screen(console(), codec), Path(history))
print("left")
"""


def _take_the_terminal():
    """Ctrl-C in it is this program's, even where the tests run in the background of a shell, which ignores it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


class Terminal:
    """A program in a terminal of its own."""

    def __init__(self, *arguments, cwd):
        self.mine, theirs = pty.openpty()
        self.process = subprocess.Popen(
            arguments,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            cwd=cwd,
            start_new_session=True,
            preexec_fn=_take_the_terminal,
            env=os.environ | {"TERM": "xterm-256color"},
        )
        os.close(theirs)
        self.said = ""

    def type(self, keys):
        os.write(self.mine, keys.encode())

    def read_to(self, words):
        """Everything up to and with `words`."""
        end = time.monotonic() + PATIENCE
        while words not in self.said:
            assert time.monotonic() < end, self.said
            if select.select([self.mine], [], [], 1)[0]:
                try:
                    self.said += os.read(self.mine, 4096).decode(errors="replace")
                except OSError:
                    raise AssertionError(self.said) from None
        before, _, self.said = self.said.partition(words)
        return before + words

    def close(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        os.close(self.mine)


def test_a_conversation_in_a_terminal(tiny_model_folder, tmp_path):
    config, history = tmp_path / "run.yaml", tmp_path / "cache" / "history"
    config.write_text("model: none\ndata: {world: {}}\n")
    arguments = [sys.executable, "-c", CONVERSATION, str(tiny_model_folder), str(config), str(history)]
    terminal = Terminal(*arguments, cwd=tmp_path)
    try:
        terminal.read_to("> ")
        terminal.type("\n  \nWhere?\n")
        assert "Paris" in terminal.read_to(" s\x1b")
        terminal.read_to("> ")
        terminal.type("slow one\n")
        terminal.read_to("slow\x1b")
        terminal.type("\x03")
        terminal.read_to("stopped")
        terminal.read_to("> ")
        terminal.type("half a line\x03")
        terminal.read_to("> ")
        terminal.type("\x1b[A\x1b[A\n")  # up, up: the question before the last
        assert "Where?" in terminal.read_to(" s\x1b")
        terminal.read_to("> ")
        terminal.type("too long " * 3000 + "\n")
        terminal.read_to("leaves no room")
        terminal.read_to("> ")
        terminal.type("\x04")
        terminal.read_to("left")
        assert terminal.process.wait() == 0
    finally:
        terminal.close()
    lines = history.read_text().splitlines()
    assert [line for line in lines if "too long" not in line] == ["Where?", "slow one", "Where?"]
    assert history.stat().st_mode & 0o777 == 0o600
    again = Terminal(*arguments, cwd=tmp_path)
    try:
        again.read_to("> ")
        again.type("\x1b[A\x1b[A\n")
        assert "Where?" in again.read_to("Paris")
    finally:
        again.close()


def test_the_prompt_of_the_command(tmp_path):
    terminal = Terminal(*TSPO, "ask", cwd=tmp_path)
    try:
        assert "nothing in it is real" in terminal.read_to("> ")
        terminal.type(f"{QUESTION}\n")
        terminal.read_to(" tokens, ")
        terminal.read_to("> ")
        terminal.type("\x04")
        assert terminal.process.wait() == 0
    finally:
        terminal.close()
