"""Start-up care of the process."""

from __future__ import annotations

import sys

import pytest
import torch

from openglip.runtime import torchvision_nms


def test_suppression_if_the_library_of_torchvision_does_not_load_alone(monkeypatch: pytest.MonkeyPatch):
    def refuse(path: object) -> None:
        refused.append(path)
        raise OSError(f"undefined symbol in {path}")

    import torchvision  # noqa: F401  registers its operators

    refused: list[object] = []
    monkeypatch.delitem(sys.modules, "torchvision")
    monkeypatch.setattr(torch.ops, "load_library", refuse)
    nms = torchvision_nms()
    assert refused
    assert nms(torch.tensor([[0.0, 0, 9, 9], [1, 0, 9, 9]]), torch.tensor([0.1, 0.2]), 0.5).tolist() == [1]
