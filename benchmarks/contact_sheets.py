"""Contact sheets: for each threshold of a measure, real pictures just below and just above it, to be looked at.

    python benchmarks/contact_sheets.py FOLDER            a PNG a threshold, over some 1,900 pictures
    python benchmarks/contact_sheets.py FOLDER --quick    the same over fewer, in less than a minute

Pictures: photographs and wallpapers of Debian packages, Tux Paint stamps, emoji, openclipart's drawings (not with
--quick), and copies of the photographs edited in ways that measures should see. Thresholds: those of
recipes/policy.yaml that are of one column, and those below.
"""

import argparse
import io
import json
import random
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageOps
from pydantic import BaseModel

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))

import alignment
import collages
import watermarks
from photographs import photographs

from filters.picture import Picture, decode
from filters.registry import DERIVED, PICTURE, build
from model.device import set_threads
from pipelines.material import pairs
from schemas.errors import JuZhouError

POLICY = Path(__file__).parents[1] / "recipes" / "policy.yaml"
THRESHOLDS: dict[str, tuple[float, ...]] = {
    "size.transparent": (0.9,),
    "blur.sharpness": (100,),
    "tone.brightness": (30, 245),
    "tone.shadows": (0.4,),
    "tone.highlights": (0.85,),
    "tone.contrast": (8, 15),
    "tone.range": (60,),
    "tone.entropy": (1, 3),
    "tone.colourfulness": (8,),
    "tone.grey": (0.98,),
    "tone.one_hue": (0.97,),
    "layout.bars": (0.1,),
    "layout.margin": (0.5,),
    "layout.collage": (0.5, 0.9),
    "layout.panels": (1.5,),
    "brisque.score": (50, 80),
    "watermark.likelihood": (0.5, 0.9),
    "pdq.quality": (49.5,),
    "nsfw.probability": (0.2,),
    "faces.count": (0.5,),
    "faces.area": (0.1,),
    "ocr.boxes": (0.5, 10),
    "ocr.area": (0.05,),
    "lite_aesthetic.score": (4, 6),
}
"""Columns of measures that are looked at beside the policy's; a measure that is not there is passed over."""
SEEN = {
    name: kind
    for name, kind in (PICTURE | DERIVED).items()
    if not issubclass(kind, BaseModel) or not any(field.is_required() for field in kind.model_fields.values())
}
"""Measures that can be built without options."""
SIDE, COLUMNS, ROWS = 150, 9, 2
SECONDS = 3.0
"""What a measure may take with --quick; it then sees fewer pictures."""

EDITS: dict[str, Callable[[Image.Image, random.Random], Image.Image]] = {
    "blurred": lambda image, rng: image.filter(ImageFilter.GaussianBlur(rng.uniform(0.5, 6))),
    "blown up": lambda image, rng: image.resize((rng.randint(30, 160), rng.randint(30, 120))).resize(image.size),
    "dark": lambda image, rng: ImageEnhance.Brightness(image).enhance(rng.uniform(0.05, 0.5)),
    "light": lambda image, rng: Image.blend(image, Image.new("RGB", image.size, "white"), rng.uniform(0.4, 0.97)),
    "pale": lambda image, rng: ImageEnhance.Contrast(image).enhance(rng.uniform(0.05, 0.6)),
    "faded": lambda image, rng: ImageEnhance.Color(image).enhance(rng.uniform(0, 0.3)),
    "sepia": lambda image, rng: ImageOps.colorize(image.convert("L"), "#201008", "#fff0d8"),
    "noisy": lambda image, rng: Image.blend(
        image, Image.effect_noise(image.size, 90).convert("RGB"), rng.uniform(0.05, 0.5)
    ),
    "compressed": lambda image, rng: jpeg(image, rng.randint(3, 40)),
    "barred": lambda image, rng: ImageOps.pad(
        image, (image.width, int(image.height * rng.uniform(1.02, 1.6))), color=rng.choice(["black", "white"])
    ),
    "framed": lambda image, rng: ImageOps.expand(image, rng.randint(2, 40), rng.choice(["black", "white", "#864"])),
    "marked": lambda image, rng: watermarks.marked(image, rng.choice(watermarks.KINDS), rng, True),
}


def jpeg(image: Image.Image, quality: int) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer).convert("RGB")


def pictures(quick: bool) -> Iterator[tuple[str, Picture]]:
    """Names and pictures in a mixed order that is always the same."""
    rng = random.Random(0)
    files: list[Path] = photographs()[:: 6 if quick else 1]
    for source, step in (("fluent-emoji", 60 if quick else 8), ("tuxpaint", 16 if quick else 2)):
        files += [pair.picture for pair in pairs(print) if pair.source == source][::step]
    edited = [(path, name) for path in photographs()[1 :: 12 if quick else 2] for name in EDITS if rng.random() < 0.3]
    made = [(path, "") for path in files] + edited + [(None, "collage")] * (12 if quick else 80)
    with tempfile.TemporaryDirectory() as folder:
        if not quick:
            share = alignment.unpacked(Path(folder), "openclipart-png", "openclipart-svg")
            made += [(path, "") for path, _, _ in alignment.drawings(share / "openclipart")[::20]]
        rng.shuffle(made)
        for path, name in made:
            if path is None:
                yield name, Picture(np.asarray(collages.collage(photographs(), rng)[0]), 0.0)
            elif name:
                image = Image.fromarray(decode(path.read_bytes()).pixels)
                image.thumbnail((800, 800))
                yield f"{name} {path.stem}", Picture(np.asarray(EDITS[name](image, rng).convert("RGB")), 0.0)
            else:
                yield path.stem, decode(path.read_bytes())


