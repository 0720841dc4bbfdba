"""Downloads, against a local server that answers as the hub does."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from openglip import WeightsError
from openglip.weights.hub import cached, expected_hash, fetch
from openglip.weights.records import RECORDS

CONTENT = bytes(range(256)) * 4096 * 3  # 3 MiB
DIGEST = hashlib.sha256(CONTENT).hexdigest()
RECORD = replace(RECORDS["glip-t"], sha256=None)
NAME = "glip_tiny_model_o365_goldg_cc_sbu.pth"


class Hub(ThreadingHTTPServer):
    """The hub's redirect to a store; `cut` ends each answer after so many bytes; `ranges`: what was asked for."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content, self.stated = CONTENT, DIGEST
        self.cut: list[int] = []
        self.ranges: list[str | None] = []
        self.honours_range = True


class Handler(BaseHTTPRequestHandler):
    server: Hub

    def do_GET(self) -> None:
        if self.path == f"/GLIPModel/GLIP/resolve/main/{NAME}":
            self.send_response(302)
            self.send_header("Location", "/store/blob")
            self.send_header("X-Linked-Etag", f'"{self.server.stated}"')
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if self.path != "/store/blob":
            self.send_error(404)
            return
        asked = self.headers.get("Range")
        self.server.ranges.append(asked)
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and self.server.honours_range else 0
        if start >= len(self.server.content):
            self.send_error(416)
            return
        rest = self.server.content[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(rest)))
        self.end_headers()
        self.wfile.write(rest[: self.server.cut.pop(0)] if self.server.cut else rest)

    def log_message(self, format: str, *args: object) -> None:
        """Keep the tests' output clean."""


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    server = Hub()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("OPENGLIP_CACHE", str(tmp_path / "cache"))
    for name in ("OPENGLIP_OFFLINE", "HF_HUB_OFFLINE", "http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    yield server
    server.shutdown()
    server.server_close()


def test_download_is_said_checked_and_kept(hub: Hub, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = fetch(RECORD)
    assert path == tmp_path / "cache" / NAME
    assert path.read_bytes() == CONTENT
    out, err = capfd.readouterr()
    assert out == ""
    assert "downloading the weights of glip-t" in err
    assert expected_hash(RECORD, path) == DIGEST
    assert fetch(RECORD) == cached(RECORD) == path
    assert len(hub.ranges) == 1


def test_lost_connections_are_resumed_within_a_call(hub: Hub) -> None:
    hub.cut = [1_000_000, 500_000]
    assert fetch(RECORD, quiet=True).read_bytes() == CONTENT
    assert hub.ranges == [None, "bytes=1000000-", "bytes=1500000-"]


def test_an_interrupted_download_is_continued_by_the_next_call(hub: Hub, tmp_path: Path) -> None:
    hub.cut = [700_000, 0, 0]
    with pytest.raises(WeightsError, match="ended after 700,000 of 3,145,728 bytes"):
        fetch(RECORD, quiet=True)
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [f"{NAME}.part"]
    hub.cut = []
    assert fetch(RECORD, quiet=True).read_bytes() == CONTENT
    assert hub.ranges[-1] == "bytes=700000-"
    assert not (tmp_path / "cache" / f"{NAME}.part").exists()


def test_a_server_that_ignores_ranges_starts_over(hub: Hub) -> None:
    hub.cut, hub.honours_range = [1_000_000], False
    assert fetch(RECORD, quiet=True).read_bytes() == CONTENT


def test_a_part_that_is_too_long_is_begun_anew(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / f"{NAME}.part").write_bytes(CONTENT + b"more")
    assert fetch(RECORD, quiet=True).read_bytes() == CONTENT


@pytest.mark.parametrize("known", ["record", "hub"])
def test_a_wrong_hash_is_refused_and_removed(hub: Hub, tmp_path: Path, known: str) -> None:
    record = replace(RECORD, sha256="0" * 64) if known == "record" else RECORD
    hub.stated = DIGEST if known == "record" else "0" * 64
    with pytest.raises(WeightsError, match=rf"has sha256 {DIGEST}, 0{{64}} was expected"):
        fetch(record, quiet=True)
    assert list((tmp_path / "cache").iterdir()) == []


@pytest.mark.parametrize("variable", ["OPENGLIP_OFFLINE", "HF_HUB_OFFLINE"])
def test_offline_never_asks_and_says_which_file_goes_where(
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


def test_a_file_the_hub_lacks_is_said(hub: Hub) -> None:
    with pytest.raises(WeightsError, match="404"):
        fetch(replace(RECORD, file="other.pth"), quiet=True)


def test_a_model_without_released_weights_says_so() -> None:
    with pytest.raises(WeightsError, match="no weights of dyhead-t were released"):
        fetch(RECORDS["dyhead-t"])
