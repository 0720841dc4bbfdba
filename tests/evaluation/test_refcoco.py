from __future__ import annotations

import pickle
from pathlib import Path

import pytest
from evaluation.sets import write

import openglip
from openglip.errors import DataError

EXPRESSIONS = ((7, (10, 10, 40, 40)), (8, (50, 20, 30, 30)), (9, (0, 0, 20, 20)))
FOUND = (
    {"ref_id": 7, "bbox": [10, 10, 40, 40], "score": 0.5},
    {"ref_id": 7, "bbox": [0, 0, 5, 5], "score": 0.5, "category_id": 1},  # of equal scores the first counts
    {"ref_id": 8, "bbox": [50, 20, 30, 30], "score": 0.3},
    {"ref_id": 8, "bbox": [0, 0, 5, 5], "score": 0.4},
)


def test_mdetr_file(tmp_path: Path) -> None:
    images = [{"id": i, "file_name": "a.jpg", "caption": "the left one"} for i, _ in EXPRESSIONS]
    rows = [{"image_id": i, "bbox": box} for i, box in EXPRESSIONS]
    source = write(tmp_path / "refs.json", {"images": images, "annotations": rows})
    report = openglip.evaluate("refcoco", source, predictions=list(FOUND))
    assert report.figures == {"P@1": pytest.approx(1 / 3)}
    assert report.protocol["expressions_without_a_box"] == 1
    found = write(tmp_path / "found.json", [{"ref_id": 6, "bbox": [0, 0, 1, 1], "score": 1}])
    with pytest.raises(DataError, match=r"found\.json: entry 0 \(ref_id 6\)"):
        openglip.evaluate("refcoco", source, predictions=found)


def test_folder_as_distributed(tmp_path: Path) -> None:
    boxes = [{"id": 100 + i, "image_id": 1, "bbox": box} for i, box in EXPRESSIONS]
    write(tmp_path / "instances.json", {"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": boxes})
    refs = [
        {
            "ann_id": 100 + i,
            "image_id": 1,
            "split": "val" if i < 9 else "testA",
            "sentences": [{"sent_id": i, "sent": "x"}],
        }
        for i, _ in EXPRESSIONS
    ]
    (tmp_path / "refs(unc).p").write_bytes(pickle.dumps(refs, protocol=2))
    assert openglip.evaluate("refcoco", tmp_path, predictions=list(FOUND), split="val").figures["P@1"] == 0.5
    with pytest.raises(DataError, match="It holds testA, val, not None"):
        openglip.evaluate("refcoco", tmp_path, predictions=[])
    (tmp_path / "refs(unc).p").write_bytes(pickle.dumps(Path("x")))
    with pytest.raises(DataError, match="not a plain pickle"):
        openglip.evaluate("refcoco", tmp_path, predictions=[], split="val")
