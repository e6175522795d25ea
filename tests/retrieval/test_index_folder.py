import errno
import json
import os
import shutil
import signal
import subprocess
import sys

import pytest

from tspo.errors import BadInput
from tspo.retrieval import index_folder
from tspo.retrieval.index_folder import Contents, read_manifest, write_index

SETTINGS = {"k": 1}


def write_two_files(part):
    (part / "a.bin").write_bytes(b"a" * 100)
    (part / "b.bin").write_bytes(b"")
    return Contents(7, "0" * 64)


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "index"
    write_index(folder, "some", SETTINGS, write_two_files, libraries=["numpy", "no-such-library"])
    return folder


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_the_manifest_says_what_was_written(folder):
    manifest = read_manifest(folder, "some", checksums=True)
    assert (manifest.kind, manifest.passages, manifest.settings) == ("some", 7, SETTINGS)
    assert manifest.corpus_sha256 == "0" * 64
    assert manifest.libraries["numpy"][0].isdigit()
    assert manifest.libraries["no-such-library"] == "unknown"
    assert {name: mark.bytes for name, mark in manifest.files.items()} == {"a.bin": 100, "b.bin": 0}
    assert names(folder) == ["a.bin", "b.bin", "manifest.json"]
    assert names(folder.parent) == ["index"]


def test_another_index_takes_the_place_of_one_with_other_files(folder):
    def write(part):
        (part / "c.bin").write_bytes(b"c")
        return Contents(1, "1" * 64)

    write_index(folder, "other", {}, write)
    assert names(folder) == ["c.bin", "manifest.json"]
    assert names(folder.parent) == ["index"]
    assert read_manifest(folder).kind == "other"


@pytest.mark.parametrize("error", [BadInput("no"), OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_build_that_fails_leaves_what_was_there(folder, error):
    def write(part):
        (part / "a.bin").write_bytes(b"half")
        raise error

    with pytest.raises(KeyboardInterrupt if isinstance(error, KeyboardInterrupt) else BadInput):
        write_index(folder, "some", {}, write)
    assert names(folder.parent) == ["index"]
    assert read_manifest(folder, checksums=True).passages == 7


def test_a_full_disk_is_named(tmp_path):
    def write(part):
        raise OSError(28, "No space left on device")

    with pytest.raises(BadInput, match=r"index not written \(No space left on device\)"):
        write_index(tmp_path / "index", "some", {}, write)
    assert names(tmp_path) == []


def must_not_run(part):
    raise AssertionError("the build was started")


@pytest.mark.parametrize("make", ["other file", "file beside an index", "foreign manifest", "a file"])
def test_what_is_no_index_is_spared_before_anything_is_built(tmp_path, make):
    folder = tmp_path / "mine"
    if make == "a file":
        folder.write_text("mine")
    elif make == "file beside an index":
        write_index(folder, "some", {}, write_two_files)
        (folder / "notes.txt").write_text("mine")
    else:
        folder.mkdir()
        (folder / ("manifest.json" if make == "foreign manifest" else "notes.txt")).write_text('{"name": "app"}')
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(BadInput, match="is a file" if make == "a file" else "holds other files"):
        write_index(folder, "some", {}, must_not_run)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_an_empty_folder_is_taken_and_a_link_goes_on_pointing(tmp_path):
    (tmp_path / "target").mkdir()
    (tmp_path / "link").symlink_to("target")
    write_index(tmp_path / "link", "some", {}, write_two_files)
    assert (tmp_path / "link").is_symlink()
    assert read_manifest(tmp_path / "target").passages == 7


def test_a_parent_that_is_a_file_is_bad_input(tmp_path):
    (tmp_path / "none").write_text("")
    with pytest.raises(BadInput, match=r"not written \(.*\); a file stands where a folder should"):
        write_index(tmp_path / "none" / "index", "some", {}, must_not_run)


def test_each_file_cut_lost_or_grown_is_refused(folder, tmp_path):
    for name in names(folder):
        for change in ("lost", "cut", "grown"):
            broken = tmp_path / "broken"
            shutil.copytree(folder, broken)
            path = broken / name
            if change == "lost":
                path.unlink()
            elif change == "cut" and path.stat().st_size:
                os.truncate(path, path.stat().st_size // 2)
            else:
                path.write_bytes(path.read_bytes() + b"x")
            with pytest.raises(BadInput, match="build it again") as caught:
                read_manifest(broken)
            assert name in str(caught.value)
            assert "\n" not in str(caught.value)
            shutil.rmtree(broken)


def test_only_checksums_see_a_changed_byte(folder):
    content = bytearray((folder / "a.bin").read_bytes())
    content[50] ^= 1
    (folder / "a.bin").write_bytes(content)
    read_manifest(folder)
    with pytest.raises(BadInput, match=r"a\.bin: its contents are not what was written"):
        read_manifest(folder, checksums=True)


def test_another_kind_is_refused(folder):
    with pytest.raises(BadInput, match="of kind 'some', not 'bm25'"):
        read_manifest(folder, "bm25")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "tspo-bm25"}, "another version"),
        ({"format_version": 2}, "another version"),
        ({"files": {}}, "cannot be read"),
        ({"files": 3}, "cannot be read"),
        ({"files": {"a.bin": 100}}, "cannot be read"),
        ({"files": {"../index/a.bin": {"bytes": 100, "sha256": ""}}}, "cannot be read"),
        ({"passages": "7"}, "cannot be read"),
        ({"settings": []}, "cannot be read"),
    ],
    ids=str,
)
def test_a_manifest_that_does_not_fit_is_refused(folder, change, message):
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | change))
    with pytest.raises(BadInput, match=message):
        read_manifest(folder)


