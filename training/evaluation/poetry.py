"""Poems that training has not seen, drawn and scored: alignment, completeness of what they name, Fréchet distance."""

import base64
import html
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
from PIL import Image

from model.pipeline import STEPS, JuZhouPipeline
from schemas.errors import JuZhouError
from schemas.identity import digest
from schemas.release import folders
from training.evaluation.frechet import Moments, frechet, moments
from training.release import Poem, decode, poems

Say = Callable[[str], None]

POEMS = 200
"""Poems of an evaluation, drawn by a hash, …"""
QUICK = 12
"""… and of a quick one."""
AT_ONCE = 32
OTHERS = 40
"""Keywords of other poems, drawn for each, beside which its own must stand out."""
STANDS_OUT = 0.9
"""A keyword is found in a picture if the picture is nearer to it than to this share of the others'."""
PICTURES = 2000
"""Held-out pictures at most, to which the distance is measured."""


class Scorer(Protocol):
    """What knows how near pictures are to words."""

    name: str

    def vectors(self, pictures: Sequence[np.ndarray]) -> np.ndarray:
        """A vector a picture, uint8 (height, width, 3) each."""
        ...

    def cosines(self, vectors: np.ndarray, words: Sequence[str]) -> np.ndarray:
        """How near each picture is to each text: (pictures, words)."""
        ...


@dataclass(frozen=True)
class Drawn:
    """A poem with its picture."""

    poem: Poem
    prompt: str
    picture: Image.Image
    alignment: float
    """How near the picture is to the prompt."""
    found: dict[str, bool]
    """Each keyword of the prompt, and whether it is found in the picture."""


@dataclass(frozen=True)
class Score:
    """What a way of drawing reached."""

    alignment: float
    """The mean over the poems, …"""
    alignment_by_chance: float
    """… and that of each picture to the prompt of another poem: a scorer that says the same of both says nothing."""
    completeness: float
    """The share of all keywords that are found."""
    completeness_by_chance: float
    """The same of another poem's picture; a tenth where the scorer sees nothing."""
    frechet: float | None
    """Fréchet distance of the scorer's vectors to those of held-out pictures; None where there are too few."""


def held_out(release: Path, count: int) -> list[Poem]:
    """Poems of the splits that training has not seen, with all of their authors' poems.

    Raises:
        JuZhouError: the release has none.
    """
    found = [poem for poem in poems(release) if poem.split != "train"]
    if not found:
        raise JuZhouError(f"{release}: no held-out poems; build it from a recipe with `poetry` and a validation split")
    return sorted(found, key=lambda poem: digest(poem.text.encode()))[:count]


def held_pictures(release: Path, size: tuple[int, int]) -> list[np.ndarray]:
    """Held-out pictures of a release, those that were drawn of poems where there are such: uint8 (*size, 3) each."""
    places = folders(release)
    names = pq.read_schema(release / "samples.parquet").names
    columns = ["image_id", "split", "release", "shard", "offset", "length", *({"keywords"} & {*names})]
    rows = pq.read_table(release / "samples.parquet", columns=columns)
    rows = rows.filter(pc.not_equal(rows["split"], "train"))
    if "keywords" in rows.column_names and rows["keywords"].null_count < len(rows):
        rows = rows.filter(pc.is_valid(rows["keywords"]))
    once = {row["image_id"]: row for row in rows.to_pylist()}
    found = []
    for _, row in sorted(once.items())[:PICTURES]:
        with (places[row["release"]] / row["shard"]).open("rb") as tar:
            tar.seek(row["offset"])
            found.append(decode(tar.read(row["length"]), size).permute(1, 2, 0).numpy())
    return found


