"""Watermarks: site names and logos laid over pictures, which a model would learn to draw."""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
from safetensors.numpy import load_file

from filters.measure import Columns
from filters.picture import Picture
from filters.weights import sha256
from schemas import identity

WEIGHTS = Path(__file__).parent / "weights" / "watermark.safetensors"
BLUR, SPREAD, LIMIT = 15, 16.0, 4.0
LAYERS = (("first", 4, 1), ("second", 2, 1), ("third", 1, 1), ("fourth", 1, 2), ("fifth", 1, 4))
"""Convolutions with their strides and dilations."""


def likelihood(luma: np.ndarray) -> float:
    """0–1; see `Watermark`.

    Args:
        luma: uint8, height × width, 512 a side at most.
    """
    weights = _weights()
    values = strokes(luma)[:, :, None]
    for name, stride, dilation in LAYERS:
        values = np.maximum(
            _convolved(values, weights[f"{name}.weight"], stride, dilation) + weights[f"{name}.bias"], 0
        )
    pooled = np.concatenate([values.max(axis=(0, 1)), values.mean(axis=(0, 1))])
    logit = float(pooled @ weights["last.weight"][0] + weights["last.bias"][0])
    return float(1 / (1 + np.exp(-logit)))


def strokes(luma: np.ndarray) -> np.ndarray:
    """The luma less its mean over BLUR × BLUR pixels, in units of SPREAD levels, at most LIMIT either way; float32."""
    difference = luma.astype(np.float32) - cv2.blur(luma, (BLUR, BLUR)).astype(np.float32)
    return np.clip(difference / SPREAD, -LIMIT, LIMIT)


class Watermark:
    """`likelihood`, 0–1, that text or a logo was laid over the picture. A STAND-IN for a detector of real marks.

    A small convolutional network of our own over the luma at a longest side of 512. It was trained by
    `benchmarks/watermarks.py --fit` on photographs with marks that we drew: names in Chinese and Latin letters in
    corners, across the middle, tiled and in bands, and plain logos. It has seen hardly any lettering that belongs to a
    scene, and takes some of it for a mark.
    """

    name = "watermark"
    columns = pa.schema({"likelihood": pa.float32()})

    def fingerprint(self) -> str:
        view = f"luma, area averaged, 512; less its mean over {BLUR}; {SPREAD}; {LIMIT}"
        return identity.fingerprint(name=self.name, version=1, view=view, weights=sha256(WEIGHTS))

    def __call__(self, pictures: Sequence[Picture]) -> Columns:
        return {"likelihood": [likelihood(picture.luma_512) for picture in pictures]}


def _convolved(values: np.ndarray, kernel: np.ndarray, stride: int, dilation: int) -> np.ndarray:
    """A convolution of height × width × channels by a kernel of out × in × size × size; half the kernel is padded."""
    out, channels, size, _ = kernel.shape
    pad = (size - 1) * dilation // 2
    reach = (size - 1) * dilation + 1
    height, width = (max(1, (side + 2 * pad - reach) // stride + 1) for side in values.shape[:2])
    padded = np.zeros(
        (max(reach, values.shape[0] + 2 * pad), max(reach, values.shape[1] + 2 * pad), channels), np.float32
    )
    padded[pad : pad + values.shape[0], pad : pad + values.shape[1]] = values
    patches = np.empty((height, width, size, size, channels), np.float32)
    for down in range(size):
        rows = padded[down * dilation :][: (height - 1) * stride + 1 : stride]
        for across in range(size):
            patches[:, :, down, across] = rows[:, across * dilation :][:, : (width - 1) * stride + 1 : stride]
    flat = kernel.transpose(2, 3, 1, 0).reshape(-1, out)
    return (patches.reshape(height * width, -1) @ flat).reshape(height, width, out)


@lru_cache(maxsize=1)
def _weights() -> dict[str, np.ndarray]:
    return {name: tensor.astype(np.float32) for name, tensor in load_file(WEIGHTS).items()}
