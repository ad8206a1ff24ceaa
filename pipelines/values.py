"""What a policy asks of every sample: the values of its SQL expressions, aligned with the samples by their ids.

They are kept beside the corpus, so that another threshold is a matter of comparing numbers.
"""

import difflib
import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines import views
from pipelines.corpus import ROW_GROUP, STANDING, UNFINISHED, Corpus, flush
from pipelines.views import literal
from pipelines.wide import Named, Wide, named
from schemas.errors import JuZhouError
from schemas.identity import fingerprint
from schemas.policy import Policy

BATCH = 1_000_000
MEMORY = "3GiB"
"""What DuckDB may use here; the values stand beside it."""
EXACT = ("BOOLEAN", "FLOAT", "TINYINT", "SMALLINT", "UTINYINT", "USMALLINT")
"""Types that a 32-bit float holds exactly."""
KIND = "kind: "
"""Before an expression that is asked for what a sample is, and not for how much."""


def wanted(policy: Policy) -> dict[str, str]:
    """Column → SQL expression of all that a policy asks, with the rule that asks it first."""
    rules, quotas = policy.rules, policy.quotas
    numbers = [(rule.name, text) for rule in rules for text in (rule.value, rule.where) if text]
    numbers += [(quota.name, quota.first) for quota in quotas if quota.first]
    kinds = [(rule.name, rule.within) for rule in rules if rule.within] + [(quota.name, quota.by) for quota in quotas]
    asked = [(text, name) for name, text in numbers] + [(KIND + text, name) for name, text in kinds]
    return dict(reversed(asked))


def settle(corpus: Corpus) -> None:
    """Keep the view `standing` of the corpus as it is, in the order of sample_id, and drop what was derived before."""
    target = corpus.cache / STANDING
    if target.exists():
        return
    for outdated in (corpus.path / "cache").glob("*"):
        shutil.rmtree(outdated)
    target.parent.mkdir(parents=True)
    unfinished = target.with_name(UNFINISHED + target.name)
    with corpus.connect() as connection:
        connection.execute(f"SET memory_limit = '{MEMORY}'")
        connection.execute(
            f"COPY (FROM standing ORDER BY sample_id) TO {literal(unfinished)} "
            f"(FORMAT parquet, COMPRESSION zstd, COMPRESSION_LEVEL 1, ROW_GROUP_SIZE {ROW_GROUP})"
        )
    flush(unfinished)
    unfinished.rename(target)


def keep(corpus: Corpus, policy: Policy) -> Path:
    """The values of a policy as Parquet, in the order of sample_id, made where they are not there.

    Columns are sample_id and one an expression, under the expression itself (`lite_alignment.score`): a number, NaN
    where it is missing. What is asked for as a kind stands under `kind: source`, as text or a list of texts.
    """
    settle(corpus)
    columns = wanted(policy)
    for path in sorted(corpus.cache.glob("values-*.parquet")):
        if columns.keys() <= set(pq.read_schema(path).names):
            return path
    rows = gather(corpus, columns)
    path = corpus.cache / f"values-{fingerprint(columns=sorted(columns))}.parquet"
    unfinished = path.with_name(UNFINISHED + path.name)
    pq.write_table(rows, unfinished, compression="lz4", use_dictionary=[], row_group_size=ROW_GROUP)
    flush(unfinished)
    unfinished.rename(path)
    return path


def gather(corpus: Corpus, columns: Mapping[str, str]) -> pa.Table:
    """These columns for every sample, in the order of sample_id: from what is kept, or asked anew; nothing is written.

    Args:
        columns: as `wanted` gives them.

    Raises:
        JuZhouError: an expression is not SQL, names a column that is not there, or gives what its rule cannot use.
    """
    found: dict[str, pa.ChunkedArray | pa.Array] = {}
    for path in sorted(corpus.cache.glob("values-*.parquet")):
        there = [name for name in pq.read_schema(path).names if name in columns and name not in found]
        if there:
            kept = pq.read_table(path, columns=["sample_id", *there])
            found |= dict(zip(kept.column_names, kept.columns, strict=True))
    missing = {name: rule for name, rule in columns.items() if name not in found}
    if missing or "sample_id" not in found:
        found |= _ask(corpus, missing)
    return pa.table({name: found[name] for name in ("sample_id", *columns)})


def _ask(corpus: Corpus, columns: Mapping[str, str]) -> dict[str, pa.Array]:
    """The ids of the samples and these columns, asked of the tables."""
    with corpus.connect() as connection:
        connection.execute(f"SET memory_limit = '{MEMORY}'")
        wide = views.wide(connection, corpus.place)
        wide = replace(wide, sources=(_ranked(connection, corpus, wide), *wide.sources[1:]))
        ids = connection.sql(f"SELECT sample_id FROM ({wide.sources[0].relation}) ORDER BY rank").to_arrow_table()
        found: dict[str, pa.Array] = {"sample_id": ids.column("sample_id").combine_chunks()}
        types = {name: _type(connection, wide, name, rule) for name, rule in columns.items()}
        for group in _groups(wide, columns):
            found |= _values(connection, wide, group, types, ids.num_rows)
    return found


