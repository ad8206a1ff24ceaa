"""Archives of pages, such as Common Crawl's: streamed, so that no archive is held, and read as live pages are.

FastWARC splits the streams into records; what it could unpack of HTTP is unpacked here, a record at a time, because
an error in there would end its reading of the archive.
"""

import gzip
import io
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any, BinaryIO

import pyarrow as pa
from fastwarc.stream_io import BrotliReader, GzipReader, ZstdReader
from fastwarc.warc import ArchiveIterator, HeaderMap, WarcRecord, WarcRecordType

from pipelines import optout
from pipelines.corpus import Corpus
from pipelines.files import LISTED, Place
from pipelines.page import MAX_PAGE_BYTES, Page, Reader, is_page, read_page
from pipelines.stage import Rows, Stage
from pipelines.tombstones import Tombstones
from pipelines.web import FORGOTTEN
from schemas.identity import digest
from schemas.recipe import Warc
from schemas.tables import FILES, PAGES, Status

SUFFIXES = (".warc", ".warc.gz", ".warc.zst", ".wat", ".wat.gz", ".wat.zst")
MAX_HEAD_BYTES = 100_000
PIECE = 10_000
"""Pages and pictures that are handed on at a time: what an archive needs in memory."""
BUFFER = 4 * 2**20
"""Bytes that an object store is asked for at a time."""
UNPACKING: dict[str, Callable[[BinaryIO], Any]] = {
    "gzip": GzipReader,
    "x-gzip": GzipReader,
    "deflate": partial(GzipReader, zlib=True),
    "br": BrotliReader,
    "zstd": ZstdReader,
}
"""Content encodings of HTTP."""


def warc_stage(corpus: Corpus, name: str, source: Warc, user_agent: str) -> Stage:
    """The archives that are new or changed.

    Their pages are rows of `pages`; of those, an archive that is read once more adds only what is not there. What
    refuses use by header or meta is obeyed, as it stood when the page was archived.

    Raises:
        JuZhouError: there are no archives.
    """
    place = Place.of(source.path)
    return Stage(
        name=f"read {name}",
        key=("file_id",),
        inputs="SELECT * FROM listed",
        outputs=(FILES,),
        work=lambda: _Archives(place, user_agent, Tombstones.of(corpus)),
        batch=1,
        given={"listed": place.listed(name, SUFFIXES)},
    )


@dataclass(frozen=True)
class _Visit:
    """A page as an archive kept it."""

    record_id: str
    url: str
    fetched_at: datetime | None
    robots: tuple[str, ...]
    """Values of X-Robots-Tag."""
    read: Callable[[], Page]


class _Archives:
    """An archive → its pages, piece by piece, and its row of `files`."""

    def __init__(self, place: Place, user_agent: str, forgotten: Tombstones) -> None:
        self._place = place
        self._user_agent = user_agent
        self._forgotten = forgotten

    def __call__(self, batch: pa.Table) -> Iterator[Rows]:
        [file] = batch.to_pylist()
        faults: list[str] = []
        count = 0
        for rows in _pieces(self._pages(file, faults)):
            count += len(rows)
            yield [(PAGES, pa.Table.from_pylist(rows, schema=PAGES.schema))]
        yield _read(file, count, next(iter(faults), None))

    def lost(self, batch: pa.Table, error: str) -> Rows:
        [file] = batch.to_pylist()
        return _read(file, 0, error)

    def _pages(self, file: dict[str, Any], faults: list[str]) -> Iterator[dict[str, Any]]:
        """The rows of the pages as far as the archive can be read; what is wrong with it goes to `faults`."""
        known: set[bytes] = set()
        try:
            with self._place.open(file["path"]) as raw:
                for record in ArchiveIterator(_unpacked(raw, file["path"].lower()), parse_http=False):
                    block = record.reader.read(MAX_HEAD_BYTES + MAX_PAGE_BYTES)
                    if len(block) + record.reader.consume() < record.content_length or not record.record_id:
                        raise EOFError(f"a record breaks off, after {len(known):,} pages")
                    try:
                        visit = _visit(record, block, self._user_agent)
                    except (OSError, ValueError, RecursionError) as fault:
                        faults.append(f"{record.record_id}: {_line(fault)}")
                        continue
                    if visit and (row := self._row(file["source"], visit))["page_id"] not in known:
                        known.add(row["page_id"])
                        yield row
        except Exception as fault:  # parsers of strangers' files raise what they like
            faults.append(_line(fault))

    def _row(self, source: str, visit: _Visit) -> dict[str, Any]:
        status, error, pictures = Status.OK, None, []
        if self._forgotten.refuse(visit.url):
            status, error = Status.DISALLOWED, FORGOTTEN
        elif refused := optout.refused(visit.robots, self._user_agent):
            status, error = Status.DISALLOWED, f"X-Robots-Tag: {refused}"
        else:
            try:
                page = visit.read()
                pictures = [noted for found in page.pictures if (noted := self._forgotten.noted(found))]
                if page.refusal:
                    status, error = Status.DISALLOWED, f"meta {page.refusal}"
            except (ValueError, OSError) as fault:
                status, error = Status.PERMANENT, f"cannot be read: {fault}"
        return {
            "page_id": digest(f"{source}\n{visit.url}\n{visit.record_id}".encode("utf-8", "replace")),
            "attempt": 1,
            "source": source,
            "url": visit.url,
            "depth": 0,
            "status": status,
            "http_code": 200,
            "error": error,
            "asked": False,
            "fetched_at": visit.fetched_at,
            "links": [],
            "pictures": pictures,
        }


def _unpacked(raw: pa.NativeFile, path: str) -> Any:
    """The records, one after the other; an end within packed bytes is an error."""
    stream = io.BufferedReader(raw, BUFFER)
    if path.endswith(".gz"):
        return _Gzip(fileobj=stream)
    return ZstdReader(stream) if path.endswith(".zst") else stream


