"""Blur: out-of-focus and blown-up pictures teach a model to draw mush."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from PIL import Image

from filters.measure import Columns
from filters.picture import Picture
from schemas import identity

SIDE = 256
FLAT = 2.0


def sharpness(picture: Picture) -> float:
    """Variance of the Laplacian of the luma (Pech-Pacheco et al., ICPR 2000), in squared grey levels of 0–255.

    The value depends on the scale at which one looks, so every picture is first brought to a longest side of SIDE: the
    order of what small models are trained on, and where a small picture that was blown up shows. The Laplacian is the
    four neighbours less four times the pixel. Pixels whose 3 × 3 neighbourhood spans at most FLAT levels do not count:
    else the plain background of a cut-out would pass for blur. A picture of one colour has 0.
    """
    scale = SIDE / max(picture.width, picture.height)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    luma = Image.fromarray(picture.pixels).convert("L").resize(size, Image.Resampling.BICUBIC)
    grey = np.pad(np.asarray(luma, dtype=np.float32), 1, mode="edge")
    centre = grey[1:-1, 1:-1]
    laplacian = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:] - 4 * centre
    rows = np.stack([grey[:-2], grey[1:-1], grey[2:]])
    highest, lowest = rows.max(axis=0), rows.min(axis=0)
    highest = np.maximum(np.maximum(highest[:, :-2], highest[:, 1:-1]), highest[:, 2:])
    lowest = np.minimum(np.minimum(lowest[:, :-2], lowest[:, 1:-1]), lowest[:, 2:])
    counted = laplacian[highest - lowest > FLAT]
    return float(counted.var()) if counted.size else 0.0


class Blur:
    """`sharpness`: variance of the Laplacian at one scale; the higher, the sharper."""

    name = "blur"
    columns = pa.schema({"sharpness": pa.float32()})

    def fingerprint(self) -> str:
        return identity.fingerprint(name=self.name, version=1, side=SIDE, flat=FLAT)

    def __call__(self, pictures: Sequence[Picture]) -> Columns:
        return {"sharpness": [sharpness(picture) for picture in pictures]}
