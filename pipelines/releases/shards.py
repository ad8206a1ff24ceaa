"""Shards: tars in WebDataset layout, hashed as they are written."""

import hashlib
import io
import json
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.blob import TAR_BLOCK
from pipelines.corpus import Corpus, flush
from pipelines.releases.paged import ROW_GROUP
from schemas.release import Shard
from schemas.tables import WORDS

PICTURE = "jpg"
"""The ending of every picture, whatever its format: readers take one ending for one column, and the format from the
bytes."""
BESIDE = 3_500
"""About what a sample takes in a tar beside its picture: three headers, its words, and what fills their blocks."""
TEXTS = (
    "caption",
    "original_caption",
    "caption_from",
    "source",
    "url",
    "page_url",
    "licence",
    "keywords",
    "poem",
    "format",
)
"""Columns of samples.parquet that stand in a sample's JSON too."""
CONTENT = ("caption", "poem_lines", "words", *TEXTS[2:-1])
"""The columns that decide what a shard holds of a sample, beside its sample_id."""


@dataclass(frozen=True)
class Piece:
    """A shard to be written: its samples stand from row `first` to row `last`, among those of other shards."""

    name: str
    split: str
    first: int
    last: int
    bytes: int
    """About."""


class Filling:
    """Which tar each sample goes to, as they come in the order of their ids: the next of a split once one is full."""

    def __init__(self, limit: int) -> None:
        """Args:
        limit: the bytes of a tar, about.
        """
        self._limit = limit
        self._split: dict[str, tuple[int, int, int]] = {}
        self._row = 0
        self._pieces: dict[str, Piece] = {}

    def names(self, splits: Sequence[str], lengths: np.ndarray, new: np.ndarray) -> np.ndarray:
        """The names of the tars for some rows; None for those that are not new.

        Args:
            lengths: bytes of the pictures.
        """
        names = np.full(len(splits), None, object)
        of_split = np.array(splits)
        for split in sorted(set(splits)):
            mine = np.flatnonzero(new & (of_split == split))
            if not len(mine):
                continue
            filled, pile, number = self._split.get(split, (0, -1, -1))
            ends = filled + np.cumsum(lengths[mine] + BESIDE)
            piles = ends // self._limit
            numbers = number + np.cumsum(np.diff(piles, prepend=pile) != 0)
            self._split[split] = (int(ends[-1]), int(piles[-1]), int(numbers[-1]))
            for one in np.unique(numbers).tolist():
                some = mine[numbers == one]
                names[some] = name = f"{split}-{one:05d}.tar"
                begun = self._pieces.get(name, Piece(name, split, self._row + int(some[0]), 0, 0))
                size = begun.bytes + int((lengths[some] + BESIDE).sum())
                self._pieces[name] = replace(begun, last=self._row + int(some[-1]), bytes=size)
        self._row += len(splits)
        return names

    @property
    def pieces(self) -> list[Piece]:
        """The tars that were named, in the order of their names."""
        return sorted(self._pieces.values(), key=lambda piece: piece.name)


class _Hashing(io.RawIOBase):
    """A file that hashes what is written to it."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.hash = hashlib.sha256()
        self.size = 0

    def write(self, content: Any) -> int:
        self.hash.update(content)
        self.size += len(content)
        return self._file.write(content)

    def tell(self) -> int:
        return self.size


def write(corpus: Corpus, folder: Path, piece: Piece, rows: Path, places: Path) -> tuple[Shard, np.ndarray]:
    """Write one tar: a sample's picture as fetched, its caption as .txt, all its words as .json.

    Headers hold no time and no owner, and the JSON holds texts alone, an empty one where nothing is known, so that
    every sample has the same columns.

    Args:
        rows: Parquet with the columns of `TEXTS`, sample_id, image_id, poem_lines and words, in row groups of
            `ROW_GROUP`.
        places: Parquet with, row by row, the `piece` that a sample is written to, if any, and the tar, tar_offset and
            length of its bytes in the corpus.

    Returns:
        The shard, and where each picture's bytes begin in it, in the order of the rows.
    """
    offsets: list[int] = []
    path = folder / piece.name
    with path.open("wb") as file:
        sink = _Hashing(file)
        with tarfile.open(fileobj=sink, mode="w", format=tarfile.USTAR_FORMAT) as tar:
            for row in _rows(piece, rows, places):
                name = row["sample_id"].hex()
                picture = corpus.read(row["tar"], row["tar_offset"], row["length"])
                words = json.dumps(_words(row), ensure_ascii=False).encode()
                offsets.append(sink.size + TAR_BLOCK)
                for ending, content in ((PICTURE, picture), ("txt", row["caption"].encode()), ("json", words)):
                    member = tarfile.TarInfo(f"{name}.{ending}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
    flush(path)
    shard = Shard(
        name=piece.name, split=piece.split, sha256=sink.hash.hexdigest(), bytes=sink.size, samples=len(offsets)
    )
    return shard, np.array(offsets, np.int64)


def _words(row: dict[str, Any]) -> dict[str, str]:
    ids = {name: row[name].hex() for name in ("sample_id", "image_id")}
    texts = {name: row[name] or "" for name in TEXTS}
    page = {field.name: (row["words"] or {}).get(field.name) or "" for field in WORDS}
    return ids | texts | {"poem_lines": "\n".join(row["poem_lines"])} | page


def _rows(piece: Piece, rows: Path, places: Path) -> Iterator[dict[str, Any]]:
    """The rows of a shard with their places; no more than a row group is held."""
    texts = ("sample_id", "image_id", "poem_lines", "words", *TEXTS)
    where = ("piece", "tar", "tar_offset", "length")
    for one, other in zip(_batches(rows, texts, piece), _batches(places, where, piece), strict=True):
        mine = pc.equal(other.column("piece"), piece.name)
        for row, place in zip(one.filter(mine).to_pylist(), other.filter(mine).to_pylist(), strict=True):
            yield row | place


def _batches(path: Path, columns: Sequence[str], piece: Piece) -> Iterator[Any]:
    groups = range(piece.first // ROW_GROUP, piece.last // ROW_GROUP + 1)
    with pq.ParquetFile(path, pre_buffer=False) as file:
        yield from file.iter_batches(4096, row_groups=list(groups), columns=list(columns), use_threads=False)
