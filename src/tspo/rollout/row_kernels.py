"""The kernels of row_kernels.cpp, compiled once a machine where there is a compiler."""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch

from tspo.cache_folder import cache_dir

_SOURCE = Path(__file__).with_suffix(".cpp")
_FLAGS = ("-std=c++17", "-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-fopenmp", "-shared", "-fPIC")

_POINTER, _NUMBER = ctypes.c_void_p, ctypes.c_int64
_ARGUMENTS = {
    "store": [_POINTER, _NUMBER, _NUMBER] * 2 + [_POINTER] * 2 + [_NUMBER] * 4,
    "decode": [_POINTER, _NUMBER, _NUMBER] + [_POINTER] * 3 + [_NUMBER, _POINTER] + [_NUMBER] * 4 + [ctypes.c_float],
    "causal_softmax": [_POINTER] + [_NUMBER] * 4,
    "copy_row": [_POINTER] + [_NUMBER] * 8,
    "rms_norm": [_POINTER] * 3 + [_NUMBER] * 2 + [ctypes.c_float],
}

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RowKernels:
    """Work on the rows of a cache in one type of numbers; sums are kept in float32.

    `table` (blocks, 3) has of each block the addresses of its keys (rows, key heads, size, columns) and of its values
    (rows, key heads, columns, value size), and its columns. `places` (tokens, 3) has of each token of a pass its block,
    its row in there and its column. Both are int64.
    """

    functions: dict[str, Callable[..., None]]

    def store(self, keys: torch.Tensor, values: torch.Tensor, table: torch.Tensor, places: torch.Tensor) -> None:
        """Put the keys and the values (key heads, tokens, size) of a pass in their places."""
        keys, values = _heads_whole(keys), _heads_whole(values)
        self.functions["store"](
            keys.data_ptr(),
            keys.stride(1),
            keys.stride(0),
            values.data_ptr(),
            values.stride(1),
            values.stride(0),
            table.data_ptr(),
            places.data_ptr(),
            len(places),
            keys.shape[0],
            keys.shape[2],
            values.shape[2],
        )

    def decode(
        self,
        query: torch.Tensor,
        table: torch.Tensor,
        places: torch.Tensor,
        tokens: torch.Tensor,
        key_heads: int,
        scaling: float,
        output: torch.Tensor,
    ) -> None:
        """Attention of the `tokens` of a pass to their rows up to themselves, written to their places in `output`.

        `query` (heads, tokens, size) and `output` (tokens, heads, value size) are of the whole pass.
        """
        query = _heads_whole(query)
        self.functions["decode"](
            query.data_ptr(),
            query.stride(1),
            query.stride(0),
            table.data_ptr(),
            places.data_ptr(),
            tokens.data_ptr(),
            len(tokens),
            output.data_ptr(),
            key_heads,
            query.shape[0] // key_heads,
            query.shape[2],
            output.shape[2],
            scaling,
        )

    def causal_softmax(self, scores: torch.Tensor, seen: int) -> None:
        """Softmax in place of `scores` (heads, tokens, columns), of which token t sees the first `seen` + t."""
        self.functions["causal_softmax"](scores.data_ptr(), *scores.shape, seen)

    def copy_row(
        self,
        table: torch.Tensor,
        source: tuple[int, int],
        target: tuple[int, int],
        length: int,
        key_heads: int,
        size: int,
        value_size: int,
    ) -> None:
        """Copy the first `length` columns of a row to another; both are given as block and row in there."""
        self.functions["copy_row"](table.data_ptr(), *source, *target, length, key_heads, size, value_size)

    def rms_norm(self, states: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        """RMS norm of `states` (.., size), contiguous, with `weight` (size,)."""
        normed = torch.empty_like(states)
        size = states.shape[-1]
        self.functions["rms_norm"](
            states.data_ptr(), weight.data_ptr(), normed.data_ptr(), states.numel() // size, size, eps
        )
        return normed


def kernels_for(keys: torch.Tensor, values: torch.Tensor) -> RowKernels | None:
    """The kernels for such keys and values (.., size); None where there are none."""
    if keys.device.type != "cpu" or keys.dtype != values.dtype or keys.shape[-1] % 4:
        return None
    return row_kernels(keys.dtype)


@cache
def row_kernels(dtype: torch.dtype) -> RowKernels | None:
    """The compiled kernels for float32 or bfloat16; None for other types, and without a compiler that can make them."""
    library = _library() if dtype in (torch.float32, torch.bfloat16) else None
    if library is None:
        return None
    functions = {name: getattr(library, f"{name}_{str(dtype).removeprefix('torch.')}") for name in _ARGUMENTS}
    for name, function in functions.items():
        function.argtypes, function.restype = _ARGUMENTS[name], None
    return RowKernels(functions)


@cache
def _library() -> ctypes.CDLL | None:
    compiler = os.environ.get("CXX") or next(filter(shutil.which, ("c++", "g++", "clang++")), None)
    if compiler is None:
        return None
    try:
        return ctypes.CDLL(str(_compiled(compiler)))
    except (OSError, subprocess.SubprocessError) as error:
        logger.warning("attention kernels are not compiled (%s): sampling on the CPU is slower", error)
        return None


def _heads_whole(states: torch.Tensor) -> torch.Tensor:
    """`states` with the numbers of a head one after the other."""
    return states if states.stride(-1) == 1 else states.contiguous()


def _compiled(compiler: str) -> Path:
    """The library in the cache folder, compiled if it is not there."""
    made_from = (_SOURCE.read_text("utf-8"), *_FLAGS, compiler, _processor())
    name = hashlib.sha256("\0".join(made_from).encode()).hexdigest()[:16]
    folder = cache_dir() / "kernels"
    target = folder / f"row_kernels-{name}.so"
    if not target.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".making-") as making:
            made = Path(making, target.name)
            subprocess.run([compiler, *_FLAGS, str(_SOURCE), "-o", str(made)], check=True, capture_output=True)
            made.replace(target)
    return target


def _processor() -> str:
    """What this processor is able to do: a home folder may be shared by machines that differ."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    return next((line for line in lines if line.lower().startswith(("flags", "features"))), platform.machine())
