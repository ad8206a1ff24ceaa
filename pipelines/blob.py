"""Tars of original bytes: each picture lies in one, and its row says where."""

import io
import tarfile
import uuid
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from pipelines.corpus import UNFINISHED, flush
from schemas.identity import digest

TAR_BLOCK = 512


class Blob:
    """A tar that is being written: pictures stream into it, and it appears under its name when the context ends well.

    Its name follows from what it holds, in which order, for rows say where in it. The names within are image_ids:
    nothing in it is named by a stranger.
    """

    def __init__(self, blobs: Path) -> None:
        """Args:
        blobs: the corpus's folder of tars.
        """
        self._blobs = blobs
        self._unfinished = blobs / f"{UNFINISHED}{uuid.uuid4().hex}"
        self._tar: tarfile.TarFile | None = None
        self._places: dict[bytes, dict[str, Any]] = {}

    def add(self, image_id: bytes, content: bytes) -> None:
        """Keep a picture's bytes; the same picture once. The caller sees to it that one thread at a time does so."""
        if image_id in self._places:
            return
        if self._tar is None:
            self._tar = tarfile.TarFile(self._unfinished, "w", format=tarfile.USTAR_FORMAT)
        member = tarfile.TarInfo(image_id.hex())
        member.size = len(content)
        self._places[image_id] = {"offset": self._tar.offset + TAR_BLOCK, "length": len(content)}
        self._tar.addfile(member, io.BytesIO(content))

    def location(self, image_id: bytes) -> dict[str, Any]:
        """`tar`, `offset` and `length` of a picture's bytes, once the context has ended."""
        return {"tar": self.name} | self._places[image_id]

    @cached_property
    def name(self) -> str:
        """The tar's name below the corpus's blobs, once the context has ended."""
        return digest(b"".join(self._places)).hex() + ".tar"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._tar is None:
            return
        self._tar.close()
        if kind:
            self._unfinished.unlink()
        else:
            flush(self._unfinished)
            self._unfinished.replace(self._blobs / self.name)
