"""How well the stand-in for a watermark detector tells marked photographs from clean ones, and the fit of its weights.

    python benchmarks/watermarks.py           AUC on photographs, texts and fonts that the fit has not seen
    python benchmarks/watermarks.py --quick   the same on a part
    python benchmarks/watermarks.py --fit     fit filters/weights/watermark.safetensors anew (a quarter of an hour)

Photographs: benchmarks/photographs.py, every third kept out of the fit. Marks are drawn, none is real: whoever has
real ones should expect less.
"""

import argparse
import io
import json
import random
import sys
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont
from safetensors.numpy import save_file

sys.path.insert(0, str(Path(__file__).parents[1]))

from photographs import fonts, photographs

from filters.picture import decode
from filters.watermark import LAYERS, WEIGHTS, likelihood, strokes
from model.device import set_threads

KINDS = ("corner", "middle", "tiled", "logo", "band", "lattice")
"""`lattice` is kept out of the fit."""
CHINESE = (
    [
        "@春天的猫",
        "图片来自网络",
        "山水摄影",
        "看图网",
        "版权所有",
        "随手拍",
        "@李小明",
        "青禾图库",
        "行走的镜头",
        "素材中心",
        "样图",
        "禁止转载",
    ],
    ["微光影像", "@大海与鱼", "仅供预览", "好图社", "原创作品", "城市画报", "@晨跑日记", "试用水印"],
)
LATIN = (
    [
        "www.kantu.example",
        "SAMPLE",
        "© 2019 Li Wei",
        "PhotoHub",
        "stockpic",
        "PREVIEW",
        "blue-sky.example",
        "@traveller88",
        "Proof",
    ],
    ["www.tupian.example", "DRAFT", "© Wang Photography", "PixFarm", "demo copy", "@mountain_fox"],
)
"""Names for the fit, and others to test on; none is a real site's."""
CHINESE_FONTS = (("wqy-microhei.ttc",), ("wqy-zenhei.ttc",))
LATIN_FONTS = (
    ("DejaVuSans.ttf", "DejaVuSerif-Bold.ttf", "DejaVuSansMono.ttf", "wqy-microhei.ttc"),
    ("DejaVuSans-Bold.ttf", "DejaVuSerif.ttf", "DejaVuSansMono-Bold.ttf", "wqy-zenhei.ttc"),
)
STEPS, BATCH, PAIRS, TESTED = 2600, 16, 2400, 800
THRESHOLDS = (0.5, 0.9, 0.97)
HEIGHT, WIDTH = 384, 512
WIDTHS = (24, 32, 32, 32, 32)


def drawn_text(side: int, rng: random.Random, held_out: bool, height: int) -> Image.Image:
    """A site's or a person's name as white strokes on nothing, mode L."""
    chinese = rng.random() < 0.5
    texts, files = (CHINESE, CHINESE_FONTS) if chinese else (LATIN, LATIN_FONTS)
    name = rng.choice(files[held_out])
    font = ImageFont.truetype(next(path for path in fonts() if path.name == name), max(9, height))
    text = rng.choice(texts[held_out])
    left, top, right, bottom = font.getbbox(text)
    mask = Image.new("L", (int(right - left) + 4, int(bottom - top) + 4))
    ImageDraw.Draw(mask).text((2 - left, 2 - top), text, 255, font)
    if mask.width > side:
        mask.thumbnail((side, side))
    return mask


