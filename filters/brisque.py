"""BRISQUE: how far a picture's texture is from that of clean photographs, as noise, blur and compression push it."""

import io
import pickle
from collections.abc import Sequence
from functools import lru_cache

import cv2
import numba
import numpy as np
import pyarrow as pa
from scipy.special import gamma

from filters.measure import Columns
from filters.picture import Picture
from filters.weights import packaged, sha256
from schemas import identity

WINDOW = cv2.getGaussianKernel(7, 7 / 6, cv2.CV_64F)
TAPS = np.array([-0.0234375, -0.0703125, 0.2265625, 0.8671875, 0.8671875, 0.2265625, -0.0703125, -0.0234375]) / 2
"""Bicubic halving with antialiasing."""
SHAPES = np.arange(200, 10_001) / 1000
RATIOS = gamma(2 / SHAPES) ** 2 / (gamma(1 / SHAPES) * gamma(3 / SHAPES))
"""The squared mean of |x| over the mean of x² for a generalised Gaussian of each shape; it grows with the shape."""


def features(luma: np.ndarray) -> np.ndarray:
    """The 36 features of Mittal, Moorthy and Bovik, IEEE TIP 21 (2012): 18 at the scale given, 18 at half of it.

    The luma less its local mean, over its local deviation plus 1 (Gaussian window, 7 × 7, σ 7/6), and the products of
    neighbours to the left, above and on both diagonals: an asymmetric generalised Gaussian is fitted to each, and its
    shape, mean and variances are the features. Edges as in the authors' MATLAB code: replicated for the window,
    mirrored for the halving, wrapped around for the neighbours.

    Args:
        luma: height × width, 0–255.
    """
    whole = luma.astype(np.float64)
    return np.concatenate([_fitted(_normalised(scale)) for scale in (whole, _halved(whole))])


def quality(luma: np.ndarray) -> float:
    """The score of the authors' regression on LIVE: 0 clean, 100 badly distorted; more and less occur."""
    vectors, coefficients, width, offset, lowest, highest = _regression()
    scaled = 2 * (features(luma) - lowest) / (highest - lowest) - 1
    distances = ((vectors - scaled) ** 2).sum(axis=1)
    return float((np.exp(-width * distances) * coefficients).sum() - offset)


class Brisque:
    """`score`, of the luma at a longest side of 512: 0 clean, 100 badly distorted, less and more occur.

    The regression is its authors', trained on opinions on LIVE's photographs (blur, noise, JPEG, JPEG 2000): it says
    little of drawings, plain pictures and cut-outs, and nothing of beauty. Weights: svm.txt and normalize.pickle of the
    package brisque (Apache-2.0); none of its code is used.
    """

    name = "brisque"
    columns = pa.schema({"score": pa.float32()})

    def fingerprint(self) -> str:
        weights = [sha256(packaged("brisque", f"models/{file}")) for file in ("svm.txt", "normalize.pickle")]
        return identity.fingerprint(name=self.name, version=1, view="luma, area averaged, 512", weights=weights)

    def __call__(self, pictures: Sequence[Picture]) -> Columns:
        return {"score": [quality(picture.luma_512) for picture in pictures]}


def _normalised(luma: np.ndarray) -> np.ndarray:
    mean = cv2.sepFilter2D(luma, -1, WINDOW, WINDOW, borderType=cv2.BORDER_REPLICATE)
    square = cv2.sepFilter2D(luma * luma, -1, WINDOW, WINDOW, borderType=cv2.BORDER_REPLICATE)
    return (luma - mean) / (np.sqrt(np.abs(square - mean * mean)) + 1)


def _halved(luma: np.ndarray) -> np.ndarray:
    rows, columns = luma.shape
    padded = cv2.copyMakeBorder(luma, 3, 4 + rows % 2, 3, 4 + columns % 2, cv2.BORDER_REFLECT)
    down = sum(tap * padded[at : at + rows + rows % 2 : 2] for at, tap in enumerate(TAPS))
    across = sum(tap * down[:, at : at + columns + columns % 2 : 2] for at, tap in enumerate(TAPS))
    return np.asarray(across)


