"""Opens a release, and nothing else: where its pictures lie, what stands beside them, and what training may see."""

import io
from collections.abc import Collection
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from PIL import Image, ImageOps
from torch import Tensor

from schemas.errors import JuZhouError
from schemas.release import POEMS, Manifest, folders
from schemas.training import CaptionKind

HELD = 8
"""Pictures that training does not see, so that reconstructions and samples show what was not seen."""

COLUMNS = ["sample_id", "image_id", "split", "release", "shard", "offset", "length", "size"]
WORDS: dict[CaptionKind, str] = {
    "simplified": "caption",
    "original": "original_caption",
    "keywords": "keywords",
    "line": "poem_lines",
    "poem": "poem",
}
"""The column of each kind of text."""
KINDS = tuple(WORDS)
"""The kinds of text beside a picture, in the order of `Release.samples`."""

HANZI = r"\p{Han}"

SIDE_STEP = 32
"""Sides of pictures are multiples of it: eight for the autoencoder, four for the U-Net."""
WIDEST = 2.0
"""The long side over the short one of the widest bucket; pictures that are wider lose their ends."""
SMALLEST_BUCKET = 0.01
"""The share of the pictures that a bucket needs; those of a smaller one go to the next bucket in shape."""

Numbers = npt.NDArray[np.int64]
Shape = tuple[int, int]
"""Height and width in pixels."""


class Pictures(NamedTuple):
    """A row a picture, each column (pictures,)."""

    shard: Numbers
    """Into `Release.shards`."""
    offset: Numbers
    length: Numbers
    width: Numbers
    """In pixels, upright; 0 where the release does not tell, like the height."""
    height: Numbers


class Buckets(NamedTuple):
    """Which shape each picture is cut to at some size."""

    shapes: list[Shape]
    of: Numbers
    """(pictures,): into `shapes`."""
    row: Numbers
    """(pictures,): its place among the pictures of its bucket, in the order of their numbers."""


