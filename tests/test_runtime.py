"""Devices by name, and start-up care of the process."""

from __future__ import annotations

import sys

import pytest
import torch

from openglip.errors import ConfigError
from openglip.runtime import pick_device, torchvision_nms


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


@pytest.mark.parametrize("name", ["cpu", "CPU", " Cpu "])
def test_devices_are_known_in_any_case(name: str) -> None:
    assert pick_device(name).type == "cpu"


@pytest.mark.parametrize("name", [None, "", "meta", "gpu", "cuda:99", 1.5])
def test_devices_that_compute_nothing_are_refused(name: object) -> None:
    with pytest.raises(ConfigError, match="can't be used; auto, cpu"):
        pick_device(name)  # type: ignore[arg-type]
