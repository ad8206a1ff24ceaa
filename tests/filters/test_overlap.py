"""How much of a caption stands in its picture, on pairs where the answer is plain."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from filters.overlap import OcrOverlap, folded, overlap


@pytest.mark.parametrize(
    ("caption", "text", "share"),
    [
        ("窗前明月光", "窗前明月光", 1.0),
        ("窗前明月光", "李白《静夜思》\n窗前\n明月光，疑是地上霜", 1.0),
        ("窗前明月光", "疑是地上霜", 0.0),
        ("窗前明月光", "", 0.0),
        ("", "窗前明月光", 0.0),
        ("？！", "？！", 0.0),
        ("国", "国", 0.0),
        ("國畫山水", "国画", 0.5),
        ("国画山水", "國畫", 0.5),
        ("山水国画", "国画山水", 1.0),
        ("ＡＢＣ茶", "abc 茶", 1.0),
        ("一只橘猫", "-只橘猫", 0.75),
        ("春夏秋冬", "春x夏y秋z冬", 0.0),
        ("明月明月", "明月", 1.0),
        ("① 号楼", "1号楼", 1.0),
    ],
)
def test_the_share(caption: str, text: str, share: float) -> None:
    assert overlap(caption, text) == share


@given(st.text(max_size=60), st.text(max_size=200))
def test_it_is_a_share_and_no_less_with_more_text(caption: str, text: str) -> None:
    assert 0 <= overlap(caption, text) <= 1
    assert overlap(caption, folded(text) + folded(caption)) >= overlap(caption, folded(text))


@given(st.text(alphabet="山水明月光春秋abc12 ，", min_size=4, max_size=60))
def test_a_caption_stands_in_itself(caption: str) -> None:
    assert overlap(caption, f"前 {caption} 后") == (1.0 if len(folded(caption)) > 1 else overlap(caption, caption))


def test_a_long_caption_and_a_page_are_compared_at_once() -> None:
    caption, text = "山高月小水落石出" * 25, "天地玄黄宇宙洪荒" * 250
    overlap(caption, text)
    start = time.perf_counter()
    for _ in range(10):
        overlap(caption, text)
    assert time.perf_counter() - start < 2


def test_the_measure_goes_pair_by_pair() -> None:
    found = OcrOverlap()(["窗前明月光", "雪山"], {"ocr.text": ["窗前明月光", ""]})
    assert found == {"share": [1.0, 0.0]}
    assert OcrOverlap()([], {"ocr.text": []}) == {"share": []}
