"""What a language model says a poem shows: held to rules, asked again, each poem once."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.refiner import INSTRUCTION
from pipelines.corpus import Corpus
from pipelines.material import poetry
from pipelines.poetry import poems, variants
from pipelines.poetry.gold import gold_poems
from pipelines.poetry.reading import reading_stage, refusal, tables_of, take, tidied
from pipelines.poetry.refine import refiner
from pipelines.stage import run
from schemas.errors import JuZhouError
from schemas.recipe import LanguageModel
from tests.pipelines.chat_server import Model, refused, said

MOON = "床前明月光，疑是地上霜。\n举头望明月，低头思故乡。"
RIVER = "千山鸟飞绝，万径人踪灭。\n孤舟蓑笠翁，独钓寒江雪。"
WAY = "道可道，非常道。\n名可名，非常名。"


@pytest.mark.parametrize(
    ("answer", "tidy"),
    [
        ("月亮，床，霜", "月亮, 床, 霜"),
        ("1. 月亮\n2. 床", "月亮, 床"),
        ("明月、霜。", "明月, 霜"),
        ("“月亮”, 「霜」", "月亮, 霜"),
        ("燈籠, 馬", "灯笼, 马"),
    ],
)
def test_an_answer_becomes_keywords(answer: str, tidy: str) -> None:
    assert tidied(answer) == tidy


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ("床, 月亮, 霜, 夜晚", None),
        ("", "empty"),
        (", ".join("山鸟路人船翁钓江雪蓑笠水孤"), "13 keywords"),
        ("月亮, moon", "no keyword (moon)"),
        ("月亮下的床前地上霜", "no keyword"),
        ("月亮, 床, 月亮", "said twice (月亮)"),
        ("明月, 床, 月亮", "the same thing (明月, 月亮)"),
        ("白色的月亮, 床, 月亮", "the same thing (白色的月亮, 月亮)"),
        ("白色的月亮, 明亮的床, 白色的霜", None),
        ("月亮, 白色的骆驼, 床", "not in the poem (白色的骆驼)"),
        ("月亮, 乡愁", "nothing to see (乡愁)"),
        ("月亮, 骆驼, 床", "not in the poem (骆驼)"),
        ("无", "not nothing"),
    ],
)
def test_the_rules_for_an_answer(answer: str, why: str | None) -> None:
    found = refusal(MOON, tidied(answer))
    assert found is None if why is None else found is not None and found.startswith(why), found


def test_nothing_may_be_said_of_what_shows_nothing() -> None:
    assert refusal(WAY, "无") is None


def test_the_rules_take_what_people_said() -> None:
    gold = [poem for poem in gold_poems(poetry(print)) if 0 < len(poem.wanted) <= 12]
    taken = [refusal("\n".join(poem.lines), ", ".join(names[0] for names in poem.wanted)) is None for poem in gold]
    assert len(gold) > 140 and sum(taken) / len(taken) > 0.95


@given(st.text(max_size=80), st.text(max_size=80))
def test_no_answer_is_too_wild(poem: str, answer: str) -> None:
    refusal(poem, tidied(answer))


@pytest.mark.usefixtures("ray_cluster")
def test_every_poem_is_read_once_or_not_at_all(corpus: Corpus, tmp_path: Path) -> None:
    folder = tmp_path / "chinese-poetry"
    (folder / "全唐诗").mkdir(parents=True)
    entries = [
        {"title": title, "author": "某人", "paragraphs": text.splitlines()}
        for title, text in {"静夜思": MOON, "江雪": RIVER, "道": WAY}.items()
    ]
    (folder / "全唐诗" / "poet.tang.0.json").write_text(json.dumps(entries, ensure_ascii=False))
    run(corpus, poems.poems_stage(folder), silent)
    variants.run(corpus)
    model = Model()
    model.script = {
        MOON: [said("明月，床，月亮"), refused(503), said("床，月亮，霜")],
        RIVER: [said("骆驼，沙漠，帐篷")],
        WAY: [said("无")],
    }
    with model.served() as endpoint:
        reader = LanguageModel(endpoint=endpoint, model="tiny", attempts=3, retry_s=0.1)
        readings, keywords = tables_of(reader)
        run(corpus, reading_stage(corpus, reader), silent)
        assert take(corpus, reader) == 3
        asked = sum(map(len, model.asked.values()))
        run(corpus, reading_stage(corpus, reader), silent)
        assert take(corpus, reader) == 0 and sum(map(len, model.asked.values())) == asked == 7
    assert model.instructions == {INSTRUCTION}
    corpus.adopt("{}", [readings, keywords])
    rows = corpus.sql("SELECT title, keywords FROM poems JOIN keywords USING (poem_id)").to_pylist()
    assert {row["title"]: row["keywords"] for row in rows} == {"静夜思": ["床", "月亮", "霜"], "江雪": None, "道": []}
    [wrong] = corpus.sql(
        "SELECT DISTINCT error FROM readings JOIN poems USING (poem_id) WHERE title = '江雪'"
    ).to_pylist()
    assert wrong["error"] == "not in the poem (骆驼): 骆驼, 沙漠, 帐篷"
    assert tables_of(LanguageModel(endpoint=endpoint, model="other"))[1] != keywords


def test_a_line_is_refined_by_an_endpoint() -> None:
    model = Model()
    model.script = {MOON: [said("<think>…</think>moonlight"), said("床，月亮，霜")], WAY: [said("无")]}
    with model.served() as endpoint:
        reader = LanguageModel(endpoint=endpoint, model="tiny", attempts=2)
        refined = refiner(reader)
        assert refined(MOON) == "床, 月亮, 霜"
        with pytest.raises(JuZhouError, match="nothing to see"):
            refined(WAY)
        model.script = {MOON: [said("愁")]}
        with pytest.raises(JuZhouError, match=r"no answer that can be used in 2 attempts; the last: nothing to see"):
            refined(MOON)


def silent(name: str, done: int, total: int) -> None:
    pass
