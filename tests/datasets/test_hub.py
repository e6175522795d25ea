import hashlib
import re

import pytest

from tspo.datasets.hub import fetch
from tspo.errors import BadInput

BODY = bytes(range(256)) * 4000
SHA256 = hashlib.sha256(BODY).hexdigest()


def get(small, folder, sha256=None):
    benchmark = small(body=BODY)
    return fetch(benchmark.repository, benchmark.revision, benchmark.files["test"].path, sha256, folder)


def test_a_file_arrives_whole(small, tmp_path):
    got = get(small, tmp_path, SHA256)
    assert got.path.read_bytes() == BODY
    assert (got.size, got.sha256) == (len(BODY), SHA256)
    assert not list(tmp_path.glob("*.part"))


def test_a_connection_that_breaks_is_taken_up_again_within_a_call(small, hub, tmp_path):
    hub.cut = [300_000, 200_000]
    assert get(small, tmp_path).path.read_bytes() == BODY
    assert hub.bodies_sent_from() == [0, 300_000, 500_000]


def test_the_next_call_goes_on_where_the_last_one_stopped(small, hub, tmp_path):
    hub.cut = [400_000, *[0] * 20]
    with pytest.raises(BadInput, match=r"could not be downloaded: .* \(400,000 bytes are kept\); run the same command"):
        get(small, tmp_path)
    hub.cut = []
    hub.requests.clear()
    assert get(small, tmp_path, SHA256).path.read_bytes() == BODY
    assert hub.bodies_sent_from() == [400_000]


def test_a_part_that_is_too_long_is_begun_anew(small, hub, tmp_path):
    benchmark = small(body=BODY)
    part = tmp_path / f"tiny-test.jsonl.{benchmark.revision[:12]}.part"
    part.write_bytes(b"x" * (len(BODY) + 1))
    assert get(small, tmp_path, SHA256).path.read_bytes() == BODY


def test_a_part_of_other_bytes_does_not_pass(small, hub, tmp_path):
    benchmark = small(body=BODY)
    part = tmp_path / f"tiny-test.jsonl.{benchmark.revision[:12]}.part"
    part.write_bytes(b"x" * 1000)
    with pytest.raises(BadInput, match=f"its checksum is .*, not {SHA256[:12]}"):
        get(small, tmp_path)
    assert get(small, tmp_path).path.read_bytes() == BODY


@pytest.mark.parametrize("known", [True, False])
def test_another_checksum_is_refused_and_nothing_is_kept(small, hub, tmp_path, known):
    hub.wrong_etag = not known
    promised = "f" * 64 if known else "0" * 64
    with pytest.raises(BadInput, match=f"its checksum is {SHA256[:12]}.., not {promised[:12]}"):
        get(small, tmp_path, promised if known else None)
    assert [path.name for path in tmp_path.iterdir() if path.suffix != ".lock"] == []


def test_a_file_that_there_is_not(small, hub, tmp_path):
    benchmark = small(body=BODY)
    with pytest.raises(BadInput, match="the hub has no such file"):
        fetch(benchmark.repository, benchmark.revision, "tiny/none.jsonl", None, tmp_path)


def test_offline_says_what_to_do(small, monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(BadInput, match="HF_HUB_OFFLINE is set; prepare it where there is a network"):
        get(small, tmp_path)


def test_a_hub_that_does_not_answer(small, hub, tmp_path):
    benchmark = small(body=BODY)
    hub.close()
    with pytest.raises(BadInput) as caught:
        fetch(benchmark.repository, benchmark.revision, benchmark.files["test"].path, None, tmp_path)
    assert re.search(r"could not be downloaded: .+ \(0 bytes are kept\)", str(caught.value))
    assert "\n" not in str(caught.value)


def test_two_at_a_time_are_one_too_many(small, tmp_path):
    import fcntl

    with (tmp_path / "tiny-test.jsonl.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(BadInput, match="another process downloads this"):
            get(small, tmp_path)


def test_no_room_on_the_disk(small, monkeypatch, tmp_path):
    usage = type("Usage", (), {"free": 10})
    monkeypatch.setattr("tspo.datasets.hub.shutil.disk_usage", lambda folder: usage)
    with pytest.raises(BadInput, match="free some space"):
        get(small, tmp_path)
