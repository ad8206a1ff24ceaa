"""PDQ: the perceptual hash by which near-duplicates are found, and how far it can be trusted."""

from collections.abc import Sequence

import numba
import numpy as np
import pyarrow as pa

from filters.measure import Columns
from filters.picture import Picture
from schemas import identity

SMALLEST = 5

GRID, KEPT = 64, 16
PHASES = np.pi / 2 / GRID * np.arange(1, KEPT + 1)[:, None] * (2 * np.arange(GRID) + 1)
COSINES = (np.float64(np.float32(np.sqrt(2 / GRID))) * np.cos(PHASES)).astype(np.float32)
"""The lowest 16 cosines over 64 points, the constant left out; rounded as in Meta's code."""


def pdq(luma: np.ndarray) -> tuple[bytes, int]:
    """The 256 bits, most significant first, and the quality 0–100 (below 50 too plain to compare, say its authors).

    Meta's algorithm (ThreatExchange, pdq/README.md): two passes of a box filter, 64 × 64 points, the 16 × 16 lowest
    cosines but the constant, each against their median; the quality is the sum of the steps between neighbouring
    points. Sums are taken in the order of Meta's C++, which makes the bits the same as those of the package pdqhash. A
    picture with a side under 5 pixels cannot be hashed: zeros, with quality 0.

    Args:
        luma: uint8, height × width; 512 a side at most, as the authors advise.
    """
    if min(luma.shape) < SMALLEST:
        return bytes(32), 0
    points = _points(np.ascontiguousarray(luma))
    waves = _waves(points, COSINES).ravel()
    median = np.partition(waves, 127)[127]
    return np.packbits(waves[::-1] > median).tobytes(), _quality(points)


class Pdq:
    """`hash`, to be compared by Hamming distance (31 or less is a match, say its authors), and `quality`, 0–100."""

    name = "pdq"
    columns = pa.schema({"hash": pa.binary(32), "quality": pa.int16()})

    def fingerprint(self) -> str:
        return identity.fingerprint(name=self.name, version=2, view="luma, area averaged, 512")

    def __call__(self, pictures: Sequence[Picture]) -> Columns:
        hashes = [pdq(picture.luma_512) for picture in pictures]
        return {"hash": [bits for bits, _ in hashes], "quality": [quality for _, quality in hashes]}


@numba.njit(cache=True)
def _points(luma: np.ndarray) -> np.ndarray:
    """GRID × GRID points of the luma after two passes of a box filter along both sides, float32."""
    rows, columns = luma.shape
    row_points = ((np.arange(GRID) + 0.5) * rows / GRID).astype(np.int64)
    column_points = ((np.arange(GRID) + 0.5) * columns / GRID).astype(np.int64)
    passed = _turned(_box(_first(luma), np.arange(rows)))
    return _box(_turned(_box(passed, column_points)), row_points)


@numba.njit(cache=True)
def _window(length: int) -> tuple[int, int]:
    """The width of the box filter along a side, and how many of it lie ahead of the middle."""
    width = (length + 2 * GRID - 1) // (2 * GRID)
    return width, (width + 2) // 2 - 1


@numba.njit(cache=True)
def _first(luma: np.ndarray) -> np.ndarray:
    """The first pass along the rows; of whole numbers, whose sums are exact in any order."""
    rows, columns = luma.shape
    window, ahead = _window(columns)
    padded = np.zeros(columns + window, np.float32)
    count = np.zeros(columns, np.float32)
    for column in range(columns):
        count[column] = min(column + ahead, columns - 1) - max(column + ahead - window, -1)
    found = np.empty((rows, columns), np.float32)
    for row in range(rows):
        for column in range(columns):
            padded[window - ahead - 1 + column] = luma[row, column]
        line = found[row]
        line[:] = padded[:columns]
        for shift in range(1, window):
            for column in range(columns):
                line[column] += padded[column + shift]
        for column in range(columns):
            line[column] /= count[column]
    return found


@numba.njit(cache=True)
def _turned(values: np.ndarray) -> np.ndarray:
    """The transpose, copied tile by tile: a column of a large array is far apart in memory."""
    rows, columns = values.shape
    found = np.empty((columns, rows), np.float32)
    for top in range(0, rows, 16):
        for left in range(0, columns, 16):
            for column in range(left, min(left + 16, columns)):
                for row in range(top, min(top + 16, rows)):
                    found[column, row] = values[row, column]
    return found


@numba.njit(cache=True)
def _box(values: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Running means down the columns, of a window that fits GRID × 2 times into them; the rows that are wanted."""
    length, width = values.shape
    window, ahead = _window(length)
    total = np.zeros(width, np.float32)
    found = np.empty((len(wanted), width), np.float32)
    at = 0
    for entering in range(length + ahead):
        leaving, middle = entering - window, entering - ahead
        if entering < length:
            row = values[entering]
            for column in range(width):
                total[column] += row[column]
        if leaving >= 0:
            row = values[leaving]
            for column in range(width):
                total[column] -= row[column]
        while at < len(wanted) and wanted[at] == middle:
            count = np.float32(min(entering, length - 1) - max(leaving, -1))
            for column in range(width):
                found[at, column] = total[column] / count
            at += 1
    return found


@numba.njit(cache=True)
def _waves(points: np.ndarray, cosines: np.ndarray) -> np.ndarray:
    half = np.zeros((KEPT, GRID), np.float32)
    for wave in range(KEPT):
        for row in range(GRID):
            for column in range(GRID):
                half[wave, column] += cosines[wave, row] * points[row, column]
    waves = np.zeros((KEPT, KEPT), np.float32)
    for down in range(KEPT):
        for column in range(GRID):
            for across in range(KEPT):
                waves[down, across] += half[down, column] * cosines[across, column]
    return waves


@numba.njit(cache=True)
def _quality(points: np.ndarray) -> int:
    """A 90th of the steps between neighbours, each in whole hundredths of the scale; at most 100."""
    total = 0
    for one in range(GRID - 1):
        for other in range(GRID):
            total += abs(int((points[one, other] - points[one + 1, other]) * np.float32(100) / np.float32(255)))
            total += abs(int((points[other, one] - points[other, one + 1]) * np.float32(100) / np.float32(255)))
    return min(100, total // 90)
