"""Pictures in tars of WebDataset layout: read as streams, so that no archive is held, and none is trusted."""

import io
import posixpath
import tarfile
from collections.abc import Iterator
from itertools import groupby
from typing import Any

import pyarrow as pa

from pipelines.corpus import Corpus
from pipelines.files import Place
from pipelines.sources.items import (
    MAX_TEXT_BYTES,
    PICTURES,
    About,
    Item,
    items_stage,
    record_of,
    text_at,
    text_of,
    too_large,
)
from pipelines.stage import Stage
from schemas.recipe import Fetch, Tar

SUFFIXES = (".tar", ".tar.gz", ".tgz")
MAX_NAME = 1_000
"""Characters of a member's name."""
BUFFER = 4 * 2**20
"""Bytes that an object store is asked for at a time."""


def tar_stage(corpus: Corpus, name: str, source: Tar, fetch: Fetch) -> Stage:
    """The tars that are new or changed. What one tar of a hundred thousand pictures needs in memory is its rows.

    Raises:
        JuZhouError: there are no tars.
    """
    place = Place.of(source.path)

    def read(file: dict[str, Any]) -> Iterator[Item]:
        with place.open(file["path"]) as raw:
            stream = io.BufferedReader(raw, BUFFER)
            unpacked = stream if file["path"].lower().endswith(".tar") else pa.CompressedInputStream(stream, "gzip")
            yield from _Archive(unpacked, source.caption, fetch.max_bytes).items()

    return items_stage(corpus, name, place.listed(name, SUFFIXES), read, fetch, batch=1)


class _Archive:
    """A tar as samples: members that lie together and share their name up to its first dot."""

    def __init__(self, stream: Any, caption: str, max_bytes: int) -> None:
        self._stream = _Forward(stream, max(max_bytes, MAX_TEXT_BYTES))
        self._ending, _, self._key = caption.partition(":")
        self._max_bytes = max_bytes

    def items(self) -> Iterator[Item]:
        """Each picture with its caption, and each caption that has no picture.

        Raises:
            tarfile.TarError: the archive is none, breaks off, or holds a name twice; what could be read came before.
        """
        names: set[str] = set()
        twice = 0
        for sample, members in groupby(self._members(), key=lambda member: _parts(member.name)[0]):
            pictures: list[tuple[str, bytes, str | None]] = []
            texts: dict[str, bytes] = {}
            for member in members:
                ending = _parts(member.name)[1]
                if f".{ending}" in PICTURES and not member.isdir():
                    if f"{sample}.{ending}" in names:
                        twice += 1
                        continue
                    names.add(f"{sample}.{ending}")
                    error = too_large(member.size, self._max_bytes) if _is_whole(member) else "it is no regular file"
                    pictures.append((member.name, b"" if error else self._stream.read(member.size), error))
                elif ending in (self._ending, "json") and _is_whole(member):
                    texts[ending] = self._stream.read(min(member.size, MAX_TEXT_BYTES))
            about = self._about(texts)
            if about.caption and not pictures:
                yield Item(sample, about, error="no picture lies beside the caption")
            for name, content, error in pictures:
                yield Item(name, about, content, error)
        if twice:
            raise tarfile.ReadError(f"{twice} pictures bear the name of an earlier one, and were left out")

    def _members(self) -> Iterator[tarfile.TarInfo]:
        """The members, each while the stream stands at its bytes."""
        archive = tarfile.TarFile(fileobj=self._stream)  # type: ignore[arg-type]
        while member := archive.next():
            archive.members.clear()  # type: ignore[attr-defined]  # it would keep them all
            if len(member.name) > MAX_NAME:
                raise tarfile.ReadError(f"a name of {len(member.name):,} characters")
            yield member
        if self._stream.last != bytes(tarfile.BLOCKSIZE):
            raise tarfile.ReadError(f"it breaks off after {self._stream.tell():,} bytes")

    def _about(self, texts: dict[str, bytes]) -> About:
        record = record_of(text_of(texts.get("json", b"")))
        caption = text_at(record, (self._key,)) if self._key else text_of(texts.get(self._ending, b""))
        return About.of({self._ending: caption}, (record,))


class _Forward:
    """A stream as tarfile reads it: forwards alone, and never more at a time than a picture may have.

    A header that claims more than that for itself, or sends the reader back, ends the archive.
    """

    def __init__(self, stream: Any, limit: int) -> None:
        self._stream = stream
        self._limit = limit
        self._at = 0
        self.last = b""
        """What was read last."""

    def tell(self) -> int:
        return self._at

    def seek(self, at: int) -> None:
        if at < self._at:
            raise tarfile.ReadError("a header leads backwards")
        while self._at < at and self.read(min(at - self._at, tarfile.RECORDSIZE)):
            pass

    def read(self, size: int) -> bytes:
        if not 0 <= size <= self._limit:
            raise tarfile.ReadError(f"a header claims {size:,} bytes")
        self.last = self._stream.read(size)
        self._at += len(self.last)
        return self.last


def _parts(name: str) -> tuple[str, str]:
    """What a member's sample is called, and its ending in lower case: `a/b.seg.PNG` is `seg.png` of `a/b`."""
    stem, _, ending = posixpath.basename(name).partition(".")
    return posixpath.join(posixpath.dirname(name), stem), ending.lower()


def _is_whole(member: tarfile.TarInfo) -> bool:
    """A file whose bytes stand in the archive as they are."""
    return member.isreg() and not member.issparse()