def evaluate(
    ways: dict[str, tuple[JuZhouPipeline, int]],
    asked: Sequence[Poem],
    refine: Callable[[str], str] | None,
    scorer: Scorer,
    pictures: Sequence[np.ndarray],
    say: Say,
) -> dict[str, tuple[Score, list[Drawn]]]:
    """Scores and pictures of each way there is to draw.

    Args:
        ways: a pipeline and its steps, by name.
        refine: a raw poem → its prompt; what the release says that it shows when left out. A poem for which it fails
            is told and left out.
        pictures: held-out ones, for the distance.
    """
    prompts = _prompts(asked, refine, say)
    reference = moments(scorer.vectors(pictures)) if len(pictures) > 1 else None
    found = {}
    for name, (pipeline, steps) in ways.items():
        drawn: list[Image.Image] = []
        for start in range(0, len(prompts), AT_ONCE):
            texts = [prompt for _, prompt in prompts[start : start + AT_ONCE]]
            drawn += pipeline(texts, num_inference_steps=steps, seed=start)
        found[name] = _scored(prompts, drawn, scorer, reference)
        say(told(name, found[name][0], len(drawn)))
    return found


def _prompts(asked: Sequence[Poem], refine: Callable[[str], str] | None, say: Say) -> list[tuple[Poem, str]]:
    found = []
    for poem in asked:
        try:
            found.append((poem, refine(poem.text) if refine else poem.keywords))
        except JuZhouError as error:
            say(f"{poem.title}: not refined: {error}")
    if len(found) < 2:
        raise JuZhouError(f"of {len(asked)} poems {len(found)} were refined; two are needed at least")
    return found


def _scored(
    prompts: Sequence[tuple[Poem, str]], drawn: Sequence[Image.Image], scorer: Scorer, reference: Moments | None
) -> tuple[Score, list[Drawn]]:
    vectors = scorer.vectors([np.array(picture) for picture in drawn])
    elsewhere = np.roll(vectors, 1, axis=0)
    everything = sorted({word for _, prompt in prompts for word in words(prompt)})
    rows, by_chance = [], []
    for (poem, prompt), picture, mine, another in zip(prompts, drawn, vectors, elsewhere, strict=True):
        alignment, found = _judged(prompt, poem, np.stack([mine, another]), everything, scorer)
        rows.append(Drawn(poem, prompt, picture, float(alignment[0]), dict(zip(words(prompt), found[0], strict=True))))
        by_chance.append((float(alignment[1]), found[1]))
    return (
        Score(
            float(np.mean([row.alignment for row in rows])),
            float(np.mean([alignment for alignment, _ in by_chance])),
            float(np.mean([found for row in rows for found in row.found.values()])),
            float(np.mean([one for _, found in by_chance for one in found])),
            frechet(moments(vectors), reference) if reference else None,
        ),
        rows,
    )


def _judged(
    prompt: str, poem: Poem, vectors: np.ndarray, everything: Sequence[str], scorer: Scorer
) -> tuple[np.ndarray, list[list[bool]]]:
    """Of each of some pictures how near it is to a prompt, and which of the prompt's keywords are found in it."""
    mine = words(prompt)
    key = poem.text.encode()
    others = sorted((word for word in everything if word not in mine), key=lambda word: digest(key + word.encode()))
    others = others[:OTHERS]
    near = scorer.cosines(vectors, [prompt, *mine, *others])
    own, theirs = near[:, 1 : 1 + len(mine)], near[:, 1 + len(mine) :]
    better = (own[:, :, None] > theirs[:, None, :]).mean(axis=2) if others else np.ones_like(own)
    return near[:, 0], (better >= STANDS_OUT).tolist()


def words(prompt: str) -> list[str]:
    """The keywords of a prompt, each once."""
    return list(dict.fromkeys(word.strip() for word in prompt.split(",") if word.strip()))


def told(name: str, reached: Score, count: int) -> str:
    """A score in one line."""
    distance = "" if reached.frechet is None else f" · Fréchet {reached.frechet:.2f}"
    return (
        f"{name:>4} steps, {count} poems: alignment {reached.alignment:.4f} (another poem's picture: "
        f"{reached.alignment_by_chance:.4f}) · completeness {reached.completeness:.3f} (another's: "
        f"{reached.completeness_by_chance:.3f}){distance}"
    )


