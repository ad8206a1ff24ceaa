"""Held-out poems are drawn and scored: what is there is found, and another poem's picture is told apart."""

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from model.pipeline import JuZhouPipeline
from schemas.errors import JuZhouError
from schemas.release import POEMS
from training.evaluation import poetry as evaluation
from training.evaluation.poetry import evaluate, held_out, held_pictures, page, summary, words
from training.release import Poem

COLOURS = {"红": (255, 0, 0), "绿": (0, 255, 0), "蓝": (0, 0, 255), "黄": (255, 255, 0), "青": (0, 255, 255)}


class Colours:
    """A scorer that sees the mean colour."""

    name = "mean colour"

    def vectors(self, pictures: Sequence[np.ndarray]) -> np.ndarray:
        return np.stack([picture.reshape(-1, 3).mean(axis=0) / 127.5 - 1 for picture in pictures])

    def cosines(self, vectors: np.ndarray, words: Sequence[str]) -> np.ndarray:
        said = np.array([np.sum([COLOURS.get(sign, (127, 127, 127)) for sign in word], axis=0) for word in words])
        return vectors @ (said / 127.5 - 1).T


class Painter:
    """Paints the first colour that a prompt names."""

    def __call__(self, prompts: Sequence[str], num_inference_steps: int, seed: int) -> list[Image.Image]:
        return [Image.new("RGB", (32, 32), COLOURS[prompt[0]]) for prompt in prompts]


ASKED = [Poem(f"{colour}，", f"{colour}, 无色", colour, "某人", "validation") for colour in COLOURS]


def test_what_is_drawn_is_found_and_another_poems_picture_is_told_apart(tmp_path: Path) -> None:
    told: list[str] = []
    pictures = [np.full((32, 32, 3), colour, np.uint8) for colour in COLOURS.values()]
    found = evaluate({"4": (Painter(), 4)}, ASKED, None, Colours(), pictures, told.append)  # type: ignore[dict-item]
    reached, drawn = found["4"]
    assert [row.found for row in drawn] == [{row.poem.title: True, "无色": False} for row in drawn]
    assert reached.completeness == 0.5 and reached.completeness_by_chance < 0.2
    assert reached.alignment > reached.alignment_by_chance
    assert reached.frechet == pytest.approx(0, abs=1e-3)
    assert json.loads(summary(found, Colours(), 5)) == {
        "scorer": "mean colour",
        "held_pictures": 5,
        "poems": 5,
        "completeness_4": 0.5,
    } | {f"{name}_4": round(vars(reached)[name], 4) for name in vars(reached)}
    page(found, Colours(), tmp_path / "poems.html")
    text = (tmp_path / "poems.html").read_text()
    assert text.count("data:image/png") == 5 and text.count('class="word found"') == 5 and "mean colour" in text


def test_a_poem_that_is_not_refined_is_told() -> None:
    told: list[str] = []

    def refine(poem: str) -> str:
        if poem[0] == "青":
            raise JuZhouError("nothing to see")
        return poem[0]

    found = evaluate({"4": (Painter(), 4)}, ASKED, refine, Colours(), [], told.append)  # type: ignore[dict-item]
    reached, drawn = found["4"]
    assert len(drawn) == 4 and reached.frechet is None and told[0] == "青: not refined: nothing to see"
    with pytest.raises(JuZhouError, match="of 1 poems 0 were refined"):
        evaluate({"4": (Painter(), 4)}, ASKED[4:], refine, Colours(), [], told.append)  # type: ignore[dict-item]


@pytest.fixture
def versed(release: Path, tmp_path: Path) -> Path:
    """The tiny release with poems, some of them held out."""
    folder = shutil.copytree(release, tmp_path / "release")
    rows = [
        {
            "poem_id": bytes(16),
            "split": split,
            "title": title,
            "author": "某人",
            "text": title,
            "keywords": f"{title}, 圆",
        }
        for title, split in (("红色的圆", "validation"), ("蓝色的方块", "test"), ("绿色的圆", "train"))
    ]
    pq.write_table(pa.Table.from_pylist(rows), folder / POEMS)
    samples = pq.read_table(folder / "samples.parquet")
    held = pa.array(["train"] * 30 + ["validation"] * (len(samples) - 30))
    pq.write_table(samples.set_column(samples.column_names.index("split"), "split", held), folder / "samples.parquet")
    return folder


def test_poems_and_pictures_that_training_has_not_seen(versed: Path, release: Path) -> None:
    assert {poem.title for poem in held_out(versed, 10)} == {"红色的圆", "蓝色的方块"}
    assert len(held_out(versed, 1)) == 1
    with pytest.raises(JuZhouError, match="no held-out poems"):
        held_out(release, 10)
    samples = pq.read_table(versed / "samples.parquet").to_pylist()
    drawn = {row["image_id"] for row in samples if row["split"] == "validation" and row["keywords"]}
    pictures = held_pictures(versed, (32, 32))
    assert len(pictures) == len(drawn) >= 1 and pictures[0].shape == (32, 32, 3)


def test_words_of_a_prompt() -> None:
    assert words("月亮, 船,月亮,  , 水墨画，宣纸") == ["月亮", "船", "水墨画，宣纸"]


def test_a_checkpoint_from_the_shell(trained: dict[str, Path], versed: Path, tmp_path: Path) -> None:
    checkpoint = trained["dmd2"] / "checkpoint"
    assert JuZhouPipeline.from_pretrained(checkpoint).default_size == 32
    juzhou = [sys.executable, "-c", "from juzhou.cli import main; main()"]
    asked = [*juzhou, "evaluate", "poetry", str(checkpoint), str(versed), "--quick", "--page", str(tmp_path / "a.html")]
    run = subprocess.run(asked, capture_output=True, text=True)
    said = json.loads(run.stdout.splitlines()[-1])
    assert said["poems"] == 2 and "stand-in" in said["scorer"] and 0 <= said["completeness_4"] <= 1, run.stderr
    assert (tmp_path / "a.html").read_text().count("data:image/png") == 2
    assert evaluation.steps_of(None, None) == {}
