"""The stand-in for a watermark detector: its network is the one that was fitted, and it sees plain marks."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageFont
from safetensors.torch import load_file
from torch.nn import functional

from filters.watermark import LAYERS, WEIGHTS, likelihood, strokes


def texture(seed: int, size: tuple[int, int]) -> Image.Image:
    """Soft noise, as an unsharp background has it."""
    width, height = size
    small = np.random.default_rng(seed).integers(60, 196, (height // 16, width // 16), dtype=np.uint8)
    return Image.fromarray(small).resize(size, Image.Resampling.BICUBIC)


@pytest.mark.parametrize("size", [(512, 384), (300, 512), (37, 50), (512, 9), (1, 1)])
def test_the_network_is_that_of_torch(size: tuple[int, int]) -> None:
    luma = np.asarray(texture(0, (512, 512)).crop((0, 0, *size)))
    weights = {name: tensor.float() for name, tensor in load_file(WEIGHTS).items()}
    values = torch.from_numpy(strokes(luma))[None, None]
    for name, stride, dilation in LAYERS:
        kernel = weights[f"{name}.weight"]
        pad = (kernel.shape[-1] - 1) * dilation // 2
        reach = (kernel.shape[-1] - 1) * dilation + 1
        missing = [max(0, reach - side - 2 * pad) for side in values.shape[:1:-1]]
        values = functional.pad(values, (0, missing[0], 0, missing[1]))
        values = functional.relu(functional.conv2d(values, kernel, weights[f"{name}.bias"], stride, pad, dilation))
    pooled = torch.cat([values.amax((2, 3)), values.mean((2, 3))], dim=1)
    logit = functional.linear(pooled, weights["last.weight"], weights["last.bias"])
    assert likelihood(luma) == pytest.approx(torch.sigmoid(logit).item(), abs=1e-4)


def test_a_name_in_a_corner_raises_the_likelihood() -> None:
    rises = []
    for seed in range(6):
        clean = texture(seed, (512, 384))
        marked = clean.copy()
        draw = ImageDraw.Draw(marked)
        draw.text((330, 350), "www.picture.example", 250, ImageFont.load_default(18))
        rises.append(likelihood(np.asarray(marked)) - likelihood(np.asarray(clean)))
    assert min(rises) > 0
    assert np.mean(rises) > 0.3
