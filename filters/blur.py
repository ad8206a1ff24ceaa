"""Blur: out-of-focus and blown-up pictures teach a model to draw mush."""

from collections.abc import Sequence

import cv2
import numpy as np
import pyarrow as pa

from filters.measure import Columns
from filters.picture import Picture
from schemas import identity

SIDE = 256
FLAT = 2
SQUARE = np.ones((3, 3), np.uint8)


def sharpness(picture: Picture) -> float:
    """Variance of the Laplacian of the luma (Pech-Pacheco et al., ICPR 2000), in squared grey levels of 0–255.

    The value depends on the scale at which one looks, so every picture is first brought to a longest side of SIDE: the
    order of what small models are trained on, and where a small picture that was blown up shows. The Laplacian is the
    four neighbours less four times the pixel. Pixels whose 3 × 3 neighbourhood spans at most FLAT levels do not count:
    else the plain background of a cut-out would pass for blur. A picture of one colour has 0.
    """
    luma = picture.luma_256
    scale = SIDE / max(luma.shape)
    if scale > 1:
        size = max(1, round(luma.shape[1] * scale)), max(1, round(luma.shape[0] * scale))
        luma = cv2.resize(luma, size, interpolation=cv2.INTER_CUBIC)
    laplacian = cv2.Laplacian(luma, cv2.CV_16S, ksize=1, borderType=cv2.BORDER_REPLICATE)
    counted = cv2.dilate(luma, SQUARE) - cv2.erode(luma, SQUARE) > FLAT
    _, deviation = cv2.meanStdDev(laplacian, mask=counted.astype(np.uint8))
    return float(deviation[0, 0] ** 2)


class Blur:
    """`sharpness`: variance of the Laplacian at one scale; the higher, the sharper."""

    name = "blur"
    columns = pa.schema({"sharpness": pa.float32()})

    def fingerprint(self) -> str:
        return identity.fingerprint(name=self.name, version=2, view="luma, area averaged, 256", flat=FLAT)

    def __call__(self, pictures: Sequence[Picture]) -> Columns:
        return {"sharpness": [sharpness(picture) for picture in pictures]}
