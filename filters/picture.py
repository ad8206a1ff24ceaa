"""A picture as every measure sees it: decoded once, upright, RGB, transparency laid on white."""

import io
import logging
import warnings
from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
from PIL import ExifTags, Image

from filters.shrink import shrunk

MAX_PIXELS = 60_000_000
"""What is decoded within five seconds and two gigabytes, whatever the format; so is no side longer than MAX_SIDE."""
MAX_SIDE = 65_535
MAX_SCANNED = 1_000_000_000
"""Pixels times scans of a JPEG: a progressive one has ten scans; there may be more, of up to 5 ns a pixel each."""
STRIP = 16_000_000
"""Pixels that are converted at a time: a large picture must not lie in memory in several modes at once."""
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

# Pictures are measured side by side in processes of one thread each.
cv2.setNumThreads(1)
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
    of pixels that the file leaves at least half transparent, 0–1.

    The smaller views are made once, when first asked for, by area averaging; none is blown up for them. The number in a
    view's name is its longest side in pixels, unless the picture is smaller. Luma is ITU-R BT.601's, 0–255.
    """

    pixels: np.ndarray
    transparent: float

    @property
    def width(self) -> int:
        return int(self.pixels.shape[1])

    @property
    def height(self) -> int:
        return int(self.pixels.shape[0])

    @cached_property
    def rgb_256(self) -> np.ndarray:
        """uint8, height × width × 3."""
        return shrunk(self.pixels, 256)

    @cached_property
    def luma_512(self) -> np.ndarray:
        """uint8, height × width."""
        return shrunk(cv2.cvtColor(self.pixels, cv2.COLOR_RGB2GRAY)[:, :, None], 512)[:, :, 0]

    @cached_property
    def luma_256(self) -> np.ndarray:
        """uint8, height × width; from `luma_512`."""
        return shrunk(self.luma_512[:, :, None], 256)[:, :, 0]


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
        ValueError: the bytes are no picture, are broken, hold more than MAX_PIXELS, or scans of more than MAX_SCANNED;
            the message is one line.
    """
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            _refuse_more(MAX_PIXELS, *image.size)
            if image.format in ("JPEG", "MPO"):
                _refuse_scans(content, *image.size)
            orientation = _orientation(image)
            image.load()
            upright = image.transpose(UPRIGHT[orientation]) if orientation in UPRIGHT else image
        return _picture(upright)
    except Exception as error:  # Pillow's plugins raise whatever their parsers raise
        raise ValueError(" ".join(f"cannot be decoded: {type(error).__name__}: {error}".split())) from error


def _picture(image: Image.Image) -> Picture:
    """A loaded picture, strip by strip."""
    rows = max(1, STRIP // image.width)
    if image.height <= rows:
        pixels, transparent = _rgb(image)
    else:
        pixels, transparent = np.empty((image.height, image.width, 3), np.uint8), 0
        for top in range(0, image.height, rows):
            bottom = min(top + rows, image.height)
            pixels[top:bottom], count = _rgb(image.crop((0, top, image.width, bottom)))
            transparent += count
    return Picture(pixels, transparent / (image.width * image.height))


def _rgb(image: Image.Image) -> tuple[np.ndarray, int]:
    """RGB laid on white, and how many pixels are at least half transparent."""
    image = _eight_bit(image)
    if not image.has_transparency_data:
        return np.asarray(image.convert("RGB")), 0
    rgba = image.convert("RGBA")
    white = Image.new("RGBA", rgba.size, "white")
    white.alpha_composite(rgba)
    alpha = np.asarray(rgba.getchannel("A"))
    return np.asarray(white.convert("RGB")), int((alpha < 128).sum())


def _refuse_more(max_pixels: int, width: int, height: int) -> None:
    if width * height > max_pixels:
        raise ValueError(f"{width}×{height} is more than {max_pixels:,} pixels")
    if max(width, height) > MAX_SIDE:
        raise ValueError(f"{width}×{height} has a side of more than {MAX_SIDE:,} pixels")


def _refuse_scans(content: bytes, width: int, height: int) -> None:
    """A start-of-scan marker cannot stand in coded data; those of an embedded thumbnail are few."""
    scans = content.count(b"\xff\xda")
    if scans * width * height > MAX_SCANNED:
        raise ValueError(f"{scans} scans of {width}×{height} pixels are too many")


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
