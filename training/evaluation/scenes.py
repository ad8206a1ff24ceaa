"""Composed scenes asked of a checkpoint, as GenEval asks (arXiv 2310.11513): six categories, and their mean."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import cycle, product
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from model.pipeline import STEPS, JuZhouPipeline
from schemas.errors import JuZhouError
from schemas.scenes import CATEGORIES, Category, Scene, Thing, prompts
from training.evaluation.detector import Detection, Reference, load, look
from training.evaluation.frechet import Moments, frechet, moments

Say = Callable[[str], None]

PROMPTS: dict[Category, int] = {
    "single": 80,
    "two": 99,
    "counting": 80,
    "colours": 94,
    "position": 100,
    "attribution": 100,
}
"""As many as GenEval asks in each category."""
QUICK = 16
"""Prompts of each category in a quick evaluation."""
AT_ONCE = 48
APART = 0.1
"""How far the centres of two things lie apart at least where one is beside the other, in sides of the picture."""


def right(found: Sequence[Detection], scene: Scene) -> bool:
    """Whether what was found is what the scene asks for.

    Counting wants the exact number; the other categories are content if what they ask is there among more.
    """
    first, *rest = ([one for one in found if _is(one, thing)] for thing in scene.things)
    if scene.category == "counting":
        return len(first) == scene.things[0].count
    if scene.side is None:
        return all((first, *rest))
    return any(_stands(one, other, scene) for one, other in product(first, rest[0]))


def _is(found: Detection, thing: Thing) -> bool:
    return found.kind == thing.kind.name and thing.colour in (None, found.colour)


def _stands(one: Detection, other: Detection, scene: Scene) -> bool:
    """Whether `one` is on the side of `other` that is asked for: further that way than any other way."""
    x, y = one.x - other.x, one.y - other.y
    along, across = {"left": (-x, y), "right": (x, y), "above": (-y, x), "below": (y, x)}[scene.side or "left"]
    return along > APART and along > abs(across)


@dataclass(frozen=True)
class Score:
    """What a way of drawing reached."""

    categories: dict[Category, float]
    """The share of pictures that came out right."""
    overall: float
    """The mean of the six, as GenEval has it."""
    error: float
    """The standard error of `overall`, by prompts: the pictures of one are alike."""
    frechet: float
    """Fréchet distance of the detector's features to those of composed scenes: ours, not Inception's."""
    prompts: int
    pictures: int
    """Of each prompt."""


def score(pictures: Tensor, scenes: Sequence[Scene]) -> Score:
    """Score pictures against the scenes that were asked for.

    Args:
        pictures: one of each scene, and as many rounds of that as there are: (rounds · scenes, 3, h, w) in −1 … 1.
    """
    detector, reference = load()
    seen = look(detector, pictures)
    outcomes = [right(found, scene) for found, scene in zip(seen.found, cycle(scenes), strict=False)]
    of_prompts = np.reshape(outcomes, (-1, len(scenes))).mean(axis=0)
    by_category = [of_prompts[[scene.category == category for scene in scenes]] for category in CATEGORIES]
    shares = {category: float(of.mean()) for category, of in zip(CATEGORIES, by_category, strict=True)}
    return Score(
        shares,
        float(np.mean(list(shares.values()))),
        float(np.sqrt(sum(of.var() / len(of) for of in by_category))) / len(CATEGORIES),
        frechet(moments(seen.features.numpy()), _moments(reference)),
        len(scenes),
        len(pictures) // len(scenes),
    )


def _moments(reference: Reference) -> Moments:
    return Moments(reference.mean.double().numpy(), reference.covariance.double().numpy())


def pipelines(folder: Path) -> tuple[JuZhouPipeline | None, JuZhouPipeline | None]:
    """The base and the distilled checkpoint of a training's folder; of a checkpoint itself, what it is.

    Raises:
        JuZhouError: there is neither, or several trainings share the folder.
    """
    stages = {stage: sorted(folder.glob(f"{stage}-*/checkpoint")) for stage in ("flow", "dmd2")}
    if not any(stages.values()):
        pipeline = JuZhouPipeline.from_pretrained(folder)
        return (None, pipeline) if pipeline.config["distilled_steps"] else (pipeline, None)
    for stage, found in stages.items():
        if len(found) > 1:
            raise JuZhouError(f"{folder}: {len(found)} trainings have a stage {stage}; name one's checkpoint")
    base, distilled = ([JuZhouPipeline.from_pretrained(path) for path in found] for found in stages.values())
    return next(iter(base), None), next(iter(distilled), None)


def asked(quick: bool) -> list[tuple[Scene, str]]:
    """The scenes and their prompts, category by category."""
    return [
        entry
        for category, count in PROMPTS.items()
        for entry in prompts(category, min(count, QUICK) if quick else count)
    ]


def draw(pipeline: JuZhouPipeline, texts: Sequence[str], steps: int | None, guidance: float | None = None) -> Tensor:
    """A picture for each prompt, with the seeds 0, 1, 2, …: (n, 3, h, w) in −1 … 1."""
    found = []
    for start in range(0, len(texts), AT_ONCE):
        drawn = pipeline(texts[start : start + AT_ONCE], num_inference_steps=steps, guidance_scale=guidance, seed=start)
        found += [torch.from_numpy(np.array(picture)).permute(2, 0, 1) / 127.5 - 1 for picture in drawn]
    return torch.stack(found)


def evaluate(
    base: JuZhouPipeline | None, distilled: JuZhouPipeline | None, quick: bool, pictures: int, say: Say
) -> tuple[dict[str, Score], dict[str, Tensor]]:
    """Scores and pictures of each way there is to draw: `28`, `4_plain` and `4_unguided` by the base checkpoint, `4`
    distilled. Guidance asks the network twice a step, so `4_unguided` costs what `4` does, `4_plain` twice that.

    The number of steps in a name is the distilled checkpoint's own, 4 where there is none.

    Args:
        quick: ask a part of the prompts.
        pictures: of each prompt; GenEval draws four. Those that are returned are the first of each.
    """
    entries = asked(quick)
    scenes, texts = [scene for scene, _ in entries], [text for _, text in entries]
    few = distilled.config["distilled_steps"] if distilled else 4
    ways: list[tuple[str, JuZhouPipeline | None, int, float | None]] = [
        (f"{STEPS}", base, STEPS, None),
        (f"{few}", distilled, few, None),
        (f"{few}_plain", base, few, None),
        (f"{few}_unguided", base, few, 1.0),
    ]
    scores: dict[str, Score] = {}
    firsts: dict[str, Tensor] = {}
    for name, pipeline, steps, guidance in ways:
        if pipeline is not None:
            drawn = draw(pipeline, texts * pictures, steps, guidance)
            firsts[name] = drawn[: len(texts)]
            scores[name] = score(drawn, scenes)
            say(told(name, scores[name]))
    return scores, firsts


def told(name: str, reached: Score) -> str:
    """A score in one line."""
    parts = " · ".join(f"{category} {share:.2f}" for category, share in reached.categories.items())
    return f"{name:>10}: overall {reached.overall:.3f} ± {reached.error:.3f} · {parts} · Fréchet {reached.frechet:.1f}"


def summary(scores: dict[str, Score]) -> str:
    """All scores as one JSON object: `overall_28`, `overall_4`, `ratio`, each way's categories and distance."""
    found: dict[str, object] = {f"overall_{name}": round(score.overall, 4) for name, score in scores.items()}
    if "28" in scores and "4" in scores:
        found["ratio"] = round(scores["4"].overall / max(scores["28"].overall, 1e-9), 4)
    for name, reached in scores.items():
        found[f"categories_{name}"] = {category: round(share, 4) for category, share in reached.categories.items()}
        found[f"error_{name}"] = round(reached.error, 4)
        found[f"frechet_{name}"] = round(reached.frechet, 3)
        found |= {"prompts": reached.prompts, "pictures": reached.pictures}
    return json.dumps(found)


def grid(pictures: dict[str, Tensor], path: Path, count: int = 16) -> None:
    """The same prompts, spread over the categories, a row for each way of drawing, as one PNG."""
    rows = list(pictures.values())
    chosen = torch.linspace(0, len(rows[0]) - 1, count).round().long()
    height, width = rows[0].shape[2:]
    page = Image.new("RGB", (count * width, len(rows) * height))
    for y, row in enumerate(rows):
        for x, picture in enumerate(row[chosen]):
            pixels = ((picture + 1) * 127.5).round().clamp(0, 255).byte().permute(1, 2, 0).numpy()
            page.paste(Image.fromarray(pixels), (x * width, y * height))
    page.save(path)
