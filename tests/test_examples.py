"""The scripts that turn a peer's output into a file of predictions; models have random weights, shapes are real."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from evaluation.sets import coco_set

import openglip

ROOT = Path(__file__).resolve().parents[1]


def script(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def judged(path: Path, rows: list[dict], tmp_path: Path) -> None:
    assert rows
    found = tmp_path / "found.json"
    found.write_text(json.dumps(rows))
    report = openglip.evaluate("coco", path, predictions=found)
    assert 0 <= report.figures["AP"] <= 1
    for row in rows:
        assert row["bbox"][0] >= -1
        assert row["bbox"][0] + row["bbox"][2] <= 65


@pytest.mark.parametrize(
    "name", ["fasterrcnn_mobilenet_v3_large_320_fpn", pytest.param("maskrcnn_resnet50_fpn", marks=pytest.mark.slow)]
)
def test_torchvision(name: str, tmp_path: Path) -> None:
    from torchvision.models import get_model

    torch.manual_seed(0)
    settings = {"weights": None, "weights_backbone": None, "box_score_thresh": 0.0, "min_size": 64, "max_size": 96}
    path = coco_set(tmp_path, images=2, names=[f"class {i}" for i in range(90)])
    truth = json.loads(path.read_text())
    for i, category in enumerate(truth["categories"]):
        category["id"] = i + 1
    for row in truth["annotations"]:
        row["category_id"] = 1
    path.write_text(json.dumps(truth))
    rows = script("predictions_from_torchvision").predictions(get_model(name, **settings), truth, tmp_path)
    judged(path, rows, tmp_path)


@pytest.mark.slow
def test_grounding_dino(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    vocabulary = ROOT / "src/openglip/prompts/vocab.txt"
    tokenizer = transformers.BertTokenizerFast(vocab=str(vocabulary), do_lower_case=True)
    images = transformers.GroundingDinoImageProcessor(size={"shortest_edge": 64, "longest_edge": 96})
    processor = transformers.GroundingDinoProcessor(images, tokenizer)
    body = transformers.SwinConfig(
        image_size=64, embed_dim=12, depths=[1, 1, 1, 1], num_heads=[1, 2, 3, 4], window_size=4
    )
    body.out_features, body.out_indices = ["stage2", "stage3", "stage4"], [2, 3, 4]
    words = transformers.BertConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)
    config = transformers.GroundingDinoConfig(
        backbone_config=body, text_config=words, d_model=32, encoder_layers=1, decoder_layers=2, num_queries=20,
        encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=32, decoder_ffn_dim=32,
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.GroundingDinoForObjectDetection(config)
    path = coco_set(tmp_path, images=2, names=("cat", "dog"))
    module = script("predictions_from_grounding_dino")
    rows = []
    for threshold in (0.05, 0.3, 0.5, 0.6):  # random scores lie anywhere: one threshold gives boxes with one name
        rows += module.predictions(model, processor, json.loads(path.read_text()), tmp_path, threshold)
    assert {row["category_id"] for row in rows} <= {0, 5}
    if rows:
        judged(path, rows, tmp_path)
