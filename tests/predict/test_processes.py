"""A detector in other processes: forked after it was loaded, pickled to a spawned one, copied."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys

import numpy as np
import pytest

from openglip.predict.detector import Detector
from openglip.weights.load import build_model

IMAGE = np.random.default_rng(0).integers(0, 255, (96, 128, 3), dtype=np.uint8)

FORKED = """
import multiprocessing, sys
import numpy as np
import torch
import openglip
torch.set_num_threads(2)
detector = openglip.load()
image, words = np.zeros((300, 400, 3), np.uint8), detector.encode_text(["cup"])
expected = detector.detect(image, words, threshold=0)

def work(answers):
    answers.put(detector.detect(image, words, threshold=0).to_json())

fork = multiprocessing.get_context("fork")
answers = fork.Queue()
worker = fork.Process(target=work, args=(answers,), daemon=True)
worker.start()
assert len(openglip.Detections.from_json(answers.get(timeout=60))) == len(expected)
assert torch.get_num_threads() == 2
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no fork")
def test_a_detector_works_in_a_process_that_was_forked_after_it_was_loaded() -> None:
    done = subprocess.run([sys.executable, "-c", FORKED], capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda value: pickle.loads(pickle.dumps(value))])
def test_a_copy_finds_the_same_and_takes_what_the_original_encoded(duplicate) -> None:
    model = build_model("debug")
    model.score_cut = 0.0  # type: ignore[assignment]
    detector = Detector(model)
    image, words = detector.encode(IMAGE), detector.encode_text(["cat", "dog"])
    other, image_copy, words_copy = duplicate((detector, image, words))
    expected = detector.detect(image, words, threshold=0)
    assert len(expected) > 0
    assert other.detect(image_copy, words_copy, threshold=0) == expected
    assert other.detect(IMAGE, ["cat", "dog"], threshold=0) == expected
