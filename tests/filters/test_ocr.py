"""Drawn Chinese is found where it stands, and read; photographs without text have none."""

from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageFont
from rapidocr_onnxruntime.ch_ppocr_det.utils import DBPostProcess
from rapidocr_onnxruntime.ch_ppocr_rec.text_recognize import TextRecognizer

from filters import ocr
from filters.ocr import Ocr
from filters.picture import Picture
from filters.weights import packaged

LINES = ("窗前明月光，疑是地上霜", "雪山脚下的湖泊倒映着蓝天", "龙井绿茶2024")


def font(size: int, file: str = "NotoSansSC-Regular.otf") -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(packaged("pylopdf_fonts_zh_cn", file), size)


def page(lines: tuple[str, ...] = LINES, size: int = 36, ground: str = "white", **style: Any) -> Image.Image:
    """Lines below one another, 60 pixels from the left and the top."""
    image = Image.new("RGB", (800, 400), ground)
    draw = ImageDraw.Draw(image)
    for row, line in enumerate(lines):
        draw.text((60, 60 + 2 * size * row), line, font=font(size), **({"fill": "black"} | style))
    return image


def picture(image: Image.Image) -> Picture:
    return Picture(np.asarray(image.convert("RGB")), 0.0)


def row(measure: Ocr, image: Image.Image) -> dict[str, Any]:
    return {column: values[0] for column, values in measure([picture(image)]).items()}


def smooth(seed: int = 0) -> Image.Image:
    """Clouds of colour: no line, no letter."""
    clouds = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(clouds).resize((800, 600), Image.Resampling.BICUBIC)


def test_lines_are_counted_and_their_area_is_about_that_of_their_type() -> None:
    found = row(Ocr(), page())
    type_area = sum(font(36).getlength(line) * 36 for line in LINES) / (800 * 400)
    assert found["boxes"] == 3
    assert type_area < found["area"] < 2 * type_area
    assert found["text"] is None and found["confidence"] is None


def test_what_was_drawn_is_read_line_by_line() -> None:
    found = row(Ocr(read=True), page())
    assert found["text"] == "\n".join(LINES)
    assert found["confidence"] > 0.9


@pytest.mark.parametrize("size", [16, 24, 60, 110])
def test_small_and_tall_lines_are_read(size: int) -> None:
    assert row(Ocr(read=True), page(("山高月小",), size))["text"] == "山高月小"


@pytest.mark.parametrize("angle", [-15, 8, 30])
def test_a_slanted_line_is_read(angle: int) -> None:
    slanted = page(LINES[1:2]).rotate(angle, expand=True, fillcolor="white", resample=Image.Resampling.BICUBIC)
    assert row(Ocr(read=True), slanted)["text"] == LINES[1]


def test_light_text_on_a_photograph_like_ground_is_read() -> None:
    image = smooth()
    ImageDraw.Draw(image).text((60, 300), LINES[0], font=font(40), fill="white", stroke_width=3, stroke_fill="black")
    assert row(Ocr(read=True), image)["text"].replace("\n", "") == LINES[0]


def test_columns_are_read_from_right_to_left() -> None:
    image = Image.new("RGB", (600, 600), "#f0e8d8")
    draw = ImageDraw.Draw(image)
    for column, line in enumerate(("白日依山尽", "黄河入海流")):
        for place, sign in enumerate(line):
            draw.text((400 - 120 * column, 100 + 60 * place), sign, font=font(48, "NotoSerifSC-Regular.otf"), fill=0)
    assert row(Ocr(read=True), image)["text"] == "白日依山尽\n黄河入海流"


@pytest.mark.parametrize("seed", range(3))
def test_where_nothing_is_written_the_text_is_empty_not_null(seed: int) -> None:
    found = row(Ocr(read=True), smooth(seed))
    assert found == {"area": 0, "boxes": 0, "text": "", "confidence": None}


def test_area_counts_what_lies_in_two_boxes_once() -> None:
    box = np.array([(0, 0), (50, 0), (50, 100), (0, 100)], np.float32)
    assert ocr.area(np.stack([box, box]), 100, 100) == pytest.approx(0.5, abs=0.02)
    assert ocr.area(np.stack([box * 99]), 100, 100) == 1
    assert ocr.area(np.empty((0, 4, 2), np.float32), 1, 5000) == 0


