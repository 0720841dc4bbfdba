"""The plain formulas run without any fast kernel, and only where they are asked for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from openglip.model.mode import is_plain, plain_formulas
from openglip.model.workers import Workers
from openglip.predict.detector import Detector, load

IMAGE = np.random.default_rng(0).integers(0, 255, (90, 130, 3), dtype=np.uint8)


class Operators(TorchDispatchMode):
    """Records the names of all operators that run in this thread."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(str(func))
        return func(*args, **(kwargs or {}))


def fast_operators(detector: Detector) -> set[str]:
    """Operators of oneDNN's fused kernels and of the fast deformable convolution in one detection."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # everything runs in this thread
    try:
        with Operators() as operators:
            detector.detect(IMAGE, ["cat", "a dog"], threshold=0)
    finally:
        torch.set_num_threads(threads)
    return {name for name in operators.names if "mkldnn" in name or "embedding_bag" in name}


@pytest.mark.parametrize("name", ["debug", "nano"])
def test_no_fast_kernel_runs_in_plain_mode(name: str) -> None:
    detector = load(name, None if name == "nano" else "random", device="cpu")
    if torch.backends.mkldnn.is_available():
        assert fast_operators(detector) != set()
    with plain_formulas():
        assert fast_operators(detector) == set()


def test_plain_and_fast_detections_agree() -> None:
    detector = load("nano", device="cpu")
    fast = detector.detect(IMAGE, ["cat", "a dog", "couch"], threshold=0, top_k=20)
    with plain_formulas():
        plain = detector.detect(IMAGE, ["cat", "a dog", "couch"], threshold=0, top_k=20)
    np.testing.assert_allclose(plain.scores, fast.scores, atol=1e-4)


def test_the_mode_ends_with_its_block_and_reaches_worker_threads() -> None:
    with Workers(torch.device("cpu"), at_most=2) as workers:
        assert workers.map(lambda _: is_plain(), [0, 1]) == [False, False]
        with plain_formulas():
            assert is_plain()
            assert workers.map(lambda _: is_plain(), [0, 1]) == [True, True]
    assert not is_plain()
