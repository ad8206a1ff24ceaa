"""Captions made for kept samples: Simplified script, and the lines of poems that fit best."""

import re
import unicodedata
from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
from opencc import OpenCC

from filters import e5
from pipelines.corpus import Corpus
from pipelines.poetry import poems
from pipelines.poetry.variants import STANDING
from pipelines.stage import Rows, Stage
from schemas.identity import fingerprint
from schemas.recipe import Poetry
from schemas.tables import CAPTIONS, ID, Table, captions_table

KEPT = "SELECT sample_id, caption FROM samples JOIN verdicts USING (sample_id) WHERE kept"

SHARED_WEIGHT = 0.5
"""How much shared characters weigh against the closeness of the sentence vectors."""

OF_PICTURES = re.compile(r"一[张幅个只]|的?(?:图片|照片|图像|插图|配图)")
"""Words about a picture as a picture, which say nothing of what it shows."""


def simplified_stage(names: Table | None = None) -> Stage:
    """Each kept caption in Simplified script, NFKC, with single spaces.

    Args:
        names: the table of the measure `names`, where names of private persons are to be masked.
    """
    facts = {"names": names.path} if names else {}
    table = captions_table("simplified", fingerprint(version=1, opencc="t2s", unicode="NFKC", **facts))
    masked = f"SELECT sample_id, coalesce(masked, caption) AS caption FROM ({KEPT}) LEFT JOIN names USING (sample_id)"
    return Stage(
        name="caption simplified",
        key=("sample_id",),
        inputs=masked if names else KEPT,
        outputs=(table,),
        work=lambda: _Simplify(table),
    )


def lines_table() -> Table:
    """The lines of poems with their sentence vectors."""
    columns = [("poem_id", ID), ("line", pa.int32()), ("text", pa.string()), ("vector", pa.list_(pa.float32()))]
    return Table(f"lines/e5@{e5.fingerprint()}", ("poem_id", "line"), pa.schema(columns))


def lines_stage() -> Stage:
    """Sentence vectors of every line of every poem that stands for itself."""
    table = lines_table()
    return Stage(
        name="read poems",
        key=("poem_id",),
        inputs=f"SELECT poem_id, lines FROM ({STANDING})",
        outputs=(table,),
        work=lambda: _Lines(table),
        batch=40,
    )


def line_stage(corpus: Corpus, poetry: Poetry) -> Stage:
    """The best lines for each kept sample, by what its caption says."""
    lines = lines_table()
    facts = fingerprint(
        version=1, lines=lines.path, kept=poetry.lines, collection=poetry.collection, shared=SHARED_WEIGHT
    )
    table = captions_table("line", facts)
    return Stage(
        name="caption lines",
        key=("sample_id",),
        inputs=KEPT,
        outputs=(table,),
        work=lambda: _Match(corpus, table, lines, poetry.lines),
    )


def triplets_stage(keywords: Table) -> Stage:
    """What a kept picture that was drawn of a poem is of: the poem's keywords, and the whole of it.

    Poems that show the same are drawn once; the one of the lowest poem_id then stands for them.

    Args:
        keywords: the table of what poems show.
    """
    facts = fingerprint(version=1, keywords=keywords.path)
    tables = captions_table("keywords", facts), captions_table("poem", facts)
    return Stage(
        name="caption triplets",
        key=("sample_id",),
        inputs=f"""
            SELECT sample_id, poem_id, title, author, keywords, lines
            FROM (SELECT sample_id, min(poem_id) AS poem_id FROM ({KEPT}) JOIN pairs ON caption = prompt GROUP BY ALL)
            JOIN poems USING (poem_id) JOIN keywords USING (poem_id)
        """,
        outputs=tables,
        work=lambda: _Triplets(*tables),
    )


def simplified(text: str) -> str:
    """A text in Simplified script, NFKC, with single spaces."""
    return " ".join(poems.simplified(unicodedata.normalize("NFKC", text)).split())


class _Simplify:
    def __init__(self, table: Table) -> None:
        self._table = table

    def __call__(self, batch: pa.Table) -> Rows:
        rows = [
            {"sample_id": row["sample_id"], "rank": 1, "text": simplified(row["caption"])} for row in batch.to_pylist()
        ]
        return [(self._table, pa.Table.from_pylist(rows, schema=CAPTIONS))]

    def lost(self, batch: pa.Table, error: str) -> Rows:
        return _without_text(self._table, batch)