class Release:
    """A frozen data set as columns of numbers: some 150 bytes a sample and its texts stay in memory, and no picture.

    Training sees the split `train` alone. The first pictures are held: those of the split `validation` with the
    smallest ids, or where it has too few, of `train`, which then sees them no more. All others follow, and samples, in
    the order of their ids, whatever the order on disk.
    """

    def __init__(self, folder: Path, kinds: Collection[CaptionKind] = KINDS) -> None:
        """Read the manifest and the rows.

        Args:
            kinds: the kinds of text that will be asked for; the others are not read.

        Raises:
            JuZhouError: no release there, its base is not beside it, or fewer pictures than training needs.
        """
        self.folder = folder
        places = folders(folder)
        manifest = Manifest.load(folder)
        self.name, self.digest = manifest.name, manifest.digest
        self._buckets: dict[int, Buckets] = {}
        rows, pictures, order = self._read([WORDS[kind] for kind in KINDS if kind in {"simplified", *kinds}])
        if len(order) < 2 * HELD:
            raise JuZhouError(
                f"{folder}: {len(order)} pictures are too few to train on; at least {2 * HELD} are needed"
            )
        number = np.full(pictures.max() + 1, -1)
        number[pictures[order]] = np.arange(len(order))
        names, shard = _numbered(pc.binary_join_element_wise(rows["release"], rows["shard"], "\0"))
        self.shards = [places[release] / name for release, name in (both.split("\0") for both in names.to_pylist()[1:])]
        columns = (shard - 1, rows["offset"].to_numpy(), rows["length"].to_numpy(), *_sides(rows))
        self.pictures = Pictures(*(column[order].astype(np.int64) for column in columns))

        seen = number[pictures] >= 0
        rows, image = rows.filter(pa.array(seen)), number[pictures[seen]]
        self.texts, *texts = _numbered(*_texts(rows))
        """Every text once, in order; the first is the empty one."""
        samples = np.stack([image, *texts], axis=1)
        self.samples: Numbers = samples[image >= HELD]
        """(samples, 1 + kinds): a picture, and its text of each of `KINDS`; its caption where it has none."""
        held = samples[image < HELD]
        self.held: Numbers = held[np.unique(held[:, 0], return_index=True)[1]]
        """The same of the held pictures, one sample each."""

    def _read(self, words: list[str]) -> tuple[pa.Table, Numbers, Numbers]:
        """The rows by sample_id; each one's picture, numbered by image_id; a row of each picture that is wanted."""
        try:
            file = pq.ParquetFile(self.folder / "samples.parquet")
            rows = file.read([name for name in COLUMNS + words if name in file.schema_arrow.names])
        except (OSError, ValueError) as error:
            raise JuZhouError(f"{self.folder}: no release to train on ({error}); get it anew") from error
        rows = rows.set_column(rows.column_names.index("caption"), "caption", rows["caption"].cast(pa.large_string()))
        rows = rows.take(np.lexsort(_id_halves(rows["sample_id"])))
        split = rows["split"].to_numpy(zero_copy_only=False)
        low, high = _id_halves(rows["image_id"])
        order = np.lexsort((low, high))
        fresh = np.ones(len(order), dtype=bool)
        fresh[1:] = (low[order][1:] != low[order][:-1]) | (high[order][1:] != high[order][:-1])
        pictures = np.empty(len(order), dtype=np.int64)
        pictures[order] = np.cumsum(fresh) - 1
        first = order[fresh]
        train, validation = (first[split[first] == name] for name in ("train", "validation"))
        if len(validation) >= HELD:
            return rows, pictures, np.concatenate([validation[:HELD], train])
        return rows, pictures, train

    def captions(self, samples: Numbers) -> list[str]:
        """The captions of rows of `samples` or `held`."""
        return self.texts.take(pa.array(samples[:, 1 + KINDS.index("simplified")])).to_pylist()

    def parallel(self) -> tuple[list[str], list[str]]:
        """Captions of training samples whose originals have no hanzi, each once and in order; and those originals."""
        columns = ["split", "caption", "original_caption"]
        try:
            rows = pq.read_table(self.folder / "samples.parquet", columns=columns)
        except (OSError, ValueError, KeyError) as error:
            raise JuZhouError(f"{self.folder}: no original captions to read there ({error})") from error
        foreign = pc.invert(pc.match_substring_regex(pc.fill_null(rows["original_caption"], "是"), HANZI))
        rows = rows.filter(pc.and_(foreign, pc.equal(rows["split"], "train")))
        rows = rows.group_by("caption").aggregate([("original_caption", "min")]).sort_by("caption")
        return rows["caption"].to_pylist(), rows["original_caption_min"].to_pylist()

    def picture(self, number: int, shape: Shape) -> Tensor:
        """A picture, decoded: uint8 (3, *shape).

        Raises:
            JuZhouError: bytes that are missing or no picture.
        """
        shard, offset = self.shards[self.pictures.shard[number]], int(self.pictures.offset[number])
        try:
            with shard.open("rb") as file:
                file.seek(offset)
                return decode(file.read(int(self.pictures.length[number])), shape)
        except (OSError, ValueError, Image.DecompressionBombError) as error:
            raise JuZhouError(f"{shard} at {offset}: no picture ({error})") from error

    def read(self, numbers: Tensor | range, shape: Shape) -> Tensor:
        """Some pictures, decoded: uint8 (numbers, 3, *shape)."""
        return torch.stack([self.picture(int(number), shape) for number in numbers])

    def buckets(self, size: int) -> Buckets:
        """The bucket of each picture at a size: the one nearest in shape, so that the least is cut off."""
        if size not in self._buckets:
            self._buckets[size] = sorted_into(bucket_shapes(size), self.pictures)
        return self._buckets[size]


class Poem(NamedTuple):
    """A poem of a release, with the prompt that is drawn of it."""

    text: str
    """Its lines in Simplified script."""
    keywords: str
    """What it shows, separated by commas."""
    title: str
    author: str
    split: str


def poems(release: Path) -> list[Poem]:
    """The poems of a release that show something, in the order of their ids; none where it has no `poems.parquet`.

    All of an author's are in one split.

    Raises:
        JuZhouError: the file cannot be read.
    """
    path = release / POEMS
    if not path.exists():
        return []
    try:
        rows = pq.read_table(path, columns=list(Poem._fields))
    except (OSError, ValueError, KeyError) as error:
        raise JuZhouError(f"{path}: no poems to read there ({error}); get the release anew") from error
    return [Poem(*row) for row in zip(*(rows[name].to_pylist() for name in Poem._fields), strict=True)]


