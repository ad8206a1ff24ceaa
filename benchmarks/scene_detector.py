"""How far the detector of composed scenes is to be trusted, what an autoencoder leaves of scenes for it, and its fit.

    python benchmarks/scene_detector.py                      what it gets right on scenes that the fit has not seen
    python benchmarks/scene_detector.py --checkpoint FOLDER  the same on a checkpoint's reconstructions of them
    python benchmarks/scene_detector.py --quick              a fifth of the scenes
    python benchmarks/scene_detector.py --fit                train it anew (about four minutes of one core)

`stamps` are scenes of cut-outs that nothing was fitted on, Tux Paint's photographs and drawings of such kinds (GPL-2:
fetched, looked at, never kept): how far the detector knows a kind, and not the emoji of it alone. `wrong` are the
pictures scored against other prompts of their category: what luck would get.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from random import Random

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1]))

from model import device
from model.pipeline import JuZhouPipeline
from pipelines.material import pairs
from pipelines.scenes import Cutouts, Standing, compose, emoji
from schemas.scenes import BY_NAME, CATEGORIES, COLOURS, KINDS, SHARES, Scene, Thing, draw, prompts
from training.evaluation.detector import STRIDE, WEIGHTS, Detector, load, look
from training.evaluation.scenes import right, score, told

SIZE = 64
FITTED_ON = 30_000
HELD_OUT = 120
"""Scenes of each category, drawn as the evaluation's prompts are."""
STEPS = 1200
BATCH = 64


def composed(entries: Sequence[Scene], seed: str) -> tuple[Tensor, list[list[Standing]]]:
    """Pictures of scenes in −1 … 1, and where everything stands in them."""
    cutouts = Cutouts(emoji(print))
    made = [compose(scene, cutouts, SIZE, Random(f"{seed} {number}")) for number, scene in enumerate(entries)]
    pixels = torch.from_numpy(np.stack([np.asarray(picture) for picture, _ in made]))
    return pixels.permute(0, 3, 1, 2) / 127.5 - 1, [standing for _, standing in made]


def held_out(count: int) -> list[Scene]:
    """Scenes that the evaluation's prompts could ask for, by another seed than its own."""
    return [scene for category in CATEGORIES for scene, _ in prompts(category, count, seed=1)]


def targets(standing: Sequence[Sequence[Standing]]) -> tuple[Tensor, Tensor]:
    """Heat maps, (batch, kinds, cells, cells), 1 at centres, falling off around them; colours, −1 where none counts."""
    cells = SIZE // STRIDE
    rows, columns = torch.meshgrid(torch.arange(cells), torch.arange(cells), indexing="ij")
    heights = torch.zeros(len(standing), len(KINDS), cells, cells)
    colours = torch.full((len(standing), cells, cells), -1)
    kinds, names = [kind.name for kind in KINDS], list(COLOURS)
    for number, things in enumerate(standing):
        for thing in things:
            left, top, right, bottom = (edge * cells for edge in thing.box)
            x, y = (left + right) / 2 - 0.5, (top + bottom) / 2 - 0.5
            width = max(0.6, (right - left + bottom - top) / 14)
            hill = torch.exp(-((columns - round(x)) ** 2 + (rows - round(y)) ** 2) / (2 * width**2))
            kind = kinds.index(thing.kind)
            heights[number, kind] = torch.maximum(heights[number, kind], hill)
            inside = (columns - x).abs() + (rows - y).abs() <= 1.6
            colours[number][inside] = names.index(thing.colour) + 1 if thing.colour else 0
    return heights, colours


def focal_loss(logits: Tensor, heights: Tensor) -> Tensor:
    """CenterNet's (arXiv 1904.07850, equation 1): (1 − p)² log p at peaks, (1 − h)⁴ p² log(1 − p) elsewhere."""
    p = logits.sigmoid().clamp(1e-4, 1 - 1e-4)
    peaks = heights == 1
    terms = torch.where(peaks, (1 - p) ** 2 * p.log(), (1 - heights) ** 4 * p**2 * (1 - p).log())
    return -terms.sum() / peaks.sum()


def worn(pictures: Tensor, random: Random) -> Tensor:
    """Pictures as a generator might give them: soft or blurred, a little noisy, lighter or darker."""
    blur = random.random()
    if blur < 0.4:
        pictures = F.interpolate(F.avg_pool2d(pictures, 2), scale_factor=2.0, mode="bilinear")
    elif blur < 0.6:
        pictures = F.avg_pool2d(F.pad(pictures, (1, 1, 1, 1), mode="replicate"), 3, 1)
    pictures = pictures * random.uniform(0.9, 1.05) + random.uniform(-0.05, 0.05)
    return pictures + random.uniform(0, 0.15) * torch.randn_like(pictures)


