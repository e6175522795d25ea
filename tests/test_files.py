import errno
import os
import resource
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tspo.errors import BadInput
from tspo.files import atomic_write, explain_full_disk


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("kind", [str, Path])
def test_a_file_appears_whole(tmp_path, kind):
    path = tmp_path / "out.txt"
    with atomic_write(kind(path)) as stream:
        stream.write("é 漢字\nline")
        assert not path.exists()
    assert path.read_bytes() == "é 漢字\nline".encode()
    assert names(tmp_path) == ["out.txt"]


@pytest.mark.parametrize("error", [ValueError("x"), KeyboardInterrupt(), BadInput("y")])
@pytest.mark.parametrize("before", [None, "before"])
def test_an_exception_leaves_everything_as_it_was(tmp_path, error, before):
    path = tmp_path / "out.txt"
    if before:
        path.write_text(before)
    with pytest.raises(type(error)) as raised, atomic_write(path) as stream:  # noqa: PT012
        stream.write("half")
        stream.flush()
        raise error
    assert raised.value is error
    assert names(tmp_path) == (["out.txt"] if before else [])
    assert not before or path.read_text() == before


def test_a_link_goes_on_pointing_where_it_did(tmp_path):
    (tmp_path / "real").mkdir()
    link = tmp_path / "link.txt"
    link.symlink_to("real/out.txt")
    with atomic_write(link) as stream:
        stream.write("x")
    assert link.is_symlink()
    assert (tmp_path / "real" / "out.txt").read_text() == "x"


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_a_new_file_has_the_permissions_of_any_new_file(tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        with atomic_write(tmp_path / "out.txt") as stream:
            stream.write("x")
        assert os.umask(umask) == umask
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "out.txt").stat().st_mode) == mode


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o666])
def test_a_file_that_is_replaced_keeps_its_permissions(tmp_path, mode):
    path = tmp_path / "out.txt"
    path.write_text("before")
    path.chmod(mode)
    with atomic_write(path) as stream:
        stream.write("after")
    assert path.read_text() == "after"
    assert stat.S_IMODE(path.stat().st_mode) == mode


def test_places_that_cannot_be_written_to(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path, tmp_path / "none" / "x", tmp_path / "file" / "x", tmp_path / ("x" * 300)):
        with pytest.raises(BadInput) as error, atomic_write(path):
            pytest.fail("the block ran")
        assert str(error.value).startswith(f"{path}: ")
        assert "\n" not in str(error.value)


FULL_DISK = """
import resource, signal, sys
from tspo.errors import BadInput
from tspo.files import atomic_write
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
try:
    with atomic_write(sys.argv[1]) as stream:
        for _ in range(1000):
            stream.write("x" * int(sys.argv[2]))
except BadInput as error:
    print(error)
"""


@pytest.mark.skipif(not hasattr(resource, "RLIMIT_FSIZE"), reason="no limit on the size of files")
@pytest.mark.parametrize("size", [11, 100_000])  # fails as the last buffer is flushed, or in the middle
def test_a_full_disk_leaves_the_old_file(tmp_path, size):
    path = tmp_path / "out.txt"
    path.write_text("before")
    result = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(path), str(size)], capture_output=True, text=True, timeout=60
    )
    assert result.stderr == ""
    assert result.stdout == f"{path}: not written (File too large); choose another place\n"
    assert path.read_text() == "before"
    assert names(tmp_path) == ["out.txt"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_device_is_written_to_and_not_replaced():
    with atomic_write(os.devnull) as stream:
        stream.write("x")
    assert not Path(os.devnull).is_file()
    with pytest.raises(BadInput, match="No space left"), atomic_write("/dev/full") as stream:
        stream.write("x")
    assert not Path("/dev/full").is_file()


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        OSError(errno.EFBIG, "File too large"),
        RuntimeError("[enforce fail at inline_container.cc:664] . PytorchStreamWriter failed writing file data/1"),
        RuntimeError("I/O error: No space left on device (os error 28)"),
    ],
)
def test_a_full_disk_is_explained(tmp_path, error):
    with pytest.raises(BadInput) as explained, explain_full_disk(tmp_path):
        raise error
    assert str(explained.value).startswith(f"{tmp_path}: the disk is full; ")
    assert explained.value.__cause__ is error


@pytest.mark.parametrize(
    "error",
    [OSError(errno.EACCES, "Permission denied"), RuntimeError("out of memory"), BadInput("No space left on device")],
)
def test_another_error_passes_through(tmp_path, error):
    with pytest.raises(type(error)) as raised, explain_full_disk(tmp_path):
        raise error
    assert raised.value is error


def test_a_safetensors_error_about_a_full_disk_is_explained(tmp_path):
    safetensors = pytest.importorskip("safetensors")
    error = safetensors.SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
    with pytest.raises(BadInput, match="the disk is full"), explain_full_disk(tmp_path):
        raise error
