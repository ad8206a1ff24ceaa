"""What a caption's characters and words tell: contacts in their disguises, and nothing where there is nothing."""

import logging
import random
import time

import jieba
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from jieba.posseg import POSTokenizer

from filters import segmentation
from filters.text import Text

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


def row(caption: str) -> dict:
    """The columns of one caption."""
    return pa.table(dict(Text()([caption], {})), schema=Text.columns).to_pylist()[0]


@pytest.mark.parametrize("caption", PHONES)
def test_a_phone_number_is_found_in_its_disguises(caption: str) -> None:
    assert row(caption)["phone"]


@pytest.mark.parametrize("caption", NO_PHONES)
def test_years_prices_and_sizes_are_no_phone_numbers(caption: str) -> None:
    assert not row(caption)["phone"]


@pytest.mark.parametrize(
    "caption", ["加微信abc12345", "微信号：lovecat", "QQ:12345678", "ｑｑ 12345678", "VX cat_2020", "薇信 a12345678"]
)
def test_contact_ids(caption: str) -> None:
    assert row(caption)["contact"]


@pytest.mark.parametrize("caption", ["微信 login 界面", "QQ企鹅玩偶", "腾讯QQ 2008", "微信支付", "一只猫"])
def test_talking_of_a_messenger_is_no_contact(caption: str) -> None:
    assert not row(caption)["contact"]


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
    assert (row(caption)["url"], row(caption)["email"]) == (url, email)


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
    assert row(caption)["filename"] is expected


@pytest.mark.parametrize(
    "caption", ["¥199", "￥ 9.9", "只要99元", "九块九", "9块9", "$12", "NT$30", "5万元", "20块钱", "RMB 8"]
)
def test_prices(caption: str) -> None:
    assert row(caption)["price"]


@pytest.mark.parametrize("caption", ["2元素周期表", "公元2000年", "3块石头", "一块蛋糕", "2元宵节", "块状", ""])
def test_elements_and_pieces_are_no_prices(caption: str) -> None:
    assert not row(caption)["price"]


def test_sales_words_count_once_each_in_both_scripts() -> None:
    assert row("厂家直销 包邮包邮 现货")["sales_words"] == 3
    assert row("廠家直銷 包郵")["sales_words"] == 2
    assert row("一只猫在草地上")["sales_words"] == 0


def test_traditional() -> None:
    assert row("一隻小貓在草地上玩")["traditional"]
    assert row("一隻小貓")["traditional_share"] == pytest.approx(0.5)
    for both in ("一只小猫在草地上玩", "山水", "著作", "皇后", "a cat", ""):
        assert not row(both)["traditional"], both


def test_shares() -> None:
    values = row(" 猫，１2 ")
    assert [values[name] for name in ("length", "han_share", "digit_share", "punctuation_share")] == [
        4,
        0.25,
        0.5,
        0.25,
    ]


@pytest.mark.parametrize(
    ("caption", "three", "five"),
    [
        ("", 0, 0),
        ("猫猫", 0, 0),
        ("高高兴兴的一家人", 0, 0),
        ("一只猫和一只狗", 0, 0),
        ("哈哈哈哈哈哈哈哈", 6 / 8, 5 / 8),
        ("手机壳苹果手机壳华为手机壳", 6 / 13, 0),
        ("雪山下的湖泊，雪山下的湖泊", 6 / 12, 5 / 12),
        ("............", 0, 0),
        ("貓貓貓，猫猫猫", 3 / 6, 5 / 6),
    ],
)
def test_repeated_ngrams(caption: str, three: float, five: float) -> None:
    values = row(caption)
    assert (values["repeated_3grams"], values["repeated_5grams"]) == (pytest.approx(three), pytest.approx(five))


@pytest.mark.parametrize(
    ("caption", "tail"),
    [
        ("一只猫的高清图片_千图网", "千图网"),
        ("一只猫 - 素材 - 昵图网", "昵图网"),
        ("一只猫 ｜ 图虫", "图虫"),
        ("一只猫 · 花瓣网", "花瓣网"),
        ("一只猫-百度百科 -", "百度百科"),
        ("约翰·史密斯", None),
        ("一只猫", None),
        ("-千图网", None),
        ("", None),
        ("猫_" + "很" * 33, None),
    ],
)
def test_tails(caption: str, tail: str | None) -> None:
    assert row(caption)["tail"] == tail