@pytest.mark.parametrize("text", [b"", b"[]", b"null", b"{}", b"\xff\xfe", b"{", b"[" * 100_000])
def test_a_corrupted_manifest_is_refused(folder, text):
    (folder / "manifest.json").write_bytes(text)
    with pytest.raises(BadInput, match="build it again"):
        read_manifest(folder)


BUILD_SLOWLY = """
import sys, time
from tspo.retrieval.index_folder import Contents, write_index
def write(part):
    (part / "a.bin").write_bytes(b"half")
    print("ready", flush=True)
    sys.stdin.readline()
    return Contents(3, "")
write_index(sys.argv[1], "some", {}, write)
"""


def start_build(folder):
    command = [sys.executable, "-c", BUILD_SLOWLY, str(folder)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    return process


def test_a_killed_build_leaves_nothing_that_loads_and_the_next_one_cleans_up(tmp_path):
    folder = tmp_path / "in[1]dex"  # a name that is no pattern
    killed = start_build(folder)
    killed.kill()
    assert killed.wait() == -signal.SIGKILL
    killed.communicate()
    (leftover,) = tmp_path.iterdir()
    assert leftover.name.startswith(".in[1]dex.")
    for place in (folder, leftover):
        with pytest.raises(BadInput, match="not a whole index"):
            read_manifest(place)
    write_index(folder, "some", {}, write_two_files)
    assert names(tmp_path) == ["in[1]dex"]


def test_a_build_that_is_alive_is_left_alone(tmp_path):
    folder = tmp_path / "index"
    alive = start_build(folder)
    write_index(folder, "some", {}, write_two_files)
    assert read_manifest(folder).passages == 7
    alive.communicate("\n", timeout=30)
    assert alive.returncode == 0
    assert read_manifest(folder, checksums=True).passages == 3
    assert names(tmp_path) == ["index"]


def one_file(part):
    (part / "new.bin").write_bytes(b"new")
    return Contents(1, "1" * 64)


def test_files_that_a_foreign_manifest_lists_are_spared(tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "thesis.tex").write_text("mine")
    (folder / "manifest.json").write_text('{"files": {"thesis.tex": {"bytes": 4}}}')
    with pytest.raises(BadInput, match="holds other files"):
        write_index(folder, "some", {}, must_not_run)
    assert names(folder) == ["manifest.json", "thesis.tex"]


@pytest.mark.parametrize("at_once", [True, False])
def test_an_index_is_replaced_with_or_without_the_systems_exchange(folder, monkeypatch, at_once):
    if not at_once:
        monkeypatch.setattr(index_folder, "_exchange", lambda *_: False)
    write_index(folder, "other", {}, one_file)
    assert names(folder) == ["manifest.json", "new.bin"]
    assert names(folder.parent) == ["index"]


def test_a_replacement_that_fails_halfway_leaves_what_there_was(folder, monkeypatch):
    monkeypatch.setattr(index_folder, "_exchange", lambda *_: False)
    rename, before = os.rename, names(folder)

    def fails(source, target):
        if str(source).endswith(".tspo-part") and target == folder and "-old" not in str(source):
            raise OSError(errno.EIO, "Input/output error")
        rename(source, target)

    monkeypatch.setattr(os, "rename", fails)
    with pytest.raises(BadInput, match=r"not written \(Input/output error\)"):
        write_index(folder, "other", {}, one_file)
    assert names(folder) == before
    assert read_manifest(folder).kind == "some"


def test_an_index_that_a_kill_left_aside_comes_back(folder):
    before = names(folder)
    folder.rename(folder.with_name(".index.abc-old.tspo-part"))

    def fails(part):
        raise BadInput("the corpus is damaged")

    with pytest.raises(BadInput, match="the corpus is damaged"):
        write_index(folder, "other", {}, fails)
    assert names(folder) == before
    assert names(folder.parent) == ["index"]