class _Gzip(gzip.GzipFile):
    """Gives all that comes before a fault, which its reading of a full measure would not."""

    def read(self, size: int | None = -1) -> bytes:
        return self.read1(-1 if size is None else size)


def _line(fault: Exception) -> str:
    return " ".join(f"{type(fault).__name__}: {fault}".split())


def _pieces(rows: Iterable[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    held: list[dict[str, Any]] = []
    weight = 0
    for row in rows:
        held.append(row)
        weight += 1 + len(row["pictures"])
        if weight >= PIECE:
            yield held
            held, weight = [], 0
    if held:
        yield held


def _read(file: dict[str, Any], count: int, error: str | None) -> Rows:
    """The row that tells an archive done."""
    about = {name: file[name] for name in LISTED.names}
    outcome = {"status": Status.PERMANENT if error else Status.OK, "error": error}
    row = about | outcome | {"read_at": datetime.now(UTC), "count": count, "pictures": []}
    return [(FILES, pa.Table.from_pylist([row], schema=FILES.schema))]


def _visit(record: WarcRecord, block: bytes, user_agent: str) -> _Visit | None:
    """The page that a record holds, or tells of; None where it is about something else."""
    url = (record.headers.get("WARC-Target-URI") or "").strip("<> ")
    if not url.startswith(("http://", "https://")):
        return None
    if record.record_type == WarcRecordType.response:
        headers = HeaderMap("latin1")
        body = block[headers.parse(io.BytesIO(block)) :]
        if not _is_page(str(headers.status_code), headers.get("Content-Type")):
            return None
        read = partial(_read_body, body, headers, url, user_agent)
        robots = headers.get_multiple("X-Robots-Tag")
        return _Visit(str(record.record_id), url, record.record_date, robots, read)
    if record.record_type == WarcRecordType.metadata and block.startswith(b"{"):
        return _told(record, block, url, user_agent)
    return None


def _is_page(code: str, content_type: str | None) -> bool:
    return code == "200" and is_page(content_type)


def _read_body(body: bytes, headers: HeaderMap, url: str, user_agent: str) -> Page:
    """What an archived page shows.

    Raises:
        ValueError: it is too large, or no HTML.
        OSError: it cannot be unpacked.
    """
    if not body.lstrip().startswith(b"<"):  # else an archive that unpacked it has left the headers as they were
        if "chunked" in (headers.get("Transfer-Encoding") or "").lower():
            body = _unchunked(body)
        for encoding in reversed((headers.get("Content-Encoding") or "").lower().split(",")):
            if unpacking := UNPACKING.get(encoding.strip()):
                body = unpacking(io.BytesIO(body)).read(MAX_PAGE_BYTES + 1)
    if len(body) > MAX_PAGE_BYTES:
        raise ValueError(f"more than {MAX_PAGE_BYTES:,} bytes")
    return read_page(body, url, headers.get("Content-Type"), user_agent)


def _unchunked(body: bytes) -> bytes:
    """The chunks together, as far as they are there."""
    pieces = []
    at = 0
    while (end := body.find(b"\r\n", at, at + 1_000)) >= 0:
        try:
            size = int(body[at:end].partition(b";")[0], 16)
        except ValueError:
            break
        if size <= 0:
            break
        pieces.append(body[end + 2 : end + 2 + size])
        at = end + 2 + size + 2
    return b"".join(pieces)


def _told(record: WarcRecord, block: bytes, url: str, user_agent: str) -> _Visit | None:
    """The page that a record of a WAT tells of. Figcaptions, headings and text are not kept there."""
    envelope = _at(json.loads(block), "Envelope")
    response = _at(envelope, "Payload-Metadata", "HTTP-Response-Metadata")
    headers = {name.lower(): value for name, value in _object(_at(response, "Headers")).items()}
    html = _object(_at(response, "HTML-Metadata"))
    if not html or not _is_page(_at(response, "Response-Message", "Status"), _texts(headers).get("content-type")):
        return None
    robots = headers.get("x-robots-tag")
    values = tuple(value for value in (robots if isinstance(robots, list) else [robots]) if isinstance(value, str))
    record_id = _at(envelope, "WARC-Header-Metadata", "WARC-Record-ID") or record.record_id
    return _Visit(str(record_id), url, record.record_date, values, partial(_retold, html, url, user_agent))


def _retold(html: dict[str, Any], url: str, user_agent: str) -> Page:
    """What a WAT kept of a page, as if met in it."""
    reader = Reader(user_agent)
    head = _object(html.get("Head"))
    kept = _texts(head)
    reader.start("title", {})
    reader.data(kept.get("Title", ""))
    reader.end("title")
    reader.start("base", {"href": kept.get("Base", "")})
    for meta in _objects(head.get("Metas")):
        reader.start("meta", meta)
    for link in _objects(head.get("Link")) + _objects(html.get("Links")):
        tag, _, attribute = link.get("path", "").lower().partition("@/")
        if (tag, attribute) in (("img", "src"), ("a", "href"), ("link", "href")):
            reader.start(tag, link | {attribute: link.get("url", "")})
            reader.end(tag)
    reader.close()
    return reader.page(url)


def _at(tree: Any, *path: str) -> Any:
    """What stands at a place of some JSON; None where there is no such place."""
    for step in path:
        tree = _object(tree).get(step)
    return tree


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _texts(values: dict[str, Any]) -> dict[str, str]:
    return {name: value for name, value in values.items() if isinstance(value, str)}


def _objects(values: Any) -> list[dict[str, str]]:
    return [_texts(_object(value)) for value in values] if isinstance(values, list) else []