def test_content_words() -> None:
    assert row("红色汽车")["content_word_share"] > row("就是这个的啊")["content_word_share"]


jieba.setLogLevel(logging.WARNING)
TAGGER = POSTokenizer(jieba.Tokenizer())


def tagged(text: str) -> list[tuple[str, str]]:
    """Words by our segmentation, those without a letter left out."""
    starts, ends, kinds = segmentation.words(np.array([ord(sign) for sign in text], np.uint32))
    pairs = [(text[start:end], segmentation.tags()[kind]) for start, end, kind in zip(starts, ends, kinds, strict=True)]
    return [(word, kind) for word, kind in pairs if any(sign.isalnum() for sign in word)]


def by_jieba(text: str) -> list[tuple[str, str]]:
    return [(pair.word, pair.flag) for pair in TAGGER.cut(text) if any(sign.isalnum() for sign in pair.word)]


@settings(max_examples=300, deadline=None)
@given(
    st.text(st.sampled_from("的是了一不人在有我王李张陈刘赵小明芳丽伟强龘鬱 .+#&_3a9Zé，-\r\n𠀀"), max_size=40)
    | st.text(st.characters(min_codepoint=0x4E00, max_codepoint=0x9FFF), max_size=20)
    | st.text(max_size=20)
)
@example("T恤AT&T卡拉OK厅b2b.3.14a")
def test_words_and_tags_are_those_of_jieba(text: str) -> None:
    assert tagged(text) == by_jieba(text)


def test_words_and_tags_are_those_of_jieba_on_strings_of_its_dictionary() -> None:
    rng, listed = random.Random(0), list(segmentation.frequencies())
    for _ in range(500):
        text = "".join(rng.choice([rng.choice(listed), rng.choice("王李张陈明芳丽伟的 3a.")]) for _ in range(9))
        assert tagged(text) == by_jieba(text)


@settings(max_examples=150, deadline=None)
@given(st.text() | st.text(st.sampled_from("微信qQ号:138 0.-@comwjpg_一零貓猫¥元块")))
def test_any_text_gives_values_in_range(caption: str) -> None:
    values = row(caption)
    shares = [value for column, value in values.items() if column.endswith(("_share", "grams"))]
    assert all(0 <= value <= 1 for value in shares)
    assert values["length"] >= 0
    assert values["tail"] is None or 0 < len(values["tail"]) < len(caption) * 18


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(max_size=30) | st.sampled_from([*PHONES, "猫\n狗_网", "李明 包邮 ¥9", ""]), max_size=12))
def test_a_caption_gives_the_same_row_whatever_the_batch(captions: list[str]) -> None:
    together = Text()(captions, {})
    for index, caption in enumerate(captions):
        alone = Text()([caption], {})
        assert all(together[name][index] == alone[name][0] for name in Text.columns.names)


@pytest.mark.parametrize(
    "caption",
    [
        *(sign * 100_000 for sign in "猫龘a1一.-_ @¥微:｜块"),
        *(piece * 25_000 for piece in ("a.b-", "1 3 ", "微信号:", "qq:a", "a@b.", "0-9_", "img_", "www.", "1元块一")),
        "微信" + "号" * 100_000,
        "微信" + " " * 100_000,
        "a" * 100_000 + "@",
        "a" * 100_000 + ".jp",
        "_" * 50_000 + "猫" + "_ " * 25_000,
    ],
)
def test_a_hundred_thousand_hostile_characters_take_no_minutes(caption: str) -> None:
    row("")  # what is compiled and loaded is not timed
    begun = time.process_time()
    row(caption)
    assert time.process_time() - begun < 5, "a quadratic search takes minutes"


def test_a_lone_surrogate_breaks_nothing() -> None:
    """None comes from a table, Arrow refuses them; but a caption may be measured before it lies in one."""
    assert Text()(["\ud800猫"], {})["length"] == [2]
