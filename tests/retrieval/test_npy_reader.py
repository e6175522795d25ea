import numpy as np
import pytest

from tspo.retrieval.npy_reader import NpyReader


@pytest.fixture
def table():
    return np.random.default_rng(0).standard_normal((50, 6)).astype(np.float16)


@pytest.fixture
def path(tmp_path, table):
    np.save(tmp_path / "rows.npy", table)
    return tmp_path / "rows.npy"


def test_rows_are_those_of_the_file(path, table):
    reader = NpyReader(path)
    assert (reader.shape, reader.dtype) == ((50, 6), np.float16)
    np.testing.assert_array_equal(reader.read(3, 9), table[3:9])
    np.testing.assert_array_equal(reader.read(45, 60), table[45:])
    assert reader.read(50, 60).shape == (0, 6)
    places = np.array([49, 0, 7, 7])
    np.testing.assert_array_equal(reader.take(places), table[places])
    assert reader.take(places[:0]).shape == (0, 6)


def test_other_files_are_refused(tmp_path, table):
    for name, array in {"flat": table[0], "columns": np.asfortranarray(table)}.items():
        np.save(tmp_path / f"{name}.npy", array)
        with pytest.raises(ValueError, match="vectors"):
            NpyReader(tmp_path / f"{name}.npy")


def test_a_file_that_shrinks_is_noticed(path):
    reader = NpyReader(path)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(OSError, match="shorter"):
        reader.read(40, 50)
