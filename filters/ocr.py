"""Text in pictures, by PP-OCRv4: how much of a picture is writing and, where asked, what it says."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, ClassVar

import cv2
import numpy as np
import pyarrow as pa

from filters.measure import Columns
from filters.onnx import network
from filters.picture import Picture
from filters.weights import packaged, sha256
from schemas import identity
from schemas.strict import Strict

PACKAGE = "rapidocr_onnxruntime"
DETECTOR, RECOGNISER = (f"models/ch_PP-OCRv4_{part}_infer.onnx" for part in ("det", "rec"))

FINE, MULTIPLE = 640, 32
"""Pixels of the longest side that the detector sees, no picture being blown up; what each side is a multiple of."""
TALL, SLACK = 40, 1.25
"""Lines at least as high as TALL pixels of the fine view are looked for in the coarse view, at half the size; others in
the fine one, and also those a little taller: a line between the two must not be lost."""
INK, CERTAIN, GROWTH, THINNEST, MOST = 0.3, 0.5, 1.6, 3.0, 1000
"""What is ink; the mean ink of a box; area × GROWTH / perimeter is how far a box grows; its least side; how many."""

LINE, SHORTEST, LONGEST = 48, 320, 2400
"""What the recogniser sees: pixels of a line's height, its least and its greatest length."""
UPRIGHT, LEGIBLE = 1.5, 0.5
"""Height over width from which a box is a column; the mean probability of its characters from which it is legible."""


def resized(pixels: np.ndarray, width: int, height: int) -> np.ndarray:
    """Pixels at another size: averaged where they shrink, linear where they grow."""
    smaller = width * height < pixels.shape[0] * pixels.shape[1]
    return cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA if smaller else cv2.INTER_LINEAR)


def normalised(pixels: np.ndarray) -> np.ndarray:
    """RGB height × width × 3, 0–255 → BGR 1 × 3 × height × width, −1 to 1, as the networks want it."""
    return np.ascontiguousarray(pixels[None, ..., ::-1].transpose(0, 3, 1, 2), np.float32) / 127.5 - 1


def ink(pixels: np.ndarray, side: int) -> np.ndarray:
    """How likely each pixel is part of a text line, 0–1, seen at a longest side of at most `side`."""
    scale = min(1.0, side / max(pixels.shape[:2]))
    height, width = (max(1, round(scale * length / MULTIPLE)) * MULTIPLE for length in pixels.shape[:2])
    seen = normalised(resized(pixels, width, height))
    found: np.ndarray = network(packaged(PACKAGE, DETECTOR)).run(None, {"x": seen})[0]
    return found[0, 0]


def outlined(ink: np.ndarray) -> np.ndarray:
    """Text lines on a map of ink: N × 4 × 2, the corners (x, y) of rectangles at any angle, in pixels of the map.

    Differentiable binarisation (Liao et al., AAAI 2020): the outlines of what is ink, their smallest rectangles, those
    that hold enough of it, grown to what the training had shrunk them from.
    """
    blobs = cv2.dilate((ink > INK).astype(np.uint8), np.ones((2, 2), np.uint8))
    outlines, _ = cv2.findContours(blobs, cv2.RETR_LIST, cv2.CHAIN_APPROX_SIMPLE)
    found: list[np.ndarray] = [np.empty((0, 4, 2), np.float32)]
    for outline in outlines[:MOST]:
        centre, (width, height), angle = cv2.minAreaRect(outline)
        if min(width, height) < THINNEST or _mean(ink, cv2.boxPoints((centre, (width, height), angle))) < CERTAIN:
            continue
        more = GROWTH * width * height / (width + height)
        found.append(cv2.boxPoints((centre, (width + more, height + more), angle))[None])
    return np.concatenate(found)


