"""Standard output and error of the command: any text, encoding, reader, and end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from cli.interrupts import hear_interrupts
from PIL import Image

from openglip.cli.terminal import print_table, printable

posix = pytest.mark.skipif(os.name != "posix", reason="signals and pipes of POSIX")
MAIN = [sys.executable, "-m", "openglip"]


@pytest.fixture
def detect(weights: Path, tmp_path: Path) -> list[str]:
    """A command that detects in three images and writes to the folder `out`."""
    for i in range(3):
        Image.new("RGB", (80, 60), (70 * i, 9, 9)).save(tmp_path / f"{i}.png")
    images = [str(tmp_path / f"{i}.png") for i in range(3)]
    options = ["--model", str(weights), "--threshold", "0", "--no-pictures", "--output", str(tmp_path / "out")]
    return [*MAIN, "detect", *images, *options]


def run(command: list[str], **options: object) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(command, capture_output=True, **options)  # type: ignore[call-overload]


@posix
@pytest.mark.parametrize("redirection", ["| head -c 1", "2>&1 | head -c 1", "2>&1 | true", ">&-", ">&- 2>&-"])
def test_work_goes_on_when_nobody_reads(detect: list[str], tmp_path: Path, redirection: str) -> None:
    script = f'"$@" --prompt cup --json {redirection}; exit ${{PIPESTATUS[0]}}'
    done = run(["bash", "-c", script, "bash", *detect])
    assert done.returncode == 0, done.stderr
    assert len((tmp_path / "out" / "detections.jsonl").read_text().splitlines()) == 3


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_stdout_is_reported_after_the_work(detect: list[str], tmp_path: Path) -> None:
    done = run(["bash", "-c", '"$@" --prompt cup --json > /dev/full', "bash", *detect])
    assert done.returncode == 1
    assert b"stdout can't be written: No space left" in done.stderr
    assert (tmp_path / "out" / "detections.jsonl").exists()


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "cp437", "utf-8"])
def test_json_is_json_in_every_encoding(detect: list[str], encoding: str) -> None:
    names = ["café", "cup 🐱", "ŝafo ☕"]
    options = [word for name in names for word in ("--category", name)]
    environment = {**os.environ, "PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"}
    done = run([*detect, *options, "--json"], env=environment)
    assert done.returncode == 0, done.stderr
    assert [json.loads(line)["vocabulary"] for line in done.stdout.decode(encoding).splitlines()] == [names] * 3


def test_reports_are_json_in_every_encoding(tmp_path: Path) -> None:
    (tmp_path / "ŝafo.json").write_text('[{"data": {"image": "ŝafo ☕.png"}}]')
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    done = run([*MAIN, "data", "check", str(tmp_path / "ŝafo.json"), "--json"], env=environment)
    assert json.loads(done.stdout.decode("ascii"))["findings"], done.stderr


@posix
@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_a_signal_ends_in_order(detect: list[str], tmp_path: Path, name: str) -> None:
    many = [*detect[:4], *[detect[4]] * 20000, *detect[4:]]
    process = subprocess.Popen(
        [*many, "--prompt", "cup"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, preexec_fn=hear_interrupts
    )
    while not (tmp_path / "out").exists():
        assert process.poll() is None
        time.sleep(0.05)
    time.sleep(0.5)
    process.send_signal(getattr(signal, name))
    _, error = process.communicate(timeout=60)
    assert process.returncode == 128 + getattr(signal, name)
    assert b"Traceback" not in error
    assert f"ended by {name}".encode() in error
    assert list((tmp_path / "out").iterdir()) == []


def test_texts_are_shown_as_they_are_and_steer_nothing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    texts = [":dog: cup", "[red]cup[/]", "[/oops]", "a\x1b[31mb", "a\rb", "a\u202eb", "a\udcffb"]
    print_table(["name"], [[text] for text in texts])
    shown = capsys.readouterr().out
    assert all(printable(text) in shown for text in texts)
    assert not set("\x1b\r\u202e\udcff") & set(shown)
    assert printable("a\nb\x1b") == r"a\nb\x1b"
    assert printable("groß 猫 🐱") == "groß 猫 🐱"


@pytest.mark.parametrize("columns", ["10", "33", "80"])
def test_names_never_vanish_from_the_table(detect: list[str], columns: str) -> None:
    name = ":dog: coffee cup [b] with a handle and a lid"
    done = run([*detect, "--category", name], env={**os.environ, "COLUMNS": columns, "PYTHONIOENCODING": "utf-8"})
    text = done.stdout.decode()
    assert all(word in text for word in name.split()), text


def test_a_tilde_is_the_home_folder_in_every_position(detect: list[str], tmp_path: Path) -> None:
    environment = {**os.environ, "HOME": str(tmp_path), "USERPROFILE": str(tmp_path)}
    for i, options in enumerate((["--output=~/a0"], ["--output", "~/a1"])):
        assert run([*detect[:-2], *options, "--prompt", "cup"], env=environment, cwd=tmp_path).returncode == 0
        assert (tmp_path / f"a{i}" / "detections.jsonl").exists()
    assert not (tmp_path / "~").exists()


REDIRECTED = """
import contextlib, io, sys
from openglip.cli.main import main
sys.argv = ["openglip", "models", "list", "--json"]
with open("out.txt", "w", encoding="ascii") as file, contextlib.redirect_stdout(file):
    with contextlib.suppress(SystemExit):
        main()
"""


def test_a_caller_that_redirects_stdout_gets_the_results(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", REDIRECTED], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout == ""
    assert "glip-t" in (tmp_path / "out.txt").read_text()
