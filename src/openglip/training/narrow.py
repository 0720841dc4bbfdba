"""Where the embedded model starts to learn from a wider one: the wider one's weights with narrower blocks.

python -m openglip.training.narrow --data DATA --teacher FOLDER --held-out docs/nano_held_out.json --output START
openglip train nano --set weights=START --set teacher=FOLDER ...        # the whole line is in docs/nano.md
"""

from __future__ import annotations

import argparse
from itertools import islice
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from openglip.data.files import image_content
from openglip.errors import DataError
from openglip.images.prepare import pad_batch, prepare
from openglip.images.read import read_image
from openglip.nano.layers import ConvBlock
from openglip.nano.model import BLOCK_WIDTH, Nano
from openglip.training.nano import ABOUT, captioned_photos, embedded_state, export, held_out
from openglip.training.teacher import Wider
from openglip.weights.load import load_state

PHOTOS = 24
RIDGE = 1e-5  # of the mean square of an activation: units that say the same have no single answer


@torch.no_grad()
def narrowed(wider: Wider, images: Tensor) -> dict[str, Tensor]:
    """The state of a `Nano` whose blocks keep the units that matter most on images (B x 3 x H x W, prepared).

    A unit counts by the spread of what it adds. The layer behind is fitted anew by least squares, so that the units
    that are left speak for the others.
    """
    seen: dict[str, list[Tensor]] = {}
    blocks = {name: block for name, block in wider.named_modules() if isinstance(block, ConvBlock)}

    def watch(name: str, block: ConvBlock) -> None:
        inner = block.hidden

        def hidden(x: Tensor) -> Tensor:
            y = inner(x)
            seen.setdefault(name, []).append(y.permute(0, 2, 3, 1).flatten(0, 2))
            return y

        block.hidden = hidden  # type: ignore[method-assign]

    for name, block in blocks.items():
        watch(name, block)
    try:
        wider.levels(images)
    finally:
        for block in blocks.values():
            del block.hidden
    state = dict(wider.state_dict())
    for name, block in blocks.items():
        units = torch.cat(seen[name])
        out, bias = block.pointwise2.weight.flatten(1), cast("Tensor", block.pointwise2.bias)
        best = (units.std(0) * out.norm(dim=0)).topk(BLOCK_WIDTH).indices.sort().values
        given = torch.cat([units[:, best], torch.ones(len(units), 1)], 1)
        products = given.T @ given
        ridge = RIDGE * products.diagonal().mean() * torch.eye(BLOCK_WIDTH + 1)
        fitted = torch.linalg.solve(products + ridge, given.T @ (units @ out.T + bias))
        state[f"{name}.pointwise1.weight"] = block.pointwise1.weight[best]
        state[f"{name}.pointwise1.bias"] = cast("Tensor", block.pointwise1.bias)[best]
        state[f"{name}.pointwise2.weight"] = fitted[:-1].T[..., None, None].contiguous()
        state[f"{name}.pointwise2.bias"] = fitted[-1]
    return state


def main() -> None:
    parser = argparse.ArgumentParser(description="Write the two files that the embedded model starts from.")
    parser.add_argument("--data", type=Path, required=True, help="folder that holds flickr8k_entities")
    parser.add_argument("--teacher", type=Path, required=True, help="folder of the two files of the wider model")
    parser.add_argument("--held-out", help="JSON file of pictures that are never trained on, as the recipe's held_out")
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    wider = Wider().eval()
    load_state(wider, embedded_state(arguments.teacher), arguments.teacher)
    drawn = islice(captioned_photos(arguments.data, held_out(arguments.held_out)), PHOTOS)
    images = [prepare(read_image(image_content(image)), Nano.preparation) for _, image in drawn]
    if not images:
        raise DataError(f"{arguments.data} has no photo to look at that is not held out")
    export(narrowed(wider, torch.from_numpy(pad_batch(images, Nano.preparation.multiple))), arguments.output, ABOUT)


if __name__ == "__main__":
    main()
