"""`openglip doctor`: what this machine and installation can do, and how long one image takes."""

from __future__ import annotations

import json
import os
import platform
import re
import statistics
import sys
import time
from importlib import metadata
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    import numpy as np

CONTRIBUTORS_EXTRAS = ("dev", "docs", "test")
# (model, weights, timed passes after a first one)
TIMED = (("nano", None, 3), ("glip-t", "random", 1))
_WORDS = ["person", "cat", "cup"]


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
    timing: Annotated[
        bool, typer.Option("--timing/--no-timing", help="Time one image; glip-t takes about a minute on a CPU.")
    ] = True,
) -> None:
    """Show device, precision, threads, versions, cache, missing extras, and the time for one image."""
    report = {**_machine(), "versions": _versions(), "cache": _cache(), "missing_extras": _missing()}
    if not as_json:
        for key, value in report.items():
            text = ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else value
            typer.echo(f"{key.replace('_', ' '):<15} {text or 'nothing'}")
    report["seconds_per_photo"] = {}
    for model, weights, passes in TIMED if timing else ():
        if not as_json:
            sys.stderr.write(f"timing {model} ...\n")
        seconds = report["seconds_per_photo"][model] = _seconds(model, weights, passes)
        if not as_json:
            note = " (random weights)" if weights == "random" else ""
            result = seconds if isinstance(seconds, str) else f"{seconds:.3f} s for a photo of 640 x 480, 3 words"
            typer.echo(f"{model + note:<15} {result}")
    if as_json:
        typer.echo(json.dumps(report))


def _machine() -> dict[str, Any]:
    from openglip.runtime import device_name, num_threads, pick_device, pick_precision

    device = pick_device("auto")
    return {
        "device": f"{device} ({device_name(device)})",
        "precision": f"fp32 (precision='auto' would take {pick_precision('auto', device)})",
        "threads": f"{num_threads()} of torch, {os.cpu_count()} cores",
        "system": f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
    }


def _requirements() -> dict[str, list[str]]:
    """The packages that each extra requires; "" stands for the package without extras."""
    packages: dict[str, list[str]] = {}
    for line in metadata.requires("openglip") or ():
        name, extra = re.match(r"[\w.-]+", line), re.search(r"extra == [\"'](\w+)", line)
        packages.setdefault(extra[1] if extra else "", []).append(name[0] if name else line)
    return packages


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _versions() -> dict[str, str]:
    from openglip import __version__

    return {"openglip": __version__, **{name: _version(name) or "missing" for name in _requirements()[""]}}


def _cache() -> dict[str, str]:
    from openglip.weights.hub import cache_dir, cached, offline
    from openglip.weights.records import BY_FILE

    files = [name for name, record in BY_FILE.items() if cached(record)]
    return {
        "folder": str(cache_dir()),
        "files": "; ".join(files) or "none",
        "network": "off (OPENGLIP_OFFLINE)" if offline() else "allowed",
    }


def _missing() -> dict[str, str]:
    """What each incomplete extra lacks, and the line that installs it."""
    missing = {}
    for extra, packages in _requirements().items():
        lacking = [name for name in packages if _version(name) is None]
        if lacking and extra not in ("", *CONTRIBUTORS_EXTRAS):
            missing[extra] = f"lacks {' '.join(lacking)} (pip install 'openglip[{extra}]')"
    return missing


def _seconds(model: str, weights: str | None, passes: int) -> float | str:
    """Median time of an image with cached words, after a first pass; the error if the model can't be loaded."""
    import openglip

    try:
        detector = openglip.load(model, weights)
    except openglip.OpenGLIPError as error:
        return f"not possible: {error}"
    image = _image()
    seconds = []
    for _ in range(passes + 1):
        start = time.perf_counter()
        detector.detect(image, _WORDS)
        seconds.append(time.perf_counter() - start)
    return round(statistics.median(seconds[1:]), 4)


def _image() -> np.ndarray:
    """An image of 640 x 480 with smooth shapes, which needs no file."""
    import numpy as np

    y, x = np.mgrid[:480, :640].astype(np.float32)
    waves = [np.sin(x / a) * np.cos(y / b) for a, b in ((37, 53), (71, 29), (19, 83))]
    return (np.stack(waves, axis=2) * 127 + 128).astype(np.uint8)
