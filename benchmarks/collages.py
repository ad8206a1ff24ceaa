"""How well `layout` tells collages from single pictures and counts their panels, and the fit of its weights.

    python benchmarks/collages.py           300 collages against photographs and cut-outs that the fit has not seen
    python benchmarks/collages.py --quick   a fifth of them
    python benchmarks/collages.py --fit     fit anew on the other half of the photographs, and print the weights

Collages are made of real photographs, with and without gutters; every second photograph is kept out of the fit.
"""

import argparse
import collections
import io
import json
import random
import sys
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageOps

sys.path.insert(0, str(Path(__file__).parents[1]))

from photographs import photographs

from filters import layout
from filters.picture import Picture, decode
from pipelines.material import pairs

Boxes = list[tuple[float, float, float, float]]
LAYOUTS: dict[str, Boxes] = {
    "2×1": [(0, 0, 1 / 2, 1), (1 / 2, 0, 1, 1)],
    "1×2": [(0, 0, 1, 1 / 2), (0, 1 / 2, 1, 1)],
    "2×2": [(0, 0, 1 / 2, 1 / 2), (1 / 2, 0, 1, 1 / 2), (0, 1 / 2, 1 / 2, 1), (1 / 2, 1 / 2, 1, 1)],
    "3×1": [(0, 0, 1 / 3, 1), (1 / 3, 0, 2 / 3, 1), (2 / 3, 0, 1, 1)],
    "1×3": [(0, 0, 1, 1 / 3), (0, 1 / 3, 1, 2 / 3), (0, 2 / 3, 1, 1)],
    "1+2": [(0, 0, 0.6, 1), (0.6, 0, 1, 1 / 2), (0.6, 1 / 2, 1, 1)],
}
THRESHOLDS = (0.5, 0.9)