def fit() -> None:
    """Train on composed scenes, two in three of them worn, and write the weights with the reference of the features."""
    torch.manual_seed(0)
    random = Random(0)
    entries = [draw(random.choices(CATEGORIES, SHARES)[0], random) for _ in range(FITTED_ON)]
    pictures, standing = composed(entries, "fit")
    detector = Detector().to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(detector.parameters(), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, STEPS)
    started = time.time()
    for step in range(STEPS):
        chosen = random.sample(range(len(entries)), BATCH)
        heights, colours = targets([standing[number] for number in chosen])
        seen = torch.cat([worn(part, random) if n else part for n, part in enumerate(pictures[chosen].chunk(3))])
        with device.autocast(torch.device("cpu")):
            kinds, dyes, _ = detector(seen.contiguous(memory_format=torch.channels_last))
        loss = focal_loss(kinds.float(), heights) + F.cross_entropy(dyes.float(), colours, ignore_index=-1)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(detector.parameters(), 5.0)
        optimizer.step()
        schedule.step()
        if (step + 1) % 100 == 0:
            print(f"{step + 1} of {STEPS}: loss {loss.item():.3f}, {time.time() - started:.0f} s", flush=True)
    detector.eval()
    features = look(detector, composed(held_out(500), "reference")[0]).features
    weights = {name: value.half() for name, value in detector.state_dict().items() if not name.endswith("tracked")}
    weights |= {"reference.mean": features.mean(dim=0), "reference.covariance": features.T.cov()}
    WEIGHTS.parent.mkdir(exist_ok=True)
    save_file({name: value.contiguous() for name, value in weights.items()}, WEIGHTS)
    load.cache_clear()


@torch.no_grad()
def reconstructed(checkpoint: Path, pictures: Tensor) -> Tensor:
    """The pictures after a checkpoint's autoencoder."""
    autoencoder = JuZhouPipeline.from_pretrained(checkpoint).autoencoder.eval()
    return torch.cat([autoencoder.decode(autoencoder.encode(part).latent).sample for part in pictures.split(64)])


def stamps() -> list[tuple[str, Path]]:
    """Tux Paint's cut-outs of kinds that the detector knows, by their captions; none where they cannot be had."""
    kinds = {name: kind.name for kind in KINDS for name in kind.names}
    return [
        (kinds[pair.caption], pair.picture)
        for pair in pairs(print)
        if pair.source == "tuxpaint" and pair.caption in kinds
    ]


def known(cutouts: Sequence[tuple[str, Path]]) -> dict[str, float]:
    """The share of scenes of one and of two such cut-outs, three of each cut-out, in which all are found."""
    random = Random("stamps")
    others = random.sample(cutouts * 3, 3 * len(cutouts))
    asked = [[cutout] for cutout in cutouts * 3] + [
        [one, other] for one, other in zip(cutouts * 3, others, strict=True) if one[0] != other[0]
    ]
    outcomes: dict[str, list[bool]] = {"single": [], "two": []}
    for number, chosen in enumerate(asked):
        scene = Scene("single" if len(chosen) == 1 else "two", tuple(Thing(BY_NAME[kind]) for kind, _ in chosen))
        picture, _ = compose(scene, Cutouts(dict(chosen)), SIZE, Random(f"stamps {number}"))
        pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None] / 127.5 - 1
        [found] = look(load()[0], pixels).found
        outcomes[scene.category].append(right(found, scene))
    return {category: round(float(np.mean(results)), 4) for category, results in outcomes.items() if results}


def main() -> None:
    """Measure, after the fit if that is asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fit", action="store_true")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--checkpoint", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.fit:
        fit()
    entries = held_out(HELD_OUT // 5 if given.quick else HELD_OUT)
    pictures, _ = composed(entries, "held out")
    by_category = [[scene for scene in entries if scene.category == category] for category in CATEGORIES]
    wrong = [scene for group in by_category for scene in group[1:] + group[:1]]
    ways = {"scenes": score(pictures, entries), "wrong": score(pictures, wrong)}
    if given.checkpoint:
        ways["autoencoder"] = score(reconstructed(given.checkpoint, pictures).clamp(-1, 1), entries)
    for name, reached in ways.items():
        print(told(name, reached))
    figures: dict[str, object] = {"scenes": len(entries)}
    for name, reached in ways.items():
        figures |= {f"overall_{name}": round(reached.overall, 4), f"categories_{name}": reached.categories}
        figures |= {f"frechet_{name}": round(reached.frechet, 3)}
    if given.checkpoint:
        figures["ceiling"] = round(ways["autoencoder"].overall / ways["scenes"].overall, 4)
    if cutouts := stamps():
        figures |= {"stamps": len(cutouts), "stamps_of_kinds": len(dict(cutouts)), "known_stamps": known(cutouts)}
        print(f"    stamps: {len(cutouts)} of {len(dict(cutouts))} kinds: {figures['known_stamps']}")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
