"""The compiled kernels say what the plain operations say, within their type."""

from __future__ import annotations

import shutil
import stat
import subprocess
import sys

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tspo.rollout import row_kernels as kernels_module
from tspo.rollout.kv_cache import Piece, RowCache
from tspo.rollout.row_kernels import RowKernels, kernels_for, row_kernels

TYPES = [torch.float32, torch.bfloat16]
ACCURACY = {torch.float32: {"rtol": 2e-5, "atol": 2e-6}, torch.bfloat16: {"rtol": 1e-2, "atol": 1e-4}}


@pytest.fixture(params=TYPES)
def kernels(request) -> RowKernels:
    found = row_kernels(request.param)
    if found is None:
        pytest.skip("no C++ compiler with OpenMP")
    return found


@pytest.mark.parametrize("dtype", TYPES)
@settings(max_examples=15)
@given(
    key_heads=st.integers(1, 3),
    group=st.integers(1, 4),
    size=st.sampled_from([4, 12, 64]),
    value_size=st.sampled_from([1, 7, 64]),
    rows=st.lists(st.tuples(st.integers(0, 300), st.integers(1, 9)), min_size=1, max_size=20),
    seed=st.integers(0, 99),
)
def test_tokens_attend_to_their_rows_up_to_themselves(dtype, key_heads, group, size, value_size, rows, seed):
    """Rows of two blocks, that hold some tokens and get some more: what was stored is attended to, and nothing else."""
    torch.manual_seed(seed)
    cache, device = RowCache(len(rows), 320), torch.device("cpu")
    stored = [(torch.empty(1, key_heads, 0, size), torch.empty(1, key_heads, 0, value_size)) for _ in rows]
    for step in (0, 1):
        pieces = [
            Piece(row, step * held, (held, new)[step]) for row, (held, new) in enumerate(rows) if (held, new)[step]
        ]
        if not pieces:
            continue
        tokens = sum(piece.new for piece in pieces)
        cache.place(pieces, device)
        keys = torch.randn(1, tokens, key_heads, size).to(dtype).transpose(1, 2)
        values = torch.randn(1, tokens, key_heads, value_size).to(dtype).transpose(1, 2)
        (held, _) = cache.update(keys, values, 0)
        if (kernels := held.layer.kernels) is None:
            pytest.skip("no C++ compiler with OpenMP")
        cache.passed()
        at = 0
        for piece in pieces:
            mine = slice(at, at + piece.new)
            stored[piece.row] = tuple(
                torch.cat([old.to(dtype), new[:, :, mine]], 2)
                for old, new in zip(stored[piece.row], (keys, values), strict=True)
            )
            at += piece.new
    query = torch.randn(1, tokens, key_heads * group, size).to(dtype).transpose(1, 2)
    output = torch.full((tokens, key_heads * group, value_size), torch.nan, dtype=dtype)
    kernels.decode(
        query[0], held.layer.table, held.bringing.places, held.bringing.tokens_up_to(9), key_heads, 0.3, output
    )
    at = 0
    for piece in pieces:
        for token in range(piece.new):
            seen = piece.start + token + 1
            for head in range(key_heads * group):
                key, value = (states[0, head // group, :seen].double() for states in stored[piece.row])
                weights = (0.3 * query[0, head, at].double() @ key.T).softmax(-1)
                torch.testing.assert_close(output[at, head].double(), weights @ value, **ACCURACY[dtype])
            at += 1


def test_what_is_past_the_end_is_never_read(kernels):
    cache = RowCache(1, 64)
    cache.place([Piece(0, 0, 5)], torch.device("cpu"))
    dtype = next(one for one in TYPES if row_kernels(one) is kernels)
    (held, _) = cache.update(torch.ones(1, 1, 5, 4, dtype=dtype), torch.ones(1, 1, 5, 4, dtype=dtype), 0)
    for states in held.layer.blocks[0]:
        states[states == 0] = torch.nan
    output = torch.empty(5, 1, 4, dtype=dtype)
    query = torch.ones(1, 5, 4, dtype=dtype)
    kernels.decode(query, held.layer.table, held.bringing.places, held.bringing.tokens_up_to(5), 1, 1.0, output)
    assert (output == 1).all()


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    heads=st.integers(1, 3),
    tokens=st.integers(1, 9),
    seen=st.integers(1, 70),
    scale=st.sampled_from([0.1, 3.0, 80.0]),
    seed=st.integers(0, 99),
)
def test_a_token_weighs_what_it_sees(kernels, heads, tokens, seen, scale, seed):
    torch.manual_seed(seed)
    dtype = next(one for one in TYPES if row_kernels(one) is kernels)
    scores = (torch.randn(heads, tokens, seen + tokens - 1) * scale).to(dtype)
    weights = scores.clone()
    kernels.causal_softmax(weights, seen)
    hidden = torch.arange(scores.shape[-1]) >= seen + torch.arange(tokens)[:, None]
    expected = scores.double().masked_fill(hidden, -torch.inf).softmax(-1)
    torch.testing.assert_close(weights.double(), expected, rtol=4e-3 if dtype == torch.bfloat16 else 1e-5, atol=1e-6)
    assert (weights[:, hidden] == 0).all()


def test_what_there_are_kernels_for():
    def found(dtype, size=64, device="cpu"):
        states = torch.zeros(1, 2, 3, size, dtype=dtype, device=device)
        return kernels_for(states, states)

    assert found(torch.float32) is row_kernels(torch.float32)
    assert found(torch.bfloat16) is row_kernels(torch.bfloat16)
    assert found(torch.float64) is None
    assert found(torch.float32, size=6) is None
    assert found(torch.float32, device="meta") is None


def _kernels_with(cxx: str, cache: str) -> subprocess.CompletedProcess[str]:
    code = (
        "import torch; from tspo.rollout.row_kernels import row_kernels; print(row_kernels(torch.float32) is not None)"
    )
    environment = {"PATH": "/usr/bin:/bin", "CXX": cxx, "TSPO_CACHE": cache, "PYTHONPATH": ":".join(sys.path)}
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)


@pytest.mark.slow
@pytest.mark.parametrize("cxx", ["/not/there", "/bin/false"])
def test_without_a_compiler_that_works_there_are_none(cxx, tmp_path):
    done = _kernels_with(cxx, str(tmp_path))
    assert done.stdout == "False\n"
    assert "kernels are not compiled" in done.stderr
    assert not list(tmp_path.rglob("*.so"))


@pytest.mark.slow
def test_the_library_is_compiled_once(tmp_path):
    if row_kernels(torch.float32) is None:
        pytest.skip("no C++ compiler with OpenMP")
    count = tmp_path / "count"
    compiler = tmp_path / "c++"
    compiler.write_text(f'#!/bin/sh\necho x >> {count}\nexec {shutil.which("c++") or "g++"} "$@"\n')
    compiler.chmod(compiler.stat().st_mode | stat.S_IXUSR)
    for _ in range(2):
        assert _kernels_with(str(compiler), str(tmp_path)).stdout == "True\n"
    assert count.read_text() == "x\n"
    assert [path.name for path in (tmp_path / "kernels").iterdir()] == [kernels_module._compiled(str(compiler)).name]
