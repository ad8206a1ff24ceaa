"""What several tests share: a Ray of this machine for the whole run, and pictures drawn for the occasion."""

import io
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from PIL import Image, ImageDraw

from pipelines import cluster
from pipelines.corpus import Corpus


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """Two cores of Ray, started once."""
    cluster.start(2)
    yield
    cluster.stop()


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    """An empty corpus."""
    return Corpus.create(tmp_path / "corpus")


@pytest.fixture(scope="session")
def draw() -> Callable[..., bytes]:
    """A picture file of its own for each seed: `draw(3)`, `draw(3, kind="png", size=(64, 64))`."""

    def drawn(seed: int, kind: str = "jpeg", size: tuple[int, int] = (160, 120), **options: int) -> bytes:
        image = Image.new("RGB", size, ((seed * 53) % 200, (seed * 97) % 200, (seed * 31) % 200))
        pen = ImageDraw.Draw(image)
        for stroke in range(12):
            x, y = (seed * 37 + stroke * 29) % size[0], (seed * 17 + stroke * 43) % size[1]
            color = ((seed * 7 + stroke * 60) % 256, (stroke * 90) % 256, (seed * 11 + stroke * 30) % 256)
            pen.ellipse((x - 30, y - 20, x + 30, y + 20), fill=color)
            pen.line((x, 0, (x * 7 + seed) % size[0], size[1]), fill=color, width=3)
        sink = io.BytesIO()
        image.save(sink, kind, **options)
        return sink.getvalue()

    return drawn


@pytest.fixture
def started() -> datetime:
    """The time of a build that starts now."""
    return datetime.now(UTC)