class _Triplets:
    def __init__(self, keywords: Table, poem: Table) -> None:
        self._texts = ((keywords, "keywords", ", "), (poem, "lines", "\n"))

    def __call__(self, batch: pa.Table) -> Rows:
        rows = batch.select(["sample_id", "poem_id", "title", "author"]).to_pylist()
        made: list[tuple[Table | None, pa.Table]] = []
        for table, column, between in self._texts:
            texts = [between.join(parts) for parts in batch.column(column).to_pylist()]
            found = [row | {"rank": 1, "text": text} for row, text in zip(rows, texts, strict=True)]
            made.append((table, pa.Table.from_pylist(found, schema=CAPTIONS)))
        return made

    def lost(self, batch: pa.Table, error: str) -> Rows:
        return [rows for table, _, _ in self._texts for rows in _without_text(table, batch)]


class _Lines:
    def __init__(self, table: Table) -> None:
        self._table = table

    def __call__(self, batch: pa.Table) -> Rows:
        lines = [
            {"poem_id": row["poem_id"], "line": number, "text": text}
            for row in batch.to_pylist()
            for number, text in enumerate(row["lines"], 1)
        ]
        vectors = e5.vectors([line["text"] for line in lines])
        rows = [line | {"vector": vector.tolist()} for line, vector in zip(lines, vectors, strict=True)]
        return [(self._table, pa.Table.from_pylist(rows, schema=self._table.schema))]

    def lost(self, batch: pa.Table, error: str) -> Rows:
        row = {"poem_id": batch.column("poem_id")[0].as_py(), "line": 0, "text": None, "vector": None}
        return [(self._table, pa.Table.from_pylist([row], schema=self._table.schema))]


class _Match:
    """Scores lines for a caption: cosine of centred sentence vectors, and of the rare characters that both have."""

    def __init__(self, corpus: Corpus, table: Table, lines: Table, kept: int) -> None:
        self._table = table
        self._kept = kept
        self._convert = OpenCC("t2s").convert
        parts = corpus.rows_of(lines)
        rows = corpus.sql(f"""
            SELECT poem_id, title, author, text, vector FROM {parts} JOIN poems USING (poem_id)
            WHERE text IS NOT NULL ORDER BY poem_id, line
        """)
        self._lines = rows.select(["poem_id", "title", "author", "text"]).to_pylist()
        vectors = np.array(rows.column("vector").to_pylist(), np.float32)
        self._mean = vectors.mean(axis=0)
        self._vectors = _unit(vectors - self._mean)
        counts = Counter(character for line in self._lines for character in _han(line["text"]))
        self._column = {character: column for column, character in enumerate(sorted(counts))}
        self._rarity = np.log(
            len(self._lines) / np.array([counts[character] for character in self._column], np.float32)
        )
        self._characters = self._rare_characters([line["text"] for line in self._lines])

    def __call__(self, batch: pa.Table) -> Rows:
        samples = batch.to_pylist()
        captions = [OF_PICTURES.sub("", self._convert(sample["caption"])) for sample in samples]
        close = _unit(e5.vectors(captions) - self._mean) @ self._vectors.T
        shared = self._rare_characters(captions) @ self._characters.T
        scores = np.round((1 - SHARED_WEIGHT) * close + SHARED_WEIGHT * shared, 4)
        best = np.argsort(-scores, axis=1, kind="stable")[:, : self._kept]
        rows = [
            {"sample_id": sample["sample_id"], "rank": rank, "score": float(scores[index, line])} | self._lines[line]
            for index, sample in enumerate(samples)
            for rank, line in enumerate(best[index].tolist(), 1)
        ]
        return [(self._table, pa.Table.from_pylist(rows, schema=CAPTIONS))]

    def lost(self, batch: pa.Table, error: str) -> Rows:
        return _without_text(self._table, batch)

    def _rare_characters(self, texts: list[str]) -> np.ndarray:
        """Unit vectors, texts × characters, of the characters that a text has, weighted by their rarity among lines."""
        vectors = np.zeros((len(texts), len(self._column)), np.float32)
        for row, text in enumerate(texts):
            columns = [self._column[character] for character in _han(text) if character in self._column]
            vectors[row, columns] = self._rarity[columns]
        return _unit(vectors)


def _han(text: str) -> set[str]:
    return {character for character in text if "一" <= character <= "鿿"}


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-6)


def _without_text(table: Table, batch: pa.Table) -> Rows:
    row: dict[str, Any] = {"sample_id": batch.column("sample_id")[0].as_py(), "rank": 1}
    return [(table, pa.Table.from_pylist([row], schema=CAPTIONS))]
