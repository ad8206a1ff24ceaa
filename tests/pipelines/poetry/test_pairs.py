"""Which styles a poem is drawn in: what suits it, as many as the report has on average, the same everywhere."""

from collections import Counter

from pipelines.poetry.imagery import lexicon
from pipelines.poetry.pairs import FEWEST, MORE, chosen, negative_prompt, prompt, traits
from pipelines.poetry.styles import MOODS, STYLES, TRAITS
from schemas.identity import digest

POEMS = [digest(str(number).encode()) for number in range(3000)]
FRONTIER = (["醉卧沙场君莫笑，古来征战几人回。"], ["沙漠", "酒杯", "士兵", "马"])
BIRDS = (["两个黄鹂鸣翠柳，一行白鹭上青天。"], ["黄莺", "柳树", "白鹭", "春天"])


def drawn(poem: tuple[list[str], list[str]]) -> Counter[str]:
    return Counter(style.name for poem_id in POEMS for style in chosen(poem_id, *poem))


def test_fourteen_styles_of_four_families_that_name_known_traits() -> None:
    assert len(STYLES) == len({style.name for style in STYLES}) == 14
    assert len({style.family for style in STYLES}) == 4
    assert {trait for style in STYLES for trait in style.suits} <= TRAITS.keys() | MOODS.keys()
    known = {word for shown in lexicon().keywords for word in shown}
    assert set().union(*TRAITS.values()) <= known


def test_about_as_many_a_poem_as_the_report_has_each_once() -> None:
    counts = [len(chosen(poem_id, *BIRDS)) for poem_id in POEMS]
    assert set(counts) == {FEWEST, FEWEST + 1}
    assert abs(sum(counts) / len(counts) - (FEWEST + MORE)) < 0.03
    names = [[style.name for style in chosen(poem_id, *BIRDS)] for poem_id in POEMS[:100]]
    assert all(len(set(styles)) == len(styles) for styles in names)


def test_what_suits_is_drawn_more_often_and_all_are_drawn() -> None:
    frontier, birds = drawn(FRONTIER), drawn(BIRDS)
    assert birds["工笔画"] > 1.8 * frontier["工笔画"] and frontier["油画"] > 1.3 * birds["油画"]
    assert frontier["赛博朋克"] > birds["赛博朋克"]
    assert len(frontier) == len(birds) == len(STYLES)


def test_the_choice_is_the_poems_own_and_one_that_shows_nothing_has_none() -> None:
    assert chosen(POEMS[0], *BIRDS) == chosen(POEMS[0], *BIRDS) != chosen(POEMS[1], *BIRDS)
    assert chosen(POEMS[0], ["人之初，性本善。"], ["人"]) == []


def test_traits_and_moods() -> None:
    assert traits(["愁看泪下"], ["月亮", "青色的山"]) == {"愁", "夜", "山水"}
    assert "愁" not in traits(["愁看"], [])


def test_the_scene_comes_first_in_every_style() -> None:
    prompts = [prompt(["月亮", "船"], style) for style in STYLES]
    assert all(text.startswith("月亮, 船, ") for text in prompts) and len(set(prompts)) == len(STYLES)
    assert all("水印" in negative_prompt(style) for style in STYLES)
