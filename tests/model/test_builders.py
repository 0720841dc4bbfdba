"""Named models and other backbones."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny import annotated

from openglip.errors import ConfigError
from openglip.model.builders import glip_on_timm
from openglip.predict.detector import Detector
from openglip.training.assign import assign_batches
from openglip.training.loop import batch_losses
from openglip.training.losses import GroundingCriterion
from openglip.weights.load import build_model, model_builder

OFFICIAL_COUNTS = {  # docs/spec.md 1.2, measured on the official code
    "glip-t-a": 151_430_526,
    "glip-t-b": 231_780_222,
    "glip-t": 231_780_222,
    "glip-l": 430_422_384,
    "dyhead-t": 42_341_244,
    "dyhead-l": 214_200_174,
}


@pytest.mark.parametrize("name", OFFICIAL_COUNTS)
def test_parameter_counts_are_the_official_ones(name: str):
    with torch.device("meta"):
        model = model_builder(name)()
    assert sum(p.numel() for p in model.parameters()) == OFFICIAL_COUNTS[name]


def test_unknown_name_is_refused_with_the_known_ones():
    with pytest.raises(ConfigError, match=r"'glip-x'.*glip-t-a"):
        build_model("glip-x")


def test_a_timm_backbone_trains_and_detects():
    pytest.importorskip("timm", reason="timm is an optional extra")
    torch.manual_seed(0)
    model = glip_on_timm("resnet18", blocks=1).train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], 1e-4)
    images, ids = torch.randn(1, 3, 128, 160), torch.tensor([[101, 4937, 1012, 3899, 102]])
    mask = torch.ones_like(ids, dtype=torch.bool)
    boxes, words = torch.tensor([[20.3, 30.1, 90.7, 100.2]]), torch.tensor([[False, True, False, False, False]])
    batch = replace(annotated([boxes], [words], mask, ids=ids), images=images)
    (targets,) = assign_batches(model.anchors, [batch])
    for _ in range(2):
        terms = batch_losses(model, GroundingCriterion(), batch, targets)
        optimizer.zero_grad()
        sum(terms.values()).backward()  # type: ignore[union-attr]
        gradients = {name: p.grad for name, p in model.backbone.named_parameters()}
        assert not [name for name, g in gradients.items() if g is None or not torch.isfinite(g).all()]
        assert gradients["body.model.conv1.weight"].abs().sum() > 0
        optimizer.step()
    found = Detector(model).detect(np.zeros((100, 120, 3), np.uint8), ["cat", "dog"], threshold=0, short_side=96)
    assert found.image_size == (100, 120)


def test_a_timm_model_without_the_strides_is_refused():
    pytest.importorskip("timm", reason="timm is an optional extra")
    with pytest.raises(ConfigError, match="no_such_net"):
        glip_on_timm("no_such_net")