def bucket_shapes(size: int) -> list[Shape]:
    """The shapes of about size² pixels, never more, that `WIDEST` allows, the tallest first; the square among them."""
    sides = range(SIDE_STEP, size + 1, SIDE_STEP)
    fits = [(side, size * size // side // SIDE_STEP * SIDE_STEP) for side in sides]
    tall = [(long, short) for short, long in fits if long <= WIDEST * short]
    return tall + [(short, long) for long, short in reversed(tall) if short != long]


def decode(content: bytes, shape: Shape) -> Tensor:
    """A picture's bytes → uint8 (3, *shape): upright, on white, shrunk to cover the shape, its middle cut out."""
    with Image.open(io.BytesIO(content)) as opened:
        opened.draft("RGB", (2 * max(shape), 2 * max(shape)))
        picture = ImageOps.exif_transpose(opened)
    if picture.has_transparency_data:
        clear = picture.convert("RGBA")
        picture = Image.new("RGBA", clear.size, "white")
        picture.alpha_composite(clear)
    fitted = ImageOps.fit(picture.convert("RGB"), (shape[1], shape[0]), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.array(fitted)).permute(2, 0, 1)


def sorted_into(shapes: list[Shape], pictures: Pictures) -> Buckets:
    """The nearest of some shapes, the tallest first, for each picture; those of unknown size are square.

    Shapes that too few pictures want are left out, but for the square.
    """
    shapes = shapes.copy()
    known = (pictures.width > 0) & (pictures.height > 0)
    wide = np.zeros(len(known))
    wide[known] = np.log(pictures.width[known] / pictures.height[known])
    while True:
        aspects = np.log([width / height for height, width in shapes])
        of = np.searchsorted((aspects[1:] + aspects[:-1]) / 2, wide)
        shares = np.bincount(of, minlength=len(shapes)) / len(of)
        shares[aspects == 0] = 1.0
        if shares.min() >= SMALLEST_BUCKET:
            break
        shapes.pop(int(shares.argmin()))
    row = np.empty(len(of), dtype=np.int64)
    for bucket in range(len(shapes)):
        inside = of == bucket
        row[inside] = np.arange(inside.sum())
    return Buckets(shapes, of, row)


def _id_halves(ids: pa.ChunkedArray) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]:
    """Ids of 16 bytes as two numbers each, the one that decides their order last."""
    fixed = ids.cast(pa.binary(16)).combine_chunks()
    numbers = np.frombuffer(fixed.buffers()[1], dtype=">u8", offset=16 * fixed.offset, count=2 * len(fixed))
    high, low = numbers.reshape(-1, 2).astype(np.uint64).T
    return low, high


def _texts(rows: pa.Table) -> list[pa.ChunkedArray]:
    """Each row's text of every one of `KINDS`; its caption where it has none."""
    captions = rows["caption"]
    found = []
    for column in WORDS.values():
        texts = rows[column] if column in rows.column_names else captions
        if pa.types.is_list(texts.type):
            texts = pc.binary_join(pc.list_slice(texts, 0, 1), "")
        texts = pc.fill_null(texts.cast(pa.large_string()), "")
        found.append(pc.if_else(pc.equal(texts, ""), captions, texts))
    return found


def _numbered(*columns: pa.ChunkedArray) -> tuple[Any, ...]:
    """The distinct strings of some columns, in order and after the empty one; each column as numbers into them."""
    columns = tuple(column.cast(pa.large_string()) for column in columns)
    unique = pc.unique(pa.chunked_array([chunk for column in columns for chunk in column.chunks], pa.large_string()))
    unique = unique.filter(pc.not_equal(unique, ""))
    texts = pa.concat_arrays([pa.array([""], pa.large_string()), unique.take(pc.sort_indices(unique))])
    return texts, *(pc.index_in(column, value_set=texts).to_numpy().astype(np.int64) for column in columns)


def _sides(rows: pa.Table) -> tuple[Numbers, Numbers]:
    """Width and height of each row's picture, upright; 0 where the release does not hold the measure `size`."""
    if "size" not in rows.column_names:
        return np.zeros(len(rows), dtype=np.int64), np.zeros(len(rows), dtype=np.int64)
    size = rows["size"].combine_chunks()
    width, height = (pc.fill_null(pc.struct_field(size, name), 0).to_numpy() for name in ("width", "height"))
    return width, height
