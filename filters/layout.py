"""Layout: bars around a picture and the seams of collages, which a model would learn to draw."""

from collections.abc import Sequence
from typing import Any

import cv2
import numba
import numpy as np
import pyarrow as pa

from filters.measure import Columns
from filters.picture import Picture
from schemas import identity

PLAIN = 10
MOSTLY = 0.98
EDGE, STRAIGHT = 2, 0.8
STEP = 12
PARTS = 8
NEAR, AROUND = 4, 9
NARROWEST = 1 / 12
DEEPEST = 4
WEIGHTS = np.array([3.07, 4.65, 2.23, 2.36, -1.85, 0.25])
BIAS = -9.25

Box = tuple[int, int, int, int]


def margins(luma: np.ndarray) -> tuple[Box, Box]:
    """How many lines at the top, right, bottom and left are plain, and how many are bars: the same, or none.

    A line is plain where MOSTLY all of it is within PLAIN levels of the outermost line's median. Bars end in a straight
    edge on every side that is plain: STRAIGHT of the line EDGE further in, between the margins at its ends, is not
    plain. Otherwise it is the ground that a thing stands on.
    """
    upright = np.ascontiguousarray(luma)
    turned = cv2.transpose(upright)
    sides = (upright, turned[::-1], upright[::-1], turned)
    levels = [int(np.median(side[0])) for side in sides]
    top, right, bottom, left = (_count_plain(side, level) for side, level in zip(sides, levels, strict=True))
    plain = (top, right, bottom, left)
    inside = _inside(luma, plain)
    fronts = (inside, inside.T[::-1], inside[::-1], inside.T)
    if all(not lines or _straight(front, level) for lines, front, level in zip(plain, fronts, levels, strict=True)):
        return plain, plain
    return plain, (0, 0, 0, 0)


def seam(luma: np.ndarray) -> tuple[float, bool, int]:
    """The likeliest seam: its likelihood, 0–1, whether it runs down (or across), and its column or row.

    A seam is a line from edge to edge on whose sides the luma differs: by more than STEP levels in most places (over
    all, and in the two worst of PARTS parts), more than lines nearby do, and not by the same step all along, as at a
    horizon. The weights of these are a logistic regression's (`benchmarks/collages.py --fit`).
    """
    best = (0.0, True, 0)
    for down in (True, False):
        lines = np.ascontiguousarray(luma) if down else cv2.transpose(luma)
        edge = max(4, int(lines.shape[1] * NARROWEST))
        if lines.shape[0] < 2 * PARTS or lines.shape[1] < 3 * edge:
            continue
        scores = signs(lines) @ WEIGHTS + BIAS
        at = edge + int(np.argmax(scores[edge:-edge]))
        likelihood = float(1 / (1 + np.exp(-scores[at])))
        if likelihood > best[0]:
            best = (likelihood, down, at)
    return best


def signs(luma: np.ndarray) -> np.ndarray:
    """What tells of a seam down each column: columns × 6.

    The share of steps in the worst part and in the second worst; over all; the log of the mean step over that of
    columns nearby; how far the steps are all alike, 0–1; the mean step over 64.
    """
    return _signs(*_steps(luma), len(luma))


def panels(luma: np.ndarray, least: tuple[float, float], depth: int = 0) -> tuple[float, int]:
    """The likelihood of the likeliest seam inside the bars, and into how many panels such seams split the luma.

    Each panel is cut again. What is plain or smaller than `least` (height, width) is none.
    """
    if not luma.size:
        return 0.0, 0
    plain, bars = margins(luma)
    inside = _inside(luma, bars)
    if plain[0] == len(luma) or inside.shape[0] < least[0] or inside.shape[1] < least[1]:
        return 0.0, 0
    likelihood, down, at = seam(inside)
    if likelihood < 0.5 or depth == DEEPEST:
        return likelihood, 1
    halves = (inside[:, :at], inside[:, at:]) if down else (inside[:at], inside[at:])
    return likelihood, max(1, sum(panels(half, least, depth + 1)[1] for half in halves))


def layout(picture: Picture) -> dict[str, Any]:
    """Every column of `Layout`."""
    luma = picture.luma_512
    rows, columns = luma.shape
    plain, bars = margins(luma)
    likelihood, number = panels(luma, (rows * NARROWEST, columns * NARROWEST))
    return {
        "top": bars[0] / rows,
        "right": bars[1] / columns,
        "bottom": bars[2] / rows,
        "left": bars[3] / columns,
        "bars": 1 - _inside(luma, bars).size / luma.size,
        "margin": 1 - _inside(luma, plain).size / luma.size,
        "collage": likelihood,
        "panels": max(1, number),
    }


