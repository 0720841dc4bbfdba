"""The published recipes, `nano` for data of one's own, and the two-minute `debug`.

Docstrings are lab notes: data, score, hardware, hours, command. `published_data` describes the layout of a recipe's
`data`. Sources: S: docs/spec.md 11.1 and 11.2 (published files and the repository's table); H: hours on V100 = images
seen / (images per second and card in the paper's table 7). The official mixed precision is fp16; use
`--set precision=bf16` on cards that support it. batch_size is global: `torchrun --nproc_per_node 8 -m openglip.cli.main
train NAME` divides it among processes, `accumulate` makes it need less memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from openglip.data.mixtures import Source
from openglip.data.reading import open_splits, read
from openglip.data.training_prompts import caption_prompt, detection_prompt_with_negatives
from openglip.data.transforms import Flip, Resize
from openglip.errors import DataError
from openglip.predict.options import DetectOptions
from openglip.training import published_data as public
from openglip.training.recipe import Recipe, Validation
from openglip.training.shapes import PAIRS, SEEN, SIDE, UNSEEN, Shapes

VALIDATION_SHAPES, VALIDATION_SEED = 200, 1_000_003  # of `debug`
OFFICIAL_TRANSFORMS = (Resize((480, 560, 640, 720, 800), 1333), Flip())
TINY_START = {
    "backbone.body.": "weights/swin_tiny_patch4_window7_224.pth",
    "language_backbone.body.model.": "weights/bert-base-uncased.safetensors",
}
LARGE_START = TINY_START | {"backbone.body.": "weights/swin_large_patch4_window12_384_22k.pth"}


def _tiny(name: str, steps: int, sources: public.SourceFunction) -> Recipe:
    return Recipe(
        name=name,
        model=name,
        data="data",
        sources=sources,
        transforms=OFFICIAL_TRANSFORMS,
        steps=steps,
        batch_size=64,
        lr=1e-4,
        text_lr=1e-5,
        weight_decay=1e-4,
        precision="fp16",
        average=0.999,
        checkpoint_every=2500,
        evaluate_every=0,
        start=TINY_START,
    )


def glip_t_a() -> Recipe:
    """GLIP-T (A): words without fusion.

    Data: Objects365 (0.66M images, 30 times). Score: 42.9 AP zero-shot on COCO, 52.9 fine-tuned (S). Hardware: 32
    V100, batch 64, 11.5 GB a card. Hours: about 1,970 V100 hours (H). Command:
    `openglip train glip-t-a --set data=DATA`.
    """
    return _tiny("glip-t-a", 309_000, public.glip_t_a_data)


def glip_t_b() -> Recipe:
    """GLIP-T (B): with fusion.

    Data: Objects365 (0.66M images, 30 times). Score: 44.9 AP zero-shot on COCO, 53.8 fine-tuned (S). Hardware: 32
    V100, batch 64, 16 GB a card. Hours: about 3,400 V100 hours (H). Command: `openglip train glip-t-b --set data=DATA`.
    """
    return _tiny("glip-t-b", 309_000, public.glip_t_a_data)


def glip_t_c() -> Recipe:
    """GLIP-T (C): grounding data in addition to detection data.

    Data: Objects365 and GoldG without COCO (1.43M, 30 times). Score: 46.7 AP zero-shot on COCO, 55.1 fine-tuned; LVIS
    minival APr 17.7 (S). Hardware: 32 V100, batch 64, 16 GB a card. Hours: about 7,360 V100 hours (H). Command:
    `openglip train glip-t-c --set data=DATA`.
    """
    return _tiny("glip-t-c", 670_000, public.glip_t_c_data)


def glip_t() -> Recipe:
    """GLIP-T: captions of the web with pseudo boxes in addition.

    Data: that of (C), and CC3M and SBU with boxes of a teacher (`openglip label` makes them). Score: 46.6 AP zero-shot
    on COCO, 55.2 fine-tuned; LVIS minival APr 20.1 (S). The published files don't say how long; 30 times 5.43M is the
    upper bound. Hardware: 32 V100, batch 64, 16 GB a card. Hours: at most 27,900 V100 hours (H). Command:
    `openglip train glip-t --set data=DATA`.
    """
    return _tiny("glip-t", 2_545_000, public.glip_t_data)


def glip_l() -> Recipe:
    """GLIP-L.

    Data: Objects365, Open Images, Visual Genome, ImageNet boxes, GoldG, and 24M captions with pseudo boxes (score above
    0.5, with up to 20 unrelated captions). Score: 51.4 AP zero-shot on COCO, 61.7 fine-tuned; LVIS minival APr 30.1
    (S). Hardware: 64 V100, batch 64, 23.4 GB a card. Hours: about 20,200 V100 hours (H). Command:
    `openglip train glip-l --set data=DATA`. Patch embedding and first stage stay frozen, as in the published file.
    """
    return replace(
        _tiny("glip-l", 1_000_000, public.glip_l_data),
        weight_decay=0.01,
        decay_schedule=True,
        precision="fp32",
        average=0.0,
        start=LARGE_START,
    )


def _dyhead(name: str) -> Recipe:
    start = {"backbone.body.": (TINY_START if name == "dyhead-t" else LARGE_START)["backbone.body."]}
    return replace(_tiny(name, 88_000, public.coco), text_lr=None, start=start, batch_size=32)


def dyhead_t() -> Recipe:
    """DyHead-T: the closed-set baseline, classes instead of words.

    Data: COCO 2017 train (24 times). Score: 49.4 AP on COCO, with classes as with words (GLIP paper). No file of it was
    published; its numbers are those of (A).
    Hardware: 8 V100, batch 32. Hours: about 280 V100 hours (H). Command: `openglip train dyhead-t --set data=DATA`.
    """
    return _dyhead("dyhead-t")


def dyhead_l() -> Recipe:
    """DyHead-L: the closed-set baseline with Swin-L and eight blocks.

    Data: COCO 2017 train (24 times). Score: not published with GLIP.
    Hardware: 16 V100, batch 32. Hours: about 620 V100 hours (H). Command: `openglip train dyhead-l --set data=DATA`.
    """
    return _dyhead("dyhead-l")


def _finetune(name: str, model: str) -> Recipe:
    return replace(
        _tiny(name, 88_000, public.coco),
        model=model,
        start={},
        weights={"glip-t": "glip_tiny_model_o365_goldg_cc_sbu.pth", "glip-l": "glip_large_model.pth"}[model],
        batch_size=32,
        lr=1e-5,
        text_lr=1e-5,
        best="AP",
        evaluate_every=3_700,
    )


def coco_finetune_t() -> Recipe:
    """GLIP-T fine-tuned on COCO.

    Data: COCO 2017 train, 24 times, all 80 names in each prompt; `weights`: the pre-trained file. Score: 55.2 AP on val
    (S; 52.9, 53.8 and 55.1 from A, B and C). Hardware: 16 V100, batch 32. Hours: about 490 V100 hours (H). Command:
    `openglip train coco-finetune-t --set data=DATA --set weights=glip_tiny_model_o365_goldg_cc_sbu.pth`.
    """
    return _finetune("coco-finetune-t", "glip-t")


def coco_finetune_l() -> Recipe:
    """GLIP-L fine-tuned on COCO.

    Data: COCO 2017 train, 24 times; `weights`: the pre-trained file. Score: 60.8 AP on val, 61.7 with multi-scale
    testing (S). Hardware: 32 V100, batch 32. Hours: about 900 V100 hours (H). Command:
    `openglip train coco-finetune-l --set data=DATA --set weights=glip_large_model.pth`.
    """
    return replace(_finetune("coco-finetune-l", "glip-l"), weight_decay=0.01)


def nano() -> Recipe:
    """The embedded model, fine-tuned on a data set of your own.

    Data: `data` is a data set in any format that `openglip data check` reads; of several splits `train` is taken.
    Score: depends on the data. Hardware: one CPU core. Hours: about two images per second, so 20 minutes. Command:
    `openglip train nano --set data=DIR --set val=VAL.json --set evaluate_every=100`.
    """
    return Recipe(
        name="nano",
        model="nano",
        data="data",
        sources=_own_data,
        transforms=(Resize((240, 280, 320, 360, 400), 800), Flip()),
        steps=300,
        batch_size=8,
        lr=4e-4,
        lr_of={"mobilenet.": 5e-5},
        bias_factor=1.0,
        weight_decay=0.02,
        schedule="cosine",
        warmup=10,
        clip=4.0,
        precision="auto",
        average=0.98,
        average_warmup=19,
        use_average=True,
        frozen=("mobilenet.stem.", "mobilenet.blocks.0.", "mobilenet.blocks.1.", "mobilenet.blocks.2."),
        checkpoint_every=100,
        workers=0,
    )


def _own_data(recipe: Recipe) -> Sequence[Source]:
    """The samples of `data`: names among absent ones where the format has categories, else captions among captions."""
    splits = open_splits(recipe.data)
    name = "train" if "train" in splits else next(iter(splits))
    samples = list(read(recipe.data, split=name))
    if all(sample.labels is not None for sample in samples):
        return [Source(name, samples, detection_prompt_with_negatives)]
    captions = [sample for sample in samples if sample.caption]
    if not captions:
        raise DataError(f"{recipe.data} has neither categories nor captions")
    others = [sample.caption or "" for sample in captions]
    return [Source(name, captions, partial(caption_prompt, others=others, max_negatives=5))]


def debug() -> Recipe:
    """Coloured shapes in two minutes, to check that training works.

    Data: generated, no download; four colour-shape pairs never occur in training. Each name is encoded by itself, which
    is learned faster. Score: AP50 of at least 0.5 on those four. Hardware: two CPU cores. Hours: two minutes. Command:
    `openglip train debug`.
    """
    return Recipe(
        name="debug",
        model="debug",
        data="generated",
        sources=_shapes,
        steps=440,
        batch_size=16,
        lr=1.5e-3,
        sub_sentences=True,
        bias_factor=1.0,
        weight_decay=1e-2,
        schedule="cosine",
        warmup=30,
        average=0.98,
        use_average=True,
        checkpoint_every=100,
        evaluate_every=220,
        workers=0,
        validation=_shapes_validation,
    )


def _shapes(recipe: Recipe) -> Sequence[Source]:
    """Any number of names, so that short prompts occur too; some are only a colour or a shape."""
    prompt = partial(detection_prompt_with_negatives, max_negatives=9, control=(0.0, 0.0, 0.0, 0.0))
    return [Source("shapes", Shapes(20_000, seed=recipe.seed, halves=0.4), prompt)]


def _shapes_validation(recipe: Recipe) -> Validation:
    """AP50 over the pairs that training never shows, AP50_seen over the others."""
    shapes = Shapes(VALIDATION_SHAPES, PAIRS, VALIDATION_SEED)
    samples = [shapes[i] for i in range(len(shapes))]
    options = DetectOptions(threshold=0, batch_size=20, short_side=SIDE)
    return Validation(samples, {"AP50": UNSEEN, "AP50_seen": SEEN}, options)


RECIPES: dict[str, Callable[[], Recipe]] = {
    "debug": debug,
    "nano": nano,
    "glip-t-a": glip_t_a,
    "glip-t-b": glip_t_b,
    "glip-t-c": glip_t_c,
    "glip-t": glip_t,
    "glip-l": glip_l,
    "dyhead-t": dyhead_t,
    "dyhead-l": dyhead_l,
    "coco-finetune-t": coco_finetune_t,
    "coco-finetune-l": coco_finetune_l,
}
