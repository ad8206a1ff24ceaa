"""A corpus on disk: Parquet parts and tars of original bytes that other tools can open. What is there is the state."""

import contextlib
import fcntl
import json
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines import views
from pipelines.views import Place
from schemas.errors import JuZhouError
from schemas.identity import fingerprint
from schemas.tables import SCHEMA_VERSION, Table

UNFINISHED = ".unfinished-"
"""Prefix of whatever is being written; a name without it is whole."""
FACTS = ("candidates", "fetches", "images", "samples", "measures", "duplicates", "forgotten")
"""Tables whose rows a verdict depends on, beside the reviews."""
STANDING = "standing.parquet"
TRIES = 20
"""How often a query is asked that take-downs get in the way of."""
ROW_GROUP = 30_720
"""Rows that are read at least where one is wanted."""


class Corpus:
    """A folder with `corpus.json`, `tables/`, `blobs/` and `releases/`."""

    def __init__(self, path: Path | str) -> None:
        """Open a corpus.

        Raises:
            JuZhouError: the folder is no corpus, or is one of another schema version.
        """
        path = Path(path)
        try:
            about = json.loads((path / "corpus.json").read_text(encoding="utf-8"))
            version = about["schema_version"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise JuZhouError(f"{path} is not a corpus; `juzhou build RECIPE` makes one") from error
        if version != SCHEMA_VERSION:
            raise JuZhouError(f"{path} has schema version {version}, this JuZhou reads version {SCHEMA_VERSION}")
        self.path = path
        self.tables = path / "tables"
        self.blobs = path / "blobs"
        self.releases = path / "releases"

    @classmethod
    def create(cls, path: Path) -> Self:
        """Open the corpus at `path`, and make an empty one first where there is none.

        Raises:
            JuZhouError: something else is there already.
        """
        if not (path / "corpus.json").exists():
            strangers = [name for name in os.listdir(path) if not name.startswith(".")] if path.is_dir() else []
            if path.is_file() or set(strangers) - {"tables", "blobs", "releases"}:
                raise JuZhouError(f"{path} holds something else; name an empty folder for the corpus")
            for folder in ("tables", "blobs", "releases"):
                (path / folder).mkdir(parents=True, exist_ok=True)
            about = {"schema_version": SCHEMA_VERSION, "created": datetime.now(UTC).isoformat(timespec="seconds")}
            write_whole(path / "corpus.json", (json.dumps(about) + "\n").encode())
        return cls(path)

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """The right to add to the corpus, which one process has at a time; what a killed one left half is swept away.

        Raises:
            JuZhouError: another process has it.
        """
        with open(self.path / ".lock", "w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise JuZhouError(f"another process is writing to {self.path}; wait until it ends") from None
            self._sweep()
            yield

    def _sweep(self) -> None:
        for leftover in self.path.rglob(UNFINISHED + "*"):
            if leftover.is_dir():
                shutil.rmtree(leftover)
            else:
                leftover.unlink(missing_ok=True)

    def append(self, table: Table, rows: pa.Table) -> None:
        """Add rows as one new part, which is seen whole or not at all. No rows add no part."""
        if not rows.num_rows:
            return
        folder = self.tables / table.path
        folder.mkdir(parents=True, exist_ok=True)
        part = f"part-{time.time_ns():020d}-{secrets.token_hex(4)}.parquet"
        unfinished = folder / (UNFINISHED + part)
        pq.write_table(
            rows.select(table.schema.names).cast(table.schema), unfinished, compression="zstd", row_group_size=ROW_GROUP
        )
        flush(unfinished)
        unfinished.rename(folder / part)

    def add(self, table: Table, rows: pa.Table) -> None:
        """Add the rows whose keys the table lacks, each once, as one new part."""
        with self.connect() as connection:
            connection.register("offered", rows.select(table.schema.names).cast(table.schema))
            keys = ", ".join(table.key)
            lacking = f"SELECT DISTINCT ON ({keys}) * FROM offered ANTI JOIN {table.path} USING ({keys})"
            new = connection.sql(lacking).to_arrow_table()
        self.append(table, new)

    def replace_part(self, part: Path, schema: pa.Schema, tables: Iterable[pa.Table]) -> None:
        """Put other rows into a part, under its name; who reads it meanwhile sees the old ones or the new, whole."""
        unfinished = part.with_name(UNFINISHED + part.name)
        with pq.ParquetWriter(unfinished, schema, compression="zstd") as writer:
            for rows in tables:
                writer.write_table(rows, row_group_size=ROW_GROUP)
        flush(unfinished)
        unfinished.replace(part)

    def parts(self, *tables: str) -> list[str]:
        """The names of all parts of some tables with their variants, oldest first within a variant."""
        found = [path for table in tables for path in (self.tables / table).rglob("part-*.parquet")]
        return sorted(str(path.relative_to(self.tables)) for path in found)

    def rows_of(self, table: Table) -> str:
        """A FROM clause over all rows of a table that has parts, whether it is a current variant or not."""
        return f"read_parquet({views.literal(self.tables / table.path / 'part-*.parquet')})"

    def adopt(self, recipe: str, variants: Sequence[Table]) -> None:
        """Make these variants the current ones, which the views show, and remember the recipe that asked for them.

        Verdicts stay until others are adopted.
        """
        paths = {table.path for table in variants} | {path for path in self.variants if path.startswith("verdicts/")}
        self._remember(self._current() | {"recipe": recipe, "variants": sorted(paths)})

    def adopt_verdicts(self, table: Table, policy: str) -> None:
        """Make these verdicts the current ones, and remember the policy, as JSON, that they follow."""
        others = [path for path in self.variants if not path.startswith("verdicts/")]
        self._remember(self._current() | {"policy": policy, "variants": sorted([*others, table.path])})

    def hide(self, sources: Sequence[str]) -> None:
        """Show what these sources found as out of the recipe, so that no release holds it; nothing is deleted."""
        self._remember(self._current() | {"hidden": sorted(sources)})

    def mark_purged(self, parts: Sequence[str]) -> None:
        """Note the parts of `forgotten` of whose take-downs nothing is left but their tombstones."""
        self._remember(self._current() | {"purged": sorted(parts)})

    def _remember(self, current: dict[str, Any]) -> None:
        write_whole(self.path / "current.json", (json.dumps(current, ensure_ascii=False, indent=1) + "\n").encode())

    @property
    def recipe(self) -> str | None:
        """The recipe of the last build, as JSON."""
        return self._current().get("recipe")

    @property
    def policy(self) -> str | None:
        """The policy of the current verdicts, as JSON."""
        return self._current().get("policy")

    @property
    def variants(self) -> list[str]:
        """The variants of the last build: measures, duplicates, captions and verdicts, as paths below `tables/`."""
        return self._current().get("variants", [])

    @property
    def hidden(self) -> list[str]:
        """Sources with candidates that the last recipe does not name."""
        return self._current().get("hidden", [])

    @property
    def purged(self) -> list[str]:
        """Parts of `forgotten` whose take-downs are complete."""
        return self._current().get("purged", [])

    def _current(self) -> dict[str, Any]:
        path = self.path / "current.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}

    @property
    def place(self) -> Place:
        """Where the views find what they show."""
        standing = self.cache / STANDING
        return Place(
            tables=self.tables,
            releases=self.releases,
            variants=self.variants,
            hidden=self.hidden,
            standing=standing if standing.exists() else None,
            spill=self.path / f"{UNFINISHED}spill",
        )

    @property
    def state(self) -> str:
        """Twelve hex digits of all that a measure, a caption or another sample may say of a sample before a verdict."""
        current = [path for path in self.variants if not path.startswith(("verdicts/", "captions/"))]
        parts = {part: (self.tables / part).stat().st_size for part in self.parts(*FACTS)}
        return fingerprint(variants=current, parts=parts, hidden=self.hidden)

    @property
    def cache(self) -> Path:
        """The folder of what was derived from the corpus as it is; it may be deleted at any time."""
        return self.path / "cache" / self.state

    def connect(self, query: str | None = None) -> duckdb.DuckDBPyConnection:
        """A DuckDB connection with the views of `pipelines.views`.

        Args:
            query: what will be asked, so that the view `corpus` joins no more tables than that names.
        """
        return views.connect(self.place, query)

    def sql(self, query: str) -> pa.Table:
        """The answer to a query over the views."""

        def answer() -> pa.Table:
            with self.connect(query) as connection:
                return connection.sql(query).to_arrow_table()

        return self._settled(answer)

    def ask(self, query: str) -> pa.Table:
        """The answer to a stranger's query: one question over the views, with no reach beyond the tables.

        Raises:
            JuZhouError: the query is no single question, or DuckDB cannot answer it.
        """
        query = views.read_only(query)

        def answer() -> pa.Table:
            with self.fenced(query) as connection:
                return connection.sql(query).to_arrow_table()

        try:
            return self._settled(answer)
        except duckdb.Error as error:
            raise JuZhouError(str(error)) from error

    def fenced(self, query: str, **settings: str) -> duckdb.DuckDBPyConnection:
        """A connection for a stranger's query: no reach beyond the tables, and the settings, for good."""
        connection = self.connect(query)
        for name, value in settings.items():
            connection.execute(f"SET {name} = '{value}'")
        views.lock_down(connection, self.tables, self.releases, self.path / "cache")
        return connection

    def _settled(self, answer: Callable[[], pa.Table]) -> pa.Table:
        """An answer, sought again where a take-down put other rows into a part that was just being read."""
        for _ in range(TRIES):
            started = time.time()
            try:
                return answer()
            except duckdb.Error:
                if not any(part.stat().st_ctime > started - 0.1 for part in self.tables.rglob("part-*.parquet")):
                    raise
        return answer()

    def views_as_sql(self) -> str:
        """The views as a script, for any other program with DuckDB in it; new parts are seen, new variants are not."""
        with self.connect() as connection:
            made = connection.execute("SELECT sql FROM duckdb_views() WHERE NOT internal ORDER BY view_oid").fetchall()
        return "\n".join(["SET TimeZone = 'UTC';", *(sql for (sql,) in made)])

    def sample(self, sample_id: bytes) -> dict[str, Any] | None:
        """The wide row of one sample, by its keys; None where there is no such sample."""
        return views.sample(self.place, sample_id)

    def read(self, tar: str, offset: int, length: int) -> bytes:
        """Original bytes of a picture, by the location that `images` and `fetches` hold."""
        with open(self.blobs / tar, "rb") as blob:
            blob.seek(offset)
            content = blob.read(length)
        if len(content) != length:
            raise OSError(f"{self.blobs / tar} ends before byte {offset + length}")
        return content


def write_whole(path: Path, content: bytes) -> None:
    """Write a file that is seen whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(UNFINISHED + path.name)
    unfinished.write_bytes(content)
    flush(unfinished)
    unfinished.replace(path)


def flush(path: Path) -> None:
    """Hand a file's bytes to the disk, so that a rename never outlives them."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
