"""The images that a command line names."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from openglip.cli.images import find_images, read_list, read_pipe
from openglip.errors import ConfigError

posix = pytest.mark.skipif(os.name != "posix", reason="links, pipes and shells of POSIX")


def image(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (80, 60)).save(path, "PNG")
    return path


def found(folder: Path, *items: str, output: str = "out") -> tuple[list[str], dict[str, int]]:
    paths, left_out = find_images([str(folder / item) for item in items], folder / output)
    return [os.path.relpath(path, folder) for path in paths], dict(left_out)


def test_a_folder_holds_every_file_that_can_be_read_and_counts_the_others(tmp_path: Path) -> None:
    for name in ("a.jpg", "b.JFIF", "c.jpe", "d.jp2", "e.ppm", "sub/f.tga", ".hidden.png", "._a.jpg", ".trash/g.png"):
        image(tmp_path / name)
    for name in ("notes.txt", "labels.txt", "README", "clip.mp4"):
        (tmp_path / name).write_text("")
    paths, left_out = found(tmp_path, ".")
    assert paths == ["a.jpg", "b.JFIF", "c.jpe", "d.jp2", "e.ppm", "sub/f.tga"]
    assert left_out == {
        "hidden folders": 1,
        "hidden files": 2,
        ".txt files": 2,
        "files without a suffix": 1,
        ".mp4 files": 1,
    }


@posix
def test_links_are_followed_once_and_dead_ones_counted(tmp_path: Path) -> None:
    image(tmp_path / "in" / "a.png")
    image(tmp_path / "elsewhere" / "b.png")
    (tmp_path / "in" / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "in" / "loop").symlink_to(tmp_path / "in")
    (tmp_path / "in" / "dead.png").symlink_to(tmp_path / "nothing.png")
    os.mkfifo(tmp_path / "in" / "pipe.png")  # opening it would wait for ever
    paths, left_out = found(tmp_path, "in")
    assert paths == ["in/a.png", "in/link/b.png"]
    assert left_out == {"links to folders that are read already": 1, "dead links": 1, "pipes and devices": 1}


def test_quoted_globs_mean_what_the_shell_makes_of_them(tmp_path: Path) -> None:
    for name in ("in/a.png", "in/sub/b.png", "in/.hidden.png", "in/out/a.boxes.jpg", "in/[1].png"):
        image(tmp_path / name)
    (tmp_path / "in" / "notes.txt").write_text("")
    names = ("[1].png", "a.png", "notes.txt", "out", "sub")
    quoted = found(tmp_path, "in/*", output="in/out")
    assert quoted == found(tmp_path, *(f"in/{name}" for name in names), output="in/out")
    assert quoted[0] == ["in/[1].png", "in/a.png", "in/notes.txt", "in/sub/b.png"]
    assert quoted[1] == {"pictures of an earlier run": 1}
    assert found(tmp_path, "in/out/*.jpg", output="in/out")[0] == ["in/out/a.boxes.jpg"]
    assert found(tmp_path, "no/*.png")[0] == ["no/*.png"]


def test_folders_without_images_are_refused_with_what_they_hold(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(ConfigError, match=r"no image in .*left out: 1 \.txt files"):
        found(tmp_path, ".")


@pytest.mark.parametrize(
    "content",
    [
        b"a b.png\n\nc.png\n",
        b"\xef\xbb\xbfa b.png\r\nc.png",
        b"a b.png\0c.png\0",
        "\ufeffa b.png\r\nc.png\r\n".encode("utf-16-le"),
    ],
)
def test_lists_of_paths(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "list").write_bytes(content)
    assert read_list(str(tmp_path / "list")) == ["a b.png", "c.png"]


def test_a_list_that_can_not_be_read_or_is_empty(tmp_path: Path) -> None:
    (tmp_path / "list").write_text("\n")
    for name, message in (("list", "holds no path"), ("absent", "can't be read")):
        with pytest.raises(ConfigError, match=message):
            read_list(str(tmp_path / name))


def test_images_and_a_list(run: Any, weights: Path, tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        image(tmp_path / name)
    (tmp_path / "list").write_text("b.png\n")
    options = ("--prompt", "cat", "--model", weights, "--no-pictures", "--json")
    assert run("detect", *options).exit_code == 2
    result = run("detect", "a.png", "--images-from", "list", *options)
    assert [json.loads(line)["image"] for line in result.stdout.splitlines()] == ["a.png", "b.png"]


@posix
@pytest.mark.parametrize("words", ['- < "$1"', '/dev/stdin < <(cat "$1")', '<(cat "$1")', '--images-from - <<< "$1"'])
def test_images_through_pipes_are_read_and_drawn(words: str, weights: Path, tmp_path: Path) -> None:
    path = image(tmp_path / "photo.png")
    before, _, after = words.partition(" < ")
    script = f'"${{@:2}}" {before} {"<" if after else ""} {after}'
    command = [sys.executable, "-m", "openglip", "detect", "--prompt", "cat", "--model", str(weights), "--json"]
    done = subprocess.run(
        ["bash", "-c", script, "bash", str(path), *command, "--output", str(tmp_path / "out")],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    line = json.loads(done.stdout)
    assert (line["width"], line["height"]) == (80, 60)
    assert line["image"] in ("-", "/dev/stdin", str(path)) or line["image"].startswith("/dev/fd/")
    assert len(list((tmp_path / "out").glob("*.boxes.jpg"))) == 1


def test_what_is_no_pipe_is_left_to_the_reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert read_pipe(str(image(tmp_path / "a.png"))) is None
    assert read_pipe("absent.png") is None
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"content")))
    pipe = read_pipe("-")
    assert pipe is not None
    assert pipe.read() == b"content"
