"""How well the stand-in for an aesthetic score tells a picture from its own spoilt copy, and the fit of its weights.

    python benchmarks/aesthetic.py            on Tux Paint stamps and photographs of nature; neither is in the fit
    python benchmarks/aesthetic.py --quick    the same on a sample, in less than a minute
    python benchmarks/aesthetic.py --fit      fit filters/weights/lite_aesthetic.safetensors anew (minutes; Debian)

A figure is the share of copies that score below their original; a coin has 0.5. The kinds below the line were not in
the fit. `across` is the chance that any original scores above any copy, of whatever picture.

The fit: openclipart's drawings (public domain), Fluent emoji (MIT), crops of Plasma's wallpapers (LGPL-3 and CC BY-SA
4.0 by their own metadata; nothing of them but these weights is kept). For evaluation alone: Tux Paint's stamps (GPL-2),
and MATE's backgrounds of nature (GPL-2). PENALTY was chosen with an eye on these figures.
"""

import argparse
import io
import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter
from safetensors.numpy import save_file

sys.path.insert(0, str(Path(__file__).parents[1]))

from alignment import LARGEST_FILE, unpacked

from filters.aesthetic import WEIGHTS, LiteAesthetic, roots
from filters.embedding import LiteEmbedding
from filters.picture import Picture, decode
from model.device import set_threads
from pipelines.material import pairs

DRAWINGS, EMOJI, CROPS = 400, 200, 10
STAMPS, NATURE_CROPS = 130, 7
QUICK_STAMPS, QUICK_NATURE_CROPS = 32, 2
COPIES = 4
PENALTY = 3e-4
ROUNDS = 60

Spoil = Callable[[Image.Image, np.random.Generator], Image.Image]


def levels(image: Image.Image, change: Callable[[np.ndarray], np.ndarray]) -> Image.Image:
    """The picture after a change of its levels, 0–255, rounded and cut."""
    return Image.fromarray(change(np.asarray(image, dtype=np.float32)).round().clip(0, 255).astype(np.uint8))


def compressed(image: Image.Image, chance: np.random.Generator) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=int(chance.integers(6, 25)))
    return Image.open(buffer).convert("RGB")


def blurred(image: Image.Image, chance: np.random.Generator) -> Image.Image:
    return image.filter(ImageFilter.GaussianBlur(max(image.size) / 256 * chance.uniform(1, 4)))


def noisy(image: Image.Image, chance: np.random.Generator) -> Image.Image:
    return levels(image, lambda pixels: pixels + chance.normal(0, chance.uniform(12, 45), pixels.shape))


def dark(image: Image.Image, chance: np.random.Generator) -> Image.Image:
    return levels(image, lambda pixels: pixels * chance.uniform(0.15, 0.45))


def bright(image: Image.Image, chance: np.random.Generator) -> Image.Image:
    return levels(image, lambda pixels: pixels * chance.uniform(1.5, 2.5) + chance.uniform(20, 60))


def pale(image: Image.Image, chance: np.random.Generator) -> Image.Image:
    share = chance.uniform(0.2, 0.5)
    return levels(image, lambda pixels: pixels * share + 255 * (1 - share) * chance.uniform(0.4, 0.7))


def tinted(image: Image.Image, chance: np.random.Generator) -> Image.Image:
    gains = chance.permutation([chance.uniform(0.4, 0.7), chance.uniform(0.8, 1), chance.uniform(1, 1.2)])
    return levels(image, lambda pixels: pixels * gains)


def stretched(image: Image.Image, chance: np.random.Generator) -> Image.Image:
    factor = chance.uniform(1.7, 2.6)
    wide, high = (factor, 1) if chance.random() < 0.5 else (1, factor)
    return image.resize((int(image.width * wide), int(image.height * high)))


def grey(image: Image.Image, chance: np.random.Generator) -> Image.Image:
    return ImageEnhance.Color(image).enhance(chance.uniform(0, 0.3))


def blown_up(image: Image.Image, chance: np.random.Generator) -> Image.Image:
    factor = chance.uniform(5, 10)
    few = (max(2, int(image.width / factor)), max(2, int(image.height / factor)))
    return image.resize(few, Image.Resampling.BOX).resize(image.size, Image.Resampling.NEAREST)


