"""Pictures that are there already: whatever holds them, their bytes go into a tar of ours, and each has its row."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pyarrow as pa

from filters.picture import read_header
from pipelines.blob import Blob
from pipelines.corpus import Corpus
from pipelines.files import LISTED
from pipelines.stage import Rows, Stage
from pipelines.tombstones import Tombstones, refused
from schemas.identity import digest
from schemas.recipe import Fetch
from schemas.tables import FILES, Status

PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif")
"""Endings of the names of pictures."""
MAX_TEXT_BYTES = 1_000_000
"""What is read of a text that lies beside a picture."""
MAX_CHARACTERS = 5_000
"""The longest caption, page URL or licence: 100,000 of them fit one column of Arrow."""

CAPTION = ("caption", "text")
PAGE_URL = ("page_url", "url")
LICENCE = ("licence", "license")
"""Keys of a record under which it stands."""


@dataclass(frozen=True)
class About:
    """What is said of a picture where it lies; `caption_from` tells where the caption stands, or is `none`."""

    caption: str
    caption_from: str
    page_url: str | None
    licence: str | None

    @classmethod
    def of(cls, captions: Mapping[str, str], records: Iterable[Mapping[str, Any]]) -> "About":
        """The first caption that says anything, and the first page and licence that a record states.

        Args:
            captions: by where they stand.
            records: a page counts where it is of the web.
        """
        caption_from, caption = next(((place, text) for place, text in captions.items() if text), ("none", ""))
        pages = (text_at(record, PAGE_URL) for record in records)
        page_url = next((page for page in pages if page.startswith(("http://", "https://"))), None)
        licence = next(filter(None, (text_at(record, LICENCE) for record in records)), None)
        return cls(caption, caption_from, page_url, licence)


@dataclass(frozen=True)
class Item:
    """A picture that a file holds, or why it has no bytes.

    `name` tells it from the file's others and does not hang on its place; it is empty where the file is the picture.
    """

    name: str
    about: About
    content: bytes = b""
    error: str | None = None


Read = Callable[[dict[str, Any]], Iterator[Item]]
"""Reads a listed file piece by piece; it may raise anything, and what it gave before that counts."""


def items_stage(corpus: Corpus, name: str, listed: pa.Table, read: Read, fetch: Fetch, batch: int) -> Stage:
    """The files of a source that were not read as they are now.

    Args:
        listed: columns of LISTED, and more where `read` needs them.
        batch: files that share a tar of ours.
    """
    blobs, max_pixels = corpus.blobs, fetch.max_pixels
    return Stage(
        name=f"read {name}",
        key=("file_id",),
        inputs="SELECT * FROM listed",
        outputs=(FILES,),
        work=lambda: _Items(read, blobs, max_pixels, Tombstones.of(corpus)),
        batch=batch,
        given={"listed": listed},
    )


def text_of(content: bytes) -> str:
    """A text file's text: UTF-8, or else GB18030."""
    try:
        return content.decode("utf-8-sig").strip()
    except UnicodeDecodeError:
        return content.decode("gb18030", "replace").strip()


def record_of(text: str) -> dict[str, Any]:
    """The JSON object that a text is; empty where it is none."""
    try:
        record = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return record if isinstance(record, dict) else {}


def text_at(record: Mapping[str, Any], keys: Iterable[str]) -> str:
    """The first text under one of the keys; empty without one."""
    return next((text for key in keys if isinstance(text := record.get(key), str) and text), "")


def too_large(size: int, max_bytes: int) -> str | None:
    """Why a picture of so many bytes is not read; None where it may be."""
    return f"{size:,} bytes are more than {max_bytes:,}" if size > max_bytes else None


class _Items:
    """A batch of files → one tar of original bytes and a row a file."""

    def __init__(self, read: Read, blobs: Path, max_pixels: int, forgotten: Tombstones) -> None:
        self._read = read
        self._blobs = blobs
        self._max_pixels = max_pixels
        self._forgotten = forgotten

    def __call__(self, batch: pa.Table) -> Rows:
        with Blob(self._blobs) as blob:
            rows = [self._row(file, blob) for file in batch.to_pylist()]
        for row in rows:
            for picture in row["pictures"]:
                if picture["status"] == Status.OK:
                    picture.update(blob.location(picture["image_id"]))
        return [(FILES, pa.Table.from_pylist(rows, schema=FILES.schema))]

    def lost(self, batch: pa.Table, error: str) -> Rows:
        [file] = batch.to_pylist()
        return [(FILES, pa.Table.from_pylist([_row(file, [], error)], schema=FILES.schema))]

    def _row(self, file: dict[str, Any], blob: Blob) -> dict[str, Any]:
        """The row of a file, with the pictures that could be read of it."""
        faults: list[str] = []
        pictures = [self._picture(file, item, blob) for item in _readable(self._read(file), faults)]
        return _row(file, pictures, next(iter(faults), None))

    def _picture(self, file: dict[str, Any], item: Item, blob: Blob) -> dict[str, Any]:
        """What is said of a picture and what became of its bytes; where these lie is known once the blob is whole."""
        about = {name: text and _utf8(text) for name, text in vars(item.about).items()}
        longest = max(len(text or "") for text in about.values())
        url = f"file:{quote(file['source'])}/{quote(file['path'])}" + (f"#{_quoted(item.name)}" if item.name else "")
        if self._forgotten.refuse(url) or self._forgotten.refuse(about["page_url"]):
            return refused(url)
        found = {"url": url} | {name: text and text[:MAX_CHARACTERS] for name, text in about.items()}
        try:
            if item.error:
                raise ValueError(item.error)
            if longest > MAX_CHARACTERS:
                raise ValueError(f"{longest:,} characters are said of it")
            header = read_header(item.content, self._max_pixels)
        except ValueError as error:
            return found | {"status": Status.PERMANENT, "error": _line(str(error))}
        image_id = digest(item.content)
        if image_id in self._forgotten.images:
            return refused(url)
        blob.add(image_id, item.content)
        return found | {"status": Status.OK, "image_id": image_id} | vars(header)


def _row(file: dict[str, Any], pictures: list[dict[str, Any]], error: str | None) -> dict[str, Any]:
    """A row of FILES."""
    outcome = {"status": Status.PERMANENT if error else Status.OK, "error": error}
    read = {"read_at": datetime.now(UTC), "count": len(pictures), "pictures": pictures}
    return {name: file[name] for name in LISTED.names} | outcome | read


def _readable(items: Iterator[Item], faults: list[str]) -> Iterator[Item]:
    """The items as far as they can be read; why not further goes to `faults`."""
    try:
        yield from items
    except Exception as fault:  # parsers of strangers' files raise what they like
        faults.append(_line(f"{type(fault).__name__}: {fault}"))


def _line(text: str) -> str:
    return " ".join(_utf8(text).split())


def _utf8(text: str) -> str:
    """The text without halves of surrogate pairs, which no table holds."""
    return text.encode("utf-8", "replace").decode()


def _quoted(name: str) -> str:
    """A name as part of a URL: its own bytes, where it is no text."""
    return quote(name.encode("utf-8", "surrogateescape"), safe="/")
