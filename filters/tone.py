"""Tone: pictures that are too dark, washed out, grey or of one colour, told by how their levels and hues are spread."""

from collections.abc import Sequence

import cv2
import numba
import numpy as np
import pyarrow as pa

from filters.measure import Columns
from filters.picture import Picture
from schemas import identity

BLACK, WHITE = 5, 250
GREY = 12


def tone(picture: Picture) -> dict[str, float]:
    """Every column of `Tone`, over the view of 256 pixels."""
    luma, rgb = picture.luma_256, picture.rgb_256
    shares = cv2.calcHist([luma], [0], None, [256], [0, 256])[:, 0].astype(np.float64) / luma.size
    levels = np.arange(256)
    mean = float(shares @ levels)
    cumulated = np.cumsum(shares)
    low, high = np.searchsorted(cumulated, (0.01, 0.99))
    colourfulness, grey, one_hue = _colours(np.ascontiguousarray(rgb))
    return {
        "brightness": mean,
        "shadows": float(shares[: BLACK + 1].sum()),
        "highlights": float(shares[WHITE:].sum()),
        "contrast": float(np.sqrt(shares @ (levels - mean) ** 2)),
        "range": float(min(high, 255) - low),
        "entropy": float(-(shares[shares > 0] * np.log2(shares[shares > 0])).sum()) + 0.0,
        "colourfulness": colourfulness,
        "grey": grey,
        "one_hue": one_hue,
    }


@numba.njit(cache=True)
def _colours(rgb: np.ndarray) -> tuple[float, float, float]:
    """Colourfulness, the share of grey pixels, and how far all colour is of one hue; of uint8 RGB.

    Colourfulness by Hasler and Süsstrunk, Measuring colourfulness in natural images, SPIE 2003: from the means and
    deviations of red − green and (red + green) / 2 − blue. One hue is the length of the mean of these two over the mean
    of their lengths.
    """
    first = second = squares = grey = 0
    lengths = 0.0
    rows, columns, _ = rgb.shape
    for row in range(rows):
        for column in range(columns):
            red, green, blue = int(rgb[row, column, 0]), int(rgb[row, column, 1]), int(rgb[row, column, 2])
            across, twice = red - green, red + green - 2 * blue
            square = 4 * across * across + twice * twice
            first += across
            second += twice
            squares += square
            lengths += np.sqrt(square)
            grey += max(red, green, blue) - min(red, green, blue) <= GREY
    count = rows * columns
    mean = np.sqrt(4 * first**2 + second**2) / 2 / count
    spread = np.sqrt(max(0.0, squares / 4 / count - mean**2))
    one_hue = 2 * mean * count / lengths if lengths > 0 else 1.0
    return spread + 0.3 * mean, grey / count, min(1.0, one_hue)


class Tone:
    """How light, contrasty, rich and coloured a picture is, over a view whose longest side is 256.

    `brightness`, `contrast` and `range` are the mean, the standard deviation and the distance of the 1st and 99th
    percentile of the luma, in levels of 0–255; `shadows` and `highlights` the shares, 0–1, at or below level BLACK and
    at or above level WHITE; `entropy` that of the luma's histogram, 0–8 bits. `colourfulness` is Hasler and
    Süsstrunk's: 0 grey, 33 moderate, 59 quite, 109 extremely colourful. `grey` is the share of pixels whose largest and
    smallest channel lie at most GREY levels apart; `one_hue` is 1 where all colour is of one hue (sepia) or there is
    none, near 0 where hues balance.
    """

    name = "tone"
    columns = pa.schema(
        {
            "brightness": pa.float32(),
            "shadows": pa.float32(),
            "highlights": pa.float32(),
            "contrast": pa.float32(),
            "range": pa.float32(),
            "entropy": pa.float32(),
            "colourfulness": pa.float32(),
            "grey": pa.float32(),
            "one_hue": pa.float32(),
        }
    )

    def fingerprint(self) -> str:
        constants = [BLACK, WHITE, GREY]
        return identity.fingerprint(name=self.name, version=1, view="area averaged, 256", constants=constants)

    def __call__(self, pictures: Sequence[Picture]) -> Columns:
        rows = [tone(picture) for picture in pictures]
        return {column: [row[column] for row in rows] for column in self.columns.names}
