import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tspo.retrieval.npy_writer import NpyWriter


@settings(max_examples=30, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 50), max_size=5),
    row_shape=st.sampled_from([(), (1,), (3,)]),
    dtype=st.sampled_from(["int32", "int64", "float16", "float32"]),
)
def test_what_was_appended_is_loaded(tmp_path_factory, lengths, row_shape, dtype):
    path = tmp_path_factory.mktemp("npy") / "rows.npy"
    blocks = [np.random.default_rng(n).integers(0, 100, (n, *row_shape)) for n in lengths]
    with NpyWriter(path, dtype, row_shape) as writer:
        for block in blocks:
            writer.append(block)
        assert len(writer) == sum(lengths)
    expected = np.concatenate([np.zeros((0, *row_shape)), *blocks]).astype(dtype)
    for mmap_mode in (None, "r"):
        loaded = np.load(path, mmap_mode=mmap_mode)
        assert loaded.dtype == dtype
        np.testing.assert_array_equal(loaded, expected)


def test_a_file_whose_block_failed_does_not_pass_for_whole(tmp_path):
    def fail():
        with NpyWriter(tmp_path / "rows.npy", np.int64) as writer:
            writer.append(np.arange(9))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert len(np.load(tmp_path / "rows.npy")) == 0


def test_rows_of_another_shape_are_refused(tmp_path):
    with NpyWriter(tmp_path / "rows.npy", np.float32, (3,)) as writer, pytest.raises(ValueError, match="shape"):
        writer.append(np.zeros((5, 2)))
