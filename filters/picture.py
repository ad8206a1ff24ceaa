"""A picture as every measure sees it: decoded once, upright, RGB, transparency laid on white."""

import io
import logging
import warnings
from dataclasses import dataclass

import numpy as np
from PIL import ExifTags, Image

MAX_PIXELS = 100_000_000
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "AVIF", "BMP", "TIFF")
"""What we read. The parsers of Pillow's other formats never see bytes of a stranger."""

UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What sets a picture of each EXIF orientation but 1 upright."""

# The limits on pixels here stand in for Pillow's own; what else it warns of in a stranger's file is no news to anyone.
Image.MAX_IMAGE_PIXELS = None
warnings.filterwarnings("ignore", module=r"PIL\.")
logging.getLogger("PIL").addHandler(logging.NullHandler())


@dataclass(frozen=True)
class Header:
    """What a file says of its picture: `format` in lower case, the sides in pixels as they are stored, and the
    EXIF orientation that sets them upright, 1–8, where 1 is upright."""

    format: str
    width: int
    height: int
    orientation: int


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


def read_header(content: bytes, max_pixels: int = MAX_PIXELS) -> Header:
    """Format, size and orientation of an image file; no pixel is decoded.

    Raises:
        ValueError: the bytes are no picture, or one of more than `max_pixels`; the message is one line.
    """
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            width, height = image.size
            kind = "jpeg" if image.format == "MPO" else str(image.format).lower()
            orientation = _orientation(image)
    except Exception as error:  # Pillow's plugins raise whatever their parsers raise
        raise ValueError(f"not a picture: {len(content):,} bytes that begin with {content[:12]!r}") from error
    _refuse_more(max_pixels, width, height)
    return Header(kind, width, height, orientation)


def decode(content: bytes) -> Picture:
    """Decode the first frame of an image file.

    Raises:
        ValueError: the bytes are no picture, are broken, or hold more than MAX_PIXELS; the message is one line.
    """
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            _refuse_more(MAX_PIXELS, *image.size)
            orientation = _orientation(image)
            image.load()
            upright = _eight_bit(image.transpose(UPRIGHT[orientation]) if orientation in UPRIGHT else image)
            if not upright.has_transparency_data:
                return Picture(np.asarray(upright.convert("RGB")), 0.0)
            rgba = upright.convert("RGBA")
    except Exception as error:  # Pillow's plugins raise whatever their parsers raise
        raise ValueError(" ".join(f"cannot be decoded: {type(error).__name__}: {error}".split())) from error
    white = Image.new("RGBA", rgba.size, "white")
    white.alpha_composite(rgba)
    alpha = np.asarray(rgba.getchannel("A"))
    return Picture(np.asarray(white.convert("RGB")), float((alpha < 128).mean()))


def _refuse_more(max_pixels: int, width: int, height: int) -> None:
    if width * height > max_pixels:
        raise ValueError(f"{width}×{height} is more than {max_pixels:,} pixels")


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation as far as the header tells it; 1 where there is none or it makes no sense."""
    if image.format == "TIFF":  # Pillow sets it upright itself, its size too
        return 1
    try:
        # A PNG's own getexif() would decode all pixels to look behind them.
        found = Image.Image.getexif(image).get(ExifTags.Base.Orientation)
        return int(found) if found in UPRIGHT else 1
    except Exception:  # broken EXIF does not make the picture worse
        return 1


def _eight_bit(image: Image.Image) -> Image.Image:
    """Grey of 16 bits as grey of 8: Pillow's own conversion would clip instead of scale."""
    if not image.mode.startswith("I"):
        return image
    return Image.fromarray((np.asarray(image) // 256).clip(0, 255).astype(np.uint8))
