"""Lists of picture URLs with captions → candidates: a list of any length streams through, and no row is lost unseen."""

import csv
import io
import json
import re
import string
import textwrap
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import duckdb
import pyarrow as pa
from fsspec.implementations.arrow import ArrowFSWrapper
from pyarrow.fs import LocalFileSystem

from pipelines.candidates import NO_WORDS
from pipelines.corpus import Corpus
from pipelines.files import Place
from pipelines.stage import derive
from pipelines.tombstones import Tombstones
from pipelines.views import literal
from schemas.errors import JuZhouError
from schemas.identity import CANDIDATE_ID, URL_ID
from schemas.recipe import Urls
from schemas.tables import CANDIDATES

PACKED = {"": "none", ".gz": "gzip", ".zst": "zstd"}
DELIMITERS = {".csv": ",", ".tsv": "\t"}
TEXTS = (*DELIMITERS, ".jsonl", ".ndjson", ".json")
SUFFIXES = (".parquet", *(text + packed for text in TEXTS for packed in PACKED))

LISTED = pa.schema({name: pa.string() for name in ("url", "caption", "page_url", "licence")})
BATCH_ROWS = 50_000
BLANK = string.whitespace + "\u00a0\u3000"
"""What is stripped from both ends of a URL."""
MESSAGE_LENGTH = 400


def add_candidates(corpus: Corpus, name: str, source: Urls, recipe: str, found_at: datetime) -> int:
    """Add every row of the lists that has a URL, and say how many are new.

    The same URL with the same caption is one candidate, with the least page URL and licence that stand beside it.
    What does not fit the memory that a query may use spills to disk.

    Args:
        name: the source's name in the recipe.
        recipe: the recipe's digest.

    Raises:
        JuZhouError: there is no list; one lacks a column or cannot be read to its end; or the condition is none over
            its columns. The line says which file; once that is mended, another run adds what is missing.
    """
    place = Place.of(source.path)
    forgotten = Tombstones.of(corpus)
    lists = _Lists(place, place.listed(name, SUFFIXES).column("path").to_pylist(), source)
    query = f"""
        SELECT {CANDIDATE_ID} AS candidate_id, source, {URL_ID} AS url_id, url, caption, 'list' AS caption_from,
            {NO_WORDS} AS words, page_url, licence, TIMESTAMPTZ '{found_at.isoformat()}' AS found_at,
            {literal(recipe)} AS recipe
        FROM (
            SELECT {literal(name)} AS source, * FROM listed WHERE url <> ''
            QUALIFY row_number() OVER (PARTITION BY url, caption ORDER BY page_url, licence) = 1
        )
    """
    try:
        return derive(
            corpus,
            CANDIDATES,
            query,
            {"listed": pa.RecordBatchReader.from_batches(LISTED, map(forgotten.noted_list, lists.rows()))},
        )
    except duckdb.Error as error:
        raise lists.failure or error from None


