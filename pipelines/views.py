"""The corpus as SQL: a DuckDB view a table, and `corpus`, a wide row a sample."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import duckdb
import pyarrow as pa

from schemas.errors import JuZhouError
from schemas.identity import HOST
from schemas.tables import CAPTIONS, DUPLICATES, ENTITIES, TRANSLATIONS, VERDICTS

MEMORY_SHARE = 0.4
"""Of the machine's memory, what a query may use before it spills; workers need the rest."""

SHOWN = """
    SELECT samples.*, candidates.* EXCLUDE (candidate_id, caption), true AS in_recipe
    FROM samples LEFT JOIN candidates USING (candidate_id)
"""

SHOWN_OF_SOME = """
    WITH own AS (
        SELECT samples.*, coalesce(source NOT IN ({hidden}), true) AS in_recipe
        FROM samples LEFT JOIN candidates USING (candidate_id)
    ), elsewhere AS (
        SELECT sample_id, min(candidates.candidate_id) AS candidate_id
        FROM own JOIN fetches USING (image_id) JOIN candidates USING (url_id, caption)
        WHERE NOT in_recipe AND source NOT IN ({hidden}) GROUP BY sample_id
    ), placed AS (
        SELECT sample_id, image_id, caption, coalesce(elsewhere.candidate_id, own.candidate_id) AS candidate_id,
            in_recipe OR elsewhere.candidate_id IS NOT NULL AS in_recipe
        FROM own LEFT JOIN elsewhere USING (sample_id)
    )
    SELECT placed.* EXCLUDE (in_recipe), candidates.* EXCLUDE (candidate_id, caption), in_recipe
    FROM placed LEFT JOIN candidates USING (candidate_id)
"""
"""Where sources were taken out of the recipe: a sample is still in it if another source found it too."""

HEADS = "SELECT image_id, representative = image_id AS stands_for_itself FROM duplicates"

HEADS_OF_SOME = """
    SELECT image_id, image_id = first(image_id) OVER (
        PARTITION BY representative
        ORDER BY image_id NOT IN (SELECT image_id FROM shown WHERE in_recipe), image_id <> representative,
            width::BIGINT * height DESC, image_id
    ) AS stands_for_itself
    FROM duplicates JOIN images USING (image_id)
"""
"""A picture out of the recipe hides no picture that is in it: the next in rank stands for the group."""

SAMPLES_FOUND = """
    SELECT
        shown.sample_id, shown.image_id, shown.caption,
        shown.source, shown.url, shown.page_url, shown.caption_from, shown.licence, shown.in_recipe,
        images.tar, images."offset", images.length, images.format, images.orientation,
        duplicates.representative, duplicates.distance, heads.stands_for_itself,
        repeats.repeats
    FROM shown
    LEFT JOIN images USING (image_id)
    LEFT JOIN duplicates USING (image_id)
    LEFT JOIN ({heads}) AS heads USING (image_id)
    LEFT JOIN repeats ON repeats.caption = shown.caption
"""

REPEATS = """
    SELECT caption, count(DISTINCT coalesce(representative, image_id)) AS repeats
    FROM shown LEFT JOIN duplicates USING (image_id) WHERE in_recipe GROUP BY caption
"""


PAGE_HOST = HOST.replace("url", "coalesce(shown.page_url, shown.url)")
"""The host of the page that shows a picture, of a row of `shown`; of the picture, where the page is not known."""

SUFFIXES = """
    WITH tails AS (
        SELECT {host} AS host, tail, count(DISTINCT coalesce(representative, image_id)) AS pictures,
            count(DISTINCT caption) AS captions
        FROM shown JOIN text USING (sample_id) LEFT JOIN duplicates USING (image_id)
        WHERE in_recipe AND tail IS NOT NULL GROUP BY ALL
    )
    SELECT host, tail, pictures, pictures / sum(pictures) OVER (PARTITION BY host) AS share FROM tails
    QUALIFY host <> '' AND pictures >= {least} AND captions >= {least} AND share >= {share}
"""
SUFFIX_PICTURES = 10
SUFFIX_SHARE = 0.3
"""What ends the captions of so many different pictures of a host, all worded otherwise, and of so large a share of
those whose captions have a tail, is the site's: it adds its name by a template, but 沙发-红色 is a colour."""


