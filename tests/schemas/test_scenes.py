"""The world of scenes is the same each time, says what it shows, and keeps its held-out pairs to itself."""

import re
from random import Random

import pytest

from schemas.scenes import (
    BY_NAME,
    CATEGORIES,
    COLOURS,
    KINDS,
    OPPOSITE,
    SIDE_WORDS,
    Category,
    Scene,
    Thing,
    caption,
    draw,
    held_out,
    prompts,
    training,
    unseen,
)


def test_there_are_enough_kinds_and_no_name_twice() -> None:
    names = [name for kind in KINDS for name in kind.names]
    assert len(KINDS) >= 48 and len(names) == len(set(names))


def test_a_training_scene_is_a_function_of_its_number_and_shows_nothing_held_out() -> None:
    scenes = [training(0, number) for number in range(2_000)]
    assert scenes == [training(0, number) for number in range(2_000)]
    assert scenes != [training(1, number) for number in range(2_000)]
    assert not any(unseen(scene) for scene, _ in scenes)
    assert {scene.category for scene, _ in scenes} == set(CATEGORIES)


def test_about_one_pair_in_eight_is_held_out_whatever_its_order() -> None:
    pairs = [(one.name, other.name) for one in KINDS for other in KINDS if one.name < other.name]
    assert 0.1 < sum(held_out(*pair) for pair in pairs) / len(pairs) < 0.15
    assert all(held_out(one, other) == held_out(other, one) for one, other in pairs[:50])


@pytest.mark.parametrize("category", CATEGORIES)
def test_prompts_are_fixed_distinct_and_new_to_training(category: Category) -> None:
    asked = prompts(category, 40)
    assert asked == prompts(category, 100)[:40]
    assert len({text for _, text in asked}) == 40
    assert all(unseen(scene) for scene, _ in asked if len(scene.things) == 2)


@pytest.mark.parametrize("category", CATEGORIES)
def test_a_caption_names_all_that_a_scene_shows(category: Category) -> None:
    random = Random(category)
    for _ in range(200):
        scene = draw(category, random)
        text = caption(scene, random)
        assert len(text) <= 30
        for thing in scene.things:
            assert any(name in text for name in thing.kind.names), text
            assert thing.colour is None or thing.colour in text
            assert thing.count == 1 or re.search({2: "[两2]", 3: "[三3]", 4: "[四4]"}[thing.count], text)


def test_sides_are_said_from_both_ends() -> None:
    scene = Scene("position", (Thing(BY_NAME["苹果"], "红"), Thing(BY_NAME["猫"])), "left")
    texts = {caption(scene, Random(number)) for number in range(2_000)}
    assert "红苹果在猫的左边" in texts
    for text in texts:
        apple, cat = text.index("苹果"), min(text.index(name) for name in BY_NAME["猫"].names if name in text)
        here, there = (any(word in text for word in SIDE_WORDS[side]) for side in ("left", OPPOSITE["left"]))
        if here and there:
            assert (text.index("左") < text.index("右")) == (apple < cat)
        elif there:
            assert cat < apple and "在" in text
        else:
            assert here


def test_colours_are_apart() -> None:
    values = list(COLOURS.values())
    for number, one in enumerate(values):
        for other in values[number + 1 :]:
            assert sum(abs(a - b) for a, b in zip(one, other, strict=True)) > 80
