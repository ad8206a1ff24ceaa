"""Lines of poems for pictures of any source: what is near is looked up, weighed line by line, and given a probability.

A picture is its vector by a CLIP of the recipe; without one, what its caption says by sentence vectors, a stand-in.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from filters import e5
from filters.clip import Clip
from pipelines.corpus import Corpus
from pipelines.poetry import index
from pipelines.poetry.imagery import OF_PICTURES, cut, lexicon, named
from pipelines.poetry.poems import simplified
from pipelines.poetry.variants import STANDING
from pipelines.stage import Rows, Stage
from schemas.errors import JuZhouError
from schemas.identity import fingerprint
from schemas.recipe import Poetry
from schemas.tables import CAPTIONS, Table, captions_table, keyword_vectors_table

LOOKED_UP = 64
"""Poems whose lines are weighed for a picture."""
FIT = {"constant": -4.67, "nearness": 0.05, "overlap": 3.45, "shared": 2.96}
"""Of the logit that a line fits: 236 lines for captions of the demo's, judged by eye (docs/poetry.md)."""


class Space(NamedTuple):
    """Where words and pictures have vectors."""

    name: str
    fingerprint: str
    read: Callable[[Sequence[str]], np.ndarray]
    """Words → unit vectors, (words, width)."""
    pictures: Table | None
    """The measure that has the pictures' vectors; None where captions stand for them."""


def space_of(poetry: Poetry, measures: Mapping[str, Any], tables: Mapping[str, Table]) -> Space:
    """The space that a recipe asks for.

    Raises:
        JuZhouError: it is no CLIP among the recipe's measures.
    """
    name = poetry.embedding
    if name is None:
        return Space("e5", e5.fingerprint(), e5.vectors, None)
    clip = measures.get(name)
    if not isinstance(clip, Clip):
        raise JuZhouError(f"poetry.embedding: '{name}' is no CLIP among the recipe's measures; add it, or leave it out")
    return Space(name, clip.fingerprint(), clip.read, tables[name])


def vectors_stage(space: Space) -> Stage:
    """What the space makes of each keyword of the poems."""
    table = keyword_vectors_table(space.name, space.fingerprint)
    return Stage(
        name="read keywords",
        key=("keyword",),
        inputs=f"SELECT DISTINCT unnest(keywords) AS keyword FROM ({STANDING}) JOIN keywords USING (poem_id)",
        outputs=(table,),
        work=lambda: _Vectors(table, space),
        batch=64,
        gpu=space.pictures is not None,
    )


def retrieval_stage(corpus: Corpus, poetry: Poetry, keywords: Table, space: Space, kept: str) -> Stage:
    """The lines that fit each sample best, one a poem, by falling probability.

    Args:
        keywords: the table of what poems show.
        kept: a query for the samples: `sample_id`, `image_id`, `caption`.
    """
    [vectors] = vectors_stage(space).outputs
    facts = fingerprint(
        version=2,
        keywords=keywords.path,
        vectors=vectors.path,
        lexicon=lexicon().version,
        lines=poetry.lines,
        collection=poetry.collection,
        looked_up=LOOKED_UP,
        fit=FIT,
    )
    table = captions_table("line", facts)
    seen = f"({kept}) LEFT JOIN {space.name} USING (image_id)"
    return Stage(
        name="caption lines",
        key=("sample_id",),
        inputs=f"SELECT sample_id, caption, vector FROM {seen}" if space.pictures else kept,
        outputs=(table,),
        work=lambda: _Retrieve(corpus, poetry, table, vectors, space),
    )


class _Vectors:
    def __init__(self, table: Table, space: Space) -> None:
        self._table, self._space = table, space

    def __call__(self, batch: pa.Table) -> Rows:
        keywords = batch.column("keyword")
        vectors = self._space.read(keywords.to_pylist())
        return [(self._table, pa.table({"keyword": keywords, "vector": list(vectors)}).cast(self._table.schema))]

    def lost(self, batch: pa.Table, error: str) -> Rows:
        row = {"keyword": batch.column("keyword")[0].as_py(), "vector": None}
        return [(self._table, pa.Table.from_pylist([row], schema=self._table.schema))]


class _Shelf(NamedTuple):
    """All poems, ready to be looked up."""

    poems: list[dict[str, Any]]
    """`poem_id`, `title` and `author` of each."""
    lines: index.Lines
    index: Any
    strangers: np.ndarray
    """(STRANGERS, width): the vectors of some."""
    mean: np.ndarray
    """Of the keywords' vectors, which says what is common to all words."""


