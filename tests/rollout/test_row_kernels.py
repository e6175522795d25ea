"""The compiled kernels say what the plain operations say, within bfloat16."""

from __future__ import annotations

import shutil
import stat
import subprocess
import sys

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tspo.rollout import row_kernels as kernels_module
from tspo.rollout.kv_cache import Piece, RowCache
from tspo.rollout.row_kernels import RowKernels, fits_kernels, row_kernels


@pytest.fixture(scope="module")
def kernels() -> RowKernels:
    found = row_kernels()
    if found is None:
        pytest.skip("no C++ compiler with OpenMP")
    return found


@settings(max_examples=40, deadline=None)
@given(
    key_heads=st.integers(1, 3),
    group=st.integers(1, 4),
    size=st.sampled_from([4, 12, 64]),
    value_size=st.sampled_from([1, 7, 64]),
    lengths=st.lists(st.integers(0, 300), min_size=1, max_size=5),
    seed=st.integers(0, 99),
)
def test_decoding_attends_to_each_row_up_to_its_end(kernels, key_heads, group, size, value_size, lengths, seed):
    torch.manual_seed(seed)
    rows, heads, capacity = len(lengths), key_heads * group, 320
    cache = RowCache(rows, capacity)
    cache.place([Piece(row, length, 1) for row, length in enumerate(lengths)], torch.device("cpu"))
    (part,) = cache.passes
    keys = torch.randn(rows, key_heads, size, capacity).bfloat16()
    values = torch.randn(rows, key_heads, capacity, value_size).bfloat16()
    for row, length in enumerate(lengths):  # what is past the end is never read
        keys[row, :, :, length + 1 :] = torch.nan
        values[row, :, length + 1 :] = torch.nan
    query = torch.randn(rows, heads, size).bfloat16().transpose(0, 1)
    output = torch.empty(rows, heads, value_size, dtype=torch.bfloat16)
    kernels.decode(query, keys, values, part, output)
    for row, length in enumerate(lengths):
        for head in range(heads):
            key, value = keys[row, head // group].double(), values[row, head // group].double()
            weights = (query[head, row].double() @ key[:, : length + 1]).softmax(-1)
            expected = weights @ value[: length + 1]
            torch.testing.assert_close(output[row, head].double(), expected, rtol=1e-2, atol=1e-4)


@settings(max_examples=40, deadline=None)
@given(
    heads=st.integers(1, 3),
    tokens=st.integers(1, 9),
    seen=st.integers(1, 70),
    scale=st.sampled_from([0.1, 3.0, 80.0]),
    seed=st.integers(0, 99),
)
def test_a_token_weighs_what_it_sees(kernels, heads, tokens, seen, scale, seed):
    torch.manual_seed(seed)
    scores = (torch.randn(heads, tokens, seen + tokens - 1) * scale).bfloat16()
    weights = scores.clone()
    kernels.causal_softmax(weights, seen)
    hidden = torch.arange(scores.shape[-1]) >= seen + torch.arange(tokens)[:, None]
    expected = scores.double().masked_fill(hidden, -torch.inf).softmax(-1)
    torch.testing.assert_close(weights.double(), expected, rtol=4e-3, atol=1e-6)
    assert (weights[:, hidden] == 0).all()


def test_only_bfloat16_on_a_cpu_fits():
    assert fits_kernels(torch.zeros(2, 64, dtype=torch.bfloat16))
    assert not fits_kernels(torch.zeros(2, 64))
    assert not fits_kernels(torch.zeros(2, 6, dtype=torch.bfloat16))


def _kernels_with(cxx: str, cache: str) -> subprocess.CompletedProcess[str]:
    code = "from tspo.rollout.row_kernels import row_kernels; print(row_kernels() is not None)"
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
def test_the_library_is_compiled_once(kernels, tmp_path):
    count = tmp_path / "count"
    compiler = tmp_path / "c++"
    compiler.write_text(f'#!/bin/sh\necho x >> {count}\nexec {shutil.which("c++") or "g++"} "$@"\n')
    compiler.chmod(compiler.stat().st_mode | stat.S_IXUSR)
    for _ in range(2):
        assert _kernels_with(str(compiler), str(tmp_path)).stdout == "True\n"
    assert count.read_text() == "x\n"
    assert [path.name for path in (tmp_path / "kernels").iterdir()] == [kernels_module._compiled(str(compiler)).name]
