"""Scores of composed scenes: what is asked and there is right, what is not there is wrong."""

import json

import numpy as np
import pytest
import torch

from schemas.scenes import BY_NAME, CATEGORIES, Category, Scene, Side, Thing
from training.evaluation import scenes as evaluation
from training.evaluation.detector import FEATURES, Detection, Seen, load, look
from training.evaluation.frechet import frechet, moments
from training.evaluation.scenes import Score, asked, right, score, summary

CAT, APPLE = BY_NAME["猫"], BY_NAME["苹果"]


def found(*things: tuple[str, str | None, float, float]) -> list[Detection]:
    return [Detection(*thing) for thing in things]


def test_single_things_and_numbers() -> None:
    one = found(("猫", None, 0.5, 0.5))
    two = found(("猫", None, 0.2, 0.5), ("猫", "红", 0.8, 0.5))
    assert right(one, Scene("single", (Thing(CAT),)))
    assert right(two, Scene("single", (Thing(CAT),)))
    assert not right(one, Scene("single", (Thing(APPLE),)))
    assert right(two, Scene("counting", (Thing(CAT, count=2),)))
    assert not right(one, Scene("counting", (Thing(CAT, count=2),)))
    assert not right([*two, *one], Scene("counting", (Thing(CAT, count=2),)))


def test_colours_belong_to_their_things() -> None:
    there = found(("猫", "红", 0.2, 0.5), ("苹果", "蓝", 0.8, 0.5))
    assert right(there, Scene("attribution", (Thing(CAT, "红"), Thing(APPLE, "蓝"))))
    assert not right(there, Scene("attribution", (Thing(CAT, "蓝"), Thing(APPLE, "红"))))
    assert right(there, Scene("two", (Thing(APPLE), Thing(CAT))))
    assert not right(there, Scene("colours", (Thing(CAT, "绿"),)))
    assert not right(found(("猫", None, 0.2, 0.5)), Scene("colours", (Thing(CAT, "红"),)))


@pytest.mark.parametrize(
    ("side", "x", "y"), [("left", 0.2, 0.5), ("right", 0.8, 0.5), ("above", 0.5, 0.2), ("below", 0.5, 0.8)]
)
def test_sides(side: Side, x: float, y: float) -> None:
    there = found(("苹果", None, x, y), ("猫", None, 0.5, 0.5))
    sides: tuple[Side, ...] = ("left", "right", "above", "below")
    for other in sides:
        assert right(there, Scene("position", (Thing(APPLE), Thing(CAT)), other)) == (other == side)
    assert not right(there[:1], Scene("position", (Thing(APPLE), Thing(CAT)), side))


def test_as_many_prompts_as_geneval_has() -> None:
    assert len(asked(quick=False)) == 553
    assert {scene.category for scene, _ in asked(quick=True)} == set(CATEGORIES)


def test_noise_shows_nothing_and_lies_far_from_scenes() -> None:
    pictures = torch.rand(12, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    entries = [scene for scene, _ in asked(quick=True)][::8]
    reached = score(pictures, entries)
    assert reached.overall < 0.2 and reached.frechet > 1


def test_more_pictures_of_a_prompt_count_as_one_prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    scenes, cat = [scene for scene, _ in asked(quick=True)], found(("猫", None, 0.5, 0.5))
    monkeypatch.setattr(evaluation, "right", lambda found, scene: bool(found))
    pictures = torch.zeros(2 * len(scenes), 3, 64, 64)
    for rounds, error in ((([cat] * 96, [[]] * 96), 0.0), (([cat, []] * 48, [cat, []] * 48), np.sqrt(0.25 / 96))):
        seen = Seen([*rounds[0], *rounds[1]], torch.randn(2 * len(scenes), FEATURES))
        monkeypatch.setattr(evaluation, "look", lambda detector, pictures, seen=seen: seen)
        twice = score(pictures, scenes)
        assert (twice.prompts, twice.pictures, twice.overall) == (96, 2, 0.5)
        assert set(twice.categories.values()) == {0.5} and twice.error == pytest.approx(error)


def test_the_distance_of_equal_features_is_nothing_and_grows() -> None:
    features = np.random.default_rng(0).standard_normal((4_000, FEATURES))
    reference = moments(features)
    assert frechet(moments(features), reference) == pytest.approx(0, abs=1e-3)
    near, far = (frechet(moments(features + by), reference) for by in (0.1, 1.0))
    assert near == pytest.approx(0.01 * FEATURES, rel=0.01) and far == pytest.approx(FEATURES, rel=0.01)


def test_the_detector_takes_pictures_of_64_to_128_pixels() -> None:
    detector, _ = load()
    assert sum(parameter.numel() for parameter in detector.parameters()) < 1.5e6
    for size in (64, 128):
        assert look(detector, torch.ones(2, 3, size, size)).features.shape == (2, FEATURES)


def test_the_summary_has_the_ratio() -> None:
    shares: dict[Category, float] = dict.fromkeys(CATEGORIES, 0.5)
    scores = {name: Score(shares, overall, 0.01, 2.0, 553, 4) for name, overall in (("28", 0.5), ("4", 0.45))}
    told = json.loads(summary(scores))
    assert (told["overall_28"], told["overall_4"], told["ratio"]) == (0.5, 0.45, 0.9)
    assert told["categories_4"]["counting"] == 0.5
    assert (told["prompts"], told["pictures"]) == (553, 4)