def connect(
    tables: Path, variants: Sequence[str] = (), hidden: Sequence[str] = (), spill: Path | None = None
) -> duckdb.DuckDBPyConnection:
    """Open DuckDB over the parts below `tables`.

    Views: one a table under its name (`captions` with a column `kind`); a measure under its own name, such as
    `alignment`; `shown`, a sample with the candidate that it is from; `repeats`, how many distinct pictures bear a
    caption; `suffixes`, what a host ends its captions with; `samples_found`, a sample with its picture and where it is
    from; and `corpus`, the same with the numbers of each measure as a struct (`alignment.score`), the verdict as one
    more (`verdict.rule`).

    Args:
        variants: the variants that are current, as paths below `tables`: `measures/alignment@0123456789ab`.
        hidden: sources that have candidates and are not in the recipe; `in_recipe` is false for what they alone found.
        spill: a folder for what does not fit the memory that a query may use.
    """
    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'")
    connection.execute("SET enable_progress_bar = false")
    connection.execute("SET preserve_insertion_order = false")
    connection.execute(f"SET memory_limit = '{MEMORY_SHARE * _memory_bytes() / 2**20:.0f}MiB'")
    if spill:
        connection.execute(f"SET temp_directory = {literal(spill)}")
    for table in ENTITIES:
        _view(connection, table.path, [tables / table.path], table.schema)
    for family, schema in (("duplicates", DUPLICATES), ("translations", TRANSLATIONS), ("verdicts", VERDICTS)):
        _view(connection, family, _current(tables, variants, family).values(), schema)
    _view(
        connection,
        "captions",
        _current(tables, variants, "captions").values(),
        CAPTIONS.append(pa.field("kind", pa.string())),
    )
    for name, folder in _current(tables, variants, "measures").items():
        _view(connection, name, [folder], None)
    shown = SHOWN_OF_SOME.format(hidden=", ".join(map(literal, hidden))) if hidden else SHOWN
    connection.execute(f"CREATE VIEW shown AS {shown}")
    connection.execute(f"CREATE VIEW repeats AS {REPEATS}")
    _suffixes(connection)
    heads = HEADS_OF_SOME if hidden else HEADS
    connection.execute(f"CREATE VIEW samples_found AS {SAMPLES_FOUND.format(heads=heads)}")
    structs = [f"{_numbers(connection, name)} AS {name}" for name in _measures(connection, tables, variants)]
    structs.append("{'kept': kept, 'rule': rule, 'value': value, 'threshold': threshold, 'failed': failed} AS verdict")
    connection.execute(
        f"CREATE VIEW corpus AS SELECT samples_found.*, {', '.join(structs)} "
        f"FROM {joined(connection, tables, variants)} LEFT JOIN verdicts USING (sample_id)"
    )
    return connection


def joined(connection: duckdb.DuckDBPyConnection, tables: Path, variants: Sequence[str]) -> str:
    """A FROM clause with one row a sample, for expressions over `measure.column` and the columns of `samples_found`."""
    joins = [
        f"LEFT JOIN {name} USING ({'sample_id' if 'sample_id' in _columns(connection, name) else 'image_id'})"
        for name in _measures(connection, tables, variants)
    ]
    return " ".join(["samples_found", *joins])


def lock_down(connection: duckdb.DuckDBPyConnection, tables: Path) -> None:
    """Leave a connection nothing but the files below `tables`, for good."""
    connection.execute(f"SET allowed_directories = [{literal(tables)}]")
    connection.execute("SET enable_external_access = false")
    connection.execute("SET lock_configuration = true")