class _Lists:
    """The rows of some files, one file after the other, each read by its own columns.

    They are read by a DuckDB of their own and not by the corpus's: a recipe's condition has nothing else in its reach.
    """

    def __init__(self, place: Place, paths: list[str], source: Urls) -> None:
        self._place = place
        self._paths = paths
        self._source = source
        self.failure: JuZhouError | None = None
        """Why the rows ended before the files did; through the stream come an exception's words alone."""

    def rows(self) -> Iterator[pa.RecordBatch]:
        """Batches of LISTED."""
        with duckdb.connect() as connection:
            connection.register_filesystem(_Bridge(self._place.filesystem))
            for path in self._paths:
                try:
                    yield from connection.sql(self._query(connection, path)).to_arrow_reader(BATCH_ROWS)
                except JuZhouError as error:
                    self.failure = JuZhouError(f"{self._place.root}/{path}: {error}")
                    raise
                except (duckdb.Error, OSError, csv.Error) as error:
                    self.failure = JuZhouError(f"{self._place.root}/{path}: {_told(error)}; mend it and run again")
                    raise

    def _query(self, connection: duckdb.DuckDBPyConnection, path: str) -> str:
        """The rows of a file that are meant, as LISTED."""
        source = self._source
        used = _names(connection, source.where) if source.where else set()
        mapped = {column: getattr(source, column) for column in LISTED.names}
        wanted = [name for name in mapped.values() if name]
        listed, columns = self._reading(connection, path, used - {name.lower() for name in wanted})
        for name in wanted:
            if name not in columns:
                raise JuZhouError(f"no column '{name}'; it has {', '.join(columns) or 'none'}")
        url, caption, page_url, licence = (
            f"{_quoted(name)}::VARCHAR" if name else "NULL::VARCHAR" for name in mapped.values()
        )
        query = f"""
            SELECT trim({url}, {literal(BLANK)}) AS url, coalesce({caption}, '') AS caption,
                {page_url} AS page_url, {licence} AS licence
            FROM (FROM {listed} WHERE ({source.where or "true"}\n))
        """
        if source.where:
            try:
                connection.sql(query)
            except duckdb.Error as error:
                raise JuZhouError(f"where: {_told(error)}") from error
        return query

    def _reading(self, connection: duckdb.DuckDBPyConnection, path: str, typed: set[str]) -> tuple[str, list[str]]:
        """What stands after FROM for a file, and its columns.

        Parquet's columns keep their types. Those of text files are texts, since a caption that looks like a number is
        none; of JSON, the `typed` ones are what they look like.
        """
        [[kind, packed]] = re.findall(r"(\.[a-z]+)(\.gz|\.zst)?$", path.lower())
        file = f"{literal(_Bridge.path(self._place, path))}, hive_partitioning = false"
        if kind == ".parquet":
            listed = f"read_parquet({file}, binary_as_string = true)"
            return listed, connection.sql(f"FROM {listed}").columns
        file += f", compression = '{PACKED[packed]}'"
        if kind not in DELIMITERS:
            seen = connection.sql(f"FROM read_json({file}, map_inference_threshold = -1)")
            kinds = zip(seen.columns, map(str, seen.types), strict=True)
            types = {name: type_ if name.lower() in typed else "VARCHAR" for name, type_ in kinds}
            return f"read_json({file}, columns = {_struct(types)})", seen.columns
        file += f", delim = '{DELIMITERS[kind]}', header = true"
        quote = '"' if kind == ".csv" else _quote(connection, file)
        columns = self._header(path, DELIMITERS[kind], quote)
        types = dict.fromkeys(columns, "VARCHAR")
        dialect = f"auto_detect = false, quote = '{quote}', escape = '{quote}', columns = {_struct(types)}"
        return f"read_csv({file}, {dialect})", columns

    def _header(self, path: str, delimiter: str, quote: str) -> list[str]:
        """The names in the first line of a CSV file; one that is empty or there already gets a number."""
        with self._place.filesystem.open_input_stream(f"{self._place.root}/{path}") as stream:
            lines = io.TextIOWrapper(stream, "utf-8-sig", errors="replace", newline="")
            rows = csv.reader(lines, delimiter=delimiter, quoting=csv.QUOTE_MINIMAL if quote else csv.QUOTE_NONE)
            names = next(rows, [])
        columns: list[str] = []
        for number, name in enumerate(names):
            taken = not name or name.lower() in map(str.lower, columns)
            columns.append(f"{name}_{number}" if taken else name)
        return columns


class _Bridge(ArrowFSWrapper):
    """A file system of pyarrow for DuckDB, under a scheme of its own."""

    protocol = "lists"
    cachable = False

    @classmethod
    def path(cls, place: Place, path: str) -> str:
        """A file as DuckDB is to call it: a pattern that matches its name alone; DuckDB opens local ones itself."""
        literally = re.sub(r"[*?[]", r"[\g<0>]", f"{place.root}/{path}")
        return literally if isinstance(place.filesystem, LocalFileSystem) else f"{cls.protocol}://{literally}"

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return path.removeprefix(f"{cls.protocol}://")


def _names(connection: duckdb.DuckDBPyConnection, condition: str) -> set[str]:
    """The names that a condition uses, columns for the most part, in lower case.

    Raises:
        JuZhouError: it is no single expression, or asks a question of its own.
    """

    def parsed(expression: str) -> dict[str, Any]:
        select = f"SELECT [\n{expression}\n]"
        return json.loads(connection.execute("SELECT json_serialize_sql(?)", [select]).fetchall()[0][0])

    tree, plain = parsed(condition), parsed("true")
    if tree["error"]:
        raise JuZhouError(f"where: not SQL: {tree['error_message']}")
    listed, expected = (each["statements"][0]["node"].pop("select_list") for each in (tree, plain))
    alone = len(listed) == 1 and listed[0].get("function_name") == expected[0]["function_name"]
    if tree != plain or not alone or len(listed[0]["arguments"]) != 1:
        raise JuZhouError("where: one condition is wanted, such as LANGUAGE = 'zh'")
    names: set[str] = set()
    left: list[Any] = listed
    while left:
        node = left.pop()
        if isinstance(node, dict):
            if node.get("class") == "SUBQUERY":
                raise JuZhouError("where: a condition over the list's own columns is wanted, without SELECT")
            names.update(map(str.lower, node.get("column_names", ())))
        left.extend(node.values() if isinstance(node, dict) else node if isinstance(node, list) else ())
    return names


def _quote(connection: duckdb.DuckDBPyConnection, file: str) -> str:
    """The quotation mark of a TSV file: none where its first lines hold the mark as a character like any other."""
    try:
        connection.sql(f"""FROM sniff_csv({file}, quote = '"', escape = '"', comment = '', skip = 0)""").fetchall()
    except duckdb.Error:
        return ""
    return '"'


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _struct(types: dict[str, str]) -> str:
    return "{" + ", ".join(f"{_quoted(name)}: {literal(kind)}" for name, kind in types.items()) + "}"


def _told(error: Exception) -> str:
    """What an error says before it gives advice, in one line."""
    said = re.split(r"\n\s*\n|\n(?:Possible|Try |LINE )", str(error))[0]
    return textwrap.shorten(said, MESSAGE_LENGTH)
