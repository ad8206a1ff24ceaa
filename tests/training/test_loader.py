"""The loader opens a release alone, and a step's batch depends on (seed, step, digest) alone."""

import io
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from schemas.errors import JuZhouError
from schemas.training import Training
from tests.training.conftest import write_manifest
from training.loader import HELD, Release, decode
from training.stage import Job

CAPTIONS = Training().captions


def as_file(picture: Image.Image, **options: Image.Exif) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", **options)
    return buffer.getvalue()


def test_pictures_are_upright_on_white_and_cover_the_square() -> None:
    clear = decode(as_file(Image.new("RGBA", (100, 60), (255, 0, 0, 0))), 32)
    assert clear.shape == (3, 32, 32) and (clear == 255).all()
    left_red = Image.new("RGB", (64, 64), "blue")
    left_red.paste("red", (0, 0, 32, 64))
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = decode(as_file(left_red, exif=exif), 32)
    assert turned[:, 2, 16].tolist() == [255, 0, 0] and turned[:, 29, 16].tolist() == [0, 0, 255]
    wide = Image.new("RGB", (96, 32), "white")
    wide.paste("black", (32, 0, 64, 32))
    assert (decode(as_file(wide), 32)[:, 4:-4, 4:-4] == 0).all()


def test_every_epoch_sees_every_training_sample_once(release: Path) -> None:
    opened = Release(release)
    assert len(opened.samples) == 36 - HELD and len(opened.held) == HELD
    seen = torch.cat([opened.batch(7, 0, step, CAPTIONS).images for step in range(4)])
    assert sorted(seen.tolist()) == list(range(HELD, 36))


def test_a_batch_is_a_pure_function_and_ranks_share_it(release: Path) -> None:
    first, again = (Release(release).batch(8, 3, 5, CAPTIONS, drop=0.5) for _ in range(2))
    assert torch.equal(first.images, again.images) and torch.equal(first.texts, again.texts)
    other = Release(release).batch(8, 4, 5, CAPTIONS, drop=0.5)
    assert not torch.equal(first.images, other.images)
    for world in (1, 2, 4):
        jobs = [Job(release, Training(), rank=rank, world=world) for rank in range(world)]
        assert torch.equal(torch.cat([job.slice(first.images) for job in jobs]), first.images)


def test_texts_follow_their_weights_and_are_dropped(release: Path) -> None:
    opened = Release(release)
    kinds = [opened.batch(28, 0, step, {"poem": 1.0}).texts for step in range(2)]
    poems = [opened.texts[number] for number in torch.cat(kinds).tolist()]
    assert {text for text in poems if "山" in text} == {"白日依山尽，黄河入海流"}
    dropped = [(opened.batch(28, 0, step, CAPTIONS, drop=0.25).texts == 0).float().mean() for step in range(40)]
    assert 0.2 < torch.stack(dropped).mean() < 0.3


def split(release: Path, copy: Path, validation: int) -> Path:
    """The same release, its pictures with the largest ids in validation."""
    shutil.copytree(release, copy)
    rows = sorted(pq.read_table(copy / "samples.parquet").to_pylist(), key=lambda row: row["image_id"])
    for row in rows[len(rows) - validation :]:
        row["split"] = "validation"
    pq.write_table(pa.Table.from_pylist(rows, pq.read_schema(copy / "samples.parquet")), copy / "samples.parquet")
    write_manifest(copy, rows)
    return copy


def test_training_sees_the_split_train_alone(release: Path, tmp_path: Path) -> None:
    opened = Release(split(release, tmp_path / "ten", 10))
    assert len(opened.samples) == 26 and len(opened.held) == HELD
    assert len(opened.places) == 26 + HELD, "validation beyond what is held is not opened"
    rows = pq.read_table(tmp_path / "ten" / "samples.parquet").to_pylist()
    of_train = {(row["shard"], row["offset"]) for row in rows if row["split"] == "train"}
    places = [(place.shard.name, place.offset) for place in opened.places]
    assert {places[sample.image] for sample in opened.samples} == of_train
    assert not {places[sample.image] for sample in opened.held} & of_train


def test_where_validation_is_small_some_of_train_is_held(release: Path, tmp_path: Path) -> None:
    opened = Release(split(release, tmp_path / "three", 3))
    assert len(opened.samples) == 33 - HELD and len(opened.held) == HELD and len(opened.places) == 33


def test_what_is_no_release_is_said_in_one_line(release: Path, tmp_path: Path) -> None:
    with pytest.raises(JuZhouError, match="is not a release"):
        Release(tmp_path)
    broken = tmp_path / "broken"
    shutil.copytree(release, broken)
    whole = (broken / "train-00000.tar").read_bytes()
    (broken / "train-00000.tar").write_bytes(b"cut")
    with pytest.raises(JuZhouError, match=r"train-00000\.tar is missing or cut"):
        Release(broken)
    (broken / "train-00000.tar").write_bytes(bytes(len(whole)))
    with pytest.raises(JuZhouError, match="no picture"):
        Release(broken).pictures(32)
