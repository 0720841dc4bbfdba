"""Fetch weights files: cache, resumed download with progress on stderr, verified hash, and nothing of it offline."""

from __future__ import annotations

import hashlib
import http.client
import os
import re
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Mapping
from email.message import Message
from importlib import resources
from pathlib import Path
from typing import IO

from openglip.errors import WeightsError, WeightsNotFoundError
from openglip.weights.records import WeightsRecord

_BLOCK = 1 << 20
_TIMEOUT = 30.0
_TRIES = 5
_TRUE = {"1", "on", "yes", "true"}


def cache_dir() -> Path:
    """Folder where downloads lie: OPENGLIP_CACHE, or `openglip` in the user's cache folder."""
    chosen = os.environ.get("OPENGLIP_CACHE")
    if chosen:
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "openglip"


def offline() -> bool:
    """True when OPENGLIP_OFFLINE or HF_HUB_OFFLINE forbids the network."""
    return any(os.environ.get(name, "").lower() in _TRUE for name in ("OPENGLIP_OFFLINE", "HF_HUB_OFFLINE"))


def embedded_file(name: str) -> Path:
    """Path of a weights file inside the package, there or not."""
    return Path(str(resources.files("openglip.weights").joinpath("embedded", name)))


def cached(record: WeightsRecord) -> Path | None:
    """Path of the record's file where it is on this machine already: our cache, then the hub client's own."""
    if record.file is None:
        return None
    own = cache_dir() / record.file
    if own.is_file():
        return own
    if record.hub is None:
        return None
    from huggingface_hub import try_to_load_from_cache  # late: costs 0.3 s

    found = try_to_load_from_cache(record.hub, record.file)
    return Path(found) if isinstance(found, str) else None


def fetch(record: WeightsRecord, *, quiet: bool = False) -> Path:
    """Path of the record's file, downloaded first when it is not on this machine.

    The file appears under its name only when it is whole and its hash is right; an interrupted download stays as
    `FILE.part` and the next call continues it. The hash lies beside the file as `FILE.sha256`, as sha256sum writes it.
    Raises WeightsNotFoundError when there is no file or no network (the message says which file to put where), and
    WeightsError when the hash is another one.
    """
    if record.file is None or record.hub is None:
        raise WeightsNotFoundError(
            f"no weights of {record.model} were released: pass weights=PATH of your own, or weights='random'"
        )
    found = cached(record)
    if found is not None:
        return found
    target = cache_dir() / record.file
    from huggingface_hub import hf_hub_url

    # The variable is passed on here because the hub client reads it at its own import only.
    url = hf_hub_url(record.hub, record.file, endpoint=os.environ.get("HF_ENDPOINT") or None)
    if offline():
        raise WeightsNotFoundError(_by_hand(record, target, url, "the network is switched off (OPENGLIP_OFFLINE)"))
    if not quiet:
        sys.stderr.write(f"openglip: downloading the weights of {record.model}: {url} -> {target}\n")
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    try:
        stated = _download(url, part, quiet=quiet)
    except (OSError, http.client.HTTPException) as error:
        raise WeightsNotFoundError(_by_hand(record, target, url, f"the download failed ({error})")) from error
    digest = sha256(part)
    expected = record.sha256 or stated
    if expected is not None and digest != expected:
        part.unlink()
        raise WeightsError(
            f"{url}: the download has sha256 {digest}, {expected} was expected. It was removed; try again, and if it "
            "fails again the file at the hub is another one than this version of openglip knows"
        )
    target.with_name(target.name + ".sha256").write_text(f"{digest}  {target.name}\n", encoding="utf-8")
    os.replace(part, target)
    return target


def sha256(path: Path) -> str:
    """Hash of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def expected_hash(record: WeightsRecord, path: Path) -> str | None:
    """Hash that the file should have: of the record, else the one noted when it was downloaded, else None."""
    if record.sha256:
        return record.sha256
    note = path.with_name(path.name + ".sha256")
    return note.read_text(encoding="utf-8").split()[0] if note.is_file() else None


def _by_hand(record: WeightsRecord, target: Path, url: str, reason: str) -> str:
    return (
        f"the weights of {record.model} are not on this machine and {reason}: put the file {record.file} "
        f"(from {url}) at {target}, or pass weights=PATH"
    )


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects and keeps the hash that the hub states on its own answer, not on the store's behind it."""

    stated: str | None = None

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Message, newurl: str
    ) -> urllib.request.Request | None:
        self.stated = self.stated or _stated_hash(headers)
        return super().redirect_request(req, fp, code, msg, headers, newurl)  # pyright: ignore[reportArgumentType]


def _stated_hash(headers: Mapping[str, str] | Message) -> str | None:
    """sha256 in the hub's headers; the plain ETag of small files is a git hash and is not taken for one."""
    for name in ("X-Linked-Etag", "ETag"):
        value = (headers.get(name) or "").removeprefix("W/").strip('"').lower()
        if re.fullmatch(r"[0-9a-f]{64}", value):
            return value
    return None


def _download(url: str, part: Path, *, quiet: bool) -> str | None:
    """Fill `part` to its full length, trying again after a lost connection; returns the stated hash."""
    for attempt in range(_TRIES):
        before = part.stat().st_size if part.exists() else 0
        try:
            return _continue(url, part, quiet=quiet)
        except urllib.error.HTTPError as error:
            if error.code == 416 and before:  # nothing is left to send, or the part is of another file: begin anew
                part.unlink()
                continue
            raise
        except (OSError, http.client.HTTPException):
            moved = part.exists() and part.stat().st_size > before
            if attempt + 1 == _TRIES or not moved:
                raise
            time.sleep(0.2)
    raise OSError(f"{url}: gave up after {_TRIES} tries")


def _continue(url: str, part: Path, *, quiet: bool) -> str | None:
    """One request for what is missing of `part`. Raises OSError when the answer ends early."""
    have = part.stat().st_size if part.exists() else 0
    redirects = _Redirects()
    headers = {"User-Agent": "openglip", **({"Range": f"bytes={have}-"} if have else {})}
    request = urllib.request.Request(url, headers=headers)
    with urllib.request.build_opener(redirects).open(request, timeout=_TIMEOUT) as answer:
        if answer.status != 206:  # the whole file comes, so what is there does not count
            have = 0
        length = answer.headers.get("Content-Length")
        total = have + int(length) if length else None
        with part.open("ab" if have else "wb") as file:
            blocks = iter(lambda: answer.read(_BLOCK), b"")
            for block in _progress(blocks, part.stem, have, total, quiet=quiet):
                file.write(block)
        if total is not None and part.stat().st_size < total:
            raise OSError(f"the connection ended after {part.stat().st_size:,} of {total:,} bytes")
        return redirects.stated or _stated_hash(answer.headers)


def _progress(blocks: Iterable[bytes], name: str, have: int, total: int | None, *, quiet: bool) -> Iterable[bytes]:
    """The blocks, with a bar on stderr meanwhile (none when stderr is not a terminal)."""
    if quiet or not sys.stderr.isatty():
        yield from blocks
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(name, total=total, completed=have)
        for block in blocks:
            yield block
            bar.advance(task, len(block))
