"""A picture as every measure sees it: decoded once, upright, RGB, transparency laid on white."""

import io
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageOps

MAX_PIXELS = 100_000_000


@dataclass(frozen=True)
class Picture:
    """One decoded picture. `pixels` is uint8 RGB, height × width × 3, after the EXIF rotation; `transparent` the share
    of pixels that the file leaves at least half transparent, 0–1."""

    pixels: np.ndarray
    transparent: float

    @property
    def width(self) -> int:
        return int(self.pixels.shape[1])

    @property
    def height(self) -> int:
        return int(self.pixels.shape[0])


def decode(content: bytes) -> Picture:
    """Decode the first frame of an image file.

    Raises:
        ValueError: the bytes are no picture, are broken, or hold more than MAX_PIXELS; the message is one line.
    """
    try:
        with Image.open(io.BytesIO(content)) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ValueError(f"{image.width}×{image.height} is more than {MAX_PIXELS:,} pixels")
            image.load()
            upright = _eight_bit(ImageOps.exif_transpose(image))
            if not upright.has_transparency_data:
                return Picture(np.asarray(upright.convert("RGB")), 0.0)
            rgba = upright.convert("RGBA")
    except Exception as error:  # Pillow's plugins raise whatever their parsers raise
        raise ValueError(" ".join(f"cannot be decoded: {type(error).__name__}: {error}".split())) from error
    white = Image.new("RGBA", rgba.size, "white")
    white.alpha_composite(rgba)
    alpha = np.asarray(rgba.getchannel("A"))
    return Picture(np.asarray(white.convert("RGB")), float((alpha < 128).mean()))


def _eight_bit(image: Image.Image) -> Image.Image:
    """Grey of 16 bits as grey of 8: Pillow's own conversion would clip instead of scale."""
    if not image.mode.startswith("I"):
        return image
    return Image.fromarray((np.asarray(image) // 256).clip(0, 255).astype(np.uint8))
