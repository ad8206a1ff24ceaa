"""Finds the kinds of composed scenes in a picture, and their colours: our own stand-in for GenEval's detector.

A small fully convolutional network with a heat map for each kind, whose peaks are the things (CenterNet, arXiv
1904.07850). It is trained on composed scenes alone, by `benchmarks/scene_detector.py`, which also says how far it is to
be trusted.
"""

from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from schemas.scenes import COLOURS, KINDS

WEIGHTS = Path(__file__).parent / "weights" / "scene_detector.safetensors"
STRIDE = 4
"""Pixels a side of a cell of the heat maps."""
THRESHOLD = 0.25
"""The least height of a peak that is a thing; chosen on composed scenes, by counting."""
FEATURES = 128
AT_ONCE = 128


class Detection(NamedTuple):
    """A thing that was found."""

    kind: str
    colour: str | None
    """None where it is not dyed."""
    x: float
    """The centre, in sides of the picture, like `y`."""
    y: float


class Block(nn.Module):
    """Two dense 3×3 convolutions and a shortcut."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels, h, w) → the same."""
        return F.relu(x + self.body(x))


def _shrink(channels_in: int, channels: int, kernel: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels_in, channels, kernel, stride=2, padding=kernel // 2), nn.BatchNorm2d(channels), nn.ReLU()
    )


class Detector(nn.Module):
    """Pictures of 64 to 128 pixels a side, in −1 … 1 → heat maps of the kinds, colours, features."""

    def __init__(self) -> None:
        super().__init__()
        self.fine = nn.Sequential(_shrink(3, 32, 5), _shrink(32, 64, 3), Block(64), Block(64))
        self.coarse = nn.Sequential(_shrink(64, FEATURES, 3), Block(FEATURES), Block(FEATURES))
        self.widen = nn.Conv2d(FEATURES, 64, 1)
        self.mix = Block(64)
        self.kinds = nn.Conv2d(64, len(KINDS), 1)
        self.colours = nn.Conv2d(64, 1 + len(COLOURS), 1)
        nn.init.constant_(self.kinds.bias, -4.0)  # type: ignore[arg-type]  # there are few peaks, says RetinaNet

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(batch, 3, h, w) → logits of the kinds and of the colours (0: its own), (batch, …, h / 4, w / 4) each, and
        features, (batch, 128)."""
        fine = self.fine(pictures)
        coarse = self.coarse(fine)
        seen = self.mix(fine + self.widen(F.interpolate(coarse, scale_factor=2.0)))
        return self.kinds(seen), self.colours(seen), coarse.mean(dim=(2, 3))


class Reference(NamedTuple):
    """The mean, (128,), and covariance, (128, 128), of the features of composed scenes that no training saw."""

    mean: Tensor
    covariance: Tensor


@cache
def load() -> tuple[Detector, Reference]:
    """The trained detector and the reference of its features."""
    weights = {name: value.float() for name, value in load_file(WEIGHTS).items()}
    reference = Reference(weights.pop("reference.mean"), weights.pop("reference.covariance"))
    detector = Detector().eval()
    detector.load_state_dict(weights, strict=False)
    return detector, reference


class Seen(NamedTuple):
    """What the detector makes of some pictures."""

    found: list[list[Detection]]
    features: Tensor
    """(pictures, 128)."""


@torch.no_grad()
def look(detector: Detector, pictures: Tensor) -> Seen:
    """Everything that is found in each picture: (pictures, 3, h, w) in −1 … 1, on the CPU."""
    found: list[list[Detection]] = []
    features = []
    for batch in pictures.split(AT_ONCE):
        kinds, colours, feature = detector(batch)
        features.append(feature)
        heights = kinds.sigmoid()
        peaks = (F.max_pool2d(heights, 3, stride=1, padding=1) == heights) & (heights > THRESHOLD)
        found += [_things(peak, colour) for peak, colour in zip(peaks, colours.argmax(dim=1), strict=True)]
    return Seen(found, torch.cat(features))


def _things(peaks: Tensor, colours: Tensor) -> list[Detection]:
    height, width = peaks.shape[1:]
    names = [None, *COLOURS]
    return [
        Detection(KINDS[kind].name, names[int(colours[row, column])], (column + 0.5) / width, (row + 0.5) / height)
        for kind, row, column in peaks.nonzero().tolist()
    ]
