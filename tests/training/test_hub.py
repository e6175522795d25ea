import base64
import json
import os
import socket
import subprocess
import sys

import pytest

pytest.importorskip("torch")
pytest.importorskip("accelerate")
pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")

import fastapi
import huggingface_hub
import yaml

from tspo.config import HubSection
from tspo.errors import BadInput
from tspo.training.hub import make_repository, push_model


class Hub:
    """What of the hub's API an upload needs; keeps the files that were committed."""

    def __init__(self):
        self.url, self.refuses = "", False
        self.repositories, self.branches, self.files, self.commits, self.revisions = [], [], {}, [], []
        self.app = fastapi.FastAPI()
        self.app.post("/api/repos/create")(self.create)
        self.app.post("/api/validate-yaml")(self.validate)
        self.app.post("/api/models/{user}/{name}/branch/{branch}")(self.branch)
        self.app.post("/api/models/{user}/{name}/preupload/{revision}")(self.preupload)
        self.app.post("/api/models/{user}/{name}/commit/{revision}")(self.commit)

    async def create(self, request: fastapi.Request):
        if request.headers.get("authorization") != "Bearer hf_good":
            return fastapi.Response(status_code=401)
        body = await request.json()
        name = f"{body.get('organization') or 'me'}/{body['name']}"
        self.repositories.append((name, body.get("visibility")))
        return {"url": f"{self.url}/{name}", "name": name}

    async def validate(self, request: fastapi.Request):
        front = (await request.json())["content"].split("---\n")[1]
        assert "tags" in yaml.safe_load(front)
        return {"errors": [], "warnings": []}

    async def branch(self, branch: str):
        self.branches.append(branch)

    async def preupload(self, request: fastapi.Request):
        files = (await request.json())["files"]
        return {"files": [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in files]}

    async def commit(self, revision: str, request: fastapi.Request):
        if self.refuses:
            return fastapi.Response(status_code=403)
        self.revisions.append(revision)
        lines = [json.loads(line) for line in (await request.body()).splitlines()]
        self.commits.append(lines[0]["value"]["summary"])
        for line in lines[1:]:
            self.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
        return {"commitUrl": f"{self.url}/me/mine/commit/abc", "commitOid": "abc", "success": True}


@pytest.fixture
def hub(monkeypatch, serve_app):
    hub = Hub()
    with serve_app(hub.app) as hub.url:
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", hub.url)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
        yield hub


@pytest.mark.parametrize(("private", "visibility"), [(True, "private"), (False, "public")])
def test_the_repository_is_made(hub, monkeypatch, private, visibility):
    monkeypatch.setenv("HF_TOKEN", "hf_good")
    make_repository(HubSection(repository="me/mine", private=private))
    assert hub.repositories == [("me/mine", visibility)]


@pytest.mark.parametrize(("revision", "branch"), [(None, "main"), ("try-2", "try-2")])
def test_a_model_is_pushed_with_its_card(hub, monkeypatch, tmp_path, write_finished_run, revision, branch):
    monkeypatch.setenv("HF_TOKEN", "hf_good")
    run = tmp_path / "mine"
    write_finished_run(run)
    (run / "evaluation" / "after-training" / "summary.json").unlink()
    make_repository(HubSection(repository="me/mine", revision=revision))
    assert hub.branches == ([] if revision is None else [revision])
    address = push_model(run, run / "model", HubSection(repository="me/mine", revision=revision))
    assert address == f"{hub.url}/me/mine/commit/abc"
    assert hub.revisions == [branch]
    assert set(hub.files) == {"README.md", "curves.png", "weights"}
    assert hub.files["weights"] == b"w"
    assert b"# me/mine" in hub.files["README.md"]
    assert hub.commits == ["End of training"]


def test_a_hub_that_says_no_is_one_line_at_the_start(hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_bad")
    with pytest.raises(BadInput, match=r"^training\.hub: me/mine cannot be pushed to \(.*401.*\); check") as error:
        make_repository(HubSection(repository="me/mine"))
    assert "\n" not in str(error.value)


def test_a_hub_that_does_not_take_the_model_is_one_line(hub, monkeypatch, tmp_path, write_finished_run):
    monkeypatch.setenv("HF_TOKEN", "hf_good")
    hub.refuses = True
    run = tmp_path / "mine"
    write_finished_run(run)
    (run / "evaluation" / "after-training" / "summary.json").unlink()
    with pytest.raises(BadInput, match=r"^training\.hub: .*model was not pushed to me/mine \(.*403.*--resume") as error:
        push_model(run, run / "model", HubSection(repository="me/mine"))
    assert "\n" not in str(error.value)


def test_a_hub_that_cannot_be_reached(monkeypatch):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", f"http://127.0.0.1:{unused.getsockname()[1]}")
        with pytest.raises(BadInput, match="me/mine cannot be pushed to"):
            make_repository(HubSection(repository="me/mine"))


@pytest.mark.slow
def test_a_run_pushes_its_model_and_leaves_cards(hub, tmp_path):
    environment = os.environ | {
        "HF_ENDPOINT": hub.url,
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_TOKEN": "hf_good",
        "TSPO_CACHE": str(tmp_path / "cache"),
    }
    arguments = [
        f"output_dir={tmp_path / 'run'}",
        "data.world={passages: 400, train_questions: 8, test_questions: 3, hops: [1]}",
        "evaluation.samples=1",
        "training.steps=2",
        "training.save_every=1",
        "training.groups_per_step=2",
        "training.micro_batch=5",
        "training.hub={repository: me/mine}",
    ]
    result = subprocess.run(
        [sys.executable, "-m", "tspo", "train", *arguments], env=environment, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    assert f"pushed: {hub.url}/me/mine/commit/abc" in result.stdout
    run = tmp_path / "run"
    for folder in (run, run / "checkpoint-1", run / "checkpoint-2", run / "model"):
        card = huggingface_hub.ModelCard.load(folder / "README.md")
        assert "tspo" in card.data.tags
        assert (folder / "curves.png").is_file()
    assert "1 of 2 steps" in (run / "checkpoint-1" / "README.md").read_text()
    assert "after training" in (run / "model" / "README.md").read_text()
    pushed = {"config.json", "model.safetensors", "tokenizer.json", "README.md", "curves.png"}
    assert pushed <= set(hub.files)
    assert not [name for name in hub.files if name.startswith(("trajectories", "checkpoint"))]
    assert hub.files["README.md"] == (run / "model" / "README.md").read_bytes()
    assert hub.files["model.safetensors"] == (run / "model" / "model.safetensors").read_bytes()
