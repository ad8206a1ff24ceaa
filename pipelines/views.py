"""The corpus as SQL: a DuckDB view a table, and `corpus`, a wide row a sample."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from pipelines.wide import PAGE_HOST, VERDICT, Source, Wide, measure_source, named
from schemas.errors import JuZhouError
from schemas.tables import (
    CAPTIONS,
    DUPLICATES,
    ENTITIES,
    ID,
    KEYWORDS,
    PAIRS,
    POEM_VARIANTS,
    READINGS,
    TRANSLATIONS,
    VERDICTS,
)

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

STANDING = """
    WITH placed AS MATERIALIZED (
        SELECT sample_id, image_id, candidate_id, source, in_recipe, md5_number(caption) AS words FROM shown
    ), grouped AS MATERIALIZED (
        SELECT placed.*, duplicates.representative, duplicates.distance, heads.stands_for_itself
        FROM placed LEFT JOIN duplicates USING (image_id) LEFT JOIN ({heads}) AS heads USING (image_id)
    ), counted AS (
        SELECT words, count(DISTINCT coalesce(representative, image_id)) AS repeats
        FROM grouped WHERE in_recipe GROUP BY words
    )
    SELECT grouped.* EXCLUDE (words), counted.repeats FROM grouped LEFT JOIN counted USING (words)
"""
"""Captions are told apart by their digests, which are shorter."""

REPEATS = """
    SELECT caption, count(DISTINCT coalesce(representative, image_id)) AS repeats
    FROM shown LEFT JOIN duplicates USING (image_id) WHERE in_recipe GROUP BY caption
"""


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
RELEASED = pa.schema(
    {
        "release": pa.string(),
        "made": pa.int32(),
        "sample_id": ID,
        "split": pa.string(),
        "shard": pa.string(),
        "offset": pa.int64(),
        "length": pa.int64(),
    }
)
NEWEST = "SELECT sample_id, arg_max(release, made) AS release FROM released GROUP BY sample_id"

SUFFIX_PICTURES = 10
SUFFIX_SHARE = 0.3
"""What ends the captions of so many different pictures of a host, all worded otherwise, and of so large a share of
those whose captions have a tail, is the site's: it adds its name by a template, but 沙发-红色 is a colour."""


@dataclass(frozen=True)
class Place:
    """Where a corpus has what the views show."""

    tables: Path
    releases: Path
    variants: Sequence[str] = ()
    """The variants that are current, as paths below `tables`: `measures/alignment@0123456789ab`."""
    hidden: Sequence[str] = ()
    """Sources with candidates that are not in the recipe; `in_recipe` is false for what they alone found."""
    standing: Path | None = None
    """The view `standing` as a file, where one of the corpus as it is was made."""
    spill: Path | None = None
    """A folder for what does not fit the memory that a query may use."""


def connect(place: Place, query: str | None = None) -> duckdb.DuckDBPyConnection:
    """Open DuckDB over a corpus.

    Views: one a table under its name (`captions` with a column `kind`); a measure under its own name, such as
    `alignment`; `shown`, a sample with the candidate that it is from; `repeats`, how many distinct pictures bear a
    caption; `suffixes`, what a host ends its captions with; `standing`, how a sample stands among the others;
    `released`, a row for each release that holds a sample; and `corpus`, a wide row a sample with the numbers of each
    measure as a struct (`alignment.score`), the verdict as one more (`verdict.rule`), and the newest release.

    Args:
        query: what will be asked, so that `corpus` joins no more tables than that names.
    """
    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'")
    connection.execute("SET enable_progress_bar = false")
    connection.execute("SET preserve_insertion_order = false")
    connection.execute(f"SET memory_limit = '{MEMORY_SHARE * _memory_bytes() / 2**20:.0f}MiB'")
    if place.spill:
        connection.execute(f"SET temp_directory = {literal(place.spill)}")
    for table in ENTITIES:
        _view(connection, table.path, [place.tables / table.path], table.schema)
    families = (
        ("duplicates", DUPLICATES),
        ("poem_variants", POEM_VARIANTS),
        ("keywords", KEYWORDS),
        ("pairs", PAIRS),
        ("translations", TRANSLATIONS),
        ("readings", READINGS),
        ("verdicts", VERDICTS),
    )
    for family, schema in families:
        _view(connection, family, _current(place, family).values(), schema)
    with_kind = CAPTIONS.append(pa.field("kind", pa.string()))
    _view(connection, "captions", _current(place, "captions").values(), with_kind)
    for name, folder in _current(place, "measures").items():
        _view(connection, name, [folder], None)
    _released(connection, place.releases)
    hidden = ", ".join(map(literal, place.hidden))
    connection.execute(f"CREATE VIEW shown AS {SHOWN_OF_SOME.format(hidden=hidden) if hidden else SHOWN}")
    connection.execute(f"CREATE VIEW repeats AS {REPEATS}")
    _suffixes(connection)
    heads = HEADS_OF_SOME if hidden else HEADS
    made = f"SELECT * FROM read_parquet({literal(place.standing)})" if place.standing else STANDING.format(heads=heads)
    connection.execute(f"CREATE VIEW standing AS {made}")
    connection.execute(f"CREATE VIEW corpus AS {wide(connection, place).query(named(query) if query else None)}")
    return connection


