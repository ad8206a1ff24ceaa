"""Poems in a release: held out author by author, pictures drawn of them with them, and lines only so often."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.corpus import Corpus
from pipelines.releases import release
from schemas.identity import digest
from schemas.policy import PoemLines
from schemas.recipe import Poetry, Recipe, Splits
from schemas.release import POEMS as FILE
from schemas.release import Manifest
from schemas.tables import CAPTIONS, KEYWORDS, POEMS, Table, captions_table, keywords_table
from tests.pipelines.releases.test_release import KEEP_CHINESE, filled

AUTHORS = [f"诗人{number}" for number in range(40)]
SHOWN, LINES, DRAWN = keywords_table("lite", "0"), captions_table("line", "0"), captions_table("poem", "0")


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    measures: dict[str, dict[str, Any]] = {"size": {}, "pdq": {}}
    kinds = {"measures": measures, "poetry": Poetry(), "splits": Splits(validation=0.3)}
    return Recipe(corpus=tmp_path, sources={}, policy=tmp_path, release="r", **kinds)


@pytest.fixture
def verses(tmp_path: Path, draw: Callable[..., bytes]) -> Corpus:
    """A corpus with two poems of each author and one that shows nothing; none has captions of poems yet."""
    corpus = filled(tmp_path / "corpus", draw, 1)
    corpus.adopt("{}", [*(Table(path, (), pa.schema([])) for path in corpus.variants), SHOWN, LINES, DRAWN])
    rows = [
        {
            "poem_id": digest(f"{author}{n}".encode()),
            "title": f"{author}{n}",
            "author": author,
            "lines": [f"{author}其{n}"],
        }
        for author in AUTHORS
        for n in (1, 2)
    ]
    corpus.append(POEMS, pa.Table.from_pylist(rows, POEMS.schema))
    shown = [{"poem_id": row["poem_id"], "keywords": ["月亮", "船"]} for row in rows[:-1]]
    shown.append({"poem_id": rows[-1]["poem_id"], "keywords": []})
    corpus.append(SHOWN, pa.Table.from_pylist(shown, KEYWORDS))
    return corpus


def samples(corpus: Corpus) -> list[bytes]:
    ids: list[bytes] = corpus.sql("SELECT sample_id FROM verdicts WHERE kept ORDER BY 1").column(0).to_pylist()
    return ids


def caption(
    sample_id: bytes, author: str, rank: int = 1, score: float = 0.9, text: str | None = None
) -> dict[str, Any]:
    poem_id = digest(f"{author}1".encode())
    return {"sample_id": sample_id, "rank": rank, "poem_id": poem_id, "score": score, "text": text or f"{author}其1"}


def made(corpus: Corpus, recipe: Recipe, **lines: Any) -> tuple[list[dict[str, Any]], list[dict[str, Any]], Manifest]:
    policy = KEEP_CHINESE.model_copy(update={"poem_lines": PoemLines(**lines)})
    folder = release.run(corpus, recipe, policy)
    rows = pq.read_table(folder / "samples.parquet").to_pylist()
    return rows, pq.read_table(folder / FILE).to_pylist(), Manifest.load(folder)


@pytest.mark.usefixtures("ray_cluster")
def test_all_poems_of_an_author_are_in_one_split(verses: Corpus, recipe: Recipe) -> None:
    _, poems, manifest = made(verses, recipe)
    assert len(poems) == manifest.poems == 2 * len(AUTHORS) - 1
    splits = {author: {row["split"] for row in poems if row["author"] == author} for author in AUTHORS}
    assert all(len(found) == 1 for found in splits.values())
    counts = Counter(*[[next(iter(found)) for found in splits.values()]])
    assert 4 <= counts["validation"] <= 20 and counts.keys() == {"train", "validation"}
    assert {row["keywords"] for row in poems} == {"月亮, 船"} and poems[0]["text"].startswith("诗人")
    assert [row["poem_id"] for row in poems] == sorted(row["poem_id"] for row in poems)


@pytest.mark.usefixtures("ray_cluster")
def test_a_line_stands_beside_its_best_pictures_only(verses: Corpus, recipe: Recipe) -> None:
    _, poems, _ = made(verses, recipe)
    seen = [row["author"] for row in poems if row["split"] == "train"]
    [held, *_] = [row["author"] for row in poems if row["split"] == "validation"]
    ids = samples(verses)
    rows = [caption(one, seen[0], 1, 0.9 - 0.1 * place) for place, one in enumerate(ids)]
    rows += [caption(one, seen[2], 2, 0.55) for one in ids]
    rows += [caption(one, held, 3, 0.99) for one in ids]
    rows.append({"sample_id": ids[0], "rank": 4})
    verses.append(LINES, pa.Table.from_pylist(rows, CAPTIONS))
    found, _, _ = made(verses, recipe, least=0.5, most=3, times=2)
    lines = {row["sample_id"]: row["poem_lines"] for row in found}
    often, rare = f"{seen[0]}其1", f"{seen[2]}其1"
    assert Counter(line for some in lines.values() for line in some) == {often: 2, rare: 2}
    assert often in lines[ids[0]] and often in lines[ids[1]]
    assert all(row["poem"] == (row["poem_lines"][0] if row["poem_lines"] else None) for row in found)
    found, _, _ = made(verses, recipe, least=0.6, most=1, times=9)
    assert {line for row in found for line in row["poem_lines"]} == {often}
    assert sum(len(row["poem_lines"]) for row in found) == sum(0.9 - 0.1 * place >= 0.6 for place in range(len(ids)))
    scores = [row["poems"][0]["score"] for row in found if row["poems"]]
    assert min(scores) >= 0.59


@pytest.mark.usefixtures("ray_cluster")
def test_a_picture_drawn_of_a_poem_is_where_the_poem_is(verses: Corpus, recipe: Recipe) -> None:
    _, poems, _ = made(verses, recipe)
    split = {row["author"]: row["split"] for row in poems}
    ids = samples(verses)
    held = [author for author in AUTHORS if split[author] == "validation"]
    seen = [author for author in AUTHORS if split[author] == "train"]
    of = dict(zip(ids, [held[0], seen[0], held[1], seen[1], held[2]][: len(ids)], strict=False))
    verses.append(DRAWN, pa.Table.from_pylist([caption(one, author) for one, author in of.items()], CAPTIONS))
    found, _, _ = made(verses, recipe)
    assert {row["sample_id"]: row["split"] for row in found if row["sample_id"] in of} == {
        one: split[author] for one, author in of.items()
    }
    assert {row["poem"] for row in found if row["sample_id"] in of} == {f"{author}其1" for author in of.values()}
