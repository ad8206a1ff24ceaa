"""Pixels: a digest by which files of different bytes and the same picture are known for one."""

import hashlib
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from filters.measure import Columns
from filters.picture import Picture
from schemas import identity


def digest(picture: Picture) -> bytes:
    """The first 16 bytes of the SHA-256 of width and height (32 bits each, little-endian) and the RGB bytes."""
    found = hashlib.sha256(np.array([picture.width, picture.height], "<u4").tobytes())
    found.update(np.ascontiguousarray(picture.pixels).data)
    return found.digest()[:16]


class Pixels:
    """`digest`, equal where width, height and all pixels are, after rotation and on white, whatever the file format."""

    name = "pixels"
    columns = pa.schema({"digest": pa.binary(16)})

    def fingerprint(self) -> str:
        return identity.fingerprint(name=self.name, version=1)

    def __call__(self, pictures: Sequence[Picture]) -> Columns:
        return {"digest": [digest(picture) for picture in pictures]}
