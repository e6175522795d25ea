import json

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("httpx")

from starlette.testclient import TestClient

from tspo.viewer import app as app_module
from tspo.viewer.app import create_app, is_this_machine


@pytest.fixture
def client(make_run, make_index):
    indexes = [make_index(make_run()), make_index(make_run("other", algorithm="grpo"))]
    return TestClient(create_app(indexes), base_url="http://127.0.0.1:8100")


def test_runs_are_told_with_counts_and_without_secrets(client):
    content = client.get("/api/runs").json()
    assert [(run["name"], run["algorithm"], run["groups"]) for run in content["runs"]] == [
        ("some-run", "tspo", 8),
        ("other", "grpo", 8),
    ]
    assert "hidden" not in json.dumps(content)


def test_curves_of_the_runs_are_in_one_chart(client):
    charts = {chart["metric"]: chart for chart in client.get("/api/curves").json()["charts"]}
    assert [line["run"] for line in charts["exact_match"]["lines"]] == [0, 1]
    assert charts["exact_match"]["main"]
    assert charts["exact_match"]["lines"][0]["x"] == [1, 2, 3]
    assert not charts["own_metric"]["main"]


def test_groups_are_filtered_and_one_is_shown(client):
    page = client.get("/api/runs/0/groups", params={"state": ["near miss", "right"], "first": 1, "last": 9}).json()
    assert [row["at"] for row in page["groups"]] == [2, 3]
    group = client.get(f"/api/runs/0/groups/{page['groups'][0]['id']}").json()
    assert {"tspo", "grpo", "gigpo"} <= group["credit"].keys()
    assert [member["state"] for member in group["members"]] == ["right", "near miss", "wrong"]
    assert [time["at"] for time in group["history"]] == [-2, 1, 2, 3, 2**40]


@pytest.mark.parametrize(
    "path",
    [
        "/api/runs/2/groups",
        "/api/runs/-1/groups",
        "/api/runs/0/groups/99999",
        f"/api/runs/0/groups/{10**30}",
        "/../app.py",
        "/%2e%2e/app.py",
        "/docs",
        "/openapi.json",
    ],
)
def test_there_is_nothing_else(client, path):
    assert client.get(path).status_code == 404


@pytest.mark.parametrize("query", ["state=other", "offset=-1", f"first={10**30}", "text=" + "x" * 2000])
def test_bad_questions_are_refused(client, query):
    assert client.get(f"/api/runs/0/groups?{query}").status_code == 422


def test_every_answer_has_the_policy(client):
    for path in ("/", "/main.js", "/api/runs", "/nothing"):
        headers = client.get(path).headers
        policy = dict(part.split(" ", 1) for part in headers["content-security-policy"].split("; "))
        assert policy["default-src"] == "'none'"
        assert policy["script-src"] == policy["style-src"] == "'self'"
        assert headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    ("header", "allowed"),
    [
        ("127.0.0.1:8100", True),
        ("localhost:8100", True),
        ("LOCALHOST", True),
        ("[::1]:8100", True),
        ("[::1]", True),
        ("192.168.0.7:8100", True),
        ("box.lan:8100", True),
        ("evil.example:8100", False),
        ("127.0.0.1.evil.example", False),
        ("localhost.evil.example:80", False),
        ("evil.example:127.0.0.1", False),
        ("", False),
    ],
)
def test_only_this_machine_s_names_are_answered(client, header, allowed):
    assert is_this_machine(header, "box.lan") == allowed
    if header != "box.lan:8100":
        assert client.get("/api/runs", headers={"host": header}).status_code == (200 if allowed else 421)


def test_a_file_damaged_while_it_is_watched_is_a_problem_that_is_shown(make_run, make_index, monkeypatch):
    run = make_run()
    monkeypatch.setattr(app_module, "_SECONDS_BETWEEN_LOOKS", 0.0)
    client = TestClient(create_app([make_index(run)]), base_url="http://localhost")
    (run / "trajectories" / "000004.jsonl").write_text("no json\n")
    (told,) = client.get("/api/runs").json()["runs"]
    assert "000004.jsonl, line 1: not JSON" in told["problem"]
    assert told["groups"] == 8
    (run / "trajectories" / "000004.jsonl").unlink()
    assert client.get("/api/runs").json()["runs"][0]["problem"] is None


def test_a_group_whose_file_changed_is_told(make_run, make_index):
    run = make_run()
    client = TestClient(create_app([make_index(run)]), base_url="http://localhost")
    path = run / "trajectories" / "000001.jsonl"
    path.write_bytes(b"x" * path.stat().st_size)
    reply = client.get("/api/runs/0/groups/1")
    assert reply.status_code == 409
    assert "has changed" in reply.json()["detail"]
