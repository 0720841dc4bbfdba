"""Whole-or-nothing writing, digests and slices of files, and a lock that keeps a folder to one process."""

from __future__ import annotations

import base64
import errno
import hashlib
import logging
import os
import platform
import secrets
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from openglip.errors import ConfigError, DataError

logger = logging.getLogger(__name__)

StrPath = str | os.PathLike[str]

LOCK_FILE = ".lock"
HOLDER_FILE = ".lock-holder"  # names the process that holds the lock, whose file is emptied when it is taken
TEMPORARY_SUFFIX = ".tmp"
_DISK_ERRORS = {errno.ENOSPC, errno.EFBIG, errno.EIO, errno.EROFS, getattr(errno, "EDQUOT", None)}


@contextmanager
def whole_path(path: StrPath) -> Generator[Path]:
    """A temporary path in the folder of `path`; what was written there gets its final name when the block succeeds.

    Use it for libraries that write to a path. The folder is made if it is not there. The temporary name is short, so
    that any final name a file system takes can be written.

    Args:
        path: The file to write.

    Yields:
        The temporary path. It is hidden and ends with `.tmp`, so a library that guesses a format has to be told it.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{os.getpid()}-{secrets.token_hex(4)}{TEMPORARY_SUFFIX}")
    try:
        yield temporary
        os.replace(temporary, target)
    except OSError as error:
        if error.filename == str(temporary) or (error.filename is None and error.errno in _DISK_ERRORS):
            raise type(error)(error.errno, error.strerror, str(target)) from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def whole_file(path: StrPath, mode: str = "w", **options: Any) -> Generator[IO[Any]]:
    """Open a file for writing under a temporary name; it gets its final name when the block succeeds.

    Args:
        path: The file to write. Its folder is made if it is not there.
        mode: "w" for UTF-8 text, "wb" for bytes.
        **options: Further arguments of `open`, such as `newline` or `errors`.

    Yields:
        The open file.
    """
    if "b" not in mode:
        options.setdefault("encoding", "utf-8")
    with whole_path(path) as temporary, open(temporary, mode, **options) as file:
        yield file
        file.flush()


def remove_temporary_files(folder: Path) -> None:
    """Remove what killed processes left of half-written files in a folder that nobody else writes to."""
    for path in folder.glob(f".*{TEMPORARY_SUFFIX}"):
        path.unlink(missing_ok=True)


def file_sha256(path: StrPath) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@dataclass(frozen=True)
class FileSlice:
    """A part of a file that is a file itself: an image in a tar, or in a line of a TSV. It is read when it is needed.

    Attributes:
        path: The file that contains it.
        offset: Its first byte.
        length: Its number of bytes.
        is_base64: It is a line whose last tab-separated field holds the content as base64.
        name: Its name inside the file, for instance of a member of a tar.
    """

    path: str
    offset: int
    length: int
    is_base64: bool = False
    name: str = ""

    def read(self) -> bytes:
        """The content, decoded.

        Raises:
            DataError: The file is missing, ends too early or holds no base64.
        """
        try:
            with open(self.path, "rb") as file:
                file.seek(self.offset)
                content = file.read(self.length)
        except OSError as error:
            raise DataError(f"{self}: {error.strerror or error}") from error
        if len(content) != self.length:
            raise DataError(f"{self}: the file ends {self.length - len(content)} bytes too early")
        try:
            return base64.b64decode(content.rpartition(b"\t")[2]) if self.is_base64 else content
        except ValueError as error:
            raise DataError(f"{self}: the last field is no base64: {error}") from error

    def __str__(self) -> str:
        return f"{self.path}:{self.name or self.offset}"


@contextmanager
def folder_lock(folder: Path) -> Generator[None]:
    """Make a folder and keep other processes that ask for its lock out of it.

    The lock ends with its process, however that ends. Some network disks have no locks: a warning says so.

    Args:
        folder: The folder to make and to lock.

    Raises:
        ConfigError: The folder can't be made, or another process, which the message names, holds its lock.
    """
    from filelock import FileLock, Timeout

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{folder} can't be made: {error.strerror or error}") from error
    lock, holder = FileLock(folder / LOCK_FILE, timeout=0), folder / HOLDER_FILE
    try:
        lock.acquire()
    except Timeout as error:
        name = ""
        with suppress(OSError):
            name = holder.read_text(encoding="utf-8")
        raise ConfigError(
            f"{folder} is in use by {name or 'another process'}: wait until it has ended, or stop it"
        ) from error
    except (OSError, NotImplementedError) as error:
        logger.warning("%s can't be locked (%s): do not let a second run use it", folder, error)
    try:
        with suppress(OSError):
            holder.write_text(f"process {os.getpid()} on {platform.node()}", encoding="utf-8")
        yield
    finally:
        holder.unlink(missing_ok=True)
        lock.release()
