"""A finished run as the two half-precision files of the package.

python projects/nano/export.py RUN OUTPUT
python projects/nano/export.py RUN OUTPUT --earlier FOLDER     # averaged with the weights that it started from
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from openglip.weights.files import read_checkpoint, write_safetensors

TEXT_FILE, VISION_FILE = "nano-text.safetensors", "nano-vision.safetensors"
ABOUT = {
    "training_data": [
        "COCO 2017 boxes (YOLOX-Nano's training, and 1,450 photos of a subset)",
        "Flickr30k Entities (7,005 train photos)",
        "Pascal VOC 2007 test (760 photos)",
        "Open Images V4 (24 photos)",
        "ImageNet (classification; 2,006 val boxes)",
        "animals, everyday, household: further small public sets, see docs/nano.md",
    ],
    "licence": "research and evaluation only (terms of the training photos)",
    "starts": ["YOLOX-Nano, Apache-2.0", "MobileNetV2, Apache-2.0", "all-MiniLM-L6-v2, Apache-2.0"],
}


def export(state: Mapping[str, Tensor], output: Path, about: Mapping[str, object]) -> None:
    """Write the two files: the text encoder, which stays the same, and all the rest; in half precision.

    Args:
        state: Of a `Nano`.
        output: Folder for the files.
        about: Metadata of the second file.
    """
    output.mkdir(parents=True, exist_ok=True)
    half = {key: value.half() if value.is_floating_point() else value for key, value in state.items()}
    for is_text, name in {True: TEXT_FILE, False: VISION_FILE}.items():
        part = {key: value for key, value in half.items() if key.startswith("bert.") == is_text}
        write_safetensors(output / name, part, {"model": "nano", **({} if is_text else about)})


def read_both(folder: Path) -> dict[str, Tensor]:
    """The two files of a folder as one state dict."""
    names = (TEXT_FILE, VISION_FILE)
    return {key: value for name in names for key, value in read_checkpoint(folder / name).state.items()}


def averaged(state: Mapping[str, Tensor], earlier: Mapping[str, Tensor], share: float) -> dict[str, Tensor]:
    """The average of a training's weights and those it started from: often better than either (docs/nano.md).

    Args:
        state: Of the run.
        earlier: What it started from.
        share: Weight of the run.
    """
    both = {key: value for key, value in state.items() if value.is_floating_point() and key in earlier}
    mixed = {key: earlier[key].float().lerp(value.float(), share) for key, value in both.items()}
    return {**earlier, **state, **mixed}


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description="Write a finished run's weights as the two files of the package.")
    parser.add_argument("run", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--earlier", type=Path, help="folder of the two files that the run started from")
    parser.add_argument("--share", type=float, default=0.65, help="weight of the run in the average with them")
    arguments = parser.parse_args()
    state = read_checkpoint(arguments.run).state
    if arguments.earlier:
        state = averaged(state, read_both(arguments.earlier), arguments.share)
    export(state, arguments.output, ABOUT)


if __name__ == "__main__":
    main()
