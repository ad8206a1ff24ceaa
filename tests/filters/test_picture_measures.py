"""What picture measures mean, and that no picture, batch or order upsets them."""

import io
import itertools

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image, ImageDraw, ImageFilter
from pydantic import BaseModel

from filters.blur import Blur
from filters.embedding import LiteEmbedding
from filters.measure import PictureMeasure
from filters.nsfw import Nsfw
from filters.pdq import Pdq
from filters.picture import Picture, decode
from filters.registry import PICTURE
from filters.size import Size
from model.device import set_threads

set_threads(1)
MEASURES = {name: kind() for name, kind in PICTURE.items() if not issubclass(kind, BaseModel)}


def scene(seed: int = 0, size: tuple[int, int] = (320, 240)) -> Image.Image:
    """Coloured shapes over a gradient."""
    generator = np.random.default_rng(seed)
    image = Image.linear_gradient("L").resize(size).convert("RGB")
    draw = ImageDraw.Draw(image)
    for _ in range(12):
        x, y = generator.integers(0, size[0]), generator.integers(0, size[1])
        radius = int(generator.integers(10, 60))
        colour = tuple(int(value) for value in generator.integers(0, 256, 3))
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)
    return image


def picture(image: Image.Image) -> Picture:
    return Picture(np.asarray(image.convert("RGB")), 0.0)


def hostile() -> list[Picture]:
    noise = np.random.default_rng(0).integers(0, 256, (7, 9, 3), dtype=np.uint8)
    plain = [Image.new("RGB", size, "white") for size in ((1, 1), (1, 5000), (5000, 1), (5, 5), (300, 300))]
    return [picture(image) for image in [*plain, Image.new("L", (30, 30), 0), Image.fromarray(noise)]]


def table(measure: PictureMeasure, pictures: list[Picture]) -> pa.Table:
    return pa.table(dict(measure(pictures)), schema=measure.columns)


@pytest.mark.parametrize("name", MEASURES)
def test_hostile_pictures_give_finite_values_of_the_declared_type(name: str) -> None:
    rows = table(MEASURES[name], hostile())
    assert rows.num_rows == len(hostile())
    for column in rows.columns:
        assert column.null_count == 0
        if pa.types.is_floating(column.type):
            assert np.isfinite(column.to_numpy()).all()


@pytest.mark.parametrize("name", MEASURES)
def test_the_same_bits_however_the_pictures_are_split(name: str) -> None:
    pictures = [picture(scene(seed, (200 + 40 * seed, 180))) for seed in range(8)]
    together = table(MEASURES[name], pictures)
    apart = pa.concat_tables(table(MEASURES[name], [one]) for one in pictures)
    unequal = pa.concat_tables([table(MEASURES[name], pictures[:3]), table(MEASURES[name], pictures[3:])])
    assert together.equals(apart.combine_chunks())
    assert together.equals(unequal.combine_chunks())


@pytest.mark.parametrize("name", MEASURES)
def test_the_fingerprint_is_the_same_for_every_instance(name: str) -> None:
    assert PICTURE[name]().fingerprint() == MEASURES[name].fingerprint()
    assert PICTURE[name].name == name


def test_fingerprints_differ() -> None:
    assert len({measure.fingerprint() for measure in MEASURES.values()}) == len(MEASURES)


def test_size() -> None:
    rows = table(Size(), [Picture(np.zeros((20, 50, 3), np.uint8), 0.25)]).to_pylist()
    assert rows == [{"width": 50, "height": 20, "pixels": 1000, "aspect": 2.5, "transparent": 0.25}]


def test_blur_falls_as_the_picture_is_blurred() -> None:
    blurred = [picture(scene().filter(ImageFilter.GaussianBlur(radius))) for radius in (0, 1, 2, 4)]
    sharpness = Blur()(blurred)["sharpness"]
    assert all(left > 1.5 * right for left, right in itertools.pairwise(sharpness))


def test_blur_sees_a_small_picture_blown_up() -> None:
    blown_up = scene().resize((40, 30)).resize((320, 240), Image.Resampling.BICUBIC)
    true, false = Blur()([picture(scene()), picture(blown_up)])["sharpness"]
    assert false < true / 3


def test_blur_does_not_take_a_plain_background_for_blur() -> None:
    wide = Image.new("RGB", (320, 320), "white")
    wide.paste(scene().crop((60, 60, 260, 180)), (60, 100))
    sharp, plain = Blur()([picture(wide), picture(Image.new("RGB", (320, 320), "white"))])["sharpness"]
    soft = Blur()([picture(wide.filter(ImageFilter.GaussianBlur(3)))])["sharpness"][0]
    assert sharp > 4 * soft
    assert plain == 0


def hamming(left: bytes, right: bytes) -> int:
    return (int.from_bytes(left) ^ int.from_bytes(right)).bit_count()


def test_pdq_knows_a_copy_from_another_picture() -> None:
    buffer = io.BytesIO()
    scene().resize((200, 150)).save(buffer, "JPEG", quality=50)
    original, copy, other, plain = Pdq()(
        [picture(scene()), decode(buffer.getvalue()), picture(scene(1)), picture(Image.new("RGB", (64, 64)))]
    )["hash"]
    assert hamming(original, copy) <= 31
    assert hamming(original, other) > 60
    assert len(plain) == 32


def test_pdq_quality_is_low_where_there_is_nothing_to_see() -> None:
    rich, plain = Pdq()([picture(scene()), picture(Image.new("RGB", (64, 64), "white"))])["quality"]
    assert rich > 49
    assert plain == 0


def test_nsfw_finds_a_drawing_harmless() -> None:
    assert 0 <= Nsfw()([picture(scene())])["probability"][0] < 0.2


def test_embedding_knows_a_copy_from_another_picture() -> None:
    pictures = [scene(), scene().resize((160, 120)).filter(ImageFilter.GaussianBlur(0.5)), scene(1)]
    vectors = np.asarray(LiteEmbedding()([picture(image) for image in pictures])["vector"], dtype=np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    assert vectors[0] @ vectors[1] > 0.95 > vectors[0] @ vectors[2]
