"""A user's words are found as they are meant, quickly, and a changed list is another measure."""

import random
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from filters import registry
from filters.word_list import Words
from schemas.errors import JuZhouError


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Words:
    path = tmp_path_factory.mktemp("words") / "list.txt"
    path.write_text("# animals\n猫\n波斯猫\n\n  烏龜 \nCat\nＱＱ\n草地\n乌龟\n", encoding="utf-8")
    return Words(list=path)


@pytest.mark.parametrize(
    ("caption", "word", "count"),
    [
        ("一只猫", "猫", 1),
        ("一隻波斯貓在草地上", "波斯猫", 2),
        ("乌龟和烏龜", "烏龜", 2),
        ("CAT ｃａｔ", "Cat", 2),
        ("category bobcat cat2", None, 0),
        ("一只cat猫", "Cat", 2),
        ("qq群", "ＱＱ", 1),
        ("# animals", None, 0),
        ("", None, 0),
    ],
)
def test_the_longest_from_the_left_in_any_script_and_case(words: Words, caption: str, word: str, count: int) -> None:
    assert words([caption], {}) == {"word": [word], "count": [count]}


def test_a_match_ends_with_its_caption(words: Words) -> None:
    assert words(["波斯", "猫"], {}) == {"word": [None, "猫"], "count": [0, 1]}


def test_an_empty_list_finds_nothing(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("# nothing\n\u200b\n", encoding="utf-8")
    assert Words(list=tmp_path / "list.txt")(["猫", ""], {}) == {"word": [None, None], "count": [0, 0]}


def test_the_fingerprint_is_of_what_the_list_says_not_where_it_lies(tmp_path: Path) -> None:
    for name, content in (("a", "猫\n"), ("b", "猫\n"), ("c", "狗\n")):
        (tmp_path / name).write_text(content, encoding="utf-8")
    same, too, other = (Words(list=tmp_path / name).fingerprint() for name in "abc")
    assert same == too != other


def test_a_list_that_is_not_there_is_an_error_that_says_so(tmp_path: Path) -> None:
    with pytest.raises(JuZhouError, match="words"):
        registry.build({"words": {"list": str(tmp_path / "none.txt")}})


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(max_size=30) | st.text(st.sampled_from("猫波斯catQ 草地烏龜"), max_size=12), max_size=8))
def test_a_caption_gives_the_same_row_whatever_the_batch(words: Words, captions: list[str]) -> None:
    together = words(captions, {})
    for index, caption in enumerate(captions):
        alone = words([caption], {})
        assert (together["word"][index], together["count"][index]) == (alone["word"][0], alone["count"][0])


def test_a_hundred_thousand_words_cost_no_time(tmp_path: Path) -> None:
    rng = random.Random(0)
    listed = ["".join(chr(rng.randint(0x4E00, 0x9FA5)) for _ in range(rng.randint(2, 5))) for _ in range(100_000)]
    (tmp_path / "list.txt").write_text("\n".join(listed), encoding="utf-8")
    captions = ["".join(rng.choices(listed, k=6)) for _ in range(20_000)]
    words = Words(list=tmp_path / "list.txt")
    words(captions[:1], {})
    begun = time.process_time()
    counts = words(captions, {})["count"]
    assert time.process_time() - begun < 2
    assert sum(counts) > 100_000
