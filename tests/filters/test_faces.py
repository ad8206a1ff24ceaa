"""A face that is drawn like one is found, where it is; shapes, plains and hostile pictures have none."""

import cv2
import numpy as np
import pyarrow as pa
import pytest
from PIL import Image, ImageDraw

from filters import faces
from filters.faces import Faces
from filters.picture import Picture
from filters.weights import packaged


def face(size: int = 400) -> Image.Image:
    """A face with hair, eyes, nose and mouth: 0.375 of the picture wide and 0.56 high."""
    image = Image.new("RGB", (400, 400), "#6a8caf")
    draw = ImageDraw.Draw(image)
    draw.ellipse((110, 60, 290, 300), fill="#3a2416")
    draw.ellipse((125, 85, 275, 310), fill="#e8b48c")
    for x in (165, 235):
        draw.ellipse((x - 18, 170, x + 18, 188), fill="white")
        draw.ellipse((x - 8, 171, x + 8, 187), fill="#2a1a10")
        draw.arc((x - 24, 148, x + 24, 176), 200, 340, fill="#3a2416", width=6)
    draw.polygon((200, 190, 188, 232, 212, 232), fill="#cf9670")
    draw.chord((168, 240, 232, 278), 0, 180, fill="#b03a3a")
    return image.resize((size, size), Image.Resampling.BOX)


def group(*places: tuple[int, int, int]) -> Image.Image:
    """Faces of some size at some places of 900 × 600."""
    image = Image.new("RGB", (900, 600), "#6a8caf")
    for left, top, size in places:
        image.paste(face(size), (left, top))
    return image


def picture(image: Image.Image) -> Picture:
    return Picture(np.asarray(image.convert("RGB")), 0.0)


def shapes() -> Image.Image:
    image = Image.new("RGB", (400, 300), "#6a8caf")
    draw = ImageDraw.Draw(image)
    draw.ellipse((40, 40, 160, 160), fill="#e8b48c")
    draw.rectangle((200, 60, 360, 240), fill="#2a1a10")
    return image


def hostile() -> list[Picture]:
    noise = np.random.default_rng(0).integers(0, 256, (7, 9, 3), dtype=np.uint8)
    plain = [Image.new("RGB", size, "white") for size in ((1, 1), (1, 5000), (5000, 1), (5, 5), (300, 300))]
    return [*map(picture, plain), Picture(noise, 0.0)]


@pytest.mark.parametrize("size", [64, 200, 400])
def test_a_face_is_found_where_it_is(size: int) -> None:
    [[left, top, right, bottom, confidence]] = faces.faces(picture(face(size)))
    assert [left, top, right, bottom] == pytest.approx([0.31, 0.21, 0.69, 0.78], abs=0.12)
    assert faces.CERTAIN <= confidence <= 1


def test_a_face_has_the_same_share_of_a_larger_picture() -> None:
    small = group((100, 100, 350))
    pictures = [picture(small), picture(small.resize((2700, 1800), Image.Resampling.BICUBIC))]
    left, right = Faces()(pictures)["largest"]
    assert left == pytest.approx(right, rel=0.05)
    assert left > 0.03


def test_faces_are_counted_and_the_largest_is_told_from_all() -> None:
    found = {column: values[0] for column, values in Faces()([picture(group((0, 0, 400), (500, 100, 200)))]).items()}
    assert found["count"] == 2
    assert found["largest"] == pytest.approx(0.375 * 0.56 * 400 * 400 / (900 * 600), rel=0.3)
    assert found["area"] == pytest.approx(found["largest"] * 1.25, rel=0.1)


def test_shapes_and_hostile_pictures_have_no_face() -> None:
    rows = pa.table(dict(Faces()([picture(shapes()), *hostile()])), schema=Faces.columns)
    assert rows.to_pylist() == [{"count": 0, "largest": 0, "area": 0, "confidence": 0}] * rows.num_rows


def test_faces_are_those_of_opencv() -> None:
    """OpenCV's own reading of the network's output, on its own runtime."""
    detector = cv2.FaceDetectorYN.create(
        str(packaged(faces.PACKAGE, faces.WEIGHTS)), "", (600, 400), faces.CERTAIN, faces.SAME
    )
    image = group((0, 0, 300), (320, 200, 250), (650, 50, 150)).resize((600, 400), Image.Resampling.BOX)
    theirs = detector.detect(np.asarray(image)[..., ::-1].copy())[1]
    ours = faces.faces(picture(image))
    assert len(ours) == len(theirs) == 3
    corners = np.concatenate([theirs[:, :2], theirs[:, :2] + theirs[:, 2:4]], axis=1) / (600, 400, 600, 400)
    assert ours[:, :4][ours[:, 0].argsort()] == pytest.approx(corners[corners[:, 0].argsort()], abs=0.02)
    assert sorted(ours[:, 4]) == pytest.approx(sorted(theirs[:, -1]), abs=0.02)
