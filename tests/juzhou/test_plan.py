"""What a recipe asks for becomes stages and tables, or one line that says what is missing."""

from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from juzhou.build import plan
from pipelines.corpus import Corpus
from schemas.errors import JuZhouError
from schemas.recipe import Recipe


def recipe(path: Path, **about: Any) -> Recipe:
    usual = {"corpus": path, "sources": {}, "policy": path, "release": "r", "measures": ["size", "pdq"]}
    return Recipe.model_validate(usual | about)


def test_look_alikes_are_found_once_copies_are(corpus: Corpus, started: datetime) -> None:
    asked = {"measures": ["size", "pdq", "lite_embedding"], "dedupe": {"semantic": {"similarity": 0.9}}}
    steps = plan(recipe(corpus.path, **asked), corpus, started)
    assert steps.semantic and set(steps.semantic) < set(steps.variants)
    wider = plan(recipe(corpus.path, **asked | {"dedupe": {"radius": 40, "semantic": {}}}), corpus, started)
    assert wider.semantic and wider.semantic[0] == steps.semantic[0] and wider.semantic[1] != steps.semantic[1]
    assert plan(recipe(corpus.path), corpus, started).semantic is None


def test_the_rank_and_the_pixels_are_part_of_what_copies_are(corpus: Corpus, started: datetime) -> None:
    wanted = (["pdq"], ["pdq", "pixels"], ["pdq", "lite_embedding", "lite_aesthetic"])
    tables = {plan(recipe(corpus.path, measures=some), corpus, started).duplicates.path for some in wanted}
    assert len(tables) == 3


@pytest.mark.parametrize(
    ("about", "message"),
    [
        ({"measures": ["size"]}, "copies are found by the measure 'pdq': add it to the recipe's measures"),
        (
            {"dedupe": {"semantic": {}}},
            "look-alikes are found by the measure 'lite_embedding': add it to the recipe's measures",
        ),
        (
            {"captions": {"mask_names": True}},
            "names are masked by the measure 'names': add it to the recipe's measures",
        ),
    ],
)
def test_a_measure_that_is_missing_is_named(
    corpus: Corpus, started: datetime, about: dict[str, Any], message: str
) -> None:
    with pytest.raises(JuZhouError) as error:
        plan(recipe(corpus.path, **about), corpus, started)
    assert str(error.value) == message
