"""Convolutions with what follows them in one pass, against the same steps one by one."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from openglip.model.linear import convolve
from openglip.nano.mobilenet import MobileNetV2
from openglip.nano.yolox import Stem


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def maps(channels: int, height: int = 13, width: int = 17) -> Tensor:
    return torch.randn(2, channels, height, width).contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("groups", [1, 12])
@pytest.mark.parametrize("follows", ["nothing", "swish", "relu6", "sum", "norm", "norm and sum"])
def test_a_convolution_and_what_follows_it(threads: int, groups: int, follows: str):
    conv = nn.Conv2d(12, 24, 3, stride=2, padding=1, groups=groups)
    norm = nn.BatchNorm2d(24).eval() if "norm" in follows else None
    if norm is not None:
        nn.init.normal_(norm.running_mean)  # type: ignore[arg-type]
        nn.init.uniform_(norm.running_var, 0.5, 2)  # type: ignore[arg-type]
        nn.init.normal_(norm.weight)
        conv.bias = None
    x = maps(12) * 3
    plus = torch.randn(2, 24, 7, 9).contiguous(memory_format=torch.channels_last) if "sum" in follows else None
    act = follows if follows in ("swish", "relu6") else "none"
    expected = conv(x) if norm is None else norm(conv(x))
    expected = {"swish": F.silu, "relu6": F.relu6, "none": lambda y: y}[act](expected)
    expected = expected if plus is None else expected + plus
    own = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.no_grad():
            quick = convolve(x, conv, act, norm=norm, plus=plus)  # type: ignore[arg-type]
    finally:
        torch.set_num_threads(own)
    trained = convolve(x, conv, act, norm=norm, plus=plus)  # type: ignore[arg-type]
    torch.testing.assert_close(quick, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(trained, expected, atol=1e-5, rtol=1e-5)
    assert trained.requires_grad


def test_a_normalisation_that_learns_uses_its_batch():
    conv, norm = nn.Conv2d(12, 24, 1, bias=False), nn.BatchNorm2d(24)
    with torch.no_grad():
        y = convolve(maps(12), conv, norm=norm)
    assert y.mean((0, 2, 3)).abs().max() < 1e-5
    assert norm.running_mean is not None
    assert norm.running_mean.abs().max() > 0


def test_the_stem_sees_the_four_pixels_of_each_square_in_the_official_order():
    stem, x = Stem(12, 16, 3), maps(3, 32, 64)
    squares = torch.cat([x[..., ::2, ::2], x[..., 1::2, ::2], x[..., ::2, 1::2], x[..., 1::2, 1::2]], 1)
    expected = F.silu(F.conv2d(squares, stem.weight, stem.bias, padding=1))
    torch.testing.assert_close(stem(x), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("size", [(32, 32), (64, 96)])
def test_photos_one_by_one_in_another_layout_give_the_same_levels(size: tuple[int, int]):
    model = MobileNetV2().eval()
    photos = (torch.rand(3, 3, *size) * 255).contiguous(memory_format=torch.channels_last)
    plain = model(photos)  # with gradients: all at once
    with torch.inference_mode():
        quick = model(photos)
    for i, (one, other) in enumerate(zip(quick, plain, strict=True)):
        assert one.shape[2:] == (size[0] >> i + 3, size[1] >> i + 3)
        assert one.is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(one, other.detach(), atol=1e-5, rtol=1e-4)


def test_mobilenet_pads_below_and_to_the_right_as_its_source_does():
    model = MobileNetV2().eval()
    photo = torch.rand(1, 3, 32, 32) * 255
    rgb = photo.flip(1) / 255
    rgb = (rgb - torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)) / torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    x = F.relu6(F.conv2d(F.pad(rgb, (0, 1, 0, 1)), model.stem.weight, model.stem.bias, stride=2))
    for stage in list(model.blocks)[:3]:
        for block in stage:  # type: ignore[union-attr]
            y = block.expand(x)
            pad = (0, 1, 0, 1) if block.depth.stride[0] == 2 else (1, 1, 1, 1)
            depth = block.depth
            y = F.relu6(F.conv2d(F.pad(y, pad), depth.weight, depth.bias, depth.stride, groups=depth.groups))
            y = F.conv2d(y, block.project.weight, block.project.bias)
            x = x + y if block.shortcut else y
    torch.testing.assert_close(model(photo)[0], x, atol=1e-5, rtol=1e-4)


def test_kernels_of_a_folder_of_many_sizes_are_compiled_once():
    """oneDNN by itself forgets the first of them: see `openglip.runtime.keep_onednn_kernels`."""
    program = (
        "import torch, openglip\n"
        "openglip.load('debug', 'random')\n"
        "from openglip.model.linear import conv2d\n"
        "weight = torch.ones(1, 1, 1, 1)\n"
        "sizes = [(h, w) for h in range(1, 37) for w in range(1, 37)]\n"
        "for turn in range(2):\n"
        "    print('turn', turn, flush=True)\n"
        "    for size in sizes:\n"
        "        conv2d(torch.ones(1, 1, *size), weight, None, (1, 1), (0, 0))\n"
    )
    environment = {k: v for k, v in os.environ.items() if k != "ONEDNN_PRIMITIVE_CACHE_CAPACITY"}
    environment["ONEDNN_VERBOSE"] = "profile_create"
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    first, second = done.stdout.split("turn 1\n")
    assert first.count("cache_miss") > 1024
    assert second.count("cache_hit") > 1024
    assert "cache_miss" not in second
