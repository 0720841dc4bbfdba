"""The public data sets of the published recipes, as sources of a mixture, from one folder.

    DATA/objects365/objects365.yaml                  TSV of the official code; or, instead,
    DATA/objects365/zhiyuan_objv2_train.json         the json of its makers, with the images in objects365/images
    DATA/openimages/train-annotations-bbox.csv       with class-descriptions-boxable.csv and images/
    DATA/visual_genome/objects.json                  with image_data.json, VG_100K and VG_100K_2
    DATA/imagenet_boxes/imagenet_boxes.yaml          TSV
    DATA/goldg/final_mixed_train.json                with goldg/gqa (images of Visual Genome)
    DATA/goldg/final_flickr_separateGT_train.json    with goldg/flickr30k
    DATA/captions/NAME.yaml                          captions with pseudo boxes (TSV), any number of sets
    DATA/coco/annotations/instances_train2017.json   with coco/train2017
    DATA/weights/                                    what the encoders start from

No published recipe trains on what it is evaluated on: GoldG without COCO images leaves COCO and LVIS zero-shot.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from openglip.data.formats.caption_tsv import CaptionTsv
from openglip.data.formats.coco import read_coco
from openglip.data.formats.mdetr import read_mdetr
from openglip.data.formats.objects365 import DetectionTsv, read_objects365
from openglip.data.formats.openimages import read_openimages
from openglip.data.formats.visual_genome import read_visual_genome
from openglip.data.mixtures import Source
from openglip.data.training_prompts import caption_prompt, detection_prompt_of_all, detection_prompt_with_negatives
from openglip.errors import DataError
from openglip.structures.sample import Sample
from openglip.training.recipe import Recipe

SourceFunction = Callable[[Recipe], Sequence[Source]]
NEGATIVE_CAPTIONS = 10_000  # captions of a set from which unrelated ones are drawn


def objects365(recipe: Recipe, copies: float = 1.0) -> Source:
    """Objects365; prompts have up to 85 absent names."""
    folder = Path(recipe.data) / "objects365"
    table = folder / "objects365.yaml"
    if table.is_file():
        samples: Sequence[Sample] = DetectionTsv(table)
    else:
        samples = list(read_objects365(_existing(folder / "zhiyuan_objv2_train.json"), folder / "images"))
    return Source("objects365", samples, detection_prompt_with_negatives, copies)


def goldg_mixed(recipe: Recipe, copies: float = 1.0) -> Source:
    """GoldG's mixed set without the images of COCO ("mixed_train_no_coco")."""
    folder = Path(recipe.data) / "goldg"
    images = {"vg": folder / "gqa"}
    samples = list(read_mdetr(_existing(folder / "final_mixed_train.json"), images, leave_out=("coco",)))
    return Source("goldg_mixed", samples, caption_prompt, copies)


def goldg_flickr(recipe: Recipe, copies: float = 1.0) -> Source:
    """The training split of GoldG's Flickr30k Entities."""
    folder = Path(recipe.data) / "goldg"
    path = _existing(folder / "final_flickr_separateGT_train.json")
    return Source("goldg_flickr", list(read_mdetr(path, folder / "flickr30k")), caption_prompt, copies)


def captions(recipe: Recipe, min_score: float, negatives: int) -> list[Source]:
    """Every caption set with pseudo boxes; `negatives`: at most as many unrelated captions in a prompt."""
    tables = sorted((Path(recipe.data) / "captions").glob("*.yaml"))
    if not tables:
        raise DataError(
            f"{recipe.data}/captions holds no NAME.yaml of a caption set; see openglip.training.published_data"
        )
    sources = []
    for path in tables:
        samples = CaptionTsv(path, min_score=min_score, source=path.stem)
        step = max(1, len(samples) // NEGATIVE_CAPTIONS)
        others = [samples[i].caption or "" for i in range(0, len(samples), step)] if negatives else []
        sources.append(Source(path.stem, samples, partial(caption_prompt, others=others, max_negatives=negatives)))
    return sources


def visual_genome(recipe: Recipe, copies: float) -> Source:
    """Visual Genome's objects, without COCO's images."""
    samples = list(read_visual_genome(_existing(Path(recipe.data) / "visual_genome"), without_coco=True))
    return Source("visual_genome", samples, detection_prompt_with_negatives, copies)


def openimages(recipe: Recipe, copies: float) -> Source:
    """Open Images."""
    folder = Path(recipe.data) / "openimages"
    samples = list(read_openimages(_existing(folder / "train-annotations-bbox.csv"), folder / "images"))
    return Source("openimages", samples, detection_prompt_with_negatives, copies)


def imagenet_boxes(recipe: Recipe, copies: float) -> Source:
    """ImageNet with boxes."""
    table = _existing(Path(recipe.data) / "imagenet_boxes" / "imagenet_boxes.yaml")
    return Source("imagenet_boxes", DetectionTsv(table, source="imagenet"), detection_prompt_with_negatives, copies)


def coco(recipe: Recipe) -> list[Source]:
    """COCO 2017 train; all 80 names in one prompt, in their order (docs/spec.md 9.2)."""
    folder = Path(recipe.data) / "coco"
    samples = read_coco(_existing(folder / "annotations" / "instances_train2017.json"), folder / "train2017")
    return [Source("coco", list(samples), partial(detection_prompt_of_all, shuffle=False))]


def glip_t_a_data(recipe: Recipe) -> list[Source]:
    """Of GLIP-T (A) and (B)."""
    return [objects365(recipe)]


def glip_t_c_data(recipe: Recipe) -> list[Source]:
    """Of GLIP-T (C)."""
    return [objects365(recipe), goldg_mixed(recipe), goldg_flickr(recipe)]


def glip_t_data(recipe: Recipe) -> list[Source]:
    """Of GLIP-T."""
    return [*glip_t_c_data(recipe), *captions(recipe, min_score=0.0, negatives=0)]


def glip_l_data(recipe: Recipe) -> list[Source]:
    """Of GLIP-L."""
    return [
        goldg_flickr(recipe, 8),
        goldg_mixed(recipe, 4),
        objects365(recipe, 2),
        visual_genome(recipe, 3),
        imagenet_boxes(recipe, 2),
        openimages(recipe, 1),
        *captions(recipe, min_score=0.5, negatives=20),
    ]


def _existing(path: Path) -> Path:
    if not path.exists():
        raise DataError(
            f"{path} does not exist: openglip.training.published_data describes the layout; set data=FOLDER"
        )
    return path