class _Retrieve:
    def __init__(self, corpus: Corpus, poetry: Poetry, table: Table, vectors: Table, space: Space) -> None:
        self._corpus, self._poetry = corpus, poetry
        self._table, self._vectors, self._space = table, vectors, space

    def __call__(self, batch: pa.Table) -> Rows:
        if not self._corpus.parts(self._vectors.path):
            none = [{"sample_id": sample_id, "rank": 1} for sample_id in batch.column("sample_id").to_pylist()]
            return [(self._table, pa.Table.from_pylist(none, schema=CAPTIONS))]
        captions = [simplified(caption) for caption in batch.column("caption").to_pylist()]
        said = cut(captions)
        found, scores = self._found(self._queries(batch, captions, named(said)), said)
        rows = []
        for sample_id, poems, lines, score in zip(batch.column("sample_id").to_pylist(), *found, scores, strict=True):
            order = np.lexsort((poems, -score))[: self._poetry.lines]
            rows += [
                {"sample_id": sample_id, "rank": rank, "text": self._shelf.lines.texts[int(lines[at])].as_py()}
                | {"score": float(score[at])}
                | self._shelf.poems[poems[at]]
                for rank, at in enumerate((at for at in order if lines[at] >= 0), 1)
            ] or [{"sample_id": sample_id, "rank": 1}]
        return [(self._table, pa.Table.from_pylist(rows, schema=CAPTIONS))]

    def lost(self, batch: pa.Table, error: str) -> Rows:
        row = {"sample_id": batch.column("sample_id")[0].as_py(), "rank": 1}
        return [(self._table, pa.Table.from_pylist([row], schema=CAPTIONS))]

    def _queries(self, batch: pa.Table, captions: list[str], shown: list[list[str]]) -> np.ndarray:
        """The vectors of pictures in the space of the poems', and of what their captions name."""
        words = index.sketches([word for some in shown for word in some])
        owner = np.repeat(np.arange(len(shown)), [len(some) for some in shown])
        sums = np.zeros((len(shown), index.SKETCH), np.float32)
        np.add.at(sums, owner, words)
        if self._space.pictures:
            seen = [vector if vector is not None else self._shelf.mean for vector in batch.column("vector").to_pylist()]
        else:
            seen = list(e5.vectors([OF_PICTURES.sub("", caption) for caption in captions]))
        return index.joined(np.array(seen, np.float32) - self._shelf.mean, sums)

    def _found(
        self, queries: np.ndarray, said: list[list[tuple[str, str]]]
    ) -> tuple[tuple[np.ndarray, np.ndarray], np.ndarray]:
        """Poems and their best lines, (samples, LOOKED_UP) each, −1 where there is none; and how likely each fits."""
        near, poems = self._shelf.index.search(queries, min(LOOKED_UP, len(self._shelf.poems)))
        weighed = index.weigh(self._shelf.lines, said, poems)
        nearness = np.where(poems < 0, 0, index.nearness(near, queries, self._shelf.strangers))
        return (poems, weighed.line), fits(nearness, weighed.overlap, weighed.shared)

    @cached_property
    def _shelf(self) -> _Shelf:
        import faiss

        faiss.omp_set_num_threads(1)
        rows = self._corpus.sql(
            f"SELECT poem_id, title, author, lines, keywords FROM ({STANDING}) JOIN keywords USING (poem_id) "
            "WHERE len(keywords) > 0 ORDER BY poem_id"
        )
        parts = self._corpus.rows_of(self._vectors)
        read = self._corpus.sql(f"SELECT keyword, vector FROM {parts} WHERE vector IS NOT NULL ORDER BY keyword")
        width = len(read.column("vector")[0])
        flat = read.column("vector").combine_chunks().values.to_numpy().reshape(-1, width)
        meanings = dict(zip(read.column("keyword").to_pylist(), flat, strict=True))
        shown = [[word for word in words if word in meanings] for words in rows.column("keywords").to_pylist()]
        vectors = index.poem_vectors(shown, meanings)
        ids = fingerprint(poems=[row.hex() for row in rows.column("poem_id").to_pylist()], keywords=shown)
        return _Shelf(
            rows.select(["poem_id", "title", "author"]).to_pylist(),
            index.lines_of(rows.column("lines").to_pylist()),
            index.kept(self._corpus.path / "indexes" / f"{self._table.path.partition('@')[2]}-{ids}.faiss", vectors),
            index.strangers(vectors),
            flat.mean(axis=0),
        )


def fits(nearness: np.ndarray, overlap: np.ndarray, shared: np.ndarray) -> np.ndarray:
    """How likely a line fits a picture, by logistic regression.

    Args:
        nearness: of the poem to the picture, in standard deviations over what chance gives.
        overlap: of the keywords of line and caption, 0–1.
        shared: the share of the caption's content words that stand in the line, 0–1.
    """
    logit = FIT["constant"] + FIT["nearness"] * nearness + FIT["overlap"] * overlap + FIT["shared"] * shared
    return np.round(1 / (1 + np.exp(-logit)), 4)
