"""A stand-in for an aesthetic score, until a trained one can be had: a formula, not a judgement of beauty."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from PIL import Image

from filters.blur import Blur, sharpness
from filters.measure import Columns
from filters.picture import Picture
from schemas import identity

SIDE = 256
VIVID, CONTRASTY, SHARP = 82.0, 64.0, 1000.0


def colourfulness(rgb: np.ndarray) -> float:
    """Hasler and Süsstrunk, Measuring colourfulness in natural images, SPIE 2003: 0 is grey, 82 highly colourful.

    Args:
        rgb: height × width × 3, 0–255.
    """
    red, green, blue = np.moveaxis(rgb.astype(np.float64), 2, 0)
    first, second = red - green, (red + green) / 2 - blue
    spread = np.hypot(first.std(), second.std())
    return float(spread + 0.3 * np.hypot(first.mean(), second.mean()))


def aesthetic(picture: Picture) -> float:
    """10 × the mean of four signals, each 0–1, over the picture squashed to at most SIDE a side.

    Colour: colourfulness / 82, at most 1. Contrast: standard deviation of the luma / 64, at most 1. Exposure: 1 less
    twice the distance of the mean luma from mid-grey. Sharpness s, as `blur` measures it: s / (s + 1000).
    """
    image = Image.fromarray(picture.pixels)
    size = (min(SIDE, picture.width), min(SIDE, picture.height))
    small = image.resize(size, Image.Resampling.BICUBIC)
    luma = np.asarray(small.convert("L"), dtype=np.float64)
    sharp = sharpness(picture)
    signals = (
        min(1.0, colourfulness(np.asarray(small)) / VIVID),
        min(1.0, float(luma.std()) / CONTRASTY),
        1.0 - abs(float(luma.mean()) / 127.5 - 1.0),
        sharp / (sharp + SHARP),
    )
    return 10.0 * sum(signals) / len(signals)


class LiteAesthetic:
    """`score`, 0–10: colourful, contrasty, evenly exposed and sharp. A STAND-IN, chosen by hand and trained on nothing.

    It is no judgement of beauty, and not comparable to LAION's score (1–10, a trained head on CLIP).
    """

    name = "lite_aesthetic"
    columns = pa.schema({"score": pa.float32()})

    def fingerprint(self) -> str:
        constants = [SIDE, VIVID, CONTRASTY, SHARP]
        blur = Blur().fingerprint()
        return identity.fingerprint(name=self.name, version=1, scale="0-10", constants=constants, blur=blur)

    def __call__(self, pictures: Sequence[Picture]) -> Columns:
        return {"score": [aesthetic(picture) for picture in pictures]}
