"""Layout: bars are told from the ground of a cut-out, and collages from pictures."""

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter, ImageOps

from filters.layout import layout
from filters.picture import Picture


def texture(seed: int, size: tuple[int, int] = (300, 300)) -> Image.Image:
    """Soft coloured noise, whose detail is everywhere alike, as in leaves or gravel."""
    small = np.random.default_rng(seed).integers(0, 256, (size[1] // 10, size[0] // 10, 3), dtype=np.uint8)
    return Image.fromarray(small).resize(size, Image.Resampling.BICUBIC).filter(ImageFilter.GaussianBlur(1))


def of(image: Image.Image) -> dict[str, float]:
    return layout(Picture(np.asarray(image.convert("RGB")), 0.0))


@pytest.mark.parametrize("colour", ["black", "white", "#345"])
def test_bars_are_measured_side_by_side(colour: str) -> None:
    image = ImageOps.expand(texture(0, (400, 300)), (0, 40, 100, 60), colour)
    found = of(image)
    sides = [found[side] for side in ("top", "right", "bottom", "left")]
    assert sides == pytest.approx([0.1, 0.2, 0.15, 0], abs=0.01)
    assert found["bars"] == pytest.approx(1 - 0.75 * 0.8, abs=0.01)
    assert found["margin"] == pytest.approx(found["bars"])


def test_the_ground_of_a_cut_out_is_a_margin_and_no_bar() -> None:
    image = Image.new("RGB", (300, 300), "white")
    ImageDraw.Draw(image).ellipse((75, 75, 225, 225), fill="navy")
    found = of(image)
    assert found["bars"] == 0
    assert found["margin"] == pytest.approx(0.75, abs=0.02)


def test_a_plain_picture_is_all_margin_and_one_panel() -> None:
    found = of(Image.new("RGB", (200, 100), "grey"))
    assert (found["margin"], found["bars"], found["collage"], found["panels"]) == (1, 0, 0, 1)


@pytest.mark.parametrize("gutter", [0, 10])
@pytest.mark.parametrize(("across", "down"), [(2, 1), (1, 2), (2, 2), (3, 1)])
def test_panels_of_a_collage_are_counted(across: int, down: int, gutter: int) -> None:
    image = Image.new("RGB", (across * 250 + (across - 1) * gutter, down * 250 + (down - 1) * gutter), "white")
    for number in range(across * down):
        x, y = number % across * (250 + gutter), number // across * (250 + gutter)
        image.paste(texture(number, (250, 250)), (x, y))
    found = of(image)
    assert found["collage"] > 0.5
    assert found["panels"] == across * down


@pytest.mark.parametrize("seed", range(5))
def test_one_texture_is_one_panel(seed: int) -> None:
    found = of(texture(seed))
    assert found["collage"] < 0.1
    assert found["panels"] == 1


def test_bars_are_no_seams() -> None:
    assert of(ImageOps.expand(texture(1), (0, 60), "black"))["collage"] < 0.1
