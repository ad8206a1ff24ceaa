"""What poems show: found in the order in which it is seen, once, and nothing that is only said."""

import pytest

from pipelines.material import poetry
from pipelines.poetry.gold import GoldPoem, compare, gold_poems, scores
from pipelines.poetry.imagery import COLOURED, MOST, keywords, lexicon


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        (
            "千山鸟飞绝，万径人踪灭。孤舟蓑笠翁，独钓寒江雪。",
            ["山", "鸟", "小路", "船", "蓑衣", "斗笠", "钓竿", "江水", "雪"],
        ),
        ("玉兔东升，子规啼月，倚遍阑干", ["月亮", "杜鹃鸟", "栏杆"]),
        ("三月青云平步，岁月风流", []),
        ("春江花月夜", ["春天", "江水", "花", "月亮", "夜晚"]),
        ("桃花流水杳然去", ["桃花", "水"]),
        ("花落江边桃花红", ["落花", "江水", "岸", "桃花"]),
        ("两个黄鹂鸣翠柳，一行白鹭上青天", ["黄莺", "绿色的柳树", "白鹭", "蓝色的天空"]),
        ("白日依山尽，黄河入海流", ["太阳", "山", "河水", "大海"]),
        ("山外青山，红花白花", ["青色的山", "红色的花"]),
    ],
)
def test_keywords_of_lines(line: str, shown: list[str]) -> None:
    assert keywords([[line]]) == [shown]


def test_at_most_so_many_and_no_two_the_same() -> None:
    [shown] = keywords([["松竹梅兰菊桃杏梨柳桐荷莲菱芦苇萍蓼", "松竹梅"]])
    assert len(shown) == len(set(shown)) == MOST
    assert keywords([[], ["。"]]) == [[], []]


def test_the_lexicon_is_sound() -> None:
    known = lexicon()
    assert len(known.words) > 4000 and len({word for shown in known.keywords for word in shown}) > 300
    assert all(word.strip() == word for word in known.words)
    colours = {word.partition(COLOURED)[0] for shown in known.keywords for word in shown if COLOURED in word}
    assert colours == {*"红白黄绿蓝青紫黑"}
    names = {name for shown in known.shown.values() for name in shown}
    assert not any(COLOURED in name for name in names) and names == known.numbers.keys()


def test_a_keyword_is_right_once_wrong_or_beside_the_point() -> None:
    poem = GoldPoem("某", ("",), wanted=(("月亮", "月"), ("船",)), allowed=(("酒",),))
    found = compare(poem, ["月", "月亮", "酒", "马"])
    assert (found.right, found.wrong, found.missed) == (["月"], ["马"], [("船",)])
    assert scores([found]) == (0.5, 0.5, 0.5)


def test_the_gold_set_is_met() -> None:
    gold = gold_poems(poetry(print))
    assert len(gold) == 161
    test = gold[1::2]
    found = [compare(poem, shown) for poem, shown in zip(test, keywords([p.lines for p in test]), strict=True)]
    precision, recall, _ = scores(found)
    assert precision >= 0.75 and recall >= 0.70, (precision, recall)
