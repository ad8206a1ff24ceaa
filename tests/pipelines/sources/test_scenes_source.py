"""Scenes come out of a source as numbered, with their captions and licence, and more of them leave the first alone."""

import io
from typing import Any

import pytest
from PIL import Image

from pipelines.corpus import Corpus
from pipelines.scenes import emoji
from pipelines.sources.scenes import LICENCE, scenes_stage
from pipelines.stage import pending
from schemas.errors import JuZhouError
from schemas.recipe import Fetch, Scenes
from schemas.scenes import training
from schemas.tables import FILES


def made(corpus: Corpus, **source: int) -> list[dict[str, Any]]:
    """The pictures that were not made yet, in the order of their numbers."""
    stage = scenes_stage(corpus, "world", Scenes(kind="scenes", **source), Fetch())
    work, files, pictures = stage.work(), pending(corpus, stage), []
    for start in range(files.num_rows):
        for _, rows in work(files.slice(start, 1)):
            corpus.append(FILES, rows)
            assert all(row["error"] is None for row in rows.to_pylist())
            pictures += [picture for row in rows.to_pylist() for picture in row["pictures"]]
    return sorted(pictures, key=lambda picture: int(picture["url"].partition("#")[2]))


def test_scenes_are_made_once_and_the_same_whatever_their_number(corpus: Corpus) -> None:
    try:
        emoji(lambda line: None)
    except JuZhouError as error:
        pytest.skip(f"the emoji cannot be had: {error}")
    first = made(corpus, count=1_010, seed=5)
    assert [picture["url"] for picture in first[:2]] == ["file:world/0#0", "file:world/0#1"]
    assert len(first) == 1_010 and not made(corpus, count=1_010, seed=5)
    for number, picture in enumerate(first[::101]):
        assert (picture["status"], picture["licence"]) == ("ok", LICENCE)
        assert picture["caption"] == training(5, number * 101)[1]
        content = corpus.read(picture["tar"], picture["offset"], picture["length"])
        with Image.open(io.BytesIO(content)) as opened:
            assert (opened.format, opened.size) == ("PNG", (64, 64))
    more = made(corpus, count=2_000, seed=5)
    assert len(more) == 1_000, "the file that was cut short is made whole"
    assert {picture["image_id"] for picture in first[1_000:]} <= {picture["image_id"] for picture in more}
