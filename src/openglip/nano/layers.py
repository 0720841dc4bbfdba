"""Layers of the embedded model: its convolution block and its attention from words to the image."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from openglip.model.linear import Act, conv2d, convolve


class ConvBlock(nn.Module):
    """Residual block: depthwise 5 x 5 convolution, norm, pointwise convolution to `width` channels and back."""

    def __init__(self, dim: int, width: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(dim, dim, 5, padding=2, groups=dim, bias=False)
        self.norm = nn.BatchNorm2d(dim)
        self.pointwise1 = nn.Conv2d(dim, width, 1)
        self.pointwise2 = nn.Conv2d(width, dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        return convolve(self.hidden(x), self.pointwise2, plus=x)

    def hidden(self, x: Tensor) -> Tensor:
        """The activations between the two pointwise convolutions, B x width x h x w."""
        return convolve(convolve_depthwise(x, self.depthwise, norm=self.norm), self.pointwise1, "swish")

    def forward_projected(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """A pointwise convolution of the block's output, without computing that output.

        Cheaper than one after the other where the convolution has few output channels.

        Args:
            x: B x D x h x w, input of the block.
            weight: C x D x 1 x 1, of the pointwise convolution.
            bias: C, likewise.

        Returns:
            B x C x h x w.
        """
        from_hidden = (weight.flatten(1) @ self.pointwise2.weight.flatten(1))[..., None, None]
        bias = (bias + weight.flatten(1) @ cast("Tensor", self.pointwise2.bias)).to(from_hidden.dtype)
        stride_and_padding = ((1, 1), (0, 0))
        hidden = self.hidden(x)
        residual = conv2d(x, weight, None, *stride_and_padding)
        return conv2d(hidden, from_hidden, bias, *stride_and_padding, plus=residual)


class TextToImageAttention(nn.Module):
    """Each word attends to the cells of the image, independently of other words; then a feed-forward layer. Pre-norm.

    The text side of GLIP's deep fusion (section 3.2); the image side would make the words depend on each other.
    """

    def __init__(self, dim: int, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(dim)
        self.query = nn.Linear(dim, dim)
        self.key_value = nn.Linear(dim, 2 * dim)
        self.output = nn.Linear(dim, dim)
        self.feed_forward = nn.Sequential(
            nn.LayerNorm(dim), nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim)
        )

    def forward(self, words: Tensor, cells: Tensor) -> Tensor:
        """words: B x L x D; cells: B x N x D. Returns B x L x D."""
        b, length, dim = words.shape
        q = self.query(self.norm(words)).view(b, length, self.heads, -1).transpose(1, 2)
        k, v = self.key_value(cells).view(b, cells.shape[1], 2, self.heads, -1).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, length, dim)
        words = words + self.output(attended)
        return words + self.feed_forward(words)


def convolve_depthwise(
    x: Tensor, conv: nn.Conv2d, act: Act = "none", *, norm: nn.BatchNorm2d | None = None, plus: Tensor | None = None
) -> Tensor:
    """`convolve`, but in float32 while the convolution trains.

    Gradients of a depthwise convolution are three times slower in bf16 than in float32 on a CPU.
    """
    if not (torch.is_grad_enabled() and conv.weight.requires_grad):
        return convolve(x, conv, act, norm=norm, plus=plus)
    with without_autocast(x.device):
        return convolve(x.float(), conv, act, norm=norm, plus=plus)


def without_autocast(device: torch.device) -> AbstractContextManager[object]:
    """A context without autocast; the meta device, on which plans are made, has none to switch off."""
    return nullcontext() if device.type == "meta" else torch.autocast(device.type, enabled=False)
