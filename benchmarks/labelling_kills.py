"""All captions of a Flickr30k Entities root labelled with a stub while its processes are killed again and again.

    python benchmarks/labelling_kills.py FLICKR30K_ROOT [--kills 20] [--engines local ray]

Beside the captions stand an archive that breaks off, one that is none, a picture that is none and an empty caption. An
undisturbed run comes first. Then, for each engine with two workers, half of the shards find the disk full (local only:
no file may grow beyond the median shard), and the main process or a worker is killed with SIGKILL at random moments of
the work until `--kills` are done. Every byte of lines and failures must be that of the undisturbed run. Writes
results/labelling_kills.json with each kill.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path
from typing import Any

from common import RESULTS, machine

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from labelling.runs import files_of
from labelling.stub import fast
from labelling.test_engine import workers_of

from openglip.labelling.inputs import plan
from openglip.labelling.manifest import Manifest, verify
from openglip.labelling.run import label
from openglip.labelling.shards import LabelSettings

RULES = LabelSettings(chunker="rules")


def one(sources: list[str], output: str, engine: str, workers: int, limit: int) -> None:
    """A run, as a process of its own. limit: bytes beyond which no file may grow, as on a full disk; 0: none."""
    if limit:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    label(sources, output, model=fast, workers=workers, engine=engine, shard_size=500, labels=RULES)  # type: ignore[arg-type]


def start(sources: list[str], output: Path, engine: str, workers: int, limit: int = 0) -> subprocess.Popen:
    paths = [str(Path(__file__).parents[1] / "tests"), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(p for p in paths if p)}
    command = [sys.executable, __file__, *sources, "--one", str(output), engine, str(workers), str(limit)]
    return subprocess.Popen(command, env=environment)


def odd_sources(folder: Path, root: str) -> list[str]:
    """A whole archive with two bad pairs, one that breaks off, one that is no archive."""
    pairs = plan(root)[0].rows or ()
    for name in ("odd", "breaks"):
        with tarfile.open(folder / f"{name}.tar", "w") as tar:
            for i, pair in enumerate(pairs[:50]):
                bad = name == "odd"
                content = b"no picture" if bad and i == 7 else pair.image.read()  # type: ignore[union-attr]
                caption = "" if bad and i == 8 else pair.caption or ""
                for member, data in ((f"{i:03d}.webp", content), (f"{i:03d}.txt", caption.encode())):
                    info = tarfile.TarInfo(member)
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
    cut = (folder / "breaks.tar").read_bytes()
    (folder / "breaks.tar").write_bytes(cut[: len(cut) // 2])
    (folder / "none.tar").write_bytes(b"no archive" * 1000)
    return [root, *(str(folder / f"{name}.tar") for name in ("odd", "breaks", "none"))]


def halves(output: Path) -> set[str]:
    """Names of half-written shards; each holds the number of its process."""
    return {path.name for path in (output / "shards").glob(".*.tmp")}


def working(process: subprocess.Popen, output: Path, left: set[str]) -> bool:
    """Wait until a shard is being written (what a killed run left does not count); False when the run is over."""
    while process.poll() is None:
        if halves(output) - left:
            return True
        time.sleep(0.02)
    return False


def disturbed(
    sources: list[str], output: Path, engine: str, kills: int, limit: int, whole: dict[str, bytes]
) -> dict[str, Any]:
    """A full disk first (limit in bytes, 0: not), then kills at random moments of the work, then the rest. A run that
    is over too early is compared, and begun again from nothing."""
    generator, begin = random.Random(engine), time.monotonic()
    log: list[dict[str, Any]] = []
    found: dict[str, Any] = {"identical": True, "kills": log}
    if limit:
        start(sources, output, engine, 2, limit).wait()
        reasons = Manifest.load(output).failed
        found["shards_that_found_the_disk_full"] = sum("File too large" in reason for reason in reasons.values())
        print(f"{engine}: disk full for {found['shards_that_found_the_disk_full']} shards", file=sys.stderr)
    left, process = halves(output), start(sources, output, engine, 2)
    while len(log) < kills:
        if not working(process, output, left):
            found["identical"] &= files_of(output) == whole
            shutil.rmfiles_of(output)
            left, process = set(), start(sources, output, engine, 2)
            continue
        time.sleep(generator.uniform(0, 1.5))
        workers = workers_of(process, engine)
        whom = "worker" if workers and generator.random() < 0.5 else "main"
        done = len(list((output / "shards").glob("[!.]*.jsonl")))
        if whom == "worker":
            os.kill(generator.choice(workers), signal.SIGKILL)
            left = halves(output)
        else:
            process.send_signal(signal.SIGKILL)
            process.wait()
            left, process = halves(output), start(sources, output, engine, 2)
        log.append({"killed": whom, "seconds": round(time.monotonic() - begin, 1), "shards_done": done})
        print(f"{engine}: {log[-1]}", file=sys.stderr)
    process.wait()
    found["identical"] &= files_of(output) == whole
    return found | {"problems": verify(output), "seconds": round(time.monotonic() - begin, 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", nargs="+")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--engines", nargs="+", default=["local", "ray"])
    parser.add_argument("--one", nargs=4, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        output, engine, workers, limit = args.one
        one(args.sources, output, engine, int(workers), int(limit))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sources = odd_sources(folder, args.sources[0])
        start(sources, folder / "whole", "local", 0).wait()
        whole = files_of(folder / "whole")
        manifest = Manifest.load(folder / "whole")
        sizes = sorted(len(content) for path, content in whole.items() if path.startswith("shards/"))
        digest = hashlib.sha256(b"".join(p.encode() + c for p, c in sorted(whole.items()))).hexdigest()
        found: dict[str, Any] = {"model": "stub", "totals": manifest.totals(), "failed": manifest.failed}
        found["sha256_of_all_files"] = digest
        for engine in args.engines:
            limit = sizes[len(sizes) // 2] if engine == "local" else 0
            log = disturbed(sources, folder / engine, engine, args.kills, limit, whole)
            found[engine] = {"same_counts": Manifest.load(folder / engine).totals() == manifest.totals(), **log}
            text = json.dumps({**found, "machine": machine()}, indent=1, ensure_ascii=False)
            (RESULTS / "labelling_kills.json").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
