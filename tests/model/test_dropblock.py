"""DropBlock against the official values, and its switch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from openglip.model.dropblock import DropBlock, drop_block


def test_output_and_gradient_are_the_official_ones(golden_file: Callable[[str], Path]) -> None:
    golden = {
        key: torch.from_numpy(np.asarray(value)) for key, value in np.load(golden_file("train/dropblock.npz")).items()
    }
    x = golden["input"].requires_grad_()
    output = drop_block(x, golden["uniform"], probability=0.3, block=3)
    torch.testing.assert_close(output, golden["output"], rtol=0, atol=1e-6)
    output.sum().backward()
    torch.testing.assert_close(x.grad, golden["grad_of_sum"], rtol=0, atol=1e-6)


def test_acts_in_training_only() -> None:
    torch.manual_seed(0)
    x = torch.ones(2, 3, 20, 20)
    assert torch.equal(DropBlock().eval()(x), x)
    dropped = DropBlock().train()(x)
    assert (dropped == 0).any()
    assert torch.equal(dropped[:, :1] == 0, dropped[:, 1:2] == 0)
    torch.testing.assert_close(dropped.sum(), x.sum())
