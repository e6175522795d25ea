"""The service against requests made from its own OpenAPI document, right ones and wrong ones, and against noise."""

import json
import subprocess
import sys

import pytest

pytest.importorskip("uvicorn")
pytest.importorskip("schemathesis")
pytest.importorskip("httpx")

import httpx
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tspo.datasets.corpus import Document
from tspo.retrieval.bm25 import BM25Retriever
from tspo.retrieval.retrieve_request import ServerLimits
from tspo.retrieval.server import create_app

pytestmark = pytest.mark.slow

CORPUS = [Document(str(i), f'"Title {i}"\nword{i} \ud800 common é') for i in range(20)]
# Small, so that what is made goes beyond them often.
LIMITS = ServerLimits(queries=20, query_chars=50, top_k=7, body_bytes=5000)
SCHEMATHESIS = [sys.executable, "-c", "import sys; from schemathesis.cli import schemathesis; sys.exit(schemathesis())"]


@pytest.fixture
def address(run_app):
    address = run_app(create_app(BM25Retriever.build(CORPUS), limits=LIMITS))
    yield address
    reply = httpx.post(f"{address}/retrieve", json={"queries": ["word3"], "topk": 1})
    assert reply.json()["result"][0][0]["id"] == "3"


def test_the_service_is_what_its_document_says(address, tmp_path):
    command = [*SCHEMATHESIS, "run", f"{address}/openapi.json", "--checks", "all", "--max-examples", "300"]
    command += ["--mode", "all", "--seed", "1", "--generation-database", "none", "--no-color"]
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=600)
    assert result.returncode == 0, result.stdout[-5000:] + result.stderr[-2000:]
    assert "No issues found" in result.stdout


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(), inner, max_size=5),
    max_leaves=10,
)
nearly_right = st.fixed_dictionaries(
    {"queries": st.lists(st.text(max_size=60) | json_values, max_size=25) | json_values},
    optional={"topk": st.integers(-2, 10) | json_values, "return_scores": st.booleans() | json_values},
)
bodies = st.binary() | (json_values | nearly_right).map(lambda value: json.dumps(value).encode())


@st.composite
def damaged(draw):
    """A body with one byte put in another's place, or cut short."""
    body = bytearray(draw(bodies))
    if body:
        place = draw(st.integers(0, len(body) - 1))
        body[place : place + draw(st.integers(0, 3))] = draw(st.binary(max_size=2))
    return bytes(body)


def test_noise_is_answered_or_refused_with_a_reason(address):
    seen = set()
    with httpx.Client(verify=False) as client:

        @settings(max_examples=1500, deadline=None, suppress_health_check=list(HealthCheck), database=None)
        @given(bodies | damaged())
        def send(body):
            reply = client.post(f"{address}/retrieve", content=body, headers={"Content-Type": "application/json"})
            seen.add(reply.status_code)
            assert reply.status_code in (200, 413, 422)
            if reply.status_code == 200:
                asked = json.loads(body)
                assert len(reply.json()["result"]) == len(asked["queries"])
            else:
                assert 0 < len(reply.json()["detail"]) < 500

        send()
    assert {200, 422} <= seen