def read_only(query: str) -> str:
    """The query, once it is known to be a single question.

    Raises:
        JuZhouError: it is not SQL, holds several statements, or would change something.
    """
    try:
        statements = duckdb.extract_statements(query)
    except duckdb.Error as error:
        raise JuZhouError(f"not SQL: {str(error).splitlines()[0]}") from error
    questions = (duckdb.StatementType.SELECT, duckdb.StatementType.EXPLAIN)
    if len(statements) != 1 or statements[0].type not in questions:
        raise JuZhouError("one SELECT, DESCRIBE, SUMMARIZE, SHOW or EXPLAIN is wanted: a corpus is read-only here")
    return query


def _memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _current(tables: Path, variants: Sequence[str], family: str) -> dict[str, Path]:
    """The current variants of a family of tables: name without fingerprint → folder."""
    paths = [path for path in variants if path.startswith(family + "/")]
    return {path.removeprefix(family + "/").partition("@")[0]: tables / path for path in sorted(paths)}


def _measures(connection: duckdb.DuckDBPyConnection, tables: Path, variants: Sequence[str]) -> list[str]:
    """The current measures that have rows."""
    return [name for name, folder in _current(tables, variants, "measures").items() if _whole_parts(folder)]


def _view(connection: duckdb.DuckDBPyConnection, name: str, folders: Iterable[Path], schema: pa.Schema | None) -> None:
    """A view over the parts of some folders; a column `kind` holds the folders' names where the schema has one.

    Without parts the view is empty and has the given schema; without a schema too, there is none.
    """
    with_kind = schema is not None and "kind" in schema.names
    selects = [
        f"SELECT *{', ' + literal(folder.name.partition('@')[0]) + ' AS kind' if with_kind else ''} "
        f"FROM read_parquet({literal(folder / 'part-*.parquet')})"
        for folder in folders
        if _whole_parts(folder)
    ]
    if selects:
        connection.execute(f"CREATE VIEW {name} AS {' UNION ALL BY NAME '.join(selects)}")
    elif schema is not None:
        connection.register(name, schema.empty_table())


def _suffixes(connection: duckdb.DuckDBPyConnection) -> None:
    """The view `suffixes`; it is empty where the tails of captions were not measured."""
    if "tail" in (_columns(connection, "text") if _exists(connection, "text") else ()):
        query = SUFFIXES.format(host=PAGE_HOST, least=SUFFIX_PICTURES, share=SUFFIX_SHARE)
        connection.execute(f"CREATE VIEW suffixes AS {query}")
    else:
        columns = {"host": pa.string(), "tail": pa.string(), "pictures": pa.int64(), "share": pa.float64()}
        connection.register("suffixes", pa.schema(columns).empty_table())


def _exists(connection: duckdb.DuckDBPyConnection, view: str) -> bool:
    return bool(connection.execute("SELECT 1 FROM duckdb_views() WHERE view_name = ?", [view]).fetchall())


def _whole_parts(folder: Path) -> bool:
    return any(folder.glob("part-*.parquet"))


def _columns(connection: duckdb.DuckDBPyConnection, view: str) -> dict[str, str]:
    """Column name → DuckDB type."""
    return {name: kind for name, kind, *_ in connection.execute(f"DESCRIBE {view}").fetchall()}


def _numbers(connection: duckdb.DuckDBPyConnection, measure: str) -> str:
    """A struct of a measure's columns but its key, its vectors and its hashes, which no one reads by eye."""
    heavy = ("BLOB", "[]", "[")
    columns = [
        name
        for name, kind in _columns(connection, measure).items()
        if not any(mark in kind for mark in heavy) and name not in ("image_id", "sample_id")
    ]
    return "{" + ", ".join(f"'{name}': {measure}.{name}" for name in columns) + "}"


def literal(text: str | Path) -> str:
    """A SQL string literal."""
    return "'" + str(text).replace("'", "''") + "'"
