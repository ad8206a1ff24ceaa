"""How well copies of real pictures are told from other pictures, by method and threshold.

    python benchmarks/copies.py OUT           250 pictures of each kind, 16 edits of each (ten minutes, two cores)
    python benchmarks/copies.py OUT --quick   5 of each, in less than a minute

Photographs of GCompris and of wallpapers, Tux Paint stamps, Fluent emoji, and openclipart drawings, from Debian's
packages and npm. Each edit is held against all unedited pictures of its kind:
    recall      the share of edits whose own picture is within the threshold
    precision   of all pictures within the threshold of an edit, the share that are its own
A table a method, and OUT/copies.png with the curves. Openclipart holds series of drawings that differ in a colour or
a word, and emoji too: there, what counts against the precision is often a near-duplicate indeed.
"""

import argparse
import io
import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageEnhance, ImageFont

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks import alignment
from benchmarks.photographs import fonts, photographs
from filters.embedding import LiteEmbedding
from filters.pdq import Pdq
from filters.picture import Picture, decode
from filters.pixels import Pixels
from model.device import set_threads
from pipelines.material import pairs

Edit = Callable[[Image.Image], Image.Image]
RADII = (0, 8, 16, 24, 31, 40, 48, 64)
COSINES = (0.98, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7)


def jpeg(quality: int) -> Edit:
    def edit(image: Image.Image) -> Image.Image:
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=quality)
        return Image.open(buffer).convert("RGB")

    return edit


def resized(factor: float) -> Edit:
    return lambda image: image.resize(
        (max(8, round(image.width * factor)), max(8, round(image.height * factor))), Image.Resampling.LANCZOS
    )


def cropped(share: float) -> Edit:
    """Less `share` of the area, most of it from the left and the top."""

    def edit(image: Image.Image) -> Image.Image:
        side = 1 - (1 - share) ** 0.5
        x, y = image.width * side, image.height * side
        return image.crop((round(x * 0.7), round(y * 0.7), image.width - round(x * 0.3), image.height - round(y * 0.3)))

    return edit


def lit(brightness: float, colour: float) -> Edit:
    return lambda image: ImageEnhance.Color(ImageEnhance.Brightness(image).enhance(brightness)).enhance(colour)