def test_rows_that_overlap_a_little_are_read_from_left_to_right() -> None:
    def box(x: int, y: int) -> np.ndarray:
        return np.array([(x, y), (x + 90, y), (x + 90, y + 20), (x, y + 20)], np.float32)

    ordered = ocr.reading_order(np.stack([box(200, 3), box(0, 40), box(0, 0), box(100, 44)]))
    assert [tuple(found[0]) for found in ordered] == [(0, 0), (200, 3), (0, 40), (100, 44)]


def hostile() -> list[Picture]:
    noise = np.random.default_rng(0).integers(0, 256, (7, 9, 3), dtype=np.uint8)
    plain = [Image.new("RGB", size, "white") for size in ((1, 1), (1, 5000), (5000, 1), (5, 5), (300, 300))]
    bars = Image.fromarray(np.tile(np.array([0, 255], np.uint8).repeat(8), (40, 300)))
    return [*map(picture, plain), picture(bars), Picture(noise, 0.0)]


@pytest.mark.parametrize("read", [False, True])
def test_hostile_pictures_give_finite_values_of_the_declared_type(read: bool) -> None:
    rows = pa.table(dict(Ocr(read=read)(hostile())), schema=Ocr.columns)
    assert rows.num_rows == len(hostile())
    assert all(0 <= area <= 1 for area in rows["area"].to_pylist())
    assert rows["text"].null_count == (0 if read else len(hostile()))


def test_the_same_bits_however_the_pictures_are_split() -> None:
    measure = Ocr(read=True)
    pictures = [picture(image) for image in (page(), page(LINES[:1], 20), smooth(), page(LINES[1:], 50))]
    together = pa.table(dict(measure(pictures)), schema=Ocr.columns)
    parts = [measure(pictures[:1]), measure(pictures[1:4])]
    assert together.equals(
        pa.concat_tables(pa.table(dict(part), schema=Ocr.columns) for part in parts).combine_chunks()
    )


def test_to_read_is_another_variant() -> None:
    assert Ocr().fingerprint() == Ocr(read=False).fingerprint() != Ocr(read=True).fingerprint()


def test_boxes_of_a_map_are_those_of_the_package() -> None:
    """But for a pixel or two: rapidocr grows a polygon by whole pixels, and finds its rectangle again."""
    theirs_of = DBPostProcess(ocr.INK, ocr.CERTAIN, ocr.MOST, ocr.GROWTH, "fast", True)
    for angle in (0, 10, 40):
        ink = ocr.ink(np.asarray(page().rotate(angle, expand=True, fillcolor="white")), ocr.FINE)
        theirs, ours = theirs_of(ink[None, None], ink.shape)[0].astype(np.float32), ocr.outlined(ink)
        assert len(ours) == len(theirs) == 3
        for box in ours:
            nearest = min(theirs, key=lambda other: float(np.abs(box.mean(0) - other.mean(0)).max()))
            assert box.mean(0) == pytest.approx(nearest.mean(0), abs=2)
            assert cv2.contourArea(box) == pytest.approx(cv2.contourArea(nearest), rel=0.12)


def test_a_line_is_read_as_the_package_reads_it() -> None:
    quiet = {"intra_op_num_threads": 1, "inter_op_num_threads": 1, "use_cuda": False, "use_dml": False}
    path = str(packaged(ocr.PACKAGE, ocr.RECOGNISER))
    theirs = TextRecognizer(quiet | {"model_path": path, "rec_batch_num": 1, "rec_img_shape": [3, 48, 320]})
    pixels = np.asarray(page())
    for box in ocr.boxes(pixels):
        level = ocr.line(pixels, box)
        [(text, confidence)], _ = theirs(np.ascontiguousarray(level[..., ::-1]))
        assert text in LINES
        assert ocr.read(level) == (text, pytest.approx(confidence, abs=1e-3))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(*[st.floats(-50, 450)] * 2, *[st.floats(3, 500)] * 2, st.floats(0, 180)), max_size=6))
def test_any_rectangles_are_ordered_and_cut_out(rectangles: list[tuple[float, ...]]) -> None:
    boxes = np.array([cv2.boxPoints(((x, y), (w, h), angle)) for x, y, w, h, angle in rectangles], np.float32)
    boxes = boxes.reshape(-1, 4, 2).clip(0, (399, 299))
    assert len(ocr.reading_order(boxes)) == len(boxes)
    assert 0 <= ocr.area(boxes, 400, 300) <= 1
    for box in boxes:
        level = ocr.line(np.zeros((300, 400, 3), np.uint8), box)
        assert level.shape[0] == ocr.LINE and 1 <= level.shape[1] <= ocr.LONGEST
