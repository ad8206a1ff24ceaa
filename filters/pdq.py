"""PDQ: the perceptual hash by which near-duplicates are found, and how far it can be trusted."""

from collections.abc import Sequence
from importlib.metadata import version

import numpy as np
import pyarrow as pa
from PIL import Image

from filters.measure import Columns
from filters.picture import Picture
from schemas import identity

SIDE = 512


def pdq(picture: Picture) -> tuple[bytes, int]:
    """The 256 bits, most significant first, and the quality 0–100 (below 50 too plain to compare, say its authors).

    As in Meta's reference (ThreatExchange, pdq/README.md), larger pictures are first brought down to SIDE; here they
    keep their aspect. Pictures with a side under 5 pixels after that cannot be hashed: zeros, with quality 0.
    """
    import pdqhash

    image = Image.fromarray(picture.pixels)
    image.thumbnail((SIDE, SIDE), Image.Resampling.BICUBIC)
    bits, quality = pdqhash.compute(np.array(image))
    return np.packbits(bits.astype(np.uint8)).tobytes(), int(quality)


class Pdq:
    """`hash`, to be compared by Hamming distance (31 or less is a match, say its authors), and `quality`, 0–100."""

    name = "pdq"
    columns = pa.schema({"hash": pa.binary(32), "quality": pa.int16()})

    def fingerprint(self) -> str:
        return identity.fingerprint(name=self.name, version=1, library=version("pdqhash"), side=SIDE)

    def __call__(self, pictures: Sequence[Picture]) -> Columns:
        hashes = [pdq(picture) for picture in pictures]
        return {"hash": [bits for bits, _ in hashes], "quality": [quality for _, quality in hashes]}