def _ranked(connection: duckdb.DuckDBPyConnection, corpus: Corpus, wide: Wide) -> views.Source:
    """`standing` in the order of sample_id, with each row's place in it as `rank`."""
    if kept := corpus.place.standing:
        relation = f"SELECT *, file_row_number AS rank FROM read_parquet({literal(kept)}, file_row_number = true)"
    else:
        connection.execute("CREATE TEMP TABLE sorted_standing AS FROM standing ORDER BY sample_id")
        relation = "SELECT *, row_number() OVER (ORDER BY sample_id) - 1 AS rank FROM sorted_standing"
    first = wide.sources[0]
    return replace(first, relation=relation, columns={**first.columns, "rank": "standing.rank"})


def _expression(column: str) -> str:
    return column.removeprefix(KIND)


def _named(column: str) -> Named | None:
    return named(f"SELECT {_expression(column)}")


def _groups(wide: Wide, columns: Iterable[str]) -> list[list[str]]:
    """Columns that are asked together: those over the same sources, so that no question joins more than it must."""
    groups: dict[frozenset[str], list[str]] = {}
    for column in columns:
        about = _named(column)
        sources = [source.name for source in wide.sources[1:] if about is None or about.words & source.columns.keys()]
        groups.setdefault(frozenset(sources), []).append(column)
    return list(groups.values())


def _of(wide: Wide, columns: Sequence[str]) -> str:
    """A relation with all that these columns name."""
    abouts = [_named(column) for column in columns]
    if any(about is None for about in abouts):
        return f"({wide.query()})"
    words = frozenset({"rank"}).union(*(about.words for about in abouts if about))
    return f"({wide.query(Named(words, frozenset().union(*(about.whole for about in abouts if about))))})"


def _type(connection: duckdb.DuckDBPyConnection, wide: Wide, column: str, rule: str) -> str:
    """The SQL type in which a column's values are asked."""
    expression = _expression(column)
    try:
        query = f"SELECT {expression} AS value FROM {_of(wide, [column])} AS corpus"
        [(_, kind, *_)] = connection.execute(f"DESCRIBE {query}").fetchall()
        kind = str(kind)
        if column.startswith(KIND):
            return "VARCHAR[]" if kind.endswith("]") else "VARCHAR"
        connection.execute(f"SELECT ({expression})::DOUBLE FROM {_of(wide, [column])} AS corpus LIMIT 0")
    except duckdb.Error as error:
        message = re.sub(r"^(\w+ Error: )+", "", str(error).splitlines()[0])
        raise JuZhouError(f"rule '{rule}': {message}{_hint(wide, expression)}") from error
    if kind.startswith(("VARCHAR", "BLOB", "STRUCT")) or kind.endswith("]"):
        raise JuZhouError(f"rule '{rule}': a number or a truth value is wanted, and {expression} is {kind}")
    return "FLOAT" if kind in EXACT else "DOUBLE"


def _hint(wide: Wide, expression: str) -> str:
    """The columns that are most like the words of an expression that are none."""
    known = [
        field
        for source in wide.sources
        for name, column in source.columns.items()
        for field in ([name] if isinstance(column, str) else [f"{name}.{field}" for field in column])
        if field != "rank"
    ]
    words = [word for word in re.findall(r"[a-z_][a-z0-9_.]*", expression, re.IGNORECASE) if word not in known]
    near = [nearest[0] for word in words if (nearest := difflib.get_close_matches(word, known, 1))]
    return f"; did you mean '{near[0]}'?" if near else ""


def _values(
    connection: duckdb.DuckDBPyConnection, wide: Wide, columns: Sequence[str], types: Mapping[str, str], rows: int
) -> dict[str, pa.Array]:
    """Some columns over the same sources, each value at its sample's rank."""
    asked = ", ".join(f'({_expression(column)})::{types[column]} AS "{index}"' for index, column in enumerate(columns))
    found = connection.sql(f"SELECT rank, {asked} FROM {_of(wide, columns)} AS corpus").to_arrow_reader(BATCH)
    kinds = {"FLOAT": np.float32, "DOUBLE": np.float64}
    numbers = {column: np.full(rows, np.nan, kinds[types[column]]) for column in columns if types[column] in kinds}
    texts: dict[str, list[pa.Array]] = {column: [] for column in columns if column not in numbers}
    ranks: list[np.ndarray] = []
    for batch in found:
        ranks.append(batch.column("rank").to_numpy())
        for index, column in enumerate(columns):
            values = batch.column(str(index))
            if column in numbers:
                numbers[column][ranks[-1]] = values.to_numpy(zero_copy_only=False)
            else:
                texts[column].append(values if types[column] == "VARCHAR[]" else values.dictionary_encode())
    order = pa.array(np.argsort(np.concatenate(ranks))) if texts and ranks else None
    arranged = {
        column: pa.chunked_array(chunks).unify_dictionaries().combine_chunks().take(order)
        if chunks
        else pa.nulls(0, pa.string())
        for column, chunks in texts.items()
    }
    return {column: pa.array(values) for column, values in numbers.items()} | arranged