def marked(image: Image.Image, kind: str, rng: random.Random, held_out: bool) -> Image.Image:
    """The picture under a mark of a kind."""
    width, height = image.size
    cover = Image.new("L", image.size)
    white = rng.random() < 0.75
    alpha = rng.uniform(0.3, 0.95)
    if kind in ("corner", "logo"):
        mask = drawn_text(width - 8, rng, held_out, int(height * rng.uniform(0.03, 0.07)))
        if kind == "logo":
            size = int(mask.height * rng.uniform(1.2, 2.2))
            sign = Image.new("L", (size, size))
            draw = ImageDraw.Draw(sign)
            if rng.random() < 0.5:
                draw.ellipse((1, 1, size - 2, size - 2), outline=255, width=max(2, size // 8))
            else:
                draw.rounded_rectangle((1, 1, size - 2, size - 2), size // 4, fill=255)
            draw.regular_polygon(
                (size / 2, size / 2, size / 4), rng.randint(3, 6), rng.randint(0, 90), fill=rng.choice([0, 128])
            )
            both = Image.new("L", (min(width, size + mask.width + 4), max(size, mask.height)))
            both.paste(sign, (0, (both.height - size) // 2))
            both.paste(mask, (size + 4, (both.height - mask.height) // 2))
            mask = both
        edge = rng.randint(3, max(4, width // 25))
        x = rng.choice([edge, width - mask.width - edge, width - mask.width - edge, (width - mask.width) // 2])
        y = rng.choice([edge, height - mask.height - edge, height - mask.height - edge])
        cover.paste(mask, (max(0, x), max(0, y)))
    elif kind == "middle":
        alpha = rng.uniform(0.15, 0.6)
        mask = drawn_text(int(width * 0.9), rng, held_out, int(height * rng.uniform(0.08, 0.25)))
        mask = mask.rotate(rng.choice([0, 0, 20, 30, -30]), expand=True, resample=Image.Resampling.BILINEAR)
        cover.paste(mask, ((width - mask.width) // 2, (height - mask.height) // 2))
    elif kind in ("tiled", "lattice"):
        alpha = rng.uniform(0.12, 0.5)
        mask = drawn_text(width // 2, rng, held_out, int(height * rng.uniform(0.03, 0.07)))
        mask = mask.rotate(rng.choice([20, 30, 45, -30]), expand=True, resample=Image.Resampling.BILINEAR)
        down, across = int(mask.height * rng.uniform(1.0, 1.6)), int(mask.width * rng.uniform(1.0, 1.5))
        for row, y in enumerate(range(0, height, max(16, down))):
            for x in range(-(row % 2) * across // 2, width, max(16, across)):
                cover.paste(mask, (x, y), mask)
        if kind == "lattice":
            draw = ImageDraw.Draw(cover)
            step = max(24, down)
            for shift in range(-height, width + height, step * 2):
                draw.line((shift, 0, shift + height, height), 255, max(1, height // 250))
                draw.line((shift, height, shift + height, 0), 255, max(1, height // 250))
    else:
        mask = drawn_text(width - 8, rng, held_out, int(height * rng.uniform(0.03, 0.06)))
        top = rng.choice([0, height - mask.height - 8, int(height * 0.6)])
        band = Image.new("L", image.size)
        ImageDraw.Draw(band).rectangle((0, top, width, top + mask.height + 8), fill=int(255 * rng.uniform(0.25, 0.6)))
        image = Image.composite(Image.new("RGB", image.size, "black" if white else "white"), image, band)
        cover.paste(mask, ((width - mask.width) // 2, top + 4))
        alpha = rng.uniform(0.6, 1)
    colour = ("white" if white else rng.choice(["black", "#d33", "#25c"])) if rng.random() < 0.9 else "#fd4"
    if kind in ("corner", "logo") and rng.random() < 0.4:
        shade = Image.new("L", image.size)
        shade.paste(cover, (1, 1))
        image = Image.composite(
            Image.new("RGB", image.size, "black" if white else "white"), image, faded(shade, alpha * 0.7)
        )
    return Image.composite(Image.new("RGB", image.size, colour), image, faded(cover, alpha))


def faded(mask: Image.Image, alpha: float) -> Image.Image:
    return mask.point([int(value * alpha) for value in range(256)])


def photograph(paths: list[Path], rng: random.Random) -> Image.Image:
    """A part of a photograph at a web size."""
    with Image.open(rng.choice(paths)) as opened:
        image = opened.convert("RGB")
    width, height = image.size
    share = rng.uniform(0.7, 1)
    left, top = rng.uniform(0, width * (1 - share)), rng.uniform(0, height * (1 - share))
    image = image.crop((int(left), int(top), int(left + width * share), int(top + height * share)))
    if rng.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    scale = rng.choice([360, 512, 640, 900]) / max(image.size)
    return image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.LANCZOS)


def seen(image: Image.Image, rng: random.Random) -> np.ndarray:
    """The luma, as the measure sees it, of a picture through a JPEG."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=rng.randint(65, 93))
    return decode(buffer.getvalue()).luma_512


def auc(marks: np.ndarray, clean: np.ndarray) -> float:
    """The chance that a marked picture scores above a clean one; a tie counts half."""
    ordered = np.sort(clean)
    below = np.searchsorted(ordered, marks, "left") + np.searchsorted(ordered, marks, "right")
    return float(below.mean() / 2 / len(ordered))


def evaluate(quick: bool) -> dict[str, float]:
    """AUC of each kind of mark, and what thresholds catch, on what the fit has not seen."""
    rng = random.Random(1)
    paths = photographs()[::3]
    count = TESTED // (8 if quick else 1)
    scores = {"clean": np.array([likelihood(seen(photograph(paths, rng), rng)) for _ in range(count)])}
    for kind in KINDS:
        marks = (marked(photograph(paths, rng), kind, rng, True) for _ in range(count // 4))
        scores[kind] = np.array([likelihood(seen(image, rng)) for image in marks])
    results = {"auc": auc(np.concatenate([scores[kind] for kind in KINDS]), scores["clean"])}
    print(f"{'kind':<10}{'AUC':>8}" + "".join(f"{f'above {threshold}':>12}" for threshold in THRESHOLDS))
    for kind, found in scores.items():
        area = auc(found, scores["clean"])
        above = [float((found > threshold).mean()) for threshold in THRESHOLDS]
        print(f"{kind:<10}{area:>8.3f}" + "".join(f"{share:>12.3f}" for share in above))
        results[f"auc_{kind}"] = area
        results |= {f"{kind}_above_{threshold}": share for threshold, share in zip(THRESHOLDS, above, strict=True)}
    return {name: round(value, 3) for name, value in results.items()}


def placed(values: np.ndarray) -> np.ndarray:
    """Values at the top left of HEIGHT × WIDTH, what is larger cut, what stands upright turned."""
    if values.shape[0] > values.shape[1]:
        values = cv2.transpose(values)
    frame = np.zeros((HEIGHT, WIDTH), np.float32)
    part = values[:HEIGHT, :WIDTH]
    frame[: part.shape[0], : part.shape[1]] = part
    return frame


def pair(paths: list[Path], kind: str, rng: random.Random) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The luma of a photograph, the same under a mark, and where the mark changes it, 0 or 1."""
    image = photograph(paths, rng)
    under = marked(image, kind, rng, False)
    clean, covered = seen(image, rng), seen(under, rng)
    changed = cv2.absdiff(np.asarray(image.convert("L")), np.asarray(under.convert("L"))) > 5
    where = cv2.resize(changed.astype(np.uint8), clean.shape[::-1], interpolation=cv2.INTER_LINEAR)
    return clean, covered, where


def fit() -> None:
    """Adam on binary cross-entropy, each photograph with and without its mark; beside the picture's own likelihood one
    of each place is learned from where the mark lies, which no one uses afterwards."""
    import torch
    from torch.nn import functional

    torch.manual_seed(0)
    rng = random.Random(0)
    paths = [path for number, path in enumerate(photographs()) if number % 3]
    pairs = [pair(paths, KINDS[number % 5], rng) for number in range(PAIRS)]
    print(f"{PAIRS} pairs", flush=True)
    weights: dict[str, torch.Tensor] = {}
    channels = 1
    for (name, stride, _), width in zip(LAYERS, WIDTHS, strict=True):
        size = 8 if stride == 4 else 3
        weights[f"{name}.weight"] = torch.randn(width, channels, size, size) * (2 / (channels * size * size)) ** 0.5
        weights[f"{name}.bias"] = torch.zeros(width)
        channels = width
    weights["last.weight"], weights["last.bias"] = torch.randn(1, 2 * channels) * 0.05, torch.zeros(1)
    place = [torch.randn(1, channels, 1, 1) * 0.1, torch.zeros(1)]
    trained = [tensor.requires_grad_() for tensor in (*weights.values(), *place)]
    optimiser = torch.optim.AdamW(trained, lr=2e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 3e-3, total_steps=STEPS)
    labels = torch.tensor([0.0] * (BATCH // 2) + [1.0] * (BATCH // 2))
    losses = np.zeros((STEPS, 2))
    for step in range(STEPS):
        chosen = [pairs[rng.randrange(PAIRS)] for _ in range(BATCH // 2)]
        lumas = [clean for clean, _, _ in chosen] + [covered for _, covered, _ in chosen]
        values = torch.from_numpy(np.stack([placed(strokes(luma)) for luma in lumas]))[:, None]
        where = torch.from_numpy(np.stack([placed(where) for _, _, where in chosen]))[:, None]
        for name, stride, dilation in LAYERS:
            kernel = weights[f"{name}.weight"]
            pad = (kernel.shape[-1] - 1) * dilation // 2
            values = functional.relu(functional.conv2d(values, kernel, weights[f"{name}.bias"], stride, pad, dilation))
        pooled = torch.cat([values.amax((2, 3)), values.mean((2, 3))], dim=1)
        logits = functional.linear(pooled, weights["last.weight"], weights["last.bias"])[:, 0]
        places = functional.conv2d(values, *place)
        target = functional.adaptive_max_pool2d(where, places.shape[2:])
        target = torch.cat([torch.zeros_like(target), target])
        whole = functional.binary_cross_entropy_with_logits(logits, labels)
        local = functional.binary_cross_entropy_with_logits(places, target, pos_weight=torch.tensor(4.0))
        optimiser.zero_grad()
        (whole + 2 * local).backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimiser.step()
        schedule.step()
        losses[step] = whole.item(), local.item()
        if step % 100 == 99:
            print(f"step {step + 1}: loss {losses[step - 99 : step + 1].mean(axis=0).round(3)}", flush=True)
    save_file({name: tensor.detach().half().numpy() for name, tensor in weights.items()}, WEIGHTS)
    WEIGHTS.chmod(0o644)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="an eighth of the examples")
    parser.add_argument("--fit", action="store_true", help="fit the weights first")
    arguments = parser.parse_args()
    set_threads(1)
    if arguments.fit:
        fit()
    print(json.dumps(evaluate(arguments.quick)))


if __name__ == "__main__":
    main()
