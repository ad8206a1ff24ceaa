"""Take-downs: what a right-holder wants gone leaves tables and tars, and a tombstone keeps it from coming back.

Tombstones are written first; whatever they mean goes after that, in an order in which each step can be found again
from what the later ones still hold. A purge that was killed is done anew from its start, and finds less to do.
"""

import os
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.blob import TAR_BLOCK
from pipelines.corpus import ROW_GROUP, Corpus, flush
from pipelines.tombstones import BARE_HOST, FORGOTTEN, OWN, Tombstones, is_address, normal, normal_host
from pipelines.views import literal
from schemas.errors import JuZhouError
from schemas.identity import DIGEST_BYTES, URL_ID, digest
from schemas.tables import FORGOTTEN as TOMBSTONES
from schemas.tables import ID, OUTCOME, Status

SUFFIXES = re.compile(
    r"(ac|co|com|edu|gob|go|gouv|gov|info|mil|ne|net|nom|or|org)\.[a-z]{2}"
    r"|(ah|bj|cq|fj|gd|gs|gx|gz|ha|hb|he|hi|hk|hl|hn|jl|js|jx|ln|mo|nm|nx|qh|sc|sd|sh|sn|sx|tj|tw|xj|xz|yn|zj)\.cn"
)
"""Domains of two labels under which strangers register theirs."""
HOST_NAME = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,62})(\.[a-z0-9_-]{1,63})*")

GAVE = """
    SELECT url, final_url, image_id, tar, "offset", length FROM fetches WHERE image_id IS NOT NULL
    UNION ALL
    SELECT found.url, NULL, found.image_id, found.tar, found."offset", found.length
    FROM (SELECT unnest(pictures) AS found FROM files) WHERE found.image_id IS NOT NULL
    UNION ALL
    SELECT 'synthesis:' || source || '/' || lower(hex(synthesis_id)), NULL, image_id, tar, "offset", length
    FROM syntheses WHERE image_id IS NOT NULL
"""
"""Which URL gave which picture, and where its bytes lie."""
FOUND = """
    SELECT url, page_url FROM candidates
    UNION ALL SELECT found.url, found.page_url FROM (SELECT unnest(pictures) AS found FROM files)
    UNION ALL SELECT found.url, found.page_url FROM (SELECT unnest(pictures) AS found FROM pages)
"""
"""Which page shows which URL."""
URLS = """
    SELECT unnest([url, page_url]) AS url FROM found
    UNION ALL SELECT unnest([url, final_url]) FROM fetches
    UNION ALL SELECT url FROM pages
    UNION ALL SELECT unnest(links) FROM pages
"""
"""All URLs that the tables hold."""
CAUSED = """
    WITH shown AS (SELECT DISTINCT found.url, kind, value FROM found JOIN spelled ON found.page_url = spelled.url)
    SELECT kind, value, image_id FROM gave JOIN spelled USING (url)
    UNION SELECT kind, value, image_id FROM gave JOIN spelled ON final_url = spelled.url
    UNION SELECT kind, value, image_id FROM gave JOIN shown USING (url)
"""
"""What a request means: the pictures that a URL gave, or a redirect to it, and those that a page shows."""
EMPTIED = """
    WITH touched AS (SELECT DISTINCT url FROM gave WHERE image_id IN (FROM doomed_image))
    FROM touched ANTI JOIN (
        SELECT url FROM gave SEMI JOIN touched USING (url) WHERE image_id NOT IN (FROM doomed_image)
    ) USING (url)
"""
"""URLs that gave nothing else."""
UNSHOWN = """
    WITH shown AS (SELECT DISTINCT url FROM found WHERE page_url IN (SELECT url FROM spelled))
    FROM shown ANTI JOIN (
        SELECT url FROM found SEMI JOIN shown USING (url)
        WHERE page_url IS NULL OR page_url NOT IN (SELECT url FROM spelled)
    ) USING (url)
"""
"""URLs that no other page shows."""
REFUSED = f"status = '{Status.DISALLOWED}' AND error = '{FORGOTTEN}'"
"""A row that says of a URL nothing but that it was taken down."""
REFUSING = f"""
    WITH refused AS (SELECT DISTINCT url FROM fetches WHERE {REFUSED})
    FROM refused ANTI JOIN (SELECT url FROM gave SEMI JOIN refused USING (url)) USING (url)
"""
"""URLs whose words are to go too, unless they gave something else."""
PLACE = "SELECT part, file_row_number"
KEYS = {"image_id": "image", "sample_id": "sample", "candidate_id": "candidate", "synthesis_id": "synthesis"}
LAST = ("duplicates", "samples", "candidates", "pages", "images", "files", "syntheses", "fetches")
"""Tables that others are found by; they are purged in this order, after all that have none of these names."""


