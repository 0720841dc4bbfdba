from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from evaluation.random_sets import random_coco
from PIL import Image

import openglip
from openglip.errors import ConfigError


@pytest.mark.parametrize("benchmark", ["lvis", "coco-ov", "custom"])
def test_every_benchmark_with_categories_has_a_page(benchmark: str, tmp_path: Path) -> None:
    truth, found = random_coco(8, federated=True)
    for category, name in zip(truth["categories"], ("person", "cat", "dog", "tv"), strict=True):
        category["name"] = name
    openglip.evaluate(benchmark, truth, predictions=found, output=tmp_path, render=True)
    assert (tmp_path / "report.html").stat().st_size > 10_000
    with pytest.raises(ConfigError, match="render needs an output folder"):
        openglip.evaluate(benchmark, truth, predictions=found, render=True)


def test_page_is_one_file_that_loads_nothing(tmp_path: Path) -> None:

    truth, found = random_coco(4)
    for image in truth["images"][:6]:  # the others have no picture: a frame stands for them
        Image.new("RGB", (640, 480), (90, 120, 150)).save(tmp_path / image["file_name"])
    truth["categories"][0]["name"] = "</script><b>x"
    openglip.evaluate("coco", truth, predictions=found, images=tmp_path, output=tmp_path / "o", render=True)
    page = (tmp_path / "o/report.html").read_text()
    assert "data:image/jpeg;base64," in page
    assert not re.search(r"""(?:src|href)=["']?https?:|@import|url\(http""", page)
    data = json.loads(re.search(r"const data = (\{.*\});", page)[1].replace("<\\/", "</"))  # type: ignore[index]
    assert page.count("</script>") == 1
    assert data["tiles"]["false_positives"]
    assert data["tiles"]["misses"]
    scores = [t["score"] for t in data["tiles"]["false_positives"]]
    assert scores == sorted(scores, reverse=True)
    assert data["counts"]["correct"][0] + data["counts"]["wrong"][0] <= len(found)
    assert all(0 <= y <= 1 for curve in data["curves"] for y in curve["y"])