def _mean(ink: np.ndarray, corners: np.ndarray) -> float:
    """The mean of the map inside a rectangle."""
    left, top = np.floor(corners.min(0)).astype(int).clip(0)
    right, bottom = np.ceil(corners.max(0)).astype(int) + 1
    part = ink[top:bottom, left:right]
    inside = np.zeros(part.shape, np.uint8)
    cv2.fillConvexPoly(inside, (corners - (left, top)).astype(np.int32), 1)
    return float(cv2.mean(part, inside)[0])


def boxes(pixels: np.ndarray) -> np.ndarray:
    """Text lines of a picture: N × 4 × 2, the corners (x, y) of rectangles at any angle, in its pixels.

    The detector takes lakes, leaves and faces for characters where it sees them large; from further away it does not.
    So a coarse view gives the tall lines, and a fine one the others, but for those inside a tall one.
    """
    longest = max(pixels.shape[:2])
    side = min(FINE, longest)

    def seen(side: int) -> np.ndarray:
        map = ink(pixels, side)
        return outlined(map) * (np.array(pixels.shape[1::-1]) / map.shape[::-1]).astype(np.float32)

    coarse, fine = seen(max(1, side // 2)), seen(side)
    least = TALL * longest / side
    tall, small = coarse[_heights(coarse) >= least], fine[_heights(fine) < SLACK * least]
    apart = [not any(_holds(box, middle) for box in tall) for middle in small.mean(1)]
    return np.concatenate([tall, small[np.array(apart, bool)]])


def _heights(boxes: np.ndarray) -> np.ndarray:
    """The shorter side of each box."""
    sides = np.linalg.norm(boxes[:, 1:3] - boxes[:, :2], axis=2)
    shorter: np.ndarray = sides.min(1, initial=np.inf)
    return shorter


def _holds(box: np.ndarray, point: np.ndarray) -> bool:
    return cv2.pointPolygonTest(box, (float(point[0]), float(point[1])), False) >= 0


def area(boxes: np.ndarray, width: int, height: int) -> float:
    """The share of a picture that lies in boxes, 0–1, on a grid of at most FINE; what lies in two counts once."""
    scale = min(1.0, FINE / max(width, height))
    covered = np.zeros((max(1, round(height * scale)), max(1, round(width * scale))), np.uint8)
    for box in boxes:
        cv2.fillConvexPoly(covered, np.rint(box * scale).astype(np.int32), 1)
    return float(covered.mean())


def reading_order(boxes: np.ndarray) -> list[np.ndarray]:
    """Boxes in rows from top to bottom, each from left to right; one of columns of writing from right to left.

    A box belongs to the row above it where its middle lies less than half the height of the row's first box below that
    one's middle.
    """
    rows: list[list[np.ndarray]] = []
    for box in sorted(boxes, key=lambda box: float(box[:, 1].mean())):
        if rows and box[:, 1].mean() - rows[-1][0][:, 1].mean() < np.ptp(rows[-1][0][:, 1]) / 2:
            rows[-1].append(box)
        else:
            rows.append([box])
    for row in rows:
        upright = sum(np.ptp(box[:, 1]) >= UPRIGHT * np.ptp(box[:, 0]) for box in row) > len(row) / 2
        row.sort(key=lambda box: float(box[:, 0].mean()), reverse=bool(upright))
    return [box for row in rows for box in row]


def line(pixels: np.ndarray, box: np.ndarray) -> np.ndarray:
    """A box of a picture as a level line of text, LINE high. A column is laid on its side, top to the left.

    Args:
        box: 4 × 2, corners in pixels of the picture.
    """
    low, high = np.floor(box.min(0)).astype(int).clip(0), np.ceil(box.max(0)).astype(int) + 1
    part, box = pixels[low[1] : high[1], low[0] : high[0]], box - low
    left, right = np.split(box[np.argsort(box[:, 0])], 2)
    (top_left, bottom_left), (top_right, bottom_right) = (end[np.argsort(end[:, 1])] for end in (left, right))
    width = max(1, round(float(np.linalg.norm(top_right - top_left))))
    height = max(1, round(float(np.linalg.norm(bottom_left - top_left))))
    corners = np.array([top_left, top_right, bottom_right, bottom_left], np.float32)
    level = np.array([(0, 0), (width, 0), (width, height), (0, height)], np.float32)
    matrix = cv2.getPerspectiveTransform(corners, level)
    flat = cv2.warpPerspective(part, matrix, (width, height), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    if height >= UPRIGHT * width:
        flat = np.rot90(flat)
    length = min(LONGEST, max(1, round(LINE * flat.shape[1] / flat.shape[0])))
    return resized(np.ascontiguousarray(flat), length, LINE)


def read(line: np.ndarray) -> tuple[str, float]:
    """What a line says, and the mean probability of its characters; nothing, and 0, where the network sees none.

    CTC (Graves et al., ICML 2006), the most likely sign at every step: repeats become one, blanks fall out.
    """
    padded = np.zeros((1, 3, LINE, max(SHORTEST, line.shape[1])), np.float32)
    padded[..., : line.shape[1]] = normalised(line)
    signs = network(packaged(PACKAGE, RECOGNISER)).run(None, {"x": padded})[0][0]
    best = signs.argmax(1)
    kept = np.flatnonzero((best != 0) & (best != np.concatenate([[0], best[:-1]])))
    text = "".join(alphabet()[best[step]] for step in kept)
    return text, float(signs[kept, best[kept]].mean()) if text else 0.0


@lru_cache(maxsize=1)
def alphabet() -> list[str]:
    """The signs that the recogniser knows, at their place in its output: the blank first, the space last."""
    signs = network(packaged(PACKAGE, RECOGNISER)).get_modelmeta().custom_metadata_map["character"]
    return ["", *signs.splitlines(), " "]


class Ocr(Strict):
    """`area`, the share of the picture in text boxes, 0–1, and their number; with `read`, what they say.

    `text` is what was legible, a box a line, in reading order: empty where there was nothing, null where it was not
    asked for. `confidence` is the mean probability of its characters, 0–1; null without a text. Lines that stand on
    their head are not turned.

    The networks take batches; on one core a picture, or a line, at a time is no slower, and nothing is padded.
    """

    name: ClassVar[str] = "ocr"
    columns: ClassVar[pa.Schema] = pa.schema(
        {"area": pa.float32(), "boxes": pa.int32(), "text": pa.string(), "confidence": pa.float32()}
    )

    read: bool = False

    def fingerprint(self) -> str:
        return identity.fingerprint(
            name=self.name,
            version=1,
            read=self.read,
            detector=sha256(packaged(PACKAGE, DETECTOR)),
            recogniser=sha256(packaged(PACKAGE, RECOGNISER)) if self.read else None,
            constants=[FINE, MULTIPLE, TALL, SLACK, INK, CERTAIN, GROWTH, THINNEST, MOST],
            reading=[LINE, SHORTEST, LONGEST, UPRIGHT, LEGIBLE] if self.read else None,
        )

    def __call__(self, pictures: Sequence[Picture]) -> Columns:
        rows = [self._measured(picture) for picture in pictures]
        return {column: [row[column] for row in rows] for column in self.columns.names}

    def _measured(self, picture: Picture) -> dict[str, Any]:
        found = boxes(picture.pixels)
        row = {"area": area(found, picture.width, picture.height), "boxes": len(found)}
        if not self.read:
            return row | {"text": None, "confidence": None}
        lines = [read(line(picture.pixels, box)) for box in reading_order(found)]
        legible = [(text, confidence) for text, confidence in lines if confidence >= LEGIBLE and text.strip()]
        characters = sum(len(text) for text, _ in legible)
        mean = sum(len(text) * confidence for text, confidence in legible) / characters if legible else None
        return row | {"text": "\n".join(text for text, _ in legible), "confidence": mean}
