"""A tiny release of drawn shapes, in the layout that training opens."""

import hashlib
import io
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image, ImageDraw

from schemas.identity import digest
from schemas.release import Manifest, Shard
from schemas.tables import SCHEMA_VERSION
from schemas.training import (
    AlignSettings,
    AutoencoderSettings,
    DMD2Settings,
    FlowSettings,
    Stages,
    Training,
    TrajectorySettings,
)
from training.align import AlignStage
from training.autoencoder import AutoencoderStage
from training.dmd2 import DMD2Stage
from training.features import keep
from training.flow import FlowStage
from training.release import Release
from training.stage import Job, Stage, run
from training.trajectory import TrajectoryStage

STAGES: dict[str, type[Stage]] = {
    stage.name: stage for stage in (AutoencoderStage, AlignStage, FlowStage, TrajectoryStage, DMD2Stage)
}
COLOURS = {"红": "red", "绿": "green", "蓝": "blue", "黄": "gold", "紫": "purple", "黑": "black"}
SHAPES = {"圆": "ellipse", "方块": "rectangle"}
SIZES = (16, 24, 32)
RECIPE = Training(
    size=32,
    threads=1,
    save_every=2,
    stages=Stages(
        autoencoder=AutoencoderSettings(steps=30, batch=4),
        align=AlignSettings(steps=12, batch=14),
        flow=FlowSettings(steps=16, batch=4),
        trajectory=TrajectorySettings(steps=12, batch=2),
        dmd2=DMD2Settings(steps=6, batch=2, student_every=5),
    ),
)
SCHEMA = pa.schema(
    [
        ("sample_id", pa.binary(16)),
        ("image_id", pa.binary(16)),
        ("split", pa.string()),
        ("release", pa.string()),
        ("shard", pa.string()),
        ("offset", pa.int64()),
        ("length", pa.int64()),
        ("caption", pa.string()),
        ("original_caption", pa.string()),
        ("keywords", pa.string()),
        ("poem_lines", pa.list_(pa.string())),
        ("poem", pa.string()),
        ("size", pa.struct([("width", pa.int32()), ("height", pa.int32())])),
    ]
)


def picture(colour: str, shape: str, size: int) -> bytes:
    """A shape on a transparent ground, as PNG."""
    canvas = Image.new("RGBA", (48, 40), (0, 0, 0, 0))
    getattr(ImageDraw.Draw(canvas), shape)((4, 4, 4 + size, 4 + size), fill=colour)
    buffer = io.BytesIO()
    canvas.save(buffer, "PNG")
    return buffer.getvalue()


def write_manifest(folder: Path, rows: list[dict[str, object]]) -> None:
    """The manifest of a folder with one tar and samples.parquet."""
    tar = folder / "train-00000.tar"
    sums = {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in (tar, folder / "samples.parquet")}
    count = len(rows)
    shard = Shard(name=tar.name, split="train", sha256=sums[tar], bytes=tar.stat().st_size, samples=count)
    manifest = Manifest(
        name="tiny",
        schema_version=SCHEMA_VERSION,
        selection="",
        recipe="",
        policy="",
        variants={},
        samples=count,
        images=len({row["image_id"] for row in rows}),
        splits={"train": count},
        samples_sha256=sums[folder / "samples.parquet"],
        shards=(shard,),
    )
    (folder / "manifest.json").write_text(manifest.text())


@pytest.fixture(scope="session")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """36 pictures of a coloured shape each, every sixth with lines of a poem, every sixth drawn of one."""
    folder = tmp_path_factory.mktemp("release")
    rows: list[dict[str, object]] = []
    with tarfile.open(folder / "train-00000.tar", "w") as tar:
        for hanzi, colour in COLOURS.items():
            for word, shape in SHAPES.items():
                for size in SIZES:
                    content, caption = picture(colour, shape, size), f"{hanzi}色的{word}"
                    image_id = digest(content)
                    entry = tarfile.TarInfo(f"{image_id.hex()}.png")
                    entry.size = len(content)
                    rows.append(
                        {
                            "sample_id": digest(image_id + caption.encode()),
                            "image_id": image_id,
                            "split": "train",
                            "release": "tiny",
                            "shard": "train-00000.tar",
                            "offset": tar.offset + tarfile.BLOCKSIZE,
                            "length": len(content),
                            "caption": caption,
                            "size": {"width": 48, "height": 40},
                            "poem_lines": ["白日依山尽", "黄河入海流"] if len(rows) % 6 == 0 else [],
                            "original_caption": f"{hanzi}的{word}",
                            "poem": "床前明月光，\n疑是地上霜。" if len(rows) % 6 == 1 else None,
                            "keywords": "床, 月亮, 霜" if len(rows) % 6 == 1 else None,
                        }
                    )
                    tar.addfile(entry, io.BytesIO(content))
    pq.write_table(pa.Table.from_pylist(rows, SCHEMA), folder / "samples.parquet")
    write_manifest(folder, rows)
    return folder


@pytest.fixture(scope="session")
def trained(release: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """All stages of the recipe, one after another in this process."""
    finished: dict[str, Path] = {}
    for name in ("autoencoder", "latents", "align", "texts", "flow", "trajectory", "dmd2"):
        folder = tmp_path_factory.mktemp(name)
        if name in STAGES:
            run(STAGES[name](Job(Release(release), RECIPE, dict(finished))), folder)
        else:
            keep(name, Release(release), RECIPE, finished, folder, slice(0, None))
        finished[name] = folder
    return finished


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    """Tests share the machine; and only one thread adds in the same order each time, to the bit."""
    torch.set_num_threads(1)