def sample(place: Place, sample_id: bytes) -> dict[str, Any] | None:
    """The wide row of one sample; None where there is no such sample."""
    with connect(place) as connection:
        keys = "sample_id, image_id, candidate_id"
        wanted = blob(sample_id)
        found = connection.sql(f"SELECT {keys} FROM standing WHERE sample_id = {wanted}").to_arrow_table().to_pylist()
        if not found:
            return None
        only = {key: blob(value) for key, value in found[0].items() if value is not None}
        [row] = connection.sql(wide(connection, place).query(only=only)).to_arrow_table().to_pylist()
        return row


def wide(connection: duckdb.DuckDBPyConnection, place: Place) -> Wide:
    """The wide row of a sample."""
    standing = ("sample_id", "image_id", "source", "in_recipe", "representative", "distance", "stands_for_itself")
    found = ("url", "page_url", "caption_from", "licence")
    lies = ("tar", "offset", "length", "format", "orientation")
    return Wide(
        (
            Source("standing", "sample_id", {name: f"standing.{name}" for name in (*standing, "repeats")}),
            Source("samples", "sample_id", {"caption": "samples.caption"}, "SELECT sample_id, caption FROM samples"),
            Source(
                "candidates",
                "candidate_id",
                {name: f"candidates.{name}" for name in found} | {"host": PAGE_HOST.format("candidates")},
            ),
            Source("images", "image_id", {name: f'images."{name}"' for name in lies}),
            *(measure_source(connection, name) for name in _measures(place)),
            Source("verdicts", "sample_id", {"verdict": VERDICT}),
            Source("newest", "sample_id", {"release": "newest.release"}, NEWEST),
        )
    )


def lock_down(connection: duckdb.DuckDBPyConnection, *folders: Path) -> None:
    """Leave a connection nothing but the files below some folders, for good."""
    connection.execute(f"SET allowed_directories = [{', '.join(map(literal, folders))}]")
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


def _current(place: Place, family: str) -> dict[str, Path]:
    """The current variants of a family of tables: name without fingerprint → folder."""
    paths = [path for path in place.variants if path.startswith(family + "/")]
    return {path.removeprefix(family + "/").partition("@")[0]: place.tables / path for path in sorted(paths)}


def _measures(place: Place) -> list[str]:
    """The current measures that have rows."""
    return [name for name, folder in _current(place, "measures").items() if _whole_parts(folder)]


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
        connection.execute(f"CREATE VIEW {name} AS {_empty(schema)}")


@cache
def _empty(schema: pa.Schema) -> str:
    """A query without rows that has the columns of a schema."""
    with duckdb.connect() as connection:
        connection.register("nothing", schema.empty_table())
        columns = connection.execute("DESCRIBE nothing").fetchall()
    nulls = ", ".join(f'CAST(NULL AS {kind}) AS "{name}"' for name, kind, *_ in columns)
    return f"SELECT {nulls} WHERE false"


def _suffixes(connection: duckdb.DuckDBPyConnection) -> None:
    """The view `suffixes`; it is empty where the tails of captions were not measured."""
    if "tail" in (_columns(connection, "text") if _exists(connection, "text") else ()):
        query = SUFFIXES.format(host=PAGE_HOST.format("shown"), least=SUFFIX_PICTURES, share=SUFFIX_SHARE)
        connection.execute(f"CREATE VIEW suffixes AS {query}")
    else:
        columns = {"host": pa.string(), "tail": pa.string(), "pictures": pa.int64(), "share": pa.float64()}
        connection.execute(f"CREATE VIEW suffixes AS {_empty(pa.schema(columns))}")


def _exists(connection: duckdb.DuckDBPyConnection, view: str) -> bool:
    return bool(connection.execute("SELECT 1 FROM duckdb_views() WHERE view_name = ?", [view]).fetchall())


def _whole_parts(folder: Path) -> bool:
    return any(folder.glob("part-*.parquet"))


def _columns(connection: duckdb.DuckDBPyConnection, view: str) -> dict[str, str]:
    """Column name → DuckDB type."""
    return {name: kind for name, kind, *_ in connection.execute(f"DESCRIBE {view}").fetchall()}


def _released(connection: duckdb.DuckDBPyConnection, releases: Path) -> None:
    """The view `released`: the releases in the order in which they were made, their samples, and where these lie."""
    made = [path for path in releases.glob("*/samples.parquet") if not path.parent.name.startswith(".")]
    selects = [
        f'SELECT {literal(path.parent.name)} AS release, {number} AS made, sample_id, split, shard, "offset", length '
        f"FROM read_parquet({literal(path)})"
        for number, path in enumerate(sorted(made, key=lambda path: (path.stat().st_mtime_ns, path)))
    ]
    if selects:
        connection.execute(f"CREATE VIEW released AS {' UNION ALL BY NAME '.join(selects)}")
    else:
        connection.execute(f"CREATE VIEW released AS {_empty(RELEASED)}")


def blob(content: bytes) -> str:
    """A SQL blob literal."""
    return f"unhex('{content.hex()}')"


def literal(text: str | Path) -> str:
    """A SQL string literal."""
    return "'" + str(text).replace("'", "''") + "'"
