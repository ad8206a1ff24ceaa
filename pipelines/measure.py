"""Runs measures over pictures and captions: a picture is decoded once for all measures of a pass that lack it."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any

import pyarrow as pa

from filters.measure import CaptionMeasure, Columns, DerivedMeasure, Measure, PictureMeasure
from filters.picture import Picture, decode
from filters.registry import CAPTION, DERIVED, PICTURE
from pipelines import cluster
from pipelines.corpus import Corpus
from pipelines.stage import Rows, Stage
from schemas.errors import JuZhouError
from schemas.tables import Table, measure_table

PIXELS_AT_ONCE = 50_000_000
"""Decoded pictures measured at a time in one worker, and as many read ahead: 300 MB (one picture may be more)."""
MODEL_BYTES = 8_000_000_000
"""Weights that one worker holds: models share it up to that, and what is more makes a pass of its own."""

Measures = Mapping[str, Measure]


def tables_of(measures: Measures) -> dict[str, Table]:
    """The tables of some measures by name, their fingerprints in their paths."""
    return {
        name: measure_table(
            name, measure.fingerprint(), "sample_id" if name in CAPTION else "image_id", measure.columns
        )
        for name, measure in measures.items()
    }


def stages(corpus: Corpus, measures: Measures) -> list[Stage]:
    """The passes, in order: cheap measures of pictures; models, as many as one worker holds; what follows from what
    these saw; captions."""
    tables = tables_of(measures)
    cheap = [name for name in measures if name in PICTURE and not _weight(measures[name])]
    passes = [("measure pictures", cheap)] if cheap else []
    passes += [(f"measure pictures by {', '.join(names)}", names) for names in _shared(measures)]
    found = [_picture_stage(corpus, name, [(tables[one], measures[one]) for one in names]) for name, names in passes]
    derived = [(tables[name], measures[name]) for name in measures if name in DERIVED]
    captions = [(tables[name], measures[name]) for name in measures if name in CAPTION]
    if derived:
        found.append(_row_stage("derive measures", "image_id", "SELECT image_id FROM images", derived))
    if captions:
        inputs = "SELECT sample_id, image_id, caption FROM samples"
        found.append(_row_stage("measure captions", "sample_id", inputs, captions))
    return found


def _weight(measure: Measure) -> int:
    """Bytes of the weights of a measure that is at home on an accelerator; 0 for one that any core does."""
    return int(getattr(measure, "weight", 0))


def _shared(measures: Measures) -> list[list[str]]:
    """Models in groups that one worker holds."""
    groups: list[list[str]] = []
    held = 0
    for name, measure in measures.items():
        if name in PICTURE and (weight := _weight(measure)):
            if not groups or held + weight > MODEL_BYTES:
                groups.append([])
                held = 0
            groups[-1].append(name)
            held += weight
    return groups


def _picture_stage(corpus: Corpus, name: str, measures: Sequence[tuple[Table, Any]]) -> Stage:
    return Stage(
        name=name,
        key=("image_id",),
        inputs='SELECT image_id, tar, "offset", length, width::BIGINT * height AS pixels FROM images',
        outputs=tuple(table for table, _ in measures),
        work=lambda: _Pictures(corpus, measures),
        batch=64,
        gpu=any(_weight(measure) for _, measure in measures),
    )


def _row_stage(name: str, key: str, inputs: str, measures: Sequence[tuple[Table, Any]]) -> Stage:
    """A pass over rows of `inputs`, beside the columns of picture measures that the measures want."""
    columns = dict.fromkeys(column for _, measure in measures for column in measure.wants)
    selected = "".join(f', {column} AS "{column}"' for column in columns)
    sources = sorted({column.partition(".")[0] for column in columns})
    joins = " ".join(f"LEFT JOIN {source} USING (image_id)" for source in sources)
    return Stage(
        name=name,
        key=(key,),
        inputs=f"SELECT rows.*{selected} FROM ({inputs}) AS rows {joins}",
        outputs=tuple(table for table, _ in measures),
        work=lambda: _Rows(measures),
        batch=64 if any(_weight(measure) for _, measure in measures) else 256,
        gpu=any(_weight(measure) for _, measure in measures),
    )


class _Pictures:
    """Bytes → pictures → the columns of every measure. While some are measured, the next are read and decoded."""

    def __init__(self, corpus: Corpus, measures: Sequence[tuple[Table, PictureMeasure]]) -> None:
        self._corpus = corpus
        self._measures = measures
        self._pool = ThreadPoolExecutor(cluster.cores())

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
        ahead: list[tuple[dict[str, Any], Future[Picture | ValueError]]] = []
        for group in _groups(rows):
            current, ahead = ahead, [(row, self._pool.submit(self._read, row)) for row in group]
            yield [(row, picture.result()) for row, picture in current]
        yield [(row, picture.result()) for row, picture in ahead]

    def _read(self, row: dict[str, Any]) -> Picture | ValueError:
        try:
            return decode(self._corpus.read(row["tar"], row["offset"], row["length"]))
        except ValueError as error:
            return error


def _groups(rows: list[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """Rows in groups of so many pixels as are decoded at a time."""
    group: list[dict[str, Any]] = []
    pixels = 0
    for row in rows:
        if group and pixels + row["pixels"] > PIXELS_AT_ONCE:
            yield group
            group, pixels = [], 0
        group.append(row)
        pixels += row["pixels"]
    yield group


class _Rows:
    """Captions, or pictures left undecoded, with what was measured of pictures → the columns of every measure."""

    def __init__(self, measures: Sequence[tuple[Table, Any]]) -> None:
        self._measures = measures

    def __call__(self, batch: pa.Table) -> Rows:
        return [
            (table, _answer(table, lacking, partial(_measure, measure)))
            for index, (table, measure) in enumerate(self._measures)
            if (lacking := _inputs(table, batch.filter(batch.column(f"lacks_{index}")), measure))
        ]

    def lost(self, batch: pa.Table, error: str) -> Rows:
        return _lost(batch, [table for table, _ in self._measures], error)


def _inputs(table: Table, batch: pa.Table, measure: CaptionMeasure | DerivedMeasure) -> list[tuple[bytes, Any]]:
    """Keys with the row that the measure reads, or with the reason why what it wants is not there."""
    columns = [name for name in batch.column_names if name == "caption" or name in measure.wants]
    rows = batch.select([*table.key, *columns]).to_pylist()
    inputs: list[tuple[bytes, Any]] = []
    for row in rows:
        missing = [column for column in measure.wants if row[column] is None]
        inputs.append((row[table.key[0]], ValueError(f"no {missing[0]} of its picture") if missing else row))
    return inputs


def _measure(measure: Any, rows: Sequence[dict[str, Any]]) -> Columns:
    wanted = {column: [row[column] for row in rows] for column in measure.wants}
    if "caption" in rows[0]:
        found: Columns = measure([row["caption"] for row in rows], wanted)
    else:
        found = measure(wanted)
    return found


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
    except JuZhouError:  # the recipe's fault, and no row's
        raise
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