def collage(paths: Sequence[Path], rng: random.Random) -> tuple[Image.Image, int, bool]:
    """A collage of photographs at a web size through a JPEG, its number of panels, and whether gutters part them."""
    boxes = LAYOUTS[rng.choice(list(LAYOUTS))]
    gutter = rng.choice([0, 0, 0, 4, 8, 12])
    side = rng.choice([400, 600, 800])
    width, height = side, int(side * rng.choice([0.75, 1, 1.3]))
    image = Image.new("RGB", (width, height), rng.choice(["white", "white", "black"]))
    frame = gutter if rng.random() < 0.5 else 0
    for (left, top, right, bottom), path in zip(boxes, rng.sample(list(paths), len(boxes)), strict=True):
        x, y = (
            frame if part == 0 else int(part * whole) + gutter // 2 for part, whole in ((left, width), (top, height))
        )
        end_x = width - frame if right == 1 else int(right * width) - (gutter - gutter // 2)
        end_y = height - frame if bottom == 1 else int(bottom * height) - (gutter - gutter // 2)
        with Image.open(path) as opened:
            image.paste(ImageOps.fit(opened.convert("RGB"), (end_x - x, end_y - y)), (x, y))
    return through_jpeg(image, rng), len(boxes), gutter > 0


def through_jpeg(image: Image.Image, rng: random.Random) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=rng.randint(70, 92))
    return Image.open(buffer).convert("RGB")


def single(path: Path, rng: random.Random) -> Image.Image:
    """A photograph at a web size through a JPEG."""
    with Image.open(path) as opened:
        image = opened.convert("RGB")
    image.thumbnail((800, 800))
    return through_jpeg(image, rng)


def luma(image: Image.Image) -> np.ndarray:
    return Picture(np.asarray(image), 0.0).luma_512


def fit() -> None:
    """Logistic regression on the likeliest line of each picture, found anew after each fit."""
    from scipy.optimize import minimize

    rng = random.Random(0)
    paths = photographs()[1::2]
    lumas = [luma(collage(paths, rng)[0]) for _ in range(300)] + [luma(single(path, rng)) for path in paths]
    drawn = [pair.picture for pair in pairs(print)][7::20]
    lumas += [decode(path.read_bytes()).luma_512 for path in drawn]
    labels = np.arange(len(lumas)) < 300
    lines = [np.concatenate([*_signs(one), np.zeros((1, 6))]) for one in lumas]
    weights = np.append(layout.WEIGHTS, layout.BIAS)
    for _ in range(12):
        chosen = np.stack([of_one[np.argmax(of_one @ weights[:6])] for of_one in lines])

        def loss(weights: np.ndarray, chosen: np.ndarray = chosen) -> float:
            margin = (2 * labels - 1) * (chosen @ weights[:6] + weights[6])
            return float(np.logaddexp(0, -margin).mean() + 3e-4 * (weights[:6] ** 2).sum())

        weights = minimize(loss, weights).x
    print(f"WEIGHTS = np.array({weights[:6].round(2).tolist()})\nBIAS = {weights[6]:.2f}")
    layout.WEIGHTS, layout.BIAS = weights[:6].round(2), round(float(weights[6]), 2)


def _signs(one: np.ndarray) -> list[np.ndarray]:
    found = []
    for lines in (one, cv2.transpose(one)):
        edge = max(4, int(lines.shape[1] * layout.NARROWEST))
        if lines.shape[0] >= 2 * layout.PARTS and lines.shape[1] >= 3 * edge:
            found.append(layout.signs(np.ascontiguousarray(lines))[edge:-edge])
    return found


def evaluate(quick: bool) -> dict[str, float]:
    """Recall on collages, share of single pictures taken for one, and of collages whose panels are counted right."""
    rng = random.Random(1)
    paths = photographs()[::2]
    count = 60 if quick else 300
    measure = layout.Layout()
    made = [collage(paths, rng) for _ in range(count)]
    cut_outs = [pair.picture for pair in pairs(print)][:: 40 if quick else 10]
    groups = {
        "collages": [Picture(np.asarray(image), 0.0) for image, _, _ in made],
        "photographs": [Picture(np.asarray(single(path, rng)), 0.0) for path in paths[:: 4 if quick else 1]],
        "cut-outs": [decode(path.read_bytes()) for path in cut_outs],
    }
    found = {name: measure(group) for name, group in groups.items()}
    scores = {name: np.array(columns["collage"]) for name, columns in found.items()}
    gutters = np.array([gutter for _, _, gutter in made])
    scores = {"gutters": scores["collages"][gutters], "no gutters": scores["collages"][~gutters], **scores}
    results: dict[str, float] = {}
    print(f"{'above':<14}" + "".join(f"{threshold:>8}" for threshold in THRESHOLDS) + f"{'pictures':>10}")
    for name, values in scores.items():
        shares = [float((values > threshold).mean()) for threshold in THRESHOLDS]
        print(f"{name:<14}" + "".join(f"{share:>8.3f}" for share in shares) + f"{len(values):>10}")
        results |= {f"{name}_above_{threshold}": share for threshold, share in zip(THRESHOLDS, shares, strict=True)}
    ordered = np.sort(scores["photographs"])
    below = np.searchsorted(ordered, scores["collages"], "left") + np.searchsorted(ordered, scores["collages"], "right")
    results["auc_photographs"] = float(below.mean() / 2 / len(ordered))
    panels = [(true, int(counted)) for (_, true, _), counted in zip(made, found["collages"]["panels"], strict=True)]
    results["panels_right"] = sum(true == counted for true, counted in panels) / len(panels)
    for true in (2, 3, 4):
        counts = collections.Counter(counted for panel, counted in panels if panel == true)
        print(f"{true} panels counted as {dict(sorted(counts.items()))}")
    return {name: round(value, 3) for name, value in results.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a fifth of the pictures")
    parser.add_argument("--fit", action="store_true", help="fit the weights first")
    arguments = parser.parse_args()
    if arguments.fit:
        fit()
    print(json.dumps(evaluate(arguments.quick)))


if __name__ == "__main__":
    main()
