"""Composed scenes show what they say, where they say it, and come out of a build as any source's pictures do."""

from random import Random

import numpy as np
import pytest

from pipelines import scenes
from pipelines.scenes import Cutouts, compose, dye, emoji
from schemas.errors import JuZhouError
from schemas.scenes import CATEGORIES, COLOURS, KINDS, OPPOSITE, draw


@pytest.fixture(scope="module")
def cutouts() -> Cutouts:
    try:
        return Cutouts(emoji(lambda line: None))
    except JuZhouError as error:
        pytest.skip(f"the emoji cannot be had: {error}")


def test_every_kind_has_its_own_picture() -> None:
    assert set(scenes.EMOJI) == {kind.name for kind in KINDS}
    assert len(set(scenes.EMOJI.values())) == len(KINDS)


def test_things_stand_apart_and_inside_and_as_often_as_asked(cutouts: Cutouts) -> None:
    random = Random(0)
    for number in range(300):
        scene = draw(CATEGORIES[number % 6], random)
        picture, standing = compose(scene, cutouts, 64, random)
        assert picture.size == (64, 64)
        asked = sorted(thing.kind.name for thing in scene.things for _ in range(thing.count))
        assert sorted(thing.kind for thing in standing) == asked
        for one in standing:
            assert 0 <= one.box.left < one.box.right <= 1 and 0 <= one.box.top < one.box.bottom <= 1
            for other in standing:
                left, right = max(one.box.left, other.box.left), min(one.box.right, other.box.right)
                top, bottom = max(one.box.top, other.box.top), min(one.box.bottom, other.box.bottom)
                assert one is other or left >= right or top >= bottom
        if scene.side:
            first, second = (thing.box for thing in standing)
            assert scenes.stands(first, second, scene.side)
            assert scenes.stands(second, first, OPPOSITE[scene.side])


def test_a_scene_is_a_function_of_its_randomness(cutouts: Cutouts) -> None:
    scene = draw("attribution", Random(3))
    one, again, other = (compose(scene, cutouts, 96, Random(seed))[0].tobytes() for seed in (1, 1, 2))
    assert one == again != other


@pytest.mark.parametrize("name", COLOURS)
def test_a_dyed_thing_is_of_its_colour_and_keeps_its_outline(cutouts: Cutouts, name: str) -> None:
    plain = cutouts("气球", None)
    dyed = np.asarray(dye(plain, COLOURS[name]), float)
    assert np.array_equal(dyed[..., 3], np.asarray(plain)[..., 3])
    mean = dyed[..., :3][dyed[..., 3] > 128].mean(axis=0)
    nearest = min(COLOURS, key=lambda colour: float(np.abs(mean - COLOURS[colour]).sum()))
    assert nearest == name
