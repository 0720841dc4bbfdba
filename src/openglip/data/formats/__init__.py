"""The data formats. A path is read by the first of `FORMATS` that recognises it; docs/formats.md shows each layout."""

from __future__ import annotations

from openglip.data.format import Format
from openglip.data.formats import (
    caption_tsv,
    captions,
    coco,
    flickr30k,
    label_studio,
    lvis,
    mdetr,
    objects365,
    odvg,
    openimages,
    parquet,
    visual_genome,
    voc,
    webdataset,
    yolo,
)

FORMATS: tuple[Format, ...] = (
    mdetr.MDETR,
    lvis.LVIS,
    coco.COCO,
    objects365.OBJECTS365,
    caption_tsv.CAPTION_TSV,
    objects365.OBJECTS365_TSV,
    openimages.OPENIMAGES,
    odvg.ODVG,
    flickr30k.FLICKR30K,
    yolo.YOLO,
    visual_genome.VISUAL_GENOME,
    voc.VOC,
    parquet.PARQUET,
    webdataset.WEBDATASET,
    label_studio.LABEL_STUDIO,
    captions.CAPTIONS,
)
BY_NAME = {format.name: format for format in FORMATS}