def _fitted(normalised: np.ndarray) -> np.ndarray:
    """The 18 features of one scale."""
    wrapped = cv2.copyMakeBorder(normalised, 1, 1, 1, 0, cv2.BORDER_WRAP)
    found: list[float] = []
    for order, (absolute, below, above, count_below, count_above) in enumerate(_moments(wrapped)):
        left, right = below / max(1, count_below), above / max(1, count_above)
        if not left * right:  # nothing to fit where all is plain
            found += [SHAPES[-1], 0.0] if order == 0 else [SHAPES[-1], 0.0, left, right]
            continue
        skew = np.sqrt(left / right)
        ratio = absolute**2 / (normalised.size * (below + above)) * (skew**3 + 1) * (skew + 1) / (skew**2 + 1) ** 2
        at = min(np.searchsorted(RATIOS, ratio), len(RATIOS) - 1)
        shape = SHAPES[at - 1 if at and ratio - RATIOS[at - 1] < RATIOS[at] - ratio else at]
        if order == 0:
            found += [shape, (left + right) / 2]
        else:
            mean = (np.sqrt(right) - np.sqrt(left)) * gamma(2 / shape) / np.sqrt(gamma(1 / shape) * gamma(3 / shape))
            found += [shape, mean, left, right]
    return np.array(found)


@numba.njit(cache=True)
def _moments(wrapped: np.ndarray) -> np.ndarray:
    """For the values and for each of the four products: the sum of |x|, of x² below and above 0, and how many each.

    Sums run down the columns, so that the compiler can take several columns at once in an order that never changes.
    """
    rows, columns = wrapped.shape[0] - 2, wrapped.shape[1] - 1
    sums = np.zeros((5, 5, columns))
    product = np.empty(columns)
    for row in range(1, rows + 1):
        line = wrapped[row, 1:]
        neighbours = (wrapped[row, :-1], wrapped[row - 1, 1:], wrapped[row - 1, :-1], wrapped[row + 1, :-1])
        for order in range(5):
            if order == 0:
                product[:] = line
            else:
                other = neighbours[order - 1]
                for column in range(columns):
                    product[column] = line[column] * other[column]
            absolute, below, above = sums[order, 0], sums[order, 1], sums[order, 2]
            count_below, count_above = sums[order, 3], sums[order, 4]
            for column in range(columns):
                value = product[column]
                low, high = min(value, 0.0), max(value, 0.0)
                absolute[column] += high - low
                below[column] += low * low
                above[column] += high * high
                count_below[column] += 1.0 if value < 0 else 0.0
                count_above[column] += 1.0 if value > 0 else 0.0
    found = np.zeros((5, 5))
    for order in range(5):
        for kind in range(5):
            for column in range(columns):
                found[order, kind] += sums[order, kind, column]
    return found


class _Plain(pickle.Unpickler):
    """Numbers, lists and dictionaries alone."""

    def find_class(self, module: str, name: str) -> None:
        raise pickle.UnpicklingError(f"{module}.{name} is no number")


@lru_cache(maxsize=1)
def _regression() -> tuple[np.ndarray, np.ndarray, float, float, np.ndarray, np.ndarray]:
    """Support vectors N × 36, their coefficients, the kernel's γ, the offset, and the range of each feature."""
    head, _, body = packaged("brisque", "models/svm.txt").read_text("ascii").partition("\nSV\n")
    options = dict(line.split(maxsplit=1) for line in head.splitlines())
    rows = [line.split() for line in body.splitlines()]
    vectors = np.zeros((len(rows), 36))
    for number, (_, *entries) in enumerate(rows):
        for entry in entries:
            place, _, value = entry.partition(":")
            vectors[number, int(place) - 1] = float(value)
    coefficients = np.array([float(row[0]) for row in rows])
    scale = _Plain(io.BytesIO(packaged("brisque", "models/normalize.pickle").read_bytes())).load()
    lowest, highest = np.array(scale["min_"]), np.array(scale["max_"])
    return vectors, coefficients, float(options["gamma"]), float(options["rho"]), lowest, highest