@dataclass(frozen=True)
class Request:
    """What is to be forgotten: a `url`, a `domain` with what is below it, or an `image`."""

    kind: str
    value: str
    image_id: bytes | None = None

    @classmethod
    def of_url(cls, text: str) -> "Request":
        """The URL of a picture or a page.

        Raises:
            JuZhouError: it is none.
        """
        value = normal(text.strip())
        if value is None or len(value) <= min(map(len, OWN)):
            raise JuZhouError(f"'{text}' is no URL of the web; https://example.org/a.jpg is one")
        return cls("url", value)

    @classmethod
    def of_domain(cls, text: str) -> "Request":
        """A domain, or the address of a host.

        Raises:
            JuZhouError: it is none, or one under which strangers register theirs.
        """
        name = text.strip()
        host = normal_host(name)
        if re.search(r"[/@\s?#*\\]", name) or not name:
            raise JuZhouError(f"'{text}' is no domain; example.org is one, and stands for all below it")
        if is_address(host):
            return cls("domain", host)
        if ":" in name:
            raise JuZhouError(f"'{text}' has a port; name the host alone: all its ports are meant")
        if not HOST_NAME.fullmatch(host) or len(host) > 253:
            raise JuZhouError(f"'{text}' is no domain; example.org is one, and stands for all below it")
        if SUFFIXES.fullmatch(host):
            raise JuZhouError(f"under '{text}' strangers have their domains; name one of those")
        return cls("domain", host)

    @classmethod
    def of_image(cls, text: str) -> "Request":
        """A picture by its image_id in hex, or by a file with its bytes.

        Raises:
            JuZhouError: it is neither.
        """
        if re.fullmatch(rf"[0-9a-fA-F]{{{2 * DIGEST_BYTES}}}", text.strip()):
            image_id = bytes.fromhex(text.strip())
        elif Path(text).is_file():
            image_id = digest(Path(text).read_bytes())
        else:
            raise JuZhouError(f"'{text}' is neither an image_id of {2 * DIGEST_BYTES} hex digits nor a file")
        return cls("image", image_id.hex(), image_id)

    @classmethod
    def of_list(cls, path: Path) -> "list[Request]":
        """A request a line: a URL, an image_id in hex, or a domain; blank lines and those after # do not count.

        Raises:
            JuZhouError: the file cannot be read, or a line is none of these.
        """
        try:
            lines = path.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise JuZhouError(f"{path}: {error}") from error
        wanted = []
        for number, line in enumerate(map(str.strip, lines), 1):
            if not line or line.startswith("#"):
                continue
            hexadecimal = re.fullmatch(rf"[0-9a-fA-F]{{{2 * DIGEST_BYTES}}}", line)
            of = cls.of_image if hexadecimal else cls.of_url if "://" in line or line.startswith(OWN) else cls.of_domain
            try:
                wanted.append(of(line))
            except JuZhouError as error:
                raise JuZhouError(f"{path}, line {number}: {error}") from error
        return wanted

    def row(self, reason: str | None, at: datetime) -> dict[str, Any]:
        """Its tombstone."""
        name = f"{self.kind}\n{self.value}" + (f"\n{self.image_id.hex()}" if self.image_id else "")
        told = {"kind": self.kind, "value": self.value, "image_id": self.image_id}
        return {"forgotten_id": digest(name.encode()), **told, "reason": reason, "forgotten_at": at}


