"""A labelling run with the stub as a separate process, to be killed: runner.py INPUT OUTPUT ENGINE WORKERS."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from labelling.stub import slow

from openglip.labelling.run import label
from openglip.labelling.shards import LabelSettings

if __name__ == "__main__":
    source, output, engine, workers, *limit = sys.argv[1:]
    if limit:  # no file may grow beyond it: what a full disk does
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit[0]), resource.RLIM_INFINITY))
    rules = LabelSettings(chunker="rules")
    manifest = label(source, output, model=slow, workers=int(workers), engine=engine, shard_size=6, labels=rules)  # type: ignore[arg-type]
    sys.exit(1 if manifest.failed else 0)
