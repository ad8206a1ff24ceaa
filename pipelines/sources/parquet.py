"""Pictures in a column of Parquet files, as model hubs keep them."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.corpus import Corpus
from pipelines.files import LISTED, Place
from pipelines.sources.items import About, Item, items_stage, text_of, too_large
from pipelines.stage import Stage
from schemas.errors import JuZhouError
from schemas.identity import digest
from schemas.recipe import Fetch, Parquet

SLICE = 100_000
"""Rows of a row group that one row of FILES covers, which bounds the memory of a worker."""
READ = 16
"""Rows that are in memory at a time, beside the page that they stand on."""
BUFFER = 2**20
THREADS = 16
"""Footers that are read at a time."""

SLICED = pa.schema([*LISTED, ("row_group", pa.int32()), ("start", pa.int64()), ("unreadable", pa.string())])
"""A slice of a file: its row group, the first row in it, or why there is none."""
PICTURE = pa.struct([("bytes", pa.large_binary()), ("path", pa.large_binary())])
"""A picture as the hub keeps it; a path without bytes leads nowhere."""


def parquet_stage(corpus: Corpus, name: str, source: Parquet, fetch: Fetch) -> Stage:
    """The files that are new or changed, a slice of a row group at a time.

    Raises:
        JuZhouError: there are no files, or one lacks a column that the source names.
    """
    place = Place.of(source.path)

    def read(file: dict[str, Any]) -> Iterator[Item]:
        if file["unreadable"]:
            raise OSError(file["unreadable"])
        if file["row_group"] is None:
            return
        # Without these two a column of the row group would be read as a whole.
        with place.open(file["path"]) as raw, pq.ParquetFile(raw, buffer_size=BUFFER, pre_buffer=False) as opened:
            rows = islice(_rows(opened, file["row_group"], file["start"], source), SLICE)
            yield from _items(rows, fetch.max_bytes)

    return items_stage(corpus, name, _listed(place, name, source), read, fetch, batch=1)


def _listed(place: Place, name: str, source: Parquet) -> pa.Table:
    """The files as rows of SLICED."""
    files = place.listed(name, (".parquet",)).to_pylist()
    with ThreadPoolExecutor(THREADS) as threads:
        found = threads.map(lambda file: _slices(place, file["path"], source), files)
        slices = [file | part for file, parts in zip(files, found, strict=True) for part in parts]
    for part in slices:
        part["file_id"] = digest(part["file_id"] + f"{part.get('row_group')} {part.get('start')}".encode())
    return pa.Table.from_pylist(slices, schema=SLICED)


def _slices(place: Place, path: str, source: Parquet) -> list[dict[str, Any]]:
    """What SLICED adds; one part at least, so that every file has its row."""
    try:
        with place.open(path) as raw, pq.ParquetFile(raw) as opened:
            schema = opened.schema_arrow
            sizes = [opened.metadata.row_group(number).num_rows for number in range(opened.num_row_groups)]
    except (OSError, ValueError, pa.ArrowException) as error:
        return [{"unreadable": str(error)}]
    _check(schema, f"{place.root}/{path}", source)
    parts: list[dict[str, Any]] = [
        {"row_group": group, "start": start} for group, size in enumerate(sizes) for start in range(0, size, SLICE)
    ]
    return parts or [{}]


def _check(schema: pa.Schema, path: str, source: Parquet) -> None:
    """See to it that the columns are there and hold what they are taken for.

    Raises:
        JuZhouError: one is not, or does not.
    """
    texts = [column for column in (source.caption, source.page_url, source.licence) if column]
    for column in (source.image, *texts):
        if column not in schema.names:
            raise JuZhouError(f"{path}: no column '{column}'; it has {', '.join(schema.names)}")
    kind = schema.field(source.image).type
    if pa.types.is_struct(kind):
        kind = kind.field("bytes").type if kind.get_field_index("bytes") >= 0 else pa.null()
    if not (pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind)):
        wanted = "bytes, or a struct with them as 'bytes'"
        raise JuZhouError(f"{path}: column '{source.image}' is {schema.field(source.image).type}; name one of {wanted}")
    for column in texts:
        kind = schema.field(column).type
        kind = kind.value_type if pa.types.is_dictionary(kind) else kind
        if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)):
            raise JuZhouError(f"{path}: column '{column}' is {kind}; name one of text")


def _rows(opened: pq.ParquetFile, row_group: int, start: int, source: Parquet) -> Iterator[dict[str, Any]]:
    """The rows of a row group from `start` on, their texts as bytes: not all that is called UTF-8 is."""
    texts = {"caption": source.caption, "page_url": source.page_url, "licence": source.licence}
    texts = {name: column for name, column in texts.items() if column}
    for batch in opened.iter_batches(READ, [row_group], [source.image, *texts.values()], use_threads=False):
        skipped = min(start, batch.num_rows)
        start -= skipped
        rest = batch.slice(skipped)
        pictures = rest[source.image]
        if pa.types.is_struct(pictures.type):
            columns = {"picture": pictures.cast(PICTURE)}
        else:
            columns = {"picture": pa.StructArray.from_arrays([pictures], ["bytes"]).cast(PICTURE)}
        columns |= {name: rest[column].cast(pa.large_binary()) for name, column in texts.items()}
        yield from pa.table(columns).to_pylist()


def _items(rows: Iterator[dict[str, Any]], max_bytes: int) -> Iterator[Item]:
    """The pictures of some rows; the same one with the same caption once."""
    seen: set[tuple[str, bytes]] = set()
    for row in rows:
        picture = row.pop("picture") or {"bytes": None, "path": None}
        texts = {name: text_of(text or b"") for name, text in row.items()}
        about = About.of({"column": texts["caption"]}, (texts,))
        caption, content = about.caption.encode(), picture["bytes"]
        name = digest(caption + b"\n" + (picture["path"] or b"") if content is None else content).hex()
        if (key := (name, digest(caption))) in seen:
            continue
        seen.add(key)
        if content is None:
            yield Item(name, about, error="no bytes")
        else:
            yield Item(name, about, content, too_large(len(content), max_bytes))
