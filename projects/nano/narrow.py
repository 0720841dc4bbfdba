"""Where the embedded model starts to learn from a wider one: the wider one's weights with narrower blocks.

python projects/nano/narrow.py --data DATA --teacher FOLDER --held-out docs/nano_held_out.json --output START
openglip train projects/nano/recipe.py --set weights=START --set teacher=FOLDER ...     # docs/nano.md has the command
"""

from __future__ import annotations

import argparse
from itertools import islice
from pathlib import Path
from typing import Any, cast

import torch
from export import ABOUT, export, read_both
from photos import captioned_photos, held_out
from teacher import Wider
from torch import Tensor, nn

from openglip.data.files import image_content
from openglip.errors import DataError
from openglip.images.prepare import pad_batch, prepare
from openglip.images.read import read_image
from openglip.nano.layers import ConvBlock
from openglip.nano.model import BLOCK_WIDTH, Nano
from openglip.weights.load import load_state

PHOTOS = 24
RIDGE = 1e-5  # times the mean square of an activation: redundant units have no unique solution


@torch.no_grad()
def narrowed(wider: Wider, images: Tensor) -> dict[str, Tensor]:
    """The state of a `Nano` whose blocks keep the units that matter most.

    The importance of a unit is the spread of what it adds. The layer after it is fitted again by least squares, so that
    the remaining units replace the others.

    Args:
        wider: In evaluation mode.
        images: B x 3 x H x W, prepared, on which importance is measured.
    """
    blocks = {name: block for name, block in wider.named_modules() if isinstance(block, ConvBlock)}
    inputs: dict[nn.Module, list[Tensor]] = {}

    def record(block: nn.Module, args: tuple[Any, ...]) -> None:
        inputs.setdefault(block, []).append(args[0])

    handles = [block.register_forward_pre_hook(record) for block in blocks.values()]
    wider.levels(images)
    for handle in handles:
        handle.remove()
    # the tower calls it by `forward_projected`, with the inputs of the other branch
    inputs[wider.box_branch] = inputs[wider.alignment_branch]
    state = dict(wider.state_dict())
    for name, block in blocks.items():
        units = torch.cat([block.hidden(x).permute(0, 2, 3, 1).flatten(0, 2) for x in inputs[block]])
        out, bias = block.pointwise2.weight.flatten(1), cast("Tensor", block.pointwise2.bias)
        best = (units.std(0) * out.norm(dim=0)).topk(BLOCK_WIDTH).indices.sort().values
        remaining = torch.cat([units[:, best], torch.ones(len(units), 1)], 1)
        products = remaining.T @ remaining
        ridge = RIDGE * products.diagonal().mean() * torch.eye(BLOCK_WIDTH + 1)
        fitted = torch.linalg.solve(products + ridge, remaining.T @ (units @ out.T + bias))
        state[f"{name}.pointwise1.weight"] = block.pointwise1.weight[best]
        state[f"{name}.pointwise1.bias"] = cast("Tensor", block.pointwise1.bias)[best]
        state[f"{name}.pointwise2.weight"] = fitted[:-1].T[..., None, None].contiguous()
        state[f"{name}.pointwise2.bias"] = fitted[-1]
    return state


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description="Write the two files that the embedded model starts from.")
    parser.add_argument("--data", type=Path, required=True, help="folder that holds flickr8k_entities")
    parser.add_argument("--teacher", type=Path, required=True, help="folder of the two files of the wider model")
    parser.add_argument("--held-out", help="JSON file of pictures that are never trained on, as the recipe's held_out")
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    wider = Wider().eval()
    load_state(wider, read_both(arguments.teacher), arguments.teacher)
    drawn = islice(captioned_photos(arguments.data, held_out(arguments.held_out)), PHOTOS)
    images = [prepare(read_image(image_content(image)), Nano.preparation) for _, image in drawn]
    if not images:
        raise DataError(f"{arguments.data} has no photo that is not held out")
    export(narrowed(wider, torch.from_numpy(pad_batch(images, Nano.preparation.multiple))), arguments.output, ABOUT)


if __name__ == "__main__":
    main()