@dataclass(frozen=True)
class Outcome:
    """What a purge took."""

    images: int
    samples: int
    candidates: int
    parts: int
    """Parts that were written anew."""
    of: dict[tuple[str, str], int]
    """Pictures by the kind and the value of the request; 0 for a URL or a domain that gave none."""
    unseen: set[tuple[str, str]]
    """Requests for what the corpus never met."""
    releases: list[tuple[str, int]]
    """Releases that hold some of it, and how many samples; they never change."""

    def told(self, kind: str, value: str) -> str:
        """What came of a request, in words."""
        if (kind, value) in self.unseen:
            return "never met; it will be refused"
        count = self.of.get((kind, value), 0)
        return "1 picture" if count == 1 else f"{count:,} pictures"


def forget(corpus: Corpus, requests: Sequence[Request], reason: str | None = None) -> Outcome | None:
    """Leave tombstones and purge; None where all of it was forgotten before. The caller has the right to write.

    Raises:
        JuZhouError: a domain is a top-level one. Nothing was written then.
    """
    single = [one.value for one in requests if one.kind == "domain" and "." not in one.value and ":" not in one.value]
    if single:
        with _opened(corpus) as connection:
            known = {normal_host(host) for host in _hosts(connection)}
        for name in single:
            if name not in known:
                raise JuZhouError(f"'{name}' is no host of the corpus; name a domain, such as example.{name}")
    now = datetime.now(UTC)
    corpus.add(TOMBSTONES, pa.Table.from_pylist([one.row(reason, now) for one in requests], schema=TOMBSTONES.schema))
    return finish(corpus)


def finish(corpus: Corpus) -> Outcome | None:
    """Purge what is forgotten and still there; None where nothing is. The caller has the right to write.

    What became of it since counts too: a URL that gave forgotten bytes, or led to a forgotten URL, is forgotten.
    """
    if not corpus.parts("forgotten"):
        return None
    with _opened(corpus) as connection:
        _forget_what_refuses(corpus, connection)
        parts = corpus.parts("forgotten")
        pending = [part for part in parts if part not in corpus.purged]
        if not pending:
            return None
        outcome = _purge(corpus, connection, _rows(corpus, pending))
    shutil.rmtree(corpus.path / "cache", ignore_errors=True)
    corpus.mark_purged(corpus.parts("forgotten"))
    return outcome


def held(corpus: Corpus) -> list[tuple[str, int]]:
    """The releases that hold something of all that was ever forgotten, with the number of such samples."""
    with _opened(corpus) as connection:
        rows = corpus.sql("SELECT DISTINCT image_id FROM forgotten WHERE image_id IS NOT NULL")
        _table(connection, "doomed_image", rows.cast(pa.schema({"image_id": ID})))
        return _releases(corpus, connection)


def _opened(corpus: Corpus) -> duckdb.DuckDBPyConnection:
    connection = corpus.connect()
    for name, query in (("gave", GAVE), ("found", FOUND), ("urls", URLS)):
        connection.execute(f"CREATE TEMP VIEW {name} AS {query}")
    return connection


def _rows(corpus: Corpus, parts: Sequence[str]) -> list[dict[str, Any]]:
    return [row for part in parts for row in pq.read_table(corpus.tables / part).to_pylist()]


def _forget_what_refuses(corpus: Corpus, connection: duckdb.DuckDBPyConnection) -> None:
    """Leave tombstones of URLs that were asked and gave forgotten bytes, or led to a forgotten URL."""
    urls = [url for (url,) in connection.execute(REFUSING).fetchall()]
    if not urls:
        return
    tombstones, now = Tombstones.of(corpus), datetime.now(UTC)
    web = (url for url in urls if not url.startswith(OWN) and not tombstones.refuse(url))
    values = {value for url in web if (value := normal(url))}
    rows = [Request("url", value).row("gave what was forgotten", now) for value in sorted(values)]
    corpus.add(TOMBSTONES, pa.Table.from_pylist(rows, schema=TOMBSTONES.schema))


