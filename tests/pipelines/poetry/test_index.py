"""Poems near what is asked, their best lines, and an index that is the same wherever it is made."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from filters.alignment import unit
from pipelines.poetry import index
from pipelines.poetry.imagery import cut, keywords, named
from pipelines.poetry.retrieval import fits

POEMS = [
    ["床前明月光，疑是地上霜。", "举头望明月，低头思故乡。"],
    ["千山鸟飞绝，万径人踪灭。", "孤舟蓑笠翁，独钓寒江雪。"],
    ["葡萄美酒夜光杯，欲饮琵琶马上催。", "醉卧沙场君莫笑，古来征战几人回。"],
]


@pytest.fixture(scope="module")
def read() -> Callable[[list[str]], dict[str, np.ndarray]]:
    """A random direction a word."""

    def meanings(words: list[str]) -> dict[str, np.ndarray]:
        random = np.random.default_rng(1)
        return dict(zip(words, unit(random.standard_normal((len(words), 64))), strict=True))

    return meanings


@pytest.mark.parametrize(
    ("caption", "shown"),
    [
        ("月亮和小船", ["月亮", "船"]),
        ("古装美女弹琴图片", ["女子", "古琴"]),
        ("雪山", ["雪", "山"]),
        ("火车站台旅客", ["行人"]),
        ("手机壳 苹果", []),
        ("", []),
        ("桃花\n燕子", ["桃花", "燕子"]),
    ],
)
def test_what_a_modern_caption_names(caption: str, shown: list[str]) -> None:
    assert named(cut([caption])) == [shown]
    assert named(cut(["月亮", caption, "船"])) == [["月亮"], shown, ["船"]]


def test_the_nearest_poem_is_the_one_that_shows_the_same(read: Callable[..., dict[str, np.ndarray]]) -> None:
    shown = keywords(POEMS)
    meanings = read(sorted({word for words in shown for word in words}))
    vectors = index.poem_vectors(shown, meanings)
    assert vectors.shape == (3, 64 + index.SKETCH) and np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    mean = np.stack([*meanings.values()]).mean(axis=0)
    asked = [["雪", "船"], ["沙漠", "马"], ["月亮", "床"]]
    queries = index.joined(
        np.stack([np.mean([meanings[word] for word in words], axis=0) - mean for words in asked]),
        np.stack([index.sketches(words).sum(axis=0) for words in asked]),
    )
    _, found = index.search(vectors).search(queries, 2)
    assert found[:, 0].tolist() == [1, 2, 0]
    assert not index.poem_vectors([[], shown[0]], meanings)[0].any()


def test_a_thing_in_a_colour_is_the_same_thing(read: Callable[..., dict[str, np.ndarray]]) -> None:
    shown = [["白色的马", "山"], ["马", "山"], ["船", "雪"]]
    vectors = index.poem_vectors(shown, read(["白色的马", "马", "山", "船", "雪"]))
    named = vectors[:, 64:]
    assert np.array_equal(named[0], named[1]) and not np.array_equal(named[0], named[2])
    assert not np.array_equal(vectors[0, :64], vectors[1, :64])


def test_the_best_line_of_each_poem() -> None:
    lines = index.lines_of(POEMS)
    weighed = index.weigh(lines, cut(["雪中的小船", "明月", "手机"]), np.array([[1, 0, -1], [0, 1, 2], [0, 1, 2]]))
    texts = [[lines.texts[at].as_py() if at >= 0 else None for at in row] for row in weighed.line.tolist()]
    assert texts[0][0] == "孤舟蓑笠翁，独钓寒江雪。" and texts[0][2] is None
    assert "月" in texts[1][0] and weighed.overlap[1, 0] > 0.5 > weighed.overlap[1, 1] == 0
    assert weighed.shared[1, 0] > 0 and not weighed.overlap[2].any() and not weighed.shared[2].any()
    assert weighed.overlap.max() <= 1 + 1e-6 and weighed.shared.max() <= 1 + 1e-6
    alone = index.weigh(lines, cut(["明月"]), np.array([[0, 1, 2]]))
    assert [part.tolist() for part in alone] == [part[1:2].tolist() for part in weighed]


def test_more_speaks_for_a_line() -> None:
    base = fits(np.array([1.0]), np.array([0.2]), np.array([0.1]))
    for more in ((2.0, 0.2, 0.1), (1.0, 0.4, 0.1), (1.0, 0.2, 0.3)):
        assert fits(*(np.array([value]) for value in more)) > base
    assert 0 < base < 1


def test_many_poems_are_found_in_clusters_as_without(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    centres = random.standard_normal((500, 32))[random.integers(500, size=25_000)]
    vectors = unit(centres + 0.3 * random.standard_normal((25_000, 32)))
    queries = vectors[:200]
    _, exact = index.search(vectors[: index.FLAT]).search(queries, 10)
    assert (exact[:, 0] == np.arange(200)).all(), "up to so many all are looked at"
    with ThreadPoolExecutor(2) as two:
        made = [*two.map(lambda _: index.kept(tmp_path / "indexes" / "a.faiss", vectors), range(2))]
    assert [path.name for path in (tmp_path / "indexes").glob("*.faiss")] == ["a.faiss"]
    nearest = np.argsort(-(queries @ vectors.T), axis=1)[:, :10]
    found = [one.search(queries, 10)[1] for one in made]
    assert (found[0] == found[1]).all()
    both = zip(found[0].tolist(), nearest.tolist(), strict=True)
    assert np.mean([len({*some} & {*right}) / 10 for some, right in both]) > 0.95
    index.kept(tmp_path / "indexes" / "b.faiss", vectors[:100])
    assert [path.name for path in (tmp_path / "indexes").glob("*.faiss")] == ["b.faiss"], "the old one is gone"
