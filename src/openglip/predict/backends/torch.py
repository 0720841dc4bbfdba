"""A model run by PyTorch."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Generator, Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from openglip.errors import ConfigError
from openglip.images.prepare import pad_batch
from openglip.model.contract import Model, check_model
from openglip.model.head import TextFeatures
from openglip.model.linear import half_copy
from openglip.model.postprocess import ScoredBoxes, suppress
from openglip.model.workers import Workers
from openglip.predict.backends.base import BoxArrays, EncodedMaps, EncodedTokens
from openglip.runtime import Precision, keep_onednn_kernels, pick_device, pick_precision
from openglip.weights.files import weights_sha256

# Network pixels of one batch on a CPU: one GLIP image of 800 x 1344, or eight of the embedded model's size.
CPU_BATCH_PIXELS = 1_100_000
GPU_BATCH = 8


class TorchBackend:
    """See `openglip.predict.backends.base.Backend`.

    Args:
        model: Put into eval mode and moved to the device.
        device: "auto", or a name or device of torch.
        precision: "fp32", "bf16" (autocast), or "auto" (bf16 where the device is natively fast at it).

    Raises:
        ConfigError: The model lacks a part of the contract, or there is no such device or precision.
    """

    def __init__(self, model: nn.Module | Model, device: str | torch.device, precision: Precision) -> None:
        keep_onednn_kernels()
        self.torch_device = pick_device(device)
        self.device = str(self.torch_device)
        self.precision = pick_precision(precision, self.torch_device)
        self.model: Model = check_model(model).eval().to(self.torch_device)
        if self.precision == "bf16":
            self.model = half_copy(self.model)
        self.name = self.model.name
        self.preparation = self.model.preparation
        self.default_threshold = float(self.model.default_threshold)
        self.max_tokens = self.model.max_tokens
        self.categories = self.model.categories
        self.tokens_are_independent = self.model.tokens_are_independent
        self.reads_phrases_alone = self.model.reads_phrases_alone
        self._process = os.getpid()

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _process=os.getpid())

    def encode_text(self, ids: Sequence[Sequence[int]]) -> list[EncodedTokens]:
        rows = torch.tensor(ids, device=self.torch_device)
        with self._inference():
            encoded = self.model.encode_text(rows, torch.ones_like(rows, dtype=torch.bool))
        return [EncodedTokens(TextFeatures(*text)) for text in zip(*encoded, strict=True)]

    def select_tokens(self, texts: Sequence[EncodedTokens], positions: Sequence[Sequence[int]]) -> EncodedTokens:
        parts = [
            [column[list(tokens)] for column in cast("TextFeatures", text)]
            for text, tokens in zip(texts, positions, strict=True)
        ]
        with self._inference():
            return EncodedTokens(TextFeatures(*(torch.cat(columns) for columns in zip(*parts, strict=True))))

    def encode_images(self, images: Sequence[np.ndarray]) -> EncodedMaps:
        batch = torch.as_tensor(pad_batch(images, self.preparation.multiple))
        with self._inference():
            return EncodedMaps(self.model.encode_image(batch.to(self.torch_device)))

    def join_images(self, images: Sequence[EncodedMaps]) -> EncodedMaps:
        levels = zip(*cast("Sequence[list[Tensor]]", images), strict=True)
        with self._inference():
            return EncodedMaps([torch.cat(maps) for maps in levels])

    def detect(
        self,
        images: EncodedMaps,
        rows: Sequence[int],
        texts: Sequence[EncodedTokens | None],
        token_maps: Sequence[Sequence[Sequence[int]]],
        image_sizes: Sequence[tuple[int, int]],
        thresholds: Sequence[np.ndarray],
        *,
        least: float,
        nms_iou: float,
        phrases: bool,
    ) -> list[BoxArrays]:
        pyramid = cast("list[Tensor]", images)
        with self._inference():
            if len(rows) < len(pyramid[0]):
                pyramid = [level[list(rows)] for level in pyramid]
            boxes = self.model.detect(
                pyramid,
                _stack(texts),
                token_maps,
                image_sizes,
                [values.tolist() for values in thresholds],
                least=least,
                nms_iou=nms_iou,
                phrases=phrases,
            )
        return [to_arrays(one) for one in boxes]

    def suppress(self, boxes: BoxArrays, nms_iou: float) -> BoxArrays:
        tensors = ScoredBoxes(*(torch.as_tensor(column) for column in boxes))
        return to_arrays(suppress(tensors, nms_iou, class_agnostic=True))

    def batch_size(self, height: int, width: int) -> int:
        return GPU_BATCH if self.torch_device.type != "cpu" else max(1, CPU_BATCH_PIXELS // (height * width))

    def workers(self, at_most: int | None = None) -> Workers:
        self._check_process()
        return Workers(self.torch_device, at_most)

    def weights_sha256(self) -> str:
        return weights_sha256(self.model.state_dict())

    def _check_process(self) -> None:
        """Compute on one thread in a process that was forked after the model was loaded.

        Such a process has none of the threads of its parent, and an operation on several threads would wait for them
        for ever. Raises ConfigError on a GPU, which can't be used after a fork at all.
        """
        if os.getpid() == self._process:
            return
        if self.torch_device.type != "cpu":
            raise ConfigError(
                f"this process was forked after the model was loaded on {self.device}: load it in each process, or "
                "start processes by 'spawn'"
            )
        torch.set_num_threads(1)
        self._process = os.getpid()

    @contextlib.contextmanager
    def _inference(self) -> Generator[None]:
        """No gradients, and this backend's precision."""
        self._check_process()
        with torch.inference_mode(), torch.autocast(self.torch_device.type, torch.bfloat16, self.precision == "bf16"):
            yield


def _stack(texts: Sequence[EncodedTokens | None]) -> TextFeatures | None:
    """Texts as one batch, padded to the longest; None for fixed categories."""
    features = [cast("TextFeatures", text) for text in texts if text is not None]
    if not features:
        return None
    columns = zip(*features, strict=True)
    return TextFeatures(*(nn.utils.rnn.pad_sequence(list(column), batch_first=True) for column in columns))


def to_arrays(boxes: ScoredBoxes) -> BoxArrays:
    """Boxes on the CPU as numpy arrays."""
    return BoxArrays(boxes.boxes.float().numpy(), boxes.scores.float().numpy(), boxes.labels.numpy())
