"""Runs that are killed at random moments give the bytes of an undisturbed one, on processes and on Ray."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from labelling.runs import files_of
from labelling.stub import slow

from openglip.labelling.manifest import Manifest, verify
from openglip.labelling.run import label
from openglip.labelling.shards import LabelSettings

RULES = LabelSettings(chunker="rules")
RUNNER = Path(__file__).with_name("runner.py")


@pytest.fixture(scope="module")
def source(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five times the images: 150 pairs, 25 shards."""
    folder = tmp_path_factory.mktemp("many")
    for i in range(5):
        for path in images.iterdir():
            shutil.copy(path, folder / f"{i}-{path.name}")
    return folder


def start(source: Path, output: Path, engine: str = "local", workers: int = 2, *limit: str) -> subprocess.Popen:
    paths = [str(RUNNER.parents[1]), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(p for p in paths if p)}
    return subprocess.Popen(
        [sys.executable, str(RUNNER), str(source), str(output), engine, str(workers), *limit],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def workers_of(process: subprocess.Popen, engine: str) -> list[int]:
    """Processes of this run that label: its children, or Ray's, which are children of its raylet."""
    listed = subprocess.run(["ps", "-eo", "pid,ppid,args"], capture_output=True, text=True, check=True).stdout
    rows = [line.split(None, 2) for line in listed.splitlines()[1:]]
    parents, words = {int(r[0]): int(r[1]) for r in rows}, {int(r[0]): r[2] for r in rows}

    def is_ours(pid: int) -> bool:
        while pid in parents and pid != process.pid:
            pid = parents[pid]
        return pid == process.pid

    title = "ray::_RayWorker" if engine == "ray" else "spawn_main"
    return [pid for pid in parents if title in words[pid] and pid != process.pid and is_ours(pid)]


def disturb(source: Path, output: Path, engine: str, kills: int, seed: int) -> list[str]:
    """Kill main or worker processes until `kills` are done, start again what ended, then let it finish."""
    generator = random.Random(seed)
    log = []
    process = start(source, output, engine)
    while len(log) < kills:
        time.sleep(generator.uniform(0.2, 8.0 if engine == "ray" else 4.0))
        if process.poll() is not None:
            shutil.rmfiles_of(output)  # it was done: from the start
            process = start(source, output, engine)
            continue
        workers = workers_of(process, engine)
        if workers and generator.random() < 0.5:
            os.kill(generator.choice(workers), signal.SIGKILL)
            log.append("worker")
        else:
            process.send_signal(signal.SIGKILL)
            process.wait()
            log.append("main")
            process = start(source, output, engine)
    assert process.wait(300) == 0
    return log


def undisturbed(source: Path, output: Path) -> dict[str, bytes]:
    label(source, output, model=slow, workers=0, shard_size=6, labels=RULES)
    return files_of(output)


def compare(source: Path, tmp_path: Path, engine: str, kills: int) -> None:
    whole = undisturbed(source, tmp_path / "whole")
    log = disturb(source, tmp_path / "out", engine, kills, seed=kills)
    assert files_of(tmp_path / "out") == whole, log
    assert verify(tmp_path / "out") == []
    totals = Manifest.load(tmp_path / "out").totals()
    assert (totals["pairs"], totals["lines"]) == (150, 115)
    assert totals["failures"] == {"empty caption": 30, "unreadable picture": 5}


def test_one_kill(source: Path, tmp_path: Path) -> None:
    compare(source, tmp_path, "local", 1)


@pytest.mark.slow
def test_twenty_kills(source: Path, tmp_path: Path) -> None:
    compare(source, tmp_path, "local", 20)


@pytest.mark.slow
def test_twenty_kills_on_ray(source: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    compare(source, tmp_path, "ray", 20)


@pytest.mark.slow
def test_a_full_disk(source: Path, tmp_path: Path) -> None:
    """Shards that could not be written are named, the status is 1; with room again the same command ends well."""
    process = start(source, tmp_path / "out", "local", 1, "6000")
    assert process.wait(120) == 1
    assert not list((tmp_path / "out").rglob("*.tmp"))
    assert verify(tmp_path / "out")
    assert start(source, tmp_path / "out", workers=1).wait(120) == 0
    assert files_of(tmp_path / "out") == undisturbed(source, tmp_path / "whole")
