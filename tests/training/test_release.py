"""A release is opened as columns: what training may see, the shapes of its pictures, and their pixels."""

import io
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from schemas.errors import JuZhouError
from tests.training.conftest import write_manifest
from training.release import HELD, Pictures, Release, bucket_shapes, decode, sorted_into


def as_file(picture: Image.Image, **options: Image.Exif) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", **options)
    return buffer.getvalue()


def test_pictures_are_upright_on_white_and_cover_the_square() -> None:
    clear = decode(as_file(Image.new("RGBA", (100, 60), (255, 0, 0, 0))), (32, 32))
    assert clear.shape == (3, 32, 32) and (clear == 255).all()
    left_red = Image.new("RGB", (64, 64), "blue")
    left_red.paste("red", (0, 0, 32, 64))
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = decode(as_file(left_red, exif=exif), (32, 32))
    assert turned[:, 2, 16].tolist() == [255, 0, 0] and turned[:, 29, 16].tolist() == [0, 0, 255]
    wide = Image.new("RGB", (96, 32), "white")
    wide.paste("black", (32, 0, 64, 32))
    assert (decode(as_file(wide), (32, 32))[:, 4:-4, 4:-4] == 0).all()


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
    assert len(opened.pictures.shard) == 26 + HELD, "validation beyond what is held is not opened"
    rows = pq.read_table(tmp_path / "ten" / "samples.parquet").to_pylist()
    of_train = {row["offset"] for row in rows if row["split"] == "train"}
    assert set(opened.pictures.offset[opened.samples[:, 0]]) == of_train
    assert not set(opened.pictures.offset[opened.held[:, 0]]) & of_train


def test_columns_say_what_the_rows_do(release: Path) -> None:
    opened = Release(release)
    rows = {row["offset"]: row for row in pq.read_table(release / "samples.parquet").to_pylist()}
    samples = [*opened.samples.tolist(), *opened.held.tolist()]
    assert len(samples) == len(rows)
    for image, caption, original, keywords, line, poem in samples:
        row = rows[opened.pictures.offset[image]]
        assert opened.texts[caption].as_py() == row["caption"]
        assert opened.texts[original].as_py() == row["original_caption"]
        assert opened.texts[line].as_py() == (row["poem_lines"] or [row["caption"]])[0]
        assert opened.texts[keywords].as_py() == (row["keywords"] or row["caption"])
        assert opened.texts[poem].as_py() == (row["poem"] or row["caption"])
        assert opened.pictures.length[image] == row["length"]
        assert (opened.pictures.width[image], opened.pictures.height[image]) == (48, 40)
    alone = Release(release, {"simplified"})
    assert {*alone.texts.to_pylist()} == {"", *(row["caption"] for row in rows.values())}
    texts = opened.texts.to_pylist()
    assert texts == sorted(set(texts)) and texts[0] == ""


def test_the_order_on_disk_does_not_matter(release: Path, tmp_path: Path) -> None:
    copy = tmp_path / "shuffled"
    shutil.copytree(release, copy)
    rows = pq.read_table(copy / "samples.parquet")
    pq.write_table(rows.take(list(reversed(range(len(rows))))), copy / "samples.parquet")
    one, other = Release(release), Release(copy)
    assert (one.samples == other.samples).all() and one.texts == other.texts
    assert all((a == b).all() for a, b in zip(one.pictures, other.pictures, strict=True))


@pytest.mark.parametrize("size", [32, 64, 256, 512, 1024])
def test_shapes_have_about_the_squares_area_and_mirror_each_other(size: int) -> None:
    shapes = bucket_shapes(size)
    assert (size, size) in shapes and {(width, height) for height, width in shapes} == set(shapes)
    for height, width in shapes:
        assert height % 32 == width % 32 == 0 and max(height, width) <= 2 * min(height, width)
        assert size**2 - 32 * max(height, width) < height * width <= size**2
    ratios = [width / height for height, width in shapes]
    assert ratios == sorted(ratios)


@given(sides=st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 5000)), min_size=1, max_size=300))
def test_each_picture_goes_to_the_nearest_shape_there_is(sides: list[tuple[int, int]]) -> None:
    width, height = np.array(sides).T
    none = np.zeros(len(sides), dtype=np.int64)
    sorted_in = sorted_into(bucket_shapes(256), Pictures(none, none, none, width, height))
    assert (256, 256) in sorted_in.shapes
    for bucket in range(len(sorted_in.shapes)):
        inside = sorted_in.of == bucket
        assert sorted_in.row[inside].tolist() == list(range(inside.sum()))
        assert inside.mean() >= 0.01 or sorted_in.shapes[bucket] == (256, 256)
    for (w, h), bucket in zip(sides, sorted_in.of, strict=True):
        wanted = w / h if w and h else 1.0
        off = [abs(np.log(wanted * shape[0] / shape[1])) for shape in sorted_in.shapes]
        assert off[bucket] <= min(off) + 1e-9


def test_a_wide_picture_loses_its_ends_and_is_not_squeezed() -> None:
    stripes = Image.new("RGB", (400, 200), "white")
    stripes.paste("black", (175, 75, 225, 125))
    seen = decode(as_file(stripes), (96, 160))
    dark = (seen[0] < 128).nonzero()
    height, width = (dark.max(dim=0).values - dark.min(dim=0).values + 1).tolist()
    assert seen.shape == (3, 96, 160) and height == width


def test_where_validation_is_small_some_of_train_is_held(release: Path, tmp_path: Path) -> None:
    opened = Release(split(release, tmp_path / "three", 3))
    assert len(opened.samples) == 33 - HELD and len(opened.held) == HELD and len(opened.pictures.shard) == 33


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
        Release(broken).read(range(4), (32, 32))
