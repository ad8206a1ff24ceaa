"""A picture from anywhere becomes upright RGB, or one line that says why not."""

import io

import numpy as np
import pytest
from PIL import Image

from filters import picture
from filters.picture import decode


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def red(mode: str = "RGB", size: tuple[int, int] = (40, 20)) -> Image.Image:
    return Image.new("RGB", size, (255, 0, 0)).convert(mode)


@pytest.mark.parametrize(("mode", "kind"), [("RGB", "WEBP"), ("CMYK", "JPEG"), ("P", "GIF"), ("RGBA", "PNG")])
def test_every_mode_becomes_the_same_red(mode: str, kind: str) -> None:
    decoded = decode(encoded(red(mode), kind))
    assert decoded.pixels.shape == (20, 40, 3)
    assert decoded.pixels.dtype == np.uint8
    assert np.abs(decoded.pixels.mean((0, 1)) - [255, 0, 0]).max() < 4


def test_sixteen_bits_are_scaled_not_clipped() -> None:
    ramp = np.linspace(0, 65535, 256, dtype=np.uint16)[None].repeat(4, 0)
    decoded = decode(encoded(Image.fromarray(ramp)))
    assert abs(int(decoded.pixels[0, 128, 0]) - 128) <= 1
    assert decoded.pixels.max() == 255


def test_transparency_is_laid_on_white_and_counted() -> None:
    image = Image.new("RGBA", (10, 10), (0, 0, 255, 255))
    image.paste((0, 0, 0, 0), (0, 0, 10, 4))
    decoded = decode(encoded(image))
    assert decoded.transparent == pytest.approx(0.4)
    assert decoded.pixels[0, 0].tolist() == [255, 255, 255]
    assert decoded.pixels[9, 9].tolist() == [0, 0, 255]


def test_transparent_palette() -> None:
    image = Image.new("P", (4, 2), 1)
    image.putpalette([0, 0, 0, 255, 0, 0])
    image.putpixel((0, 0), 0)
    assert decode(encoded(image, transparency=0)).transparent == pytest.approx(1 / 8)


def test_exif_rotation_swaps_the_sides() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    decoded = decode(encoded(red(), "JPEG", exif=exif))
    assert (decoded.width, decoded.height) == (20, 40)


def test_an_animation_is_its_first_frame() -> None:
    frames = [red(), Image.new("RGB", (40, 20), "blue")]
    decoded = decode(encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]))
    assert decoded.pixels[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("content", [b"", b"<html>not found</html>", b"\x89PNG\r\n\x1a\n" + b"\0" * 40])
def test_what_is_no_picture_is_one_line(content: bytes) -> None:
    with pytest.raises(ValueError, match=r"^cannot be decoded: [^\n]+$"):
        decode(content)


def test_truncated_is_one_line() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    for kind in ("PNG", "JPEG", "WEBP"):
        content = encoded(Image.fromarray(noise), kind)
        with pytest.raises(ValueError, match=r"^cannot be decoded: [^\n]+$"):
            decode(content[: len(content) // 2])


def test_too_many_pixels_are_refused_before_they_are_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(picture, "MAX_PIXELS", 799)
    with pytest.raises(ValueError, match="40×20 is more than 799 pixels"):
        decode(encoded(red()))
