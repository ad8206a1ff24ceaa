"""What a caption's characters tell: contacts in their disguises, and no contact where there is none."""

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from filters.registry import CAPTION
from filters.text import Text, measured

PHONES = [
    "13800138000",
    "电话13800138000速来",
    "1 3 8-0013-8000",
    "1 3 8 0 0 1 3 8 0 0 0",
    "1380 013 8000",
    "138.0013.8000",
    "+86 138-0013-8000",
    "13\u200b800138000",
    "１３８００１３８０００",
    "①③⑧⓪⓪①③⑧⓪⓪⓪",
    "1️⃣3️⃣8️⃣0️⃣0️⃣1️⃣3️⃣8️⃣0️⃣0️⃣0️⃣",
    "一三八零零一三八零零零",
    "幺叁捌〇〇壹叁捌〇〇〇",
    "010-12345678",
    "(021) 61234567",
    "400-820-8820",
    "4008208820",
]
NO_PHONES = ["1998年到1999年", "1998 1999 2000", "1368-1644, 1911", "￥1399.00 1999.00", "13800元", "2023年12月25日"]
NO_PHONES += ["20231225123456789", "0.13800138000", "1920x1080 1280x720", "13,800,138.00", "一九九八年", "第1380页"]


@pytest.mark.parametrize("caption", PHONES)
def test_a_phone_number_is_found_in_its_disguises(caption: str) -> None:
    assert measured(caption)["phone"]


@pytest.mark.parametrize("caption", NO_PHONES)
def test_years_prices_and_sizes_are_no_phone_numbers(caption: str) -> None:
    assert not measured(caption)["phone"]


@pytest.mark.parametrize(
    "caption", ["加微信abc12345", "微信号：lovecat", "QQ:12345678", "ｑｑ 12345678", "VX cat_2020", "薇信 a12345678"]
)
def test_contact_ids(caption: str) -> None:
    assert measured(caption)["contact"]


@pytest.mark.parametrize("caption", ["微信 login 界面", "QQ企鹅玩偶", "腾讯QQ 2008", "微信支付", "一只猫"])
def test_talking_of_a_messenger_is_no_contact(caption: str) -> None:
    assert not measured(caption)["contact"]


@pytest.mark.parametrize(
    ("caption", "url", "email"),
    [
        ("见 https://a.b/c", True, False),
        ("www.taobao.com", True, False),
        ("ｔａｏｂａｏ.com看看", True, False),
        ("写信给a.b@mail.cn吧", False, True),
        ("圆周率3.14", False, False),
    ],
)
def test_urls_and_mail_addresses(caption: str, url: bool, email: bool) -> None:
    assert (measured(caption)["url"], measured(caption)["email"]) == (url, email)


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("IMG_2034.JPG", True),
        ("DSC00123", True),
        ("微信图片_20230101", True),
        ("d41d8cd98f00b204e9800998ecf8427e", True),
        ("照片", False),
        ("图片中有一只狗", False),
        ("face", False),
    ],
)
def test_file_names(caption: str, expected: bool) -> None:
    assert measured(caption)["filename"] is expected


def test_traditional() -> None:
    assert measured("一隻小貓在草地上玩")["traditional"]
    assert measured("一隻小貓")["traditional_share"] == pytest.approx(0.5)
    for both in ("一只小猫在草地上玩", "山水", "著作", "皇后", "a cat", ""):
        assert not measured(both)["traditional"], both


def test_shares() -> None:
    row = measured(" 猫，１2 ")
    assert (row["length"], row["han_share"], row["digit_share"], row["punctuation_share"]) == (4, 0.25, 0.5, 0.25)


def test_content_words() -> None:
    assert measured("红色汽车")["content_word_share"] > measured("就是这个的啊")["content_word_share"]


@settings(max_examples=150, deadline=None)
@given(st.text() | st.text(st.sampled_from("微信qQ号:138 0.-@comwjpg_一零貓猫")))
def test_any_text_gives_values_in_range(caption: str) -> None:
    row = pa.table(dict(Text()([caption], {})), schema=Text.columns).to_pylist()[0]
    assert all(0 <= value <= 1 for column, value in row.items() if column.endswith("_share"))
    assert row["length"] >= 0


def test_caption_measures_are_named_after_their_names() -> None:
    assert [kind.name for kind in CAPTION.values()] == list(CAPTION)