class Layout:
    """Plain bars and margins, and collages, seen in the luma at a longest side of 512.

    `top`, `right`, `bottom` and `left`: the share of the height or width, 0–1, that a plain bar with a straight edge
    takes; `bars`: the share of the area that all of them take. `margin`: the share of the area outside the box of what
    is not plain, which a cut-out on a plain ground has too. `collage`: the likelihood, 0–1, that the likeliest seam
    inside the bars is one; `panels`: into how many the seams of more than 0.5 split it, 1 for a single picture.
    """

    name = "layout"
    columns = pa.schema(
        {
            "top": pa.float32(),
            "right": pa.float32(),
            "bottom": pa.float32(),
            "left": pa.float32(),
            "bars": pa.float32(),
            "margin": pa.float32(),
            "collage": pa.float32(),
            "panels": pa.int16(),
        }
    )

    def fingerprint(self) -> str:
        constants = [
            PLAIN,
            MOSTLY,
            EDGE,
            STRAIGHT,
            STEP,
            PARTS,
            NEAR,
            AROUND,
            NARROWEST,
            DEEPEST,
            *WEIGHTS.tolist(),
            BIAS,
        ]
        return identity.fingerprint(
            name=self.name, version=1, view="luma, area averaged, 512", constants=repr(constants)
        )

    def __call__(self, pictures: Sequence[Picture]) -> Columns:
        rows = [layout(picture) for picture in pictures]
        return {column: [row[column] for row in rows] for column in self.columns.names}


def _inside(luma: np.ndarray, lines: Box) -> np.ndarray:
    top, right, bottom, left = lines
    rows, columns = luma.shape
    return luma[top : max(top, rows - bottom), left : max(left, columns - right)]


def _straight(front: np.ndarray, level: int) -> bool:
    """Whether what lies behind a bar of a level, without the bars at its ends, begins everywhere at once."""
    if len(front) < EDGE or not front.size:
        return False
    return bool((np.abs(front[EDGE - 1].astype(np.int16) - level) > PLAIN).mean() > STRAIGHT)


@numba.njit(cache=True)
def _count_plain(lines: np.ndarray, level: int) -> int:
    rows, columns = lines.shape
    for row in range(rows):
        strange = 0
        for column in range(columns):
            strange += abs(int(lines[row, column]) - level) > PLAIN
        if strange > (1 - MOSTLY) * columns:
            return row
    return rows


@numba.njit(cache=True)
def _steps(luma: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Over each column: the steps of more than STEP in each part, all steps' sum, and their sum with signs.

    A step is the difference between the column before and the one after. The outermost columns have none.
    """
    rows, columns = luma.shape
    steps = np.zeros((PARTS, columns), np.int32)
    total, signed = np.zeros(columns, np.int32), np.zeros(columns, np.int32)
    for part in range(PARTS):
        count = steps[part]
        for row in range(part * rows // PARTS, (part + 1) * rows // PARTS):
            line = luma[row]
            for column in range(1, columns - 1):
                step = np.int32(line[column + 1]) - np.int32(line[column - 1])
                size = abs(step)
                count[column] += size > STEP
                total[column] += size
                signed[column] += step
    return steps, total, signed


@numba.njit(cache=True)
def _signs(steps: np.ndarray, total: np.ndarray, signed: np.ndarray, rows: int) -> np.ndarray:
    columns = len(total)
    heights = np.diff(np.arange(PARTS + 1) * rows // PARTS)
    found = np.empty((columns, 6))
    shares, near = np.empty(PARTS), np.empty(2 * (AROUND - NEAR + 1))
    for column in range(columns):
        count = 0
        for part in range(PARTS):
            count += steps[part, column]
            shares[part] = steps[part, column] / heights[part]
        for place in range(len(near) // 2):
            near[2 * place] = total[max(0, column - NEAR - place)] / rows
            near[2 * place + 1] = total[min(columns - 1, column + NEAR + place)] / rows
        mean = total[column] / rows
        _sort(shares)
        _sort(near)
        middle = (near[len(near) // 2 - 1] + near[len(near) // 2]) / 2
        found[column, 0], found[column, 1] = shares[0], shares[1]
        found[column, 2] = count / rows
        found[column, 3] = np.log((mean + 2) / (middle + 2))
        found[column, 4] = abs(signed[column]) / max(1, total[column])
        found[column, 5] = mean / 64
    return found


@numba.njit(cache=True)
def _sort(values: np.ndarray) -> None:
    """By insertion, in place: quicker for a handful than a call that copies them."""
    for at in range(1, len(values)):
        value = values[at]
        while at and values[at - 1] > value:
            values[at] = values[at - 1]
            at -= 1
        values[at] = value
