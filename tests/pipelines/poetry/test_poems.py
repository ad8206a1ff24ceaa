"""Entries of a collection become rows: Simplified, of a form, usable or with a reason why not, each once."""

import json
from pathlib import Path

import pytest

from pipelines.corpus import Corpus
from pipelines.poetry import imagery, variants
from pipelines.poetry.collection import entries
from pipelines.poetry.poems import cleaned, flaw_of, form_of, poems_stage, simplified
from pipelines.stage import run
from schemas.errors import JuZhouError

QUIET = ["床前明月光，疑是地上霜。", "舉頭望明月，低頭思故鄉。"]
FILES = {
    "唐诗三百首.json": [{"title": "靜夜思", "author": "李白", "paragraphs": QUIET, "tags": ["五言绝句", "月亮"]}],
    "poet.tang.0.json": [
        {"title": "靜夜思", "author": "李白", "paragraphs": ["牀前看月光，疑是地上霜。", *QUIET[1:]]},
        {"title": "句", "author": "佚名", "paragraphs": ["鷰子來時。"]},
        {"title": "殘篇", "author": "佚名", "paragraphs": ["白日□山盡，黃河入海流。"]},
        {"title": "無題", "author": "佚名", "paragraphs": []},
    ],
    "error/poet.tang.0.json": [
        {"title": "守歲", "author": "某", "paragraphs": ["今宵冬律盡，來朝麗景新。"], "error_type": ["存疑"]}
    ],
    "strains/poet.tang.0.json": [{"strains": ["平平仄仄平"]}],
    "yuanqu.json": [
        {"title": "天净沙", "author": "馬致遠", "dynasty": "yuan", "paragraphs": ["枯藤老樹昏鴉，小橋流水人家。"]},
        {"title": "尾声", "author": "某", "paragraphs": ["(生唱)我这里望长安，去也么哥。"]},
    ],
    "shijing.json": [{"title": "關雎", "chapter": "国风", "content": ["关关雎鸠，在河之洲。窈窕淑女，君子好逑。"]}],
    "chuci.json": [{"title": "匡机", "section": "九怀", "author": "王褒", "content": ["极运兮不中，来将屈兮困穷。"]}],
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, rows in FILES.items():
        path = tmp_path / "poetry" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
    return tmp_path / "poetry"


def silent(name: str, done: int, total: int) -> None:
    pass


def read(corpus: Corpus, folder: Path) -> list[int]:
    """All stages of poems; how many rows each did."""
    imagery_stage = imagery.keywords_stage()
    corpus.adopt("{}", [variants.table(), *imagery_stage.outputs])
    return [run(corpus, poems_stage(folder), silent), variants.run(corpus), run(corpus, imagery_stage, silent)]


@pytest.mark.usefixtures("ray_cluster")
def test_every_entry_is_a_row_and_those_that_cannot_be_used_say_why(corpus: Corpus, folder: Path) -> None:
    assert read(corpus, folder) == [10, 5, 4]
    assert read(corpus, folder) == [0, 0, 0]
    rows = corpus.sql("SELECT title, dynasty, form, reason FROM poems").to_pylist()
    assert {(row["title"], row["reason"]) for row in rows} == {
        ("静夜思", None),
        ("句", "fragment"),
        ("残篇", "missing characters"),
        ("无题", "empty"),
        ("守岁", "doubted by the collection"),
        ("天净沙", None),
        ("尾声", "stage directions"),
        ("关雎", None),
        ("匡机", None),
    }
    forms = {row["title"]: (row["dynasty"], row["form"]) for row in rows if not row["reason"]}
    assert forms == {
        "静夜思": ("唐", "五言绝句"),
        "天净沙": ("元", "曲"),
        "关雎": ("先秦", "诗经"),
        "匡机": ("汉", "楚辞"),
    }
    [tagged] = corpus.sql("SELECT * FROM poems WHERE len(tags) > 0").to_pylist()
    assert tagged["lines"] == ["床前明月光，疑是地上霜。", "举头望明月，低头思故乡。"]
    assert (tagged["original_title"], tagged["original_lines"]) == ("靜夜思", QUIET)
    assert tagged["source"] == "唐诗三百首.json"


@pytest.mark.usefixtures("ray_cluster")
def test_the_anthologys_text_stands_for_its_variant_and_says_what_it_shows(corpus: Corpus, folder: Path) -> None:
    read(corpus, folder)
    [variant] = corpus.sql("""
        SELECT poems.source, heads.source AS head, similarity FROM poem_variants JOIN poems USING (poem_id)
        JOIN poems AS heads ON heads.poem_id = representative WHERE representative <> poems.poem_id
    """).to_pylist()
    assert (variant["source"], variant["head"]) == ("poet.tang.0.json", "唐诗三百首.json")
    assert 0.6 <= variant["similarity"] < 1
    shown = corpus.sql("SELECT title, keywords FROM keywords JOIN poems USING (poem_id)").to_pylist()
    assert {row["title"]: row["keywords"] for row in shown}["静夜思"] == ["床", "月亮", "霜"]
    assert len(shown) == 4


@pytest.mark.usefixtures("ray_cluster")
def test_poems_that_come_later_change_no_row(corpus: Corpus, folder: Path) -> None:
    tagged = (folder / "唐诗三百首.json").rename(folder.parent / "later.json")
    assert read(corpus, folder) == [9, 4, 4]
    before = corpus.sql("SELECT * FROM poem_variants ORDER BY poem_id").to_pylist()
    tagged.rename(folder / "唐诗三百首.json")
    assert read(corpus, folder) == [1, 1, 0]
    after = corpus.sql("SELECT * FROM poem_variants ORDER BY poem_id").to_pylist()
    assert [row for row in after if row in before] == before and len(after) == 5


def test_a_folder_without_poems_and_a_broken_file_are_one_line(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(JuZhouError, match="no poems there"):
        list(entries(tmp_path / "none"))
    (folder / "shijing.json").write_text('[{"title": ')
    with pytest.raises(JuZhouError, match=r"shijing\.json: not poems") as caught:
        list(entries(folder))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("lines", "form"),
    [
        (["白日依山尽，黄河入海流。", "欲穷千里目，更上一层楼。"], "五言绝句"),
        (["朝辞白帝彩云间，千里江陵一日还。"] * 2, "七言绝句"),
        (["国破山河在，城春草木深。"] * 4, "五言律诗"),
        (["国破山河在，城春草木深。"] * 6, "五言排律"),
        (["国破山河在，城春草木深。"] * 3, "五言古诗"),
        (["关关雎鸠，在河之洲。"], "四言"),
        (["君不见黄河之水天上来，奔流到海不复回。"], "杂言"),
    ],
)
def test_the_form_follows_from_the_phrases(lines: list[str], form: str) -> None:
    assert form_of(lines) == form


@pytest.mark.parametrize(
    ("lines", "flaw"),
    [
        (["（此诗已佚）"], "empty"),
        (["白日依山尽，{黄/河}入海流。"], "missing characters"),
        (["一二三四五六七八九十一二三四五六七八九十一二三，四五六七八。"], "prose"),
        (["白日依山尽（一作近），黄河入海流。"], None),
    ],
)
def test_flaws(lines: list[str], flaw: str | None) -> None:
    assert flaw_of(lines, "诗") == flaw


def test_remarks_are_cut_and_readings_stay() -> None:
    assert cleaned("白日依山尽（一作近），[黄]河入海流。") == "白日依山尽，[黄]河入海流。".replace("[黄]", "")
    assert simplified("舉頭望明月") == "举头望明月"
