"""The answer to a query as Parquet that one can page: it streams into row groups of one size."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

ROW_GROUP = 65_536
"""Rows of a row group, but for the last."""


def write(connection: duckdb.DuckDBPyConnection, query: str, path: Path) -> None:
    """Write the rows of a query in its order; no more than some groups are in memory, beside what the query holds."""
    rows = connection.sql(query).to_arrow_reader(ROW_GROUP)
    with pq.ParquetWriter(path, rows.schema, compression="zstd") as writer:
        for group in groups(rows):
            writer.write_table(group)


def groups(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.Table]:
    """The same rows in tables of `ROW_GROUP` rows, but for the last."""
    held: list[pa.RecordBatch] = []
    count = 0
    for batch in batches:
        held.append(batch)
        count += len(batch)
        while count >= ROW_GROUP:
            rows = pa.Table.from_batches(held)
            yield rows.slice(0, ROW_GROUP).combine_chunks()
            held, count = rows.slice(ROW_GROUP).to_batches(), count - ROW_GROUP
    if count:
        yield pa.Table.from_batches(held).combine_chunks()