def thresholds() -> dict[str, list[float]]:
    """Columns of picture measures with the policy's thresholds and ours."""
    found = {column: list(values) for column, values in THRESHOLDS.items()}
    for rule in yaml.safe_load(POLICY.read_text("utf-8"))["rules"]:
        if re.fullmatch(r"\w+\.\w+", rule["value"]):
            found.setdefault(rule["value"], []).append(float(rule.get("min", rule.get("max"))))
    return {column: sorted(set(values)) for column, values in found.items() if column.partition(".")[0] in SEEN}


def measured(wanted: set[str], shown: list[tuple[str, Picture]], quick: bool) -> dict[str, list[Any]]:
    """The values of each column, of the measures that need no options; with --quick slow ones see fewer pictures."""
    names = {column.partition(".")[0] for column in wanted}
    names |= {column.partition(".")[0] for name in names for column in getattr(SEEN[name], "wants", ())}
    measures = build({name: {} for name in SEEN if name in names})
    values: dict[str, list[Any]] = {}
    for name in sorted(measures, key=lambda name: name in DERIVED):
        started = time.monotonic()
        try:
            if name in DERIVED:
                found = measures[name]({column: values[column] for column in measures[name].wants})
                values |= {f"{name}.{column}": list(found[column]) for column in found}
                continue
            for _, picture in shown:
                for column, one in measures[name]([picture]).items():
                    values.setdefault(f"{name}.{column}", []).append(one[0])
                if quick and time.monotonic() - started > SECONDS:
                    break
        except (JuZhouError, ModuleNotFoundError) as error:
            print(f"{name} is left out: {error}")
    return {column: values[column] for column in sorted(wanted) if column in values}


def nearest(values: np.ndarray, threshold: float, count: int) -> tuple[list[int], list[int]]:
    """The places of the values nearest below and at or above a threshold, each in rising order."""
    order = np.argsort(values, kind="stable")
    split = int(np.searchsorted(values[order], threshold, "left"))
    return order[max(0, split - count) : split].tolist(), order[split : split + count].tolist()


def sheet(title: str, halves: list[list[tuple[str, float, Picture]]]) -> Image.Image:
    """Two halves of ROWS × COLUMNS thumbnails, on grey so that margins show, with value and name under each."""
    height = SIDE + 26
    canvas = Image.new("RGB", (COLUMNS * (SIDE + 4), (2 * ROWS * height) + 60), "#999")
    draw = ImageDraw.Draw(canvas)
    top = 0
    for half, words in zip(halves, ("below", "at or above"), strict=True):
        draw.text((4, top + 8), f"{title}: {words}", "black")
        top += 30
        for number, (name, value, picture) in enumerate(half):
            image = Image.fromarray(picture.pixels)
            image.thumbnail((SIDE, SIDE), reducing_gap=2)
            x, y = number % COLUMNS * (SIDE + 4), top + number // COLUMNS * height
            canvas.paste(image, (x, y))
            draw.text((x, y + SIDE), f"{value:.4g}", "white")
            draw.text((x, y + SIDE + 11), name[:24], "#ffc")
        top += ROWS * height
    return canvas


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the sheets are written")
    parser.add_argument("--quick", action="store_true", help="fewer pictures")
    arguments = parser.parse_args()
    set_threads(1)
    arguments.folder.mkdir(parents=True, exist_ok=True)
    shown = list(pictures(arguments.quick))
    wanted = thresholds()
    result: dict[str, dict[str, object]] = {}
    print(f"{'column':<28}{'threshold':>10}{'pictures':>10}{'below':>8}")
    for column, values in measured(set(wanted), shown, arguments.quick).items():
        numbers = np.array(values, dtype=float)
        for threshold in wanted[column]:
            halves = [
                [(shown[at][0], numbers[at], shown[at][1]) for at in half]
                for half in nearest(numbers, threshold, COLUMNS * ROWS)
            ]
            name = f"{column}-{threshold:g}.png"
            sheet(f"{column} {threshold:g}", halves).save(arguments.folder / name)
            below = int((numbers < threshold).sum())
            print(f"{column:<28}{threshold:>10g}{len(numbers):>10}{below:>8}")
            result[name] = {"column": column, "threshold": threshold, "pictures": len(numbers), "below": below}
    print(json.dumps({"sheets": len(result), "pictures": len(shown), "files": result}))


if __name__ == "__main__":
    main()