def _purge(corpus: Corpus, connection: duckdb.DuckDBPyConnection, rows: list[dict[str, Any]]) -> Outcome:
    """Take down what some tombstones mean."""
    shutil.rmtree(corpus.path / "cache", ignore_errors=True)
    connection.execute("CREATE TEMP TABLE spelled (url VARCHAR, kind VARCHAR, value VARCHAR)")
    asked = [row for row in rows if row["image_id"] is None]
    _spell(connection, Tombstones.from_rows(asked))
    rows += _add_images(corpus, connection, asked)
    images = pa.table({"image_id": pa.array({row["image_id"] for row in rows if row["image_id"]}, ID)})
    _table(connection, "doomed_image", images)
    _table(connection, "emptied", connection.sql(EMPTIED).to_arrow_table())
    rows += _add_urls(corpus, connection, rows)
    known = {row["value"] for row in asked}
    derived = (row for row in rows if row["kind"] == "url" and row["image_id"] and row["value"] not in known)
    _spell(connection, Tombstones.from_rows(derived))
    gone = f"SELECT url FROM spelled UNION FROM emptied UNION ({UNSHOWN})"
    _table(connection, "doomed_url", connection.sql(f"SELECT url, {URL_ID} AS url_id FROM ({gone})").to_arrow_table())
    of_pages = "page_url IN (SELECT url FROM spelled)"
    doomed = {
        "sample": "SELECT sample_id FROM samples WHERE image_id IN (FROM doomed_image)",
        "candidate": "SELECT candidate_id FROM candidates "
        f"WHERE url_id IN (SELECT url_id FROM doomed_url) OR {of_pages}",
        "synthesis": "SELECT synthesis_id FROM syntheses WHERE image_id IN (FROM doomed_image) "
        "OR 'synthesis:' || source || '/' || lower(hex(synthesis_id)) IN (SELECT url FROM doomed_url)",
    }
    sizes = {"image": images.num_rows}
    for name, query in doomed.items():
        [[sizes[name]]] = connection.execute(f"CREATE TEMP TABLE doomed_{name} AS {query}").fetchall()
    releases = _releases(corpus, connection)
    unseen = _unseen(connection, rows)
    _overwrite(corpus, connection)
    return Outcome(
        images=sizes["image"],
        samples=sizes["sample"],
        candidates=sizes["candidate"],
        parts=_sweep(corpus, connection),
        of=dict(Counter((kind, value) for kind, value, image_id in _told(rows) if image_id)),
        unseen=unseen,
        releases=releases,
    )


def _hosts(connection: duckdb.DuckDBPyConnection) -> list[str]:
    """The hosts of all URLs, as they are spelled."""
    query = f"SELECT DISTINCT regexp_extract(url, {literal(BARE_HOST)}, 1) FROM urls WHERE url IS NOT NULL"
    return [host for (host,) in connection.execute(query).fetchall() if host]


def _spell(connection: duckdb.DuckDBPyConnection, tombstones: Tombstones) -> None:
    """Add to `spelled` all URLs of the tables that the tombstones mean, however they are written there."""
    if not (tombstones.urls or tombstones.domains):
        return
    meant = [host for host in _hosts(connection) if tombstones.concern(normal_host(host))]
    _table(connection, "meant", pa.table({"host": pa.array(meant, pa.string())}))
    query = f"SELECT DISTINCT url FROM urls WHERE regexp_extract(url, {literal(BARE_HOST)}, 1) IN (FROM meant)"
    spelled = [
        (url, kind, value)
        for batch in connection.sql(query).to_arrow_reader(ROW_GROUP)
        for url in batch.column(0).to_pylist()
        for kind, value in tombstones.met(url)
    ]
    spelled += [(value, "url", value) for value in tombstones.urls.values() if value.startswith(OWN)]
    names = ("url", "kind", "value")
    columns = zip(*spelled, strict=True) if spelled else ((), (), ())
    rows = pa.table({name: pa.array(column, pa.string()) for name, column in zip(names, columns, strict=True)})
    connection.register("more", rows)
    connection.execute("INSERT INTO spelled FROM more")
    connection.unregister("more")


