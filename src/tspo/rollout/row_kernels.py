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
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch

from tspo.cache_folder import cache_dir
from tspo.rollout.kv_cache import BlockPass

_SOURCE = Path(__file__).with_suffix(".cpp")
_FLAGS = ("-std=c++17", "-O3", "-march=native", "-fno-math-errno", "-fopenmp", "-shared", "-fPIC")
_POINTER, _NUMBER = ctypes.c_void_p, ctypes.c_int64

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RowKernels:
    """Attention in bfloat16 on a CPU, as fast as its memory is read; sums are kept in float32."""

    library: ctypes.CDLL

    def decode(
        self,
        query: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        part: BlockPass,
        output: torch.Tensor,
    ) -> None:
        """Attention of the single tokens of `part` to their rows, written to their places in `output`.

        `query` (heads, tokens, size), which is scaled, and `output` (tokens, heads, value size) are of the whole pass,
        `keys` and `values` a block of a RowCache.
        """
        key_heads, size, columns = keys.shape[1:]
        self.library.decode(
            query.data_ptr(),
            query.stride(1),
            query.stride(0),
            keys.data_ptr(),
            values.data_ptr(),
            output.data_ptr(),
            part.single.data_ptr(),
            part.single_rows.data_ptr(),
            part.single_ends.data_ptr(),
            len(part.single),
            key_heads,
            query.shape[0] // key_heads,
            size,
            values.shape[3],
            columns,
        )

    def causal_softmax(self, scores: torch.Tensor, seen: int) -> None:
        """Softmax in place of `scores` (heads, tokens, columns), of which token t sees the first `seen` + t."""
        self.library.causal_softmax(scores.data_ptr(), *scores.shape, seen)


def fits_kernels(query: torch.Tensor) -> bool:
    """Whether the kernels are made for such a query, (.., size)."""
    return query.dtype == torch.bfloat16 and query.device.type == "cpu" and query.shape[-1] % 4 == 0


@cache
def row_kernels() -> RowKernels | None:
    """The compiled kernels; None where there is no compiler, or it cannot compile them."""
    compiler = os.environ.get("CXX") or next(filter(shutil.which, ("c++", "g++", "clang++")), None)
    if compiler is None:
        return None
    try:
        library = ctypes.CDLL(str(_compiled(compiler)))
    except (OSError, subprocess.SubprocessError) as error:
        logger.warning("attention kernels are not compiled (%s): sampling in bfloat16 is slower", error)
        return None
    library.decode.argtypes = [_POINTER, _NUMBER, _NUMBER, *(_POINTER,) * 6, *(_NUMBER,) * 6]
    library.causal_softmax.argtypes = [_POINTER, *(_NUMBER,) * 4]
    library.decode.restype = library.causal_softmax.restype = None
    return RowKernels(library)


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
