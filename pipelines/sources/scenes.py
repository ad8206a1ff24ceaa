"""Composed scenes as a source: its files are numbers, a thousand scenes each, and are made where they are read."""

import io
from collections.abc import Iterator
from datetime import UTC, datetime
from random import Random
from typing import Any

import pyarrow as pa

from pipelines.corpus import Corpus
from pipelines.files import LISTED
from pipelines.scenes import Cutouts, compose, emoji
from pipelines.sources.items import About, Item, items_stage
from pipelines.stage import Stage
from schemas.identity import digest
from schemas.recipe import Fetch, Scenes
from schemas.scenes import training

VERSION = 1
"""Raised when scenes come out otherwise."""
TOGETHER = 1_000
"""Scenes of one file."""
LICENCE = "MIT"
"""Of the Fluent emoji, from which they are cut."""


def scenes_stage(corpus: Corpus, name: str, source: Scenes, fetch: Fetch) -> Stage:
    """The scenes that are not made yet. Scene n is the same whatever the number of all of them."""

    def read(file: dict[str, Any]) -> Iterator[Item]:
        cutouts = Cutouts(emoji(lambda line: None))
        start = int(file["path"])
        for number in range(start, start + file["size"]):
            scene, caption = training(source.seed, number)
            picture, _ = compose(scene, cutouts, source.size, Random(f"{source.seed} {number}"))
            content = io.BytesIO()
            picture.save(content, "PNG")
            yield Item(str(number), About(caption, "scene", None, LICENCE), content.getvalue())

    return items_stage(corpus, name, _listed(name, source), read, fetch, batch=1)


def _listed(name: str, source: Scenes) -> pa.Table:
    rows = [
        {
            "file_id": digest(f"{name} {VERSION} {source.size} {source.seed} {start} {size}".encode()),
            "source": name,
            "path": str(start),
            "size": size,
            "modified": datetime.fromtimestamp(0, UTC),
        }
        for start in range(0, source.count, TOGETHER)
        for size in [min(TOGETHER, source.count - start)]
    ]
    return pa.Table.from_pylist(rows, schema=LISTED)