def banded(image: Image.Image, chance: np.random.Generator) -> Image.Image:
    steps = 255 / chance.integers(2, 4)
    return levels(image, lambda pixels: (pixels / steps).round() * steps)


def shaken(image: Image.Image, chance: np.random.Generator) -> Image.Image:
    length, axis = int(max(4, max(image.size) / 256 * chance.uniform(8, 18))), int(chance.integers(0, 2))
    return levels(image, lambda pixels: np.mean([np.roll(pixels, by, axis) for by in range(length)], axis=0))


def screenshot(image: Image.Image, chance: np.random.Generator) -> Image.Image:
    """The picture in a viewer with black around it and a bar of buttons above."""
    width, height = image.size
    screen = Image.new("RGB", (int(width * 1.5), int(height * 2.2)), "black")
    screen.paste(image, ((screen.width - width) // 2, (screen.height - height) // 2))
    draw = ImageDraw.Draw(screen)
    draw.rectangle((0, 0, screen.width, height // 6), fill=(235, 235, 235))
    for number in range(5):
        left = 10 + number * screen.width // 6
        draw.rectangle((left, height // 20, left + screen.width // 9, height // 10), fill=(120, 120, 120))
    return screen


def garish(image: Image.Image, chance: np.random.Generator) -> Image.Image:
    vivid = ImageEnhance.Color(image).enhance(chance.uniform(3, 5))
    return ImageEnhance.Contrast(vivid).enhance(chance.uniform(1.8, 2.5))


def stamped(image: Image.Image, chance: np.random.Generator) -> Image.Image:
    """The word SAMPLE all over it."""
    over = image.copy()
    draw = ImageDraw.Draw(over, "RGBA")
    ink = {"fill": (255, 255, 255, 150), "stroke_fill": (0, 0, 0, 150)}
    for y in range(0, over.height, max(20, over.height // 6)):
        for x in range(0, over.width, max(40, over.width // 4)):
            draw.text((x + y % 40, y), "SAMPLE", stroke_width=1, font_size=max(10, over.width // 14), **ink)
    return over


def cut(image: Image.Image, chance: np.random.Generator) -> Image.Image:
    """A corner, blown up."""
    share = chance.uniform(0.3, 0.45)
    width, height = int(image.width * share) + 1, int(image.height * share) + 1
    left = 0 if chance.random() < 0.5 else image.width - width
    top = 0 if chance.random() < 0.5 else image.height - height
    return image.crop((left, top, left + width, top + height)).resize(image.size, Image.Resampling.BICUBIC)


FITTED: tuple[Spoil, ...] = (compressed, blurred, noisy, dark, bright, pale, tinted, stretched, grey)
HELD_OUT: tuple[Spoil, ...] = (blown_up, banded, shaken, screenshot, garish, stamped, cut)


def opened(path: Path) -> Image.Image:
    return Image.fromarray(decode(path.read_bytes()).pixels)


def sized(image: Image.Image, chance: np.random.Generator) -> Image.Image:
    """Brought to a longest side of 256 to 512."""
    scale = chance.integers(256, 512) / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.resize(size, Image.Resampling.LANCZOS)


def some(paths: list[Path], count: int, chance: np.random.Generator) -> Iterator[Image.Image]:
    """So many of the pictures, by lot."""
    for index in chance.choice(len(paths), min(count, len(paths)), replace=False):
        yield sized(opened(paths[index]), chance)


def crops(paths: list[Path], count: int, chance: np.random.Generator) -> Iterator[Image.Image]:
    """So many crops of each picture, of 30 % to all of its height."""
    for path in paths:
        image = opened(path)
        image.thumbnail((2560, 2560))
        for _ in range(count):
            height = chance.uniform(0.3, 1) * image.height
            width = min(image.width, height * chance.uniform(0.75, 1.6))
            left, top = chance.uniform(0, image.width - width), chance.uniform(0, image.height - height)
            yield sized(image.crop((int(left), int(top), int(left + width), int(top + height))), chance)


def seen(images: list[Image.Image]) -> np.ndarray:
    """The vectors of `lite_embedding`."""
    return np.asarray(LiteEmbedding()([Picture(np.asarray(image), 0.0) for image in images])["vector"])


def evaluate(quick: bool) -> dict[str, float]:
    """Print the table, and give its figures: by source over all kinds, over those held out, and across pictures."""
    chance = np.random.default_rng(1)
    stamps = [pair.picture for pair in pairs(print) if pair.source == "tuxpaint"]
    with tempfile.TemporaryDirectory() as folder:
        nature = sorted(unpacked(Path(folder), "mate-backgrounds").glob("backgrounds/mate/nature/*.jpg"))
        sources = {
            "tuxpaint": list(some(stamps, QUICK_STAMPS if quick else STAMPS, chance)),
            "nature": list(crops(nature, QUICK_NATURE_CROPS if quick else NATURE_CROPS, chance)),
        }
    kinds = FITTED + HELD_OUT
    won, figures = {}, {}
    for source, images in sources.items():
        vectors = [seen([image, *(spoil(image, chance) for spoil in kinds)]) for image in images]
        scores = np.stack([LiteAesthetic()({"lite_embedding.vector": rows})["score"] for rows in vectors])
        originals, copies = scores[:, :1], scores[:, 1:]
        won[source] = (originals > copies).mean(axis=0)
        figures[f"{source}_fitted_kinds"] = won[source][: len(FITTED)].mean()
        figures[f"{source}_held_out_kinds"] = won[source][len(FITTED) :].mean()
        figures[f"{source}_across"] = (originals.reshape(-1, 1) > copies.reshape(1, -1)).mean()
        figures[f"{source}_median"] = np.median(originals)
        figures[f"{source}_spoilt_median"] = np.median(copies)
    print(f"{'kind':<14}" + "".join(f"{source:>12}" for source in sources))
    for index, spoil in enumerate(kinds):
        print("-" * 38 + "\n" if index == len(FITTED) else "", end="")
        print(f"{spoil.__name__:<14}" + "".join(f"{won[source][index]:>12.2f}" for source in sources))
    return {name: round(float(figure), 3) for name, figure in figures.items()}


def fit() -> None:
    """Fit the weights: logistic regression on the differences of an original's and its COPIES' features."""
    import torch

    chance = np.random.default_rng(0)
    emoji = [
        pair.picture for pair in pairs(print) if pair.source == "fluent-emoji" and not pair.caption.startswith("旗")
    ]
    with tempfile.TemporaryDirectory() as folder:
        share = unpacked(Path(folder), "openclipart-png", "plasma-workspace-wallpapers")
        drawings = [
            path
            for path in sorted((share / "openclipart/png").rglob("*.png"))
            if not path.is_symlink() and path.stat().st_size < LARGEST_FILE and "flags" not in path.parts
        ]
        wallpapers = sorted(
            max(each.glob("contents/images/*.*"), key=lambda path: int(path.stem.partition("x")[0]))
            for each in (share / "wallpapers").iterdir()
        )
        images = [*some(drawings, DRAWINGS, chance), *some(emoji, EMOJI, chance), *crops(wallpapers, CROPS, chance)]
    print(f"{len(images)} pictures, {COPIES} copies of each")
    features = []
    for image in images:
        kinds = chance.permutation(len(FITTED))[:COPIES]
        features.append(roots(seen([image, *(FITTED[kind](image, chance) for kind in kinds)])))
    better = np.stack(features)
    differences = torch.from_numpy((better[:, :1] - better[:, 1:]).reshape(-1, better.shape[2]))
    weight = torch.zeros(better.shape[2], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight], max_iter=ROUNDS, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        value = torch.nn.functional.softplus(-differences @ weight).mean() + PENALTY * (weight**2).sum()
        value.backward()
        return value

    optimizer.step(loss)
    fitted = weight.detach().numpy()
    logits = better[:, 0] @ fitted
    fitted, bias = fitted / logits.std(), np.array([-np.median(logits) / logits.std()])
    save_file({"weight": fitted.astype(np.float32), "bias": bias.astype(np.float32)}, WEIGHTS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a quarter of the pictures")
    parser.add_argument("--fit", action="store_true", help="fit the weights first")
    arguments = parser.parse_args()
    set_threads(1)
    if arguments.fit:
        fit()
    print(json.dumps(evaluate(arguments.quick)))


if __name__ == "__main__":
    main()