def written(share: float) -> Edit:
    """A line of text across the lower part, its letters `share` of the height."""

    def edit(image: Image.Image) -> Image.Image:
        copy = image.copy()
        font = ImageFont.truetype(str(fonts()[0]), max(8, round(image.height * share)))
        place = (image.width // 20, round(image.height * 0.95 - image.height * share))
        ImageDraw.Draw(copy).text(place, "江南好风景", "white", font, stroke_width=1, stroke_fill="black")
        return copy

    return edit


EDITS: dict[str, Edit] = {f"jpeg q{quality}": jpeg(quality) for quality in (20, 40, 60, 75, 90)}
EDITS |= {f"resize ×{factor}": resized(factor) for factor in (0.3, 0.5, 1.5, 2.0)}
EDITS |= {f"crop {share:.0%}": cropped(share) for share in (0.02, 0.05, 0.1)}
EDITS |= {"brighter": lit(1.15, 1.0), "more colour": lit(1.0, 1.3), "text 6%": written(0.06), "text 12%": written(0.12)}


def originals(each: int) -> Iterator[tuple[str, list[Image.Image]]]:
    """Pictures of each kind, upright, RGB, at most 1280 a side."""
    known = pairs(print)
    yield "photographs", _opened(photographs(), each)
    yield "tuxpaint", _opened([pair.picture for pair in known if pair.source == "tuxpaint"], each)
    yield "emoji", _opened([pair.picture for pair in known if pair.source == "fluent-emoji"], each)
    with tempfile.TemporaryDirectory() as folder:
        share = alignment.unpacked(Path(folder), "openclipart-png", "openclipart-svg")
        yield "openclipart", _opened([path for path, _, _ in alignment.drawings(share / "openclipart")], each)


def _opened(paths: list[Path], each: int) -> list[Image.Image]:
    some = paths[:: max(1, len(paths) // each)][:each]
    images = [Image.fromarray(decode(path.read_bytes()).pixels) for path in some]
    for image in images:
        image.thumbnail((1280, 1280))
    return images


def seen(image: Image.Image) -> dict[str, Any]:
    """What each method sees of a picture."""
    picture = Picture(np.asarray(image), 0.0)
    [vector] = EMBEDDING([picture])["vector"]
    unit = np.asarray(vector, np.float32)
    pdq = Pdq()([picture])
    return {
        "digest": Pixels()([picture])["digest"][0],
        "hash": np.frombuffer(pdq["hash"][0], np.uint64),
        "quality": pdq["quality"][0],
        "unit": unit / max(float(np.linalg.norm(unit)), 1e-9),
    }


EMBEDDING = LiteEmbedding()


def distances(edited: list[dict[str, Any]], known: list[dict[str, Any]]) -> dict[str, np.ndarray]:
    """Edits × originals by method; less is nearer. A hash of a quality under 50 is near to nothing."""
    column = {name: [np.array([row[name] for row in rows]) for rows in (edited, known)] for name in known[0]}
    bits = np.bitwise_count(column["hash"][0][:, None] ^ column["hash"][1][None]).sum(axis=2, dtype=np.int64)
    plain = (column["quality"][0] < 50)[:, None] | (column["quality"][1] < 50)[None]
    return {
        "pixels": (column["digest"][0][:, None] != column["digest"][1][None]).astype(np.int64),
        "pdq": np.where(plain, 256, bits),
        "lite_embedding": 1 - column["unit"][0] @ column["unit"][1].T,
    }


THRESHOLDS: dict[str, list[tuple[str, float]]] = {
    "pixels": [("equal", 0)],
    "pdq": [(f"≤ {radius} bits", radius) for radius in RADII],
    "lite_embedding": [(f"≥ {cosine}", 1 - cosine) for cosine in COSINES],
}


def scored(found: np.ndarray, own: np.ndarray, limit: float) -> tuple[float, float]:
    """Precision and recall of what is within the limit; nothing found is precise."""
    within = found <= limit + 1e-6
    right = within[np.arange(len(own)), own]
    return (float(right.sum() / within.sum()) if within.any() else 1.0), float(right.mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="a folder for the plot")
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()
    set_threads(1)
    figures: dict[str, Any] = {}
    edits: dict[str, dict[str, float]] = {}
    for kind, images in originals(5 if arguments.quick else 250):
        with ThreadPoolExecutor(2) as pool:
            known = list(pool.map(seen, images))
            edited = [list(pool.map(lambda image, edit=edit: seen(edit(image)), images)) for edit in EDITS.values()]
        own = np.tile(np.arange(len(images)), len(EDITS))
        apart = distances([row for rows in edited for row in rows], known)
        print(f"\n{kind}: {len(images)} pictures, {len(own)} edits")
        print(f"{'method':<16}{'threshold':<12}{'precision':>10}{'recall':>8}")
        figures[kind] = {}
        for method, thresholds in THRESHOLDS.items():
            for label, limit in thresholds:
                precision, recall = scored(apart[method], own, limit)
                figures[kind][f"{method} {label}"] = [round(precision, 4), round(recall, 4)]
                print(f"{method:<16}{label:<12}{precision:>10.4f}{recall:>8.3f}")
        for number, name in enumerate(EDITS):
            some = slice(number * len(images), (number + 1) * len(images))
            for method, limit in (("pdq", 31), ("lite_embedding", 0.1)):
                recall = scored(apart[method][some], own[some], limit)[1]
                edits.setdefault(f"{name}, {method}", {})[kind] = round(recall, 3)
    print("\nrecall by edit: pdq ≤ 31 bits, lite_embedding ≥ 0.9")
    print(f"{'edit':<14}" + "".join(f"{kind:>26}" for kind in figures))
    for name in EDITS:
        cells = (f"{edits[f'{name}, pdq'][kind]:.2f} {edits[f'{name}, lite_embedding'][kind]:.2f}" for kind in figures)
        print(f"{name:<14}" + "".join(f"{cell:>26}" for cell in cells))
    arguments.out.mkdir(parents=True, exist_ok=True)
    plot(figures, arguments.out / "copies.png")
    print(json.dumps({"precision_recall": figures, "recall_by_edit": edits}, ensure_ascii=False))


def plot(figures: dict[str, Any], path: Path) -> None:
    """Precision against recall, a panel a kind of picture, a curve a method, a dot a threshold."""
    figure = Figure(figsize=(4 * len(figures), 4), layout="constrained")
    for axes, (kind, rows) in zip(figure.subplots(1, len(figures), sharey=True), figures.items(), strict=True):
        for method, thresholds in THRESHOLDS.items():
            points = [rows[f"{method} {label}"] for label, _ in thresholds]
            recall, precision = [point[1] for point in points], [point[0] for point in points]
            axes.plot(recall, precision, "o-", label=method, markersize=4)
            for (label, _), x, y in list(zip(thresholds, recall, precision, strict=True))[::2]:
                axes.annotate(
                    label,
                    (x, y),
                    fontsize=6,
                    xytext=(-2, -4),
                    textcoords="offset points",
                    rotation=60,
                    ha="right",
                    va="top",
                )
        axes.set(title=kind, xlabel="recall", xlim=(-0.02, 1.05))
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel("precision")
    figure.axes[0].legend(loc="lower left", fontsize=8)
    figure.suptitle("Edited copies against unedited pictures")
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
