"""Captions made for kept samples: Simplified script; keywords and text of the poem that one was drawn of."""

import unicodedata
from typing import Any

import pyarrow as pa

from pipelines.poetry import poems
from pipelines.stage import Rows, Stage
from schemas.identity import fingerprint
from schemas.tables import CAPTIONS, Table, captions_table

KEPT = "SELECT sample_id, image_id, caption FROM samples JOIN verdicts USING (sample_id) WHERE kept"


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


def _without_text(table: Table, batch: pa.Table) -> Rows:
    row: dict[str, Any] = {"sample_id": batch.column("sample_id")[0].as_py(), "rank": 1}
    return [(table, pa.Table.from_pylist([row], schema=CAPTIONS))]
