"""A table of the weights of each model: files, origin, licence, training data, reported figures."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, replace

from openglip.errors import ConfigError

README = "microsoft/GLIP, README"
PORT = "open-mmlab/mmdetection, configs/glip (the same weights, measured by a port)"
_COCO = "COCO 2017 val, box AP, zero-shot, one prompt with all 80 names"
_COCO_TUNED = "COCO 2017 val, box AP, after fine-tuning on COCO"
_LVIS = "LVIS v1 minival, zero-shot, fixed AP, 40 names a prompt"
_LVIS_RARE = "LVIS v1 minival, APr, zero-shot, fixed AP, 40 names a prompt"
_ODINW = "ODinW-13, mean box AP, zero-shot"


@dataclass(frozen=True)
class Figure:
    """A reported figure.

    Attributes:
        name: Benchmark and measure.
        value: In points, 0 to 100.
        protocol: How it was measured.
        source: Where it was reported.
    """

    name: str
    value: float
    protocol: str
    source: str


@dataclass(frozen=True)
class WeightsRecord:
    """One weights file, or a model that has none.

    Attributes:
        model: Name of the model, as `openglip.load` takes it.
        parameters: Their number; None if nobody needs it.
        about: What the model is, in one line.
        builder: The function that builds it, "module:function".
        licence: Terms of the weights. Of embedded weights these are in their metadata, as are the training data and the
            figures (`metadata.model_card` combines both).
        training_data: The data sets of the training.
        file: Name of the file at its origin; None if no file was released.
        hub: Repository at the Hugging Face hub that holds the file; None if there is none.
        embedded: Files inside the package that together are the weights.
        sha256: Of the file, where it is known; otherwise a download is compared with what the hub states.
        figures: What was reported of these weights.
        random: The weights are drawn from a fixed seed.
    """

    model: str
    parameters: int | None
    about: str
    builder: str
    licence: str = ""
    training_data: tuple[str, ...] = ()
    file: str | None = None
    hub: str | None = None
    embedded: tuple[str, ...] = ()
    sha256: str | None = None
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
        parameters=26_352_488,
        about="the embedded model: small, one image in a fraction of a second on a CPU, no download",
        builder="openglip.nano.model:Nano",
        embedded=("nano-text.safetensors", "nano-vision.safetensors"),
    ),
    WeightsRecord(
        model="debug",
        parameters=None,
        licence="Apache-2.0",
        about="a tiny GLIP with fixed random weights, for tests; its boxes mean nothing",
        builder="openglip.model.builders:debug",
        random=True,
    ),
    WeightsRecord(
        model="glip-t-a",
        parameters=151_430_526,
        licence=_LICENCE,
        training_data=("Objects365 v1",),
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
        training_data=("Objects365 v1",),
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
        training_data=("Objects365 v1", "GoldG (Flickr30k Entities, VG captions, GQA)"),
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
        training_data=("Objects365 v1", "GoldG (Flickr30k Entities, VG captions, GQA)", "CC3M", "SBU captions"),
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
        training_data=(
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
        about="DyHead with Swin-T, closed set of 80 classes: the paper's baseline",
        builder="openglip.model.builders:dyhead_t",
    ),
    WeightsRecord(
        model="dyhead-l",
        parameters=214_200_174,
        licence="no file was released",
        about="DyHead with Swin-L, closed set of 80 classes: the paper's baseline",
        builder="openglip.model.builders:dyhead_l",
    ),
)

RECORDS: dict[str, WeightsRecord] = {record.model: record for record in _RECORDS}
"""The weights that `openglip.load(name)` takes, by name of the model."""


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
"""The records by name of the official file; some models have more than one."""


def find_record(name: str) -> WeightsRecord:
    """The record of a model, by its name or by the name of an official file.

    Raises:
        ConfigError: There is no such name; the message contains similar ones.
    """
    if name in RECORDS:
        return RECORDS[name]
    if name in BY_FILE:
        return BY_FILE[name]
    near = difflib.get_close_matches(name, [*RECORDS, *BY_FILE], n=2, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    raise ConfigError(f"there is no model named {name!r}: {hint}Models: {', '.join(RECORDS)}")
