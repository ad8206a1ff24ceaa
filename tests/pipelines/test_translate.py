"""What a translation into Chinese must be like."""

import pytest

from pipelines.translate import refusal


@pytest.mark.parametrize(
    ("prompt", "text", "why"),
    [
        ("a portrait by greg rutkowski, artgerm", "肖像画，Greg Rutkowski 与 Artgerm 风格，细节丰富", None),
        ("a portrait by greg rutkowski", "肖像 by Greg Rutkowski", "2 Chinese of 17 letters"),
        ("an ox", "一头站在青草地上的牛", None),
        ("an ox", "牛" * 25, "25 characters for 5"),
        ("a cat", "", "empty"),
        ("a cat", "12, 34", "0 Chinese of 0 letters"),
        ("a cat", "译文：一只猫", "more than a translation"),
        ("a cat", "中文翻译:一只猫", "more than a translation"),
        ("a cat", "好的，一只猫", "more than a translation"),
        ("a cat", "以下是提示词的翻译 一只猫", "more than a translation"),
        ("a cat", "Here is 一只非常可爱的猫", "more than a translation"),
        ("a cat in the rain", "雨中的一只猫（注：意译）", "more than a translation"),
        ("a sure thing", "当然的事物", None),
    ],
)
def test_what_counts_as_chinese_for_a_prompt(prompt: str, text: str, why: str | None) -> None:
    assert refusal(prompt, text) == why
