"""Opens a release, and nothing else: pictures, texts, and which samples make up the batch of a step."""

import io
import json
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow.parquet as pq
import torch
from PIL import Image, ImageOps
from torch import Tensor

from schemas.errors import JuZhouError
from schemas.identity import digest
from schemas.release import Manifest, folders
from schemas.training import CaptionKind

HELD = 8
"""Pictures that training does not see, so that reconstructions and samples show what was not seen."""

COLUMNS = ["sample_id", "image_id", "split", "release", "shard", "offset", "length", "caption", "poem_lines"]


class Sample(NamedTuple):
    """A row of the release, pointing into `Release.places` and `Release.texts`."""

    image: int
    simplified: int
    poem: int
    """The poem's text, or the caption's where there is none."""


class Place(NamedTuple):
    """Where a picture's original bytes lie."""

    shard: Path
    offset: int
    length: int


class Batch(NamedTuple):
    """Indices of a batch: pictures and the texts beside them, each (size,)."""

    images: Tensor
    texts: Tensor


class Release:
    """A frozen data set in memory: meant for what fits there, thousands of pictures of 64 pixels or their latents.

    Training sees the split `train` alone. The first pictures are held: those of the split `validation` with the
    smallest ids, or where it has too few, of `train`, which then sees them no more. All others follow, and samples, in
    the order of their ids, whatever the order on disk.
    """

    def __init__(self, folder: Path) -> None:
        """Read the manifest and the rows.

        Raises:
            JuZhouError: no release there, its base is not beside it, or fewer pictures than training needs.
        """
        self.folder = folder
        places = folders(folder)
        manifest = Manifest.load(folder)
        self.name, self.digest = manifest.name, manifest.digest
        try:
            rows = pq.read_table(folder / "samples.parquet", columns=COLUMNS).to_pylist()
        except (OSError, ValueError) as error:
            raise JuZhouError(f"{folder}: no release to train on ({error}); get it anew") from error
        rows.sort(key=lambda row: bytes(row["sample_id"]))
        found = {
            bytes(row["image_id"]): Place(places[row["release"]] / row["shard"], row["offset"], row["length"])
            for row in rows
        }
        train, validation = (
            sorted({bytes(row["image_id"]) for row in rows if row["split"] == split})
            for split in ("train", "validation")
        )
        held = (validation if len(validation) >= HELD else train)[:HELD]
        images = {image_id: number for number, image_id in enumerate(dict.fromkeys([*held, *train]))}
        if len(images) < 2 * HELD:
            raise JuZhouError(
                f"{folder}: {len(images)} pictures are too few to train on; at least {2 * HELD} are needed"
            )
        self.places = [found[image_id] for image_id in images]
        rows = [row for row in rows if bytes(row["image_id"]) in images]
        poems = ["，".join(row["poem_lines"] or []) or row["caption"] for row in rows]
        self.texts = ["", *sorted({*poems, *(row["caption"] for row in rows)} - {""})]
        texts = {text: number for number, text in enumerate(self.texts)}
        samples = [
            Sample(images[bytes(row["image_id"])], texts[row["caption"]], texts[poem])
            for row, poem in zip(rows, poems, strict=True)
        ]
        self.samples = [sample for sample in samples if sample.image >= HELD]
        self.held = sorted({sample.image: sample for sample in samples if sample.image < HELD}.values())

    def pictures(self, size: int) -> Tensor:
        """Every picture, decoded once and kept: uint8 (pictures, 3, size, size).

        Raises:
            JuZhouError: bytes that are missing or no picture.
        """
        decoded = torch.empty(len(self.places), 3, size, size, dtype=torch.uint8)
        for number, place in enumerate(self.places):
            try:
                with place.shard.open("rb") as shard:
                    shard.seek(place.offset)
                    decoded[number] = decode(shard.read(place.length), size)
            except (OSError, ValueError, Image.DecompressionBombError) as error:
                raise JuZhouError(f"{place.shard} at {place.offset}: no picture ({error})") from error
        return decoded

    def batch(self, size: int, seed: int, step: int, captions: Mapping[CaptionKind, float], drop: float = 0.0) -> Batch:
        """The batch of a step, a pure function of (seed, step, the release's digest); a rank takes its slice of it.

        Each epoch is a permutation of the samples; epochs follow one another without a gap.

        Args:
            captions: the weight of each kind of text, `simplified` and `poem`.
            drop: the share of texts replaced by the empty one.
        """
        count, first = len(self.samples), step * size
        epochs = range(first // count, (first + size - 1) // count + 1)
        order = torch.cat([torch.randperm(count, generator=generator(seed, self.digest, "epoch", e)) for e in epochs])
        chosen = self._columns[order[first - epochs[0] * count :][:size]]
        draws = generator(seed, self.digest, "texts", step)
        weights = torch.tensor([captions.get("simplified", 0.0), captions.get("poem", 0.0)])
        kind = torch.multinomial(weights, size, replacement=True, generator=draws)
        dropped = torch.rand(size, generator=draws) < drop
        texts = chosen[:, 1:].gather(1, kind[:, None])[:, 0].masked_fill(dropped, 0)
        return Batch(chosen[:, 0], texts)

    @cached_property
    def _columns(self) -> Tensor:
        """The samples as a table of numbers: (samples, 3)."""
        return torch.tensor(self.samples)


def decode(content: bytes, size: int) -> Tensor:
    """A picture's bytes → uint8 (3, size, size): upright, on white, shrunk to cover the square, its middle cut out."""
    with Image.open(io.BytesIO(content)) as opened:
        picture = ImageOps.exif_transpose(opened).convert("RGBA")
    page = Image.new("RGBA", picture.size, "white")
    page.alpha_composite(picture)
    square = ImageOps.fit(page.convert("RGB"), (size, size), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.array(square)).permute(2, 0, 1)


def generator(*key: str | int) -> torch.Generator:
    """A CPU generator whose draws depend on the key alone: (seed, stage, step), say."""
    return torch.Generator().manual_seed(int.from_bytes(digest(json.dumps(key).encode())[:8], "big"))
