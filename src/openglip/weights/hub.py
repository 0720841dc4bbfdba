"""Weights files on this machine: the embedded ones, and downloads from the Hugging Face hub with a verified hash."""

from __future__ import annotations

import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path

from openglip.errors import WeightsError, WeightsNotFoundError
from openglip.files import file_sha256, whole_file
from openglip.weights.records import WeightsRecord

_TRUE = {"1", "on", "yes", "true"}


def cache_dir() -> Path:
    """Folder of the downloads: OPENGLIP_CACHE, or `openglip` in the user's cache folder.

    A user without a home folder, as in a container, has a folder for temporary files instead.
    """
    if chosen := os.environ.get("OPENGLIP_CACHE"):
        return Path(os.path.expanduser(chosen))
    folder = Path(os.path.expanduser(os.environ.get("XDG_CACHE_HOME") or "~/.cache"))
    return (folder if folder.is_absolute() else Path(tempfile.gettempdir()) / f"cache-{os.getuid()}") / "openglip"


def offline() -> bool:
    """Whether OPENGLIP_OFFLINE or HF_HUB_OFFLINE forbids the network."""
    return any(os.environ.get(name, "").lower() in _TRUE for name in ("OPENGLIP_OFFLINE", "HF_HUB_OFFLINE"))


def embedded_file(name: str) -> Path:
    """Path of a weights file inside the package, whether it exists or not."""
    return Path(str(resources.files("openglip.weights").joinpath("embedded", name)))


def cached(record: WeightsRecord) -> Path | None:
    """Path of the record's file if it is on this machine: in our cache, else in the hub client's."""
    if record.file is None:
        return None
    path = cache_dir() / record.file
    if path.is_file():
        return path
    if record.hub is None:
        return None
    from huggingface_hub import try_to_load_from_cache  # late: costs 0.3 s

    hub_path = try_to_load_from_cache(record.hub, record.file)
    return Path(hub_path) if isinstance(hub_path, str) else None


def fetch(record: WeightsRecord, *, quiet: bool = False) -> Path:
    """Path of the record's file, which is downloaded first if it is not on this machine.

    The file gets its name in `cache_dir` only when it is whole and its hash is verified; the hash is written to
    `FILE.sha256`, as sha256sum does. Of several processes one downloads and the others wait.

    Args:
        record: The weights.
        quiet: Print neither a line about the download nor a progress bar.

    Raises:
        WeightsNotFoundError: No file was released, or it can't be downloaded; the message says which file to put where.
        WeightsError: The download has another hash than expected.
    """
    if record.file is None or record.hub is None:
        raise WeightsNotFoundError(
            f"no weights of {record.model} were released: pass weights=PATH of your own, or weights='random'"
        )
    if path := cached(record):
        return path
    from huggingface_hub import hf_hub_url

    target = cache_dir() / record.file
    endpoint = os.environ.get("HF_ENDPOINT") or None  # read here because the hub client reads it at its import only
    url = hf_hub_url(record.hub, record.file, endpoint=endpoint)
    by_hand = f"put the file {record.file} (from {url}) at {target}, or pass weights=PATH"
    missing = f"the weights of {record.model} are not on this machine and"
    if offline():
        raise WeightsNotFoundError(f"{missing} the network is switched off (OPENGLIP_OFFLINE): {by_hand}")
    if not quiet:
        sys.stderr.write(f"openglip: downloading the weights of {record.model}: {url} -> {target}\n")
    try:
        with _progress_bars(not quiet):
            _download(record, url, endpoint, target)
    except WeightsError:
        raise
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise WeightsNotFoundError(f"{missing} the download failed ({reason}): {by_hand}") from error
    return target


def expected_hash(record: WeightsRecord, path: Path) -> str | None:
    """SHA-256 that a file should have: the record's, else the one written down at its download, else None."""
    if record.sha256:
        return record.sha256
    note = path.with_name(path.name + ".sha256")
    return note.read_text(encoding="utf-8").split()[0] if note.is_file() else None


def _download(record: WeightsRecord, url: str, endpoint: str | None, target: Path) -> None:
    from huggingface_hub import get_hf_file_metadata, hf_hub_download
    from huggingface_hub.utils import WeakFileLock

    target.parent.mkdir(parents=True, exist_ok=True)
    folder = target.with_name(f".{target.name}.download")
    with WeakFileLock(target.with_name(f".{target.name}.lock")):
        if target.is_file():  # another process has downloaded it meanwhile
            return
        metadata = get_hf_file_metadata(url)
        hub, file, revision = str(record.hub), str(record.file), metadata.commit_hash
        download = Path(hf_hub_download(hub, file, revision=revision, endpoint=endpoint, local_dir=folder))
        # The tag of a large file is its SHA-256; the one of a small file is a git hash.
        stated = metadata.etag if re.fullmatch("[0-9a-f]{64}", metadata.etag or "") else None
        digest, expected = file_sha256(download), record.sha256 or stated
        if expected is not None and digest != expected:
            shutil.rmtree(folder)
            raise WeightsError(
                f"{url}: the download has sha256 {digest}, {expected} was expected. It was removed; try again, and if "
                "it fails again the file at the hub is not the one that this version of openglip was made for"
            )
        with whole_file(target.with_name(target.name + ".sha256")) as note:
            note.write(f"{digest}  {target.name}\n")
        os.replace(download, target)
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _progress_bars(shown: bool) -> Iterator[None]:
    """Hide the hub client's progress bars, unless they are to be shown (which it does on a terminal only)."""
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    if shown or are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()
