"""Tone: what its numbers mean on pictures whose levels are known."""

import numpy as np
import pytest
from PIL import Image, ImageOps

from filters.picture import Picture
from filters.tone import tone


def of(pixels: np.ndarray) -> dict[str, float]:
    return tone(Picture(np.ascontiguousarray(pixels, dtype=np.uint8), 0.0))


def ramp() -> np.ndarray:
    return np.tile(np.arange(256, dtype=np.uint8)[None, :, None], (200, 1, 3))


def test_a_plain_picture_has_a_level_and_nothing_else() -> None:
    found = of(np.full((30, 40, 3), 255))
    assert found["brightness"] == pytest.approx(255)
    assert found["highlights"] == found["grey"] == found["one_hue"] == 1
    assert found["shadows"] == found["contrast"] == found["range"] == found["entropy"] == found["colourfulness"] == 0


def test_a_ramp_has_all_levels_alike() -> None:
    found = of(ramp())
    assert found["entropy"] == pytest.approx(8)
    assert found["brightness"] == pytest.approx(127.5)
    assert found["contrast"] == pytest.approx(np.arange(256).std())
    assert found["range"] == pytest.approx(251, abs=3)
    assert found["shadows"] == found["highlights"] == pytest.approx(6 / 256)


def test_two_levels_are_one_bit() -> None:
    pixels = np.zeros((10, 10, 3))
    pixels[:, 5:] = 255
    assert of(pixels)["entropy"] == pytest.approx(1)


def test_colourfulness_is_that_of_its_formula() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (120, 200, 3))
    red, green, blue = np.moveaxis(pixels.astype(float), 2, 0)
    first, second = red - green, (red + green) / 2 - blue
    expected = np.hypot(first.std(), second.std()) + 0.3 * np.hypot(first.mean(), second.mean())
    assert of(pixels)["colourfulness"] == pytest.approx(expected)


def test_grey_and_one_hued_are_told_from_coloured() -> None:
    grey = Image.fromarray(ramp()[:, :, 0])
    sepia = np.asarray(ImageOps.colorize(grey, "#201008", "#fff0d8", mid="#a08050"))
    wheel = np.asarray(Image.merge("HSV", (grey, *[Image.new("L", grey.size, 255)] * 2)).convert("RGB"))
    assert of(ramp())["grey"] == 1
    assert of(sepia)["grey"] < 0.3
    assert of(wheel)["grey"] == 0
    assert of(sepia)["one_hue"] > 0.95
    assert of(wheel)["one_hue"] < 0.3
