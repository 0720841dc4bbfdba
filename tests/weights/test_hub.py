"""Downloads, against a local server that answers as the hub does."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from weights.hub_server import NAME, Hub, serve

from openglip.errors import WeightsError, WeightsNotFoundError
from openglip.weights.hub import cache_dir, cached, expected_hash, fetch
from openglip.weights.load import load_model
from openglip.weights.records import RECORDS

CONTENT = bytes(range(256)) * 4096 * 12  # 12 MiB; the client keeps what it has in steps of 10 MiB
DIGEST = hashlib.sha256(CONTENT).hexdigest()
RECORD = replace(RECORDS["glip-t"], sha256=None)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setenv("OPENGLIP_CACHE", str(tmp_path / "cache"))
    with serve(CONTENT, monkeypatch) as server:
        yield server


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


def test_a_download_is_announced_verified_and_cached(
    hub: Hub, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = fetch(RECORD)
    assert path == tmp_path / "cache" / NAME
    assert path.read_bytes() == CONTENT
    out, err = capfd.readouterr()
    assert out == ""
    assert "downloading the weights of glip-t" in err
    assert expected_hash(RECORD, path) == DIGEST
    assert (tmp_path / "cache" / f"{NAME}.sha256").read_text() == f"{DIGEST}  {NAME}\n"
    assert fetch(RECORD) == cached(RECORD) == path
    assert names(tmp_path / "cache") == [NAME, f"{NAME}.sha256"]
    assert len(hub.ranges) == 1


def test_quiet_prints_nothing(hub: Hub, capfd: pytest.CaptureFixture[str]) -> None:
    fetch(RECORD, quiet=True)
    assert capfd.readouterr() == ("", "")


def test_a_lost_connection_is_resumed(hub: Hub) -> None:
    hub.cuts = [11 << 20]
    with suppress(WeightsNotFoundError):  # clients before 2.0 resume in the next call
        fetch(RECORD, quiet=True)
    assert fetch(RECORD, quiet=True).read_bytes() == CONTENT
    assert len(hub.ranges) == 2
    assert hub.ranges[1]


def test_a_download_that_fails_leaves_no_file_and_can_be_repeated(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    hub.cuts = [11 << 20] + [0] * 20
    with pytest.raises(WeightsNotFoundError, match="put the file glip_tiny_model"):
        fetch(RECORD, quiet=True)
    assert names(tmp_path / "cache") == []
    hub.cuts = []
    assert fetch(RECORD, quiet=True).read_bytes() == CONTENT


def test_of_two_threads_one_downloads(hub: Hub) -> None:
    with ThreadPoolExecutor(2) as pool:
        paths = list(pool.map(lambda record: fetch(record, quiet=True), [RECORD, RECORD]))
    assert paths[0] == paths[1]
    assert len(hub.ranges) == 1


@pytest.mark.parametrize("known", ["record", "hub"])
def test_a_wrong_hash_is_refused_and_removed(hub: Hub, tmp_path: Path, known: str) -> None:
    record = replace(RECORD, sha256="0" * 64) if known == "record" else RECORD
    hub.stated = DIGEST if known == "record" else "0" * 64
    with pytest.raises(WeightsError, match=rf"has sha256 {DIGEST}, 0{{64}} was expected"):
        fetch(record, quiet=True)
    assert names(tmp_path / "cache") == []


@pytest.mark.parametrize("variable", ["OPENGLIP_OFFLINE", "HF_HUB_OFFLINE"])
def test_offline_sends_no_request_and_says_which_file_goes_where(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, "1")
    with pytest.raises(FileNotFoundError) as caught:
        fetch(RECORD)
    assert isinstance(caught.value, WeightsError)
    for part in (NAME, str(tmp_path / "cache" / NAME), "OPENGLIP_OFFLINE", "weights=PATH"):
        assert part in str(caught.value)
    assert hub.ranges == []
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / NAME).write_bytes(b"by hand")
    assert fetch(RECORD).read_bytes() == b"by hand"


def test_without_network_the_error_says_which_file_goes_where(
    tmp_path: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    with pytest.raises(FileNotFoundError, match="put the file glip_tiny_model") as caught:
        fetch(RECORD, quiet=True)
    assert str(tmp_path / "cache" / NAME) in str(caught.value)


def test_a_file_that_the_hub_lacks(hub: Hub) -> None:
    with pytest.raises(WeightsNotFoundError, match=r"404.*put the file other\.pth"):
        fetch(replace(RECORD, file="other.pth"), quiet=True)


def test_a_model_without_released_weights_says_so() -> None:
    with pytest.raises(WeightsError, match="no weights of dyhead-t were released"):
        fetch(RECORDS["dyhead-t"])


def test_a_user_without_a_home_folder_has_a_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HOME", "USERPROFILE", "XDG_CACHE_HOME", "OPENGLIP_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("os.path.expanduser", lambda path: path)  # as without an entry in passwd
    assert cache_dir().is_absolute()
    assert "~" not in str(cache_dir())
    assert cached(RECORDS["glip-t"]) is None
    with pytest.raises(WeightsNotFoundError, match=r"~/my\.pth"):
        load_model("glip-t", "~/my.pth")