def _add_images(
    corpus: Corpus, connection: duckdb.DuckDBPyConnection, asked: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Leave a tombstone of each picture that a request means, before anything goes by which it is found."""
    about = {(row["kind"], row["value"]): row for row in asked}
    new = []
    for kind, value, image_id in connection.execute(CAUSED).fetchall():
        request = about[kind, value]
        new.append(Request(kind, value, image_id).row(request["reason"], request["forgotten_at"]))
    corpus.add(TOMBSTONES, pa.Table.from_pylist(new, schema=TOMBSTONES.schema))
    return new


def _add_urls(
    corpus: Corpus, connection: duckdb.DuckDBPyConnection, rows: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Leave a tombstone of each URL of the web that gave nothing but forgotten pictures, so that it is not asked."""
    about = {row["image_id"]: row for row in rows if row["image_id"]}
    tombstones = Tombstones.from_rows(rows)
    query = "SELECT url, min(image_id) FROM gave SEMI JOIN emptied USING (url) GROUP BY url ORDER BY url"
    new = []
    for url, image_id in connection.execute(query).fetchall():
        if url.startswith(OWN) or tombstones.refuse(url) or not (value := normal(url)):
            continue
        row = about[image_id]
        new.append(Request("url", value, image_id).row(row["reason"], row["forgotten_at"]))
    corpus.add(TOMBSTONES, pa.Table.from_pylist(new, schema=TOMBSTONES.schema))
    return new


def _unseen(connection: duckdb.DuckDBPyConnection, rows: list[dict[str, Any]]) -> set[tuple[str, str]]:
    met = set(connection.execute("SELECT DISTINCT kind, value FROM spelled").fetchall())
    query = "SELECT DISTINCT image_id FROM gave SEMI JOIN doomed_image USING (image_id)"
    met |= {("image", image_id.hex()) for (image_id,) in connection.execute(query).fetchall()}
    return {(kind, value) for kind, value, _ in _told(rows) if (kind, value) not in met}


def _told(rows: list[dict[str, Any]]) -> set[tuple[str, str, bytes | None]]:
    return {(row["kind"], row["value"], row["image_id"]) for row in rows}


def _releases(corpus: Corpus, connection: duckdb.DuckDBPyConnection) -> list[tuple[str, int]]:
    found = []
    for path in sorted(corpus.releases.glob("*/samples.parquet")):
        if path.parent.name.startswith("."):
            continue
        query = f"SELECT count(*) FROM read_parquet({literal(path)}) WHERE image_id IN (FROM doomed_image)"
        [[samples]] = connection.execute(query).fetchall()
        if samples:
            found.append((path.parent.name, samples))
    return found


def _overwrite(corpus: Corpus, connection: duckdb.DuckDBPyConnection) -> None:
    """Put zeros in the place of the bytes, wherever they lie; the tars stay what they are, and all offsets right."""
    tars = {path.name for path in corpus.blobs.glob("*.tar")}
    if not tars:
        return
    lies = 'SELECT image_id, tar, "offset", length FROM'
    query = f"SELECT DISTINCT * FROM ({lies} gave UNION ALL {lies} images) WHERE image_id IN (FROM doomed_image)"
    places: dict[str, list[tuple[bytes, int, int]]] = {}
    for image_id, tar, offset, length in connection.execute(query).fetchall():
        places.setdefault(tar, []).append((image_id, offset, length))
    doomed = {image_id for (image_id,) in connection.execute("FROM doomed_image").fetchall()}
    named = connection.execute("SELECT DISTINCT tar FROM (SELECT tar FROM gave UNION ALL SELECT tar FROM images)")
    strays = tars - {tar for (tar,) in named.fetchall()}
    for tar in sorted((places.keys() & tars) | strays):
        with open(corpus.blobs / tar, "r+b") as blob:
            wanted = places.get(tar, [])
            if tar in strays or not all(_is_there(blob.fileno(), *place) for place in wanted):
                wanted = [place for place in _members(blob.fileno()) if place[0] in doomed]
            for _, offset, length in wanted:
                os.pwrite(blob.fileno(), bytes(length), offset)
            if wanted:
                os.fsync(blob.fileno())


def _is_there(file: int, image_id: bytes, offset: int, length: int) -> bool:
    """Whether a picture lies there, or the zeros that took its place, under its own name."""
    member = _member(os.pread(file, TAR_BLOCK, offset - TAR_BLOCK)) if offset >= TAR_BLOCK else None
    return member == (image_id, length)


def _members(file: int) -> Iterator[tuple[bytes, int, int]]:
    """The pictures of a tar of ours, with offset and length, as far as it can be read."""
    at = 0
    while member := _member(os.pread(file, TAR_BLOCK, at)):
        image_id, length = member
        yield image_id, at + TAR_BLOCK, length
        at += TAR_BLOCK + -(-length // TAR_BLOCK) * TAR_BLOCK


def _member(header: bytes) -> tuple[bytes, int] | None:
    """The image_id and the length in a tar's header; None where there is no such header."""
    try:
        return bytes.fromhex(header[:100].rstrip(b"\0").decode("ascii")), int(header[124:136].rstrip(b"\0 "), 8)
    except ValueError:
        return None


def _sweep(corpus: Corpus, connection: duckdb.DuckDBPyConnection) -> int:
    """Write anew the parts that hold something of it, and no others; returns how many."""
    connection.execute("CREATE TEMP TABLE regrouped (image_id BLOB)")
    for folder in _folders(corpus, "duplicates"):
        query = f"SELECT image_id FROM {_parquet(folder)} WHERE representative IN (FROM doomed_image)"
        connection.execute(f"INSERT INTO regrouped {query}")
    edit = _Edit(connection)
    failed = "url_id IN (SELECT url_id FROM doomed_url) AND image_id IS NULL"
    finding = f"{PLACE} FROM source WHERE {failed} AND NOT coalesce({REFUSED}, false)"
    count = _rewrite(corpus, connection, corpus.tables / "fetches", finding, edit.drop)
    there = sorted(path.name for path in corpus.tables.iterdir() if path.is_dir() and path.name != "forgotten")
    for table in [*(name for name in there if name not in LAST), *(name for name in LAST if name in there)]:
        for folder in _folders(corpus, table):
            count += _rewrite(corpus, connection, folder, _finding(connection, table, folder), edit.of(table))
    return count


def _finding(connection: duckdb.DuckDBPyConnection, table: str, folder: Path) -> str | None:
    """A query for the part and the row of what holds something of it, over `source`; None where nothing can."""
    urls, pages = "(SELECT url FROM doomed_url)", "(SELECT url FROM spelled)"
    picture = f"found.url IN {urls} OR found.page_url IN {pages}"
    unrefused = f"NOT coalesce({REFUSED}, false)"
    if table == "fetches":
        hit = "url_id IN (SELECT url_id FROM doomed_url) OR image_id IN (FROM doomed_image)"
        return f"{PLACE} FROM source WHERE ({hit} OR final_url IN {pages}) AND {unrefused}"
    if table == "files":
        hit = f"{picture} OR found.image_id IN (FROM doomed_image)"
        return f"{PLACE} FROM ({PLACE}, unnest(pictures) AS found FROM source) WHERE {hit}"
    if table == "pages":
        return f"""
            {PLACE} FROM source WHERE url IN {pages} AND {unrefused}
            UNION ALL {PLACE} FROM ({PLACE}, unnest(links) AS link FROM source) WHERE link IN {urls}
            UNION ALL {PLACE} FROM ({PLACE}, unnest(pictures) AS found FROM source) WHERE {picture}
        """
    columns = [name for name, *_ in connection.execute(f"DESCRIBE SELECT * FROM {_parquet(folder)}").fetchall()]
    tests = [f"{key} IN (FROM doomed_{name})" for key, name in KEYS.items() if key in columns]
    tests += [f"{key} IN (FROM doomed_image)" for key in ("representative", "leader") if key in columns]
    if "leader" in columns:
        tests.append("image_id IN (FROM regrouped)")
    return f"{PLACE} FROM source WHERE {' OR '.join(tests)}" if tests else None


class _Edit:
    """What becomes of a row that holds something of it: another row, or None."""

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        def all_of(query: str) -> set[Any]:
            return {value for (value,) in connection.execute(query).fetchall()}

        self._urls = all_of("SELECT url FROM doomed_url")
        self._pages = all_of("SELECT url FROM spelled")
        self._images = all_of("FROM doomed_image")

    def of(self, table: str) -> Callable[[dict[str, Any]], dict[str, Any] | None]:
        """What edits the rows of a table."""
        special = {"fetches": self._fetch, "files": self._file, "pages": self._page}
        return special.get(table, self.drop)

    def drop(self, _row: dict[str, Any]) -> None:
        """Nothing is left of it."""

    def _fetch(self, row: dict[str, Any]) -> dict[str, Any] | None:
        """An attempt at a URL that gave something else too stays, as one that was refused."""
        if row["url"] in self._urls:
            return None
        nothing = dict.fromkeys(("final_url", "http_code", *OUTCOME))
        return row | nothing | {"status": Status.DISALLOWED, "error": FORGOTTEN}

    def _file(self, row: dict[str, Any]) -> dict[str, Any] | None:
        """A file that held nothing else is read again, should it come again."""
        left = []
        for found in row["pictures"]:
            if found["url"] in self._urls or found["page_url"] in self._pages:
                continue
            if found["image_id"] in self._images:
                found = {"url": found["url"], "caption": "", "caption_from": "none"}
                found |= {"status": Status.DISALLOWED, "error": FORGOTTEN}
            left.append(found)
        return row | {"pictures": left, "count": len(left)} if left else None

    def _page(self, row: dict[str, Any]) -> dict[str, Any] | None:
        if row["url"] in self._pages and row["error"] != FORGOTTEN:
            return None
        links = [link for link in row["links"] if link not in self._urls]
        pictures = [
            found
            for found in row["pictures"]
            if found["url"] not in self._urls and found["page_url"] not in self._pages
        ]
        return row | {"links": links, "pictures": pictures}


def _rewrite(
    corpus: Corpus,
    connection: duckdb.DuckDBPyConnection,
    folder: Path,
    finding: str | None,
    edit: Callable[[dict[str, Any]], dict[str, Any] | None],
) -> int:
    """Edit the rows of a folder's parts that a query finds; returns how many parts were written anew."""
    if finding is None or not any(folder.glob("part-*.parquet")):
        return 0
    source = _parquet(folder, "filename = 'part', file_row_number = true")
    touched: dict[str, set[int]] = {}
    for name, row in connection.execute(f"WITH source AS (FROM {source}) {finding}").fetchall():
        touched.setdefault(name, set()).add(row)
    for name, rows in sorted(touched.items()):
        with pq.ParquetFile(name, pre_buffer=False) as file:
            corpus.replace_part(Path(name), file.schema_arrow, _edited(file, np.array(sorted(rows)), edit))
    if touched:
        flush(folder)
    return len(touched)


def _edited(
    file: pq.ParquetFile, touched: np.ndarray, edit: Callable[[dict[str, Any]], dict[str, Any] | None]
) -> Iterator[pa.Table]:
    """A part's rows, a row group at a time, those that are touched as they are edited."""
    start = 0
    for batch in file.iter_batches(ROW_GROUP, use_threads=False):
        rows = pa.Table.from_batches([batch])
        mine = touched[(touched >= start) & (touched < start + len(batch))] - start
        start += len(batch)
        if len(mine):
            edited = [edit(row) for row in rows.take(pa.array(mine)).to_pylist()]
            there = np.setdiff1d(np.arange(len(batch)), mine)
            kept = [number for number, row in zip(mine, edited, strict=True) if row]
            new = pa.Table.from_pylist([row for row in edited if row], schema=rows.schema)
            order = np.argsort(np.concatenate([there, np.array(kept, np.int64)]), kind="stable")
            rows = pa.concat_tables([rows.take(pa.array(there)), new]).take(pa.array(order))
        yield rows


def _folders(corpus: Corpus, table: str) -> list[Path]:
    """The folders of a table and of its variants that have parts, current or not."""
    return sorted({path.parent for path in (corpus.tables / table).rglob("part-*.parquet")})


def _parquet(folder: Path, options: str = "") -> str:
    return f"read_parquet({literal(folder / 'part-*.parquet')}{', ' + options if options else ''})"


def _table(connection: duckdb.DuckDBPyConnection, name: str, rows: pa.Table) -> None:
    """Make rows a table of the connection's own."""
    connection.register("offered_rows", rows)
    connection.execute(f"CREATE OR REPLACE TEMP TABLE {name} AS FROM offered_rows")
    connection.unregister("offered_rows")
