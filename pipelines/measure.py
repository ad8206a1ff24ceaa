"""Runs measures over pictures and captions: a picture is decoded once for all measures that lack it."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import pyarrow as pa

from filters.measure import CaptionMeasure, Columns, PictureMeasure
from filters.picture import Picture, decode
from filters.registry import caption_measures, picture_measures
from pipelines.corpus import Corpus
from pipelines.stage import Rows, Stage
from schemas.errors import JuZhouError
from schemas.tables import Table, measure_table

PIXELS_AT_ONCE = 50_000_000
"""Decoded pictures held at a time in one worker, which bounds its memory at 150 MB (one picture may be more)."""


def tables_of(names: Sequence[str]) -> dict[str, Table]:
    """The tables of some measures by name, their fingerprints in their paths.

    Raises:
        JuZhouError: there is no measure of such a name.
    """
    pictures, captions = picture_measures(), caption_measures()
    unknown = [name for name in names if name not in pictures and name not in captions]
    if unknown:
        raise JuZhouError(f"there is no measure '{unknown[0]}'; there are {', '.join(sorted([*pictures, *captions]))}")
    tables = {}
    for name in names:
        key = "image_id" if name in pictures else "sample_id"
        measure: PictureMeasure | CaptionMeasure = pictures[name]() if name in pictures else captions[name]()
        tables[name] = measure_table(name, measure.fingerprint(), key, measure.columns)
    return tables


def stages(corpus: Corpus, tables: dict[str, Table]) -> list[Stage]:
    """One pass over the pictures for all picture measures, then one over the samples for all caption measures.

    Raises:
        JuZhouError: a caption measure wants a picture measure that the recipe leaves out.
    """
    return [stage for stage in (_picture_stage(corpus, tables), _caption_stage(tables)) if stage.outputs]


def _picture_stage(corpus: Corpus, tables: dict[str, Table]) -> Stage:
    wanted = {name: table for name, table in tables.items() if name in picture_measures()}
    return Stage(
        name="measure pictures",
        key=("image_id",),
        inputs='SELECT image_id, tar, "offset", length FROM images',
        outputs=tuple(wanted.values()),
        work=lambda: _Pictures(corpus, wanted),
        batch=64,
    )


def _caption_stage(tables: dict[str, Table]) -> Stage:
    captions = caption_measures()
    wanted = {name: table for name, table in tables.items() if name in captions}
    columns = {column: name for name in wanted for column in captions[name]().wants}
    for column, name in columns.items():
        if column.partition(".")[0] not in tables:
            raise JuZhouError(
                f"the measure '{name}' wants '{column.partition('.')[0]}': add it to the recipe's measures"
            )
    sources = {column.partition(".")[0] for column in columns}
    selected = "".join(f', {column} AS "{column}"' for column in columns)
    joins = " ".join(f"LEFT JOIN {source} USING (image_id)" for source in sorted(sources))
    return Stage(
        name="measure captions",
        key=("sample_id",),
        inputs=f"SELECT sample_id, caption{selected} FROM samples {joins}",
        outputs=tuple(wanted.values()),
        work=lambda: _Captions(wanted),
        batch=256,
    )


class _Pictures:
    """Bytes → pictures → the columns of every measure."""

    def __init__(self, corpus: Corpus, tables: dict[str, Table]) -> None:
        self._corpus = corpus
        self._measures = [(table, picture_measures()[name]()) for name, table in tables.items()]

    def __call__(self, batch: pa.Table) -> Rows:
        return [
            (table, _answer(table, lacking, measure))
            for group in self._decoded(batch.to_pylist())
            for index, (table, measure) in enumerate(self._measures)
            if (lacking := [(row["image_id"], picture) for row, picture in group if row[f"lacks_{index}"]])
        ]

    def lost(self, batch: pa.Table, error: str) -> Rows:
        return _lost(batch, [table for table, _ in self._measures], error)

    def _decoded(self, rows: list[dict[str, Any]]) -> Iterator[list[tuple[dict[str, Any], Picture | ValueError]]]:
        """Rows with their picture, or the reason why there is none, in groups that fit the memory."""
        group: list[tuple[dict[str, Any], Picture | ValueError]] = []
        pixels = 0
        for row in rows:
            content = self._corpus.read(row["tar"], row["offset"], row["length"])
            try:
                picture = decode(content)
                group.append((row, picture))
                pixels += picture.width * picture.height
            except ValueError as error:
                group.append((row, error))
            if pixels >= PIXELS_AT_ONCE:
                yield group
                group, pixels = [], 0
        yield group


class _Captions:
    """Captions, with what was measured of their pictures → the columns of every measure."""

    def __init__(self, tables: dict[str, Table]) -> None:
        self._measures = [(table, caption_measures()[name]()) for name, table in tables.items()]

    def __call__(self, batch: pa.Table) -> Rows:
        return [
            (table, _answer(table, lacking, partial(_measure_captions, measure)))
            for index, (table, measure) in enumerate(self._measures)
            if (lacking := self._inputs(batch.filter(batch.column(f"lacks_{index}")), measure))
        ]

    def lost(self, batch: pa.Table, error: str) -> Rows:
        return _lost(batch, [table for table, _ in self._measures], error)

    def _inputs(self, batch: pa.Table, measure: CaptionMeasure) -> list[tuple[bytes, Any]]:
        """Keys with the caption and the columns that the measure wants, or with the reason why they are not there."""
        inputs: list[tuple[bytes, Any]] = []
        for row in batch.to_pylist():
            missing = [column for column in measure.wants if row[column] is None]
            reason = ValueError(f"no {missing[0]} of its picture") if missing else None
            inputs.append((row["sample_id"], reason or row))
        return inputs


def _measure_captions(measure: CaptionMeasure, rows: Sequence[dict[str, Any]]) -> Columns:
    return measure(
        [row["caption"] for row in rows], {column: [row[column] for row in rows] for column in measure.wants}
    )


def _answer(table: Table, inputs: list[tuple[bytes, Any]], measure: Callable[[Sequence[Any]], Columns]) -> pa.Table:
    """A row for each input; an input that is an error already, or that the measure fails on alone, has an error."""
    errors = {key: str(value) for key, value in inputs if isinstance(value, ValueError)}
    fine = [(key, value) for key, value in inputs if key not in errors]
    names = [name for name in table.schema.names if name not in (*table.key, "error")]
    found: dict[bytes, dict[str, Any]] = {}

    def ask(part: list[tuple[bytes, Any]]) -> None:
        columns = measure([value for _, value in part])
        for index, (key, _) in enumerate(part):
            found[key] = {name: columns[name][index] for name in names}

    try:
        if fine:
            ask(fine)
    except Exception:  # whatever a model's library raises: the row that causes it is found below
        for item in fine:
            try:
                ask([item])
            except Exception as error:
                errors[item[0]] = f"{type(error).__name__}: {error}".splitlines()[0]
    rows = [{table.key[0]: key, "error": errors.get(key)} | found.get(key, {}) for key, _ in inputs]
    return pa.Table.from_pylist(rows, schema=table.schema)


def _lost(batch: pa.Table, tables: Sequence[Table], error: str) -> Rows:
    [row] = batch.to_pylist()
    rows = [(table, {table.key[0]: row[table.key[0]], "error": error}) for table in tables]
    return [
        (table, pa.Table.from_pylist([values], schema=table.schema))
        for index, (table, values) in enumerate(rows)
        if row[f"lacks_{index}"]
    ]
