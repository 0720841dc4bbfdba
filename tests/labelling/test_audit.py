from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from labelling.stub import fast

from openglip.errors import DataError
from openglip.labelling.audit import head_word, interval, read_answers, write_page
from openglip.labelling.run import label
from openglip.labelling.shards import LabelSettings


def test_page_and_answers(images: Path, tmp_path: Path) -> None:
    label(images, tmp_path / "run", model=fast, workers=0, shard_size=8, labels=LabelSettings(chunker="rules"))
    page = tmp_path / "audit.html"
    assert write_page(tmp_path / "run", images, page, count=12, seed=1) == 12
    first = page.read_text()
    write_page(tmp_path / "run", images, page, count=12, seed=1)
    assert page.read_text() == first
    data = json.loads(re.search(r"const \{ labels, images \} = (.*);", first)[1])  # type: ignore[index]
    labels, shown = data["labels"], data["images"]
    assert len(shown) == 12
    assert all(x["caption"][x["begin"] : x["end"]] == label["phrase"] for x, label in zip(shown, labels, strict=True))
    assert all(x["score"] > 0.5 and x["word"] == head_word(x["phrase"]) for x in labels)
    for i, x in enumerate(labels[:8]):
        x["answer"] = i < 6
    (tmp_path / "answers.json").write_text(json.dumps({"labels": labels}))
    rows = read_answers(tmp_path / "answers.json")
    assert rows[0] | {"low": 0, "high": 0} == {
        "word": "all words", "checked": 8, "right": 6, "precision": 0.75, "low": 0, "high": 0
    }  # fmt: skip
    assert sum(r["checked"] for r in rows[1:]) == 8
    with pytest.raises(DataError, match=r"no label scores above 1\.5"):
        write_page(tmp_path / "run", images, page, threshold=1.5)
    (tmp_path / "answers.json").write_text("[]")
    with pytest.raises(DataError, match="no answers in it"):
        read_answers(tmp_path / "answers.json")


def test_interval() -> None:
    assert interval(8, 10) == pytest.approx((0.490, 0.943), abs=1e-3)  # Wilson's formula
    assert interval(0, 5)[0] == 0
    assert interval(5, 5)[1] == 1