def summary(found: dict[str, tuple[Score, list[Drawn]]], scorer: Scorer, pictures: int) -> str:
    """All scores as one JSON object, with what they were scored by."""
    said: dict[str, object] = {"scorer": scorer.name, "held_pictures": pictures}
    for name, (reached, drawn) in found.items():
        said["poems"] = len(drawn)
        for measure, value in vars(reached).items():
            said[f"{measure}_{name}"] = None if value is None else round(value, 4)
    return json.dumps(said, ensure_ascii=False)


def steps_of(base: JuZhouPipeline | None, distilled: JuZhouPipeline | None) -> dict[str, tuple[JuZhouPipeline, int]]:
    """The ways in which a training's checkpoints draw, by the number of steps."""
    ways = {f"{STEPS}": (base, STEPS)} if base else {}
    if distilled:
        few = distilled.config["distilled_steps"]
        ways[f"{few}"] = (distilled, few)
    return ways


PAGE = """<!doctype html>
<html lang="zh"><meta charset="utf-8"><title>{title}</title>
<style>
body {{ font: 15px/1.6 "Noto Serif CJK SC", "Songti SC", serif; margin: 2em auto; max-width: 1200px; color: #222; }}
p.note {{ color: #666; }}
.poems {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(360px, 1fr)); gap: 18px; }}
.poem {{ border: 1px solid #ddd; border-radius: 6px; padding: 12px; display: flex; gap: 12px; }}
.poem img {{ width: 128px; height: 128px; display: block; margin-bottom: 4px; }}
.poem h3 {{ margin: 0; font-size: 16px; }} .poem .by {{ color: #888; font-size: 13px; }}
.poem .lines {{ white-space: pre-line; max-height: 9.6em; overflow: auto; }}
.word {{ padding: 0 4px; border-radius: 3px; background: #eee; color: #888; }}
.found {{ background: #d9efd9; color: #222; }}
.score {{ color: #888; font-size: 12px; }}
</style>
<h1>{title}</h1><p class="note">{note}</p>
<div class="poems">{poems}</div></html>
"""


def page(found: dict[str, tuple[Score, list[Drawn]]], scorer: Scorer, path: Path) -> None:
    """Write a page of all poems with their pictures, prompts and scores; it needs nothing beside it."""
    notes = [told(name, reached, len(drawn)) for name, (reached, drawn) in found.items()]
    note = f"Scorer: {scorer.name}. Green: keywords found in the picture. " + "; ".join(notes)
    by_poem = zip(*(drawn for _, drawn in found.values()), strict=True)
    cards = [_card(dict(zip(found, rows, strict=True))) for rows in by_poem]
    path.write_text(
        PAGE.format(title="诗与画 · Poems that training has not seen", note=html.escape(note), poems="\n".join(cards)),
        encoding="utf-8",
    )


def _card(ways: dict[str, Drawn]) -> str:
    poem = next(iter(ways.values())).poem
    pictures = "".join(
        f'<img src="data:image/png;base64,{_encoded(row.picture)}" alt="{name} steps" title="{name} steps">'
        f'<div class="score">{name} steps · {row.alignment:.3f}</div>'
        for name, row in ways.items()
    )
    shown = {word: any(row.found[word] for row in ways.values()) for word in next(iter(ways.values())).found}
    found = [f'<span class="word{" found" * seen}">{html.escape(word)}</span>' for word, seen in shown.items()]
    return (
        f'<div class="poem"><div>{pictures}</div><div><h3>{html.escape(poem.title)}</h3>'
        f'<div class="by">{html.escape(poem.author)}</div><div class="lines">{html.escape(poem.text)}</div>'
        f"<div>{' '.join(found)}</div></div></div>"
    )


def _encoded(picture: Image.Image) -> str:
    sink = io.BytesIO()
    picture.save(sink, "PNG")
    return base64.b64encode(sink.getvalue()).decode()
