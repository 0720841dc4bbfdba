"""What is known of each model's weights: file, origin, licence, data, reported figures. A table, no code that acts."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, replace

from openglip.errors import ConfigError

README = "microsoft/GLIP, README"
NANO_CARD = "docs/nano.md"
PORT = "open-mmlab/mmdetection, configs/glip (the same weights, measured by a port)"
_COCO = "COCO 2017 val, box AP, zero-shot, one prompt with all 80 names"
_COCO_TUNED = "COCO 2017 val, box AP, after fine-tuning on COCO"
_LVIS = "LVIS v1 minival, zero-shot, fixed AP, 40 names a prompt"
_LVIS_RARE = "LVIS v1 minival, APr, zero-shot, fixed AP, 40 names a prompt"
_ODINW = "ODinW-13, mean box AP, zero-shot"


@dataclass(frozen=True)
class Figure:
    """One reported figure, in points (0 to 100)."""

    name: str
    value: float
    protocol: str
    source: str


@dataclass(frozen=True)
class WeightsRecord:
    """One weights file, or one model that has none.

    model: name of the architecture as `openglip.load` takes it; builder: "module:function" that builds it.
    file: name of the file at its origin; None where no file was released.
    hub: repository on the Hugging Face hub that holds the file, None where the file is not there.
    embedded: files inside the package that together are the weights.
    size: bytes; sha256: of the file. None where not known; a download is then checked against what the hub states.
    mean, std: pixel statistics of the input in `channels` order, scale 0..255.
    """

    model: str
    parameters: int | None
    licence: str
    data: tuple[str, ...]
    about: str
    builder: str
    file: str | None = None
    hub: str | None = None
    embedded: tuple[str, ...] = ()
    size: int | None = None
    sha256: str | None = None
    mean: tuple[float, float, float] = (103.53, 116.28, 123.675)
    std: tuple[float, float, float] = (57.375, 57.12, 58.395)
    channels: str = "BGR"
    figures: tuple[Figure, ...] = ()
    random: bool = False


_HUB = "GLIPModel/GLIP"
_LICENCE = "MIT (released with microsoft/GLIP); the training corpora have terms of their own"
_T = 231_780_222
_L = 430_422_384


def _figures(coco: float, tuned: float, odinw: float, port_lvis: float) -> tuple[Figure, ...]:
    return (
        Figure("coco AP", coco, _COCO, README),
        Figure("coco AP, fine-tuned", tuned, _COCO_TUNED, README),
        Figure("odinw-13 AP", odinw, _ODINW, README),
        Figure("lvis minival AP", port_lvis, _LVIS, PORT),
    )


def _rare(value: float, checkpoint: str) -> Figure:
    return Figure("lvis minival APr", value, f"{_LVIS_RARE}, {checkpoint}", README)


_RECORDS = (
    WeightsRecord(
        model="nano",
        parameters=26_640_328,
        licence="weights: research and evaluation only (terms of the training photos); code: Apache-2.0",
        data=(
            "COCO 2017 boxes (in YOLOX-Nano's training; 1,450 photos of a subset)",
            "Flickr30k Entities (7,005 photos)",
            "Pascal VOC 2007, Open Images, ImageNet and further small sets (3,801 photos)",
            "model card: docs/nano.md",
        ),
        about="the embedded model: small, one image in a fraction of a second on a CPU, no download",
        builder="openglip.nano.model:Nano",
        embedded=("nano-text.safetensors", "nano-vision.safetensors"),
        mean=(114.0, 114.0, 114.0),
        std=(1.0, 1.0, 1.0),
        figures=(
            Figure("flickr30k Recall@1", 68.3, "247 val photos, 3,239 phrases given, any box", NANO_CARD),
            Figure("flickr30k Recall@5", 86.4, "247 val photos, 3,239 phrases given, any box", NANO_CARD),
            Figure("coco AP50", 39.6, "400 val photos, 80 names in one prompt, not zero-shot", NANO_CARD),
        ),
    ),
    WeightsRecord(
        model="debug",
        parameters=None,
        licence="Apache-2.0",
        data=(),
        about="GLIP's parts, tiny, with fixed random weights: for tests; its boxes mean nothing",
        builder="openglip.model.builders:debug",
        random=True,
    ),
    WeightsRecord(
        model="glip-t-a",
        parameters=151_430_526,
        licence=_LICENCE,
        data=("Objects365 v1",),
        about="GLIP-T (A): Swin-T, no fusion",
        builder="openglip.model.builders:glip_t_a",
        file="glip_a_tiny_o365.pth",
        hub=_HUB,
        figures=(*_figures(42.9, 52.9, 28.7, 20.2), _rare(14.2, "best checkpoint of the pre-training")),
    ),
    WeightsRecord(
        model="glip-t-b",
        parameters=_T,
        licence=_LICENCE,
        data=("Objects365 v1",),
        about="GLIP-T (B): Swin-T, deep fusion",
        builder="openglip.model.builders:glip_t_b",
        file="glip_tiny_model_o365.pth",
        hub=_HUB,
        figures=(*_figures(44.9, 53.8, 33.2, 19.3), _rare(13.5, "best checkpoint of the pre-training")),
    ),
    WeightsRecord(
        model="glip-t-c",
        parameters=_T,
        licence=_LICENCE,
        data=("Objects365 v1", "GoldG (Flickr30k Entities, VG captions, GQA)"),
        about="GLIP-T (C): Swin-T, deep fusion, detection and grounding data",
        builder="openglip.model.builders:glip_t_c",
        file="glip_tiny_model_o365_goldg.pth",
        hub=_HUB,
        figures=(*_figures(46.7, 55.1, 44.4, 25.2), _rare(14.3, "this file (last checkpoint)")),
    ),
    WeightsRecord(
        model="glip-t",
        parameters=_T,
        licence=_LICENCE,
        data=("Objects365 v1", "GoldG (Flickr30k Entities, VG captions, GQA)", "CC3M", "SBU captions"),
        about="GLIP-T: Swin-T, deep fusion, detection, grounding and caption data",
        builder="openglip.model.builders:glip_t",
        file="glip_tiny_model_o365_goldg_cc_sbu.pth",
        hub=_HUB,
        figures=(*_figures(46.6, 55.2, 42.7, 26.7), _rare(17.6, "this file (last checkpoint)")),
    ),
    WeightsRecord(
        model="glip-l",
        parameters=_L,
        licence=_LICENCE,
        data=(
            "FourODs (Objects365, OpenImages, Visual Genome, ImageNetBoxes)",
            "GoldG (Flickr30k Entities, VG captions, GQA)",
            "CC3M, CC12M",
            "SBU captions",
        ),
        about="GLIP-L: Swin-L, deep fusion, eight blocks",
        builder="openglip.model.builders:glip_l",
        file="glip_large_model.pth",
        hub=_HUB,
        figures=(
            Figure("coco AP", 51.4, _COCO, README),
            Figure("coco AP, fine-tuned", 61.7, f"{_COCO_TUNED}, multi-scale testing", README),
            Figure("odinw-13 AP", 51.2, _ODINW, README),
            Figure("lvis minival AP", 36.1, _LVIS, PORT),
            _rare(29.3, "this file (last checkpoint)"),
        ),
    ),
    WeightsRecord(
        model="dyhead-t",
        parameters=42_341_244,
        licence="no file was released",
        data=(),
        about="DyHead with Swin-T, closed set of 80 classes: the paper's baseline",
        builder="openglip.model.builders:dyhead_t",
    ),
    WeightsRecord(
        model="dyhead-l",
        parameters=214_200_174,
        licence="no file was released",
        data=(),
        about="DyHead with Swin-L, closed set of 80 classes: the paper's baseline",
        builder="openglip.model.builders:dyhead_l",
    ),
)

RECORDS: dict[str, WeightsRecord] = {record.model: record for record in _RECORDS}
"""Model name -> the weights that `openglip.load(name)` takes."""


def _best_on_lvis(model: str, file: str, rare: float) -> WeightsRecord:
    figures = (_rare(rare, "this file (chosen on LVIS)"),)
    about = f"{RECORDS[model].about}; the checkpoint of the pre-training that was best on LVIS"
    return replace(RECORDS[model], file=file, about=about, figures=figures)


_OTHERS = (
    _best_on_lvis("glip-t-c", "glip_tiny_model_o365_goldg_lvisbest.pth", 17.7),
    _best_on_lvis("glip-t", "glip_tiny_model_o365_goldg_cc_sbu_lvisbest.pth", 20.1),
    _best_on_lvis("glip-l", "glip_large_model_lvisbest.pth", 30.1),
)
BY_FILE: dict[str, WeightsRecord] = {record.file: record for record in (*_RECORDS, *_OTHERS) if record.file}
"""Official file name -> its record; more than one file exists for some models."""


def find_record(name: str) -> WeightsRecord:
    """The record of a model's name or of an official file's name.

    Raises ConfigError for another name; the message holds the nearest ones.
    """
    if name in RECORDS:
        return RECORDS[name]
    if name in BY_FILE:
        return BY_FILE[name]
    near = difflib.get_close_matches(name, [*RECORDS, *BY_FILE], n=2, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    raise ConfigError(f"there is no model named {name!r}: {hint}Models: {', '.join(RECORDS)}")
