"""The digest of pixels is blind to the file and to nothing else."""

import hashlib
import io

import numpy as np
from PIL import Image

from filters.picture import Picture, decode
from filters.pixels import digest


def saved(image: Image.Image, kind: str, **options: object) -> Picture:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return decode(buffer.getvalue())


def test_the_same_picture_in_other_files_has_the_same_digest() -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8))
    files = [saved(image, "PNG"), saved(image, "BMP"), saved(image, "WEBP", lossless=True), saved(image, "TIFF")]
    assert len({digest(picture) for picture in files}) == 1
    expected = hashlib.sha256(bytes([30, 0, 0, 0, 20, 0, 0, 0]) + image.tobytes()).digest()[:16]
    assert digest(files[0]) == expected


def test_one_level_of_one_pixel_or_another_shape_has_another_digest() -> None:
    pixels = np.zeros((20, 30, 3), np.uint8)
    other = pixels.copy()
    other[7, 7, 1] = 1
    turned = pixels.reshape(30, 20, 3)
    assert len({digest(Picture(one, 0.0)) for one in (pixels, other, turned)}) == 3


def test_a_view_that_is_not_contiguous_is_read_in_order() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    assert digest(Picture(pixels[:, ::-1], 0.0)) == digest(Picture(pixels[:, ::-1].copy(), 0.0))
