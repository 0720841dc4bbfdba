"""Whole-or-nothing writing, slices of files, and the lock of a folder."""

from __future__ import annotations

import base64
import errno
import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from openglip.errors import ConfigError, DataError
from openglip.files import FileSlice, file_sha256, folder_lock, remove_temporary_files, whole_file, whole_path


def test_a_file_gets_its_name_when_it_is_whole(tmp_path: Path) -> None:
    target = tmp_path / "new" / "report.txt"
    with whole_file(target, newline="") as file:
        file.write("é\n")
        assert not target.exists()
    assert target.read_bytes() == "é\n".encode()
    with whole_path(target) as temporary:
        temporary.write_bytes(b"more")
    assert target.read_bytes() == b"more"
    assert [path.name for path in target.parent.iterdir()] == ["report.txt"]


def write_half(path: Path) -> None:
    with whole_file(path) as file:
        file.write("half")
        raise KeyboardInterrupt


def test_an_error_leaves_the_earlier_file(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("earlier")
    with pytest.raises(KeyboardInterrupt):
        write_half(tmp_path / "a")
    assert (tmp_path / "a").read_text() == "earlier"
    assert os.listdir(tmp_path) == ["a"]


def test_leftovers_of_killed_processes_are_removed(tmp_path: Path) -> None:
    kill = (
        "import os, signal, sys\n"
        "from openglip.files import whole_file\n"
        "with whole_file(sys.argv[1]) as file:\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", kill, str(tmp_path / "a")], check=False)
    assert len(os.listdir(tmp_path)) == 1
    remove_temporary_files(tmp_path)
    assert os.listdir(tmp_path) == []


def test_digest(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert file_sha256(tmp_path / "a") == hashlib.sha256(b"abc").hexdigest()


def test_a_folder_is_locked_for_others_and_names_who_holds_it(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    take = (
        "import sys; from pathlib import Path; from openglip.files import folder_lock\n"
        "with folder_lock(Path(sys.argv[1])): pass"
    )
    with folder_lock(folder):
        other = subprocess.run([sys.executable, "-c", take, str(folder)], capture_output=True, text=True)
        assert f"{folder} is in use by process {os.getpid()} on " in other.stderr
    subprocess.run([sys.executable, "-c", take, str(folder)], check=True)


def test_a_folder_that_can_not_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="can't be made"), folder_lock(tmp_path / "file" / "run"):
        pass


def test_slices_of_files(tmp_path: Path) -> None:
    file = tmp_path / "x.tsv"
    encoded = base64.b64encode(b"picture")
    file.write_bytes(b"key\t" + encoded + b"\nraw")
    assert FileSlice(str(file), 0, 5 + len(encoded), is_base64=True).read() == b"picture"
    assert FileSlice(str(file), 5 + len(encoded), 3).read() == b"raw"
    for broken in (
        FileSlice(str(file), 5 + len(encoded), 9),
        FileSlice(str(tmp_path / "none-x.tsv"), 0, 1),
        FileSlice(str(file), 4, 3, is_base64=True),
    ):
        with pytest.raises(DataError, match=r"x\.tsv"):
            broken.read()


def test_errors_name_the_file_and_not_its_temporary_one(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file").touch()

    def fill_the_disk() -> None:
        with whole_file(tmp_path / "full"):
            raise OSError(errno.ENOSPC, "No space left on device")

    def write_to(path: Path) -> None:
        with whole_file(path) as file:
            file.write("x")

    for call, name in (
        (fill_the_disk, "full"),
        (lambda: write_to(tmp_path / "folder"), "folder"),
        (lambda: write_to(tmp_path / ("x" * 256)), "x" * 256),
        (lambda: write_to(tmp_path / "folder" / "file" / "a"), "file"),
    ):
        with pytest.raises(OSError) as caught:  # noqa: PT011
            call()
        assert str(caught.value).endswith(f"{name}'")
        assert ".tmp" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]
