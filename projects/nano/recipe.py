"""`openglip train projects/nano/recipe.py`: the embedded model from the released encoders, or from earlier weights."""

from __future__ import annotations

from lab import NanoRecipe


def recipe() -> NanoRecipe:
    """The embedded model, on one processor core.

    Data: Flickr30k Entities of 7,405 photos, a COCO subset, three small sets (README.md). Score: Recall@1 on
    Flickr30k-val and AP50 on COCO photos as in docs/nano.md. Hardware: one CPU core, 4 GB of disk. Hours: about one and
    a half. Command: `openglip train projects/nano/recipe.py --set data=DATA --set held_out=docs/nano_held_out.json`.
    """
    return NanoRecipe(
        name="nano",
        data="data",
        start={
            "yolox.": "weights/yolox_nano_coco.safetensors",
            "mobilenet.": "weights/mobilenetv2_100_imagenet.safetensors",
        },
        steps=6000,
        batch_size=16,
        lr=1.5e-3,
        lr_of={"mobilenet.": 2e-4},
        bias_factor=1.0,
        weight_decay=0.02,
        schedule="cosine",
        warmup=150,
        clip=4.0,
        precision="auto",
        average=0.9995,
        average_warmup=19,
        use_average=True,
        frozen=(
            *("bert.", "yolox.", "mobilenet.stem."),
            *("mobilenet.blocks.0.", "mobilenet.blocks.1.", "mobilenet.blocks.2.", "second_stage."),
        ),
        checkpoint_every=200,
        workers=0,
    )
