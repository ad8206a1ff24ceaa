"""Pages → candidates: what is read from a page, and which pages are asked again."""

from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines import crawl
from pipelines.corpus import Corpus
from pipelines.crawl import read_page
from pipelines.dirt import BLOCK
from pipelines.material import Pair
from pipelines.miniweb import MiniWeb
from pipelines.stage import run
from schemas.errors import JuZhouError
from schemas.recipe import Fetch, Site, Urls

PAGE = """<!doctype html><html><head><meta charset="{charset}"><link rel="license" href="/licence"></head><body>
<a href="/next#part">下</a> <a href="/next">again</a>
<a href="http://elsewhere.example/">x</a> <a href="mailto:a@b.c">y</a>
<a href="http://[broken">z</a> <img src="http://[broken">
<img src="/a.png" alt=" {apple[0]} {apple[1]}
"> <img src="b.png" title="{flower}" alt="">
<figure><img src="c.png"><figcaption>{cat[0]}<b>{cat[1]}</b></figcaption></figure>
<img src="d.png"><img src="data:image/gif;base64,R0lGODlhAQABAAAAACw="><img alt="無">
</body></html>"""
SIMPLIFIED = {"apple": ("红", "苹果"), "flower": "蓝花", "cat": ("一只", "猫")}
TRADITIONAL = {"apple": ("紅", "蘋果"), "flower": "藍花", "cat": ("一隻", "貓")}


@pytest.mark.parametrize(
    ("charset", "words"),
    [("utf-8", SIMPLIFIED), ("gb18030", SIMPLIFIED), ("big5", TRADITIONAL)],
    ids=lambda value: str(value)[:7],
)
@pytest.mark.parametrize("in_header", [True, False])
def test_what_a_page_shows(charset: str, words: dict[str, str], in_header: bool) -> None:
    content = PAGE.format(charset=charset, **words).encode(charset)
    links, pictures = read_page(content, "http://a.example/dir/page", charset if in_header else None)
    assert links == ["http://a.example/next"]
    found = [(picture["url"], picture["caption"], picture["caption_from"]) for picture in pictures]
    assert found == [
        ("http://a.example/a.png", " ".join(words["apple"]), "alt"),
        ("http://a.example/dir/b.png", words["flower"], "title"),
        ("http://a.example/dir/c.png", "".join(words["cat"]), "figcaption"),
        ("http://a.example/dir/d.png", "", "none"),
    ]
    assert {picture["licence"] for picture in pictures} == {"http://a.example/licence"}


def silent(name: str, done: int, total: int) -> None:
    pass


@pytest.fixture
def pairs(tmp_path: Path, draw) -> list[Pair]:
    """Twelve drawn pictures with Chinese words."""
    words = ["苹果", "香蕉", "老虎", "月亮", "火车", "雨伞", "蝴蝶", "钢琴", "城堡", "骆驼", "灯笼", "帆船"]
    made = []
    for number, word in enumerate(words):
        path = tmp_path / f"{number}.png"
        path.write_bytes(draw(number, "png"))
        made.append(Pair(path, word, (f"{word}图",), None, "fluent-emoji", "MIT", "http://licence.example/"))
    return made


@pytest.mark.usefixtures("ray_cluster")
def test_a_site_is_asked_once_and_what_announces_anew(corpus: Corpus, pairs: list[Pair], tmp_path: Path) -> None:
    log = tmp_path / "log"
    web = MiniWeb(pairs, BLOCK)
    with web.serve(log=log) as site:
        source = Site(kind="site", seeds=(f"{site}/",), announced=1)
        stage = crawl.crawl_stage("web", source, Fetch(), datetime.now(UTC))
        run(corpus, stage, silent)
        asked = log.read_text().splitlines()
        assert len([line for line in asked if "/page/" in line]) == BLOCK
        assert not [line for line in asked if "/private/" in line]
        assert run(corpus, stage, silent) == 0, "one build asks once"
        log.write_text("")
        run(corpus, crawl.crawl_stage("web", source, Fetch(), datetime.now(UTC)), silent)
        assert {line.partition(" /")[2].partition("/")[0] for line in log.read_text().splitlines()} <= {
            "",
            "list",
            "robots.txt",
        }
    disallowed = corpus.sql("SELECT count(*) AS n FROM pages WHERE status = 'disallowed' AND error = 'robots.txt'")
    assert disallowed.column("n")[0].as_py() > 0
    found = crawl.candidates_of_pages(corpus, "recipe")
    expected = {(f"{site}{truth.picture}", " ".join(truth.caption.split())) for truth in web.truth()}
    rows = corpus.sql("SELECT url, caption FROM candidates").to_pylist()
    assert {(row["url"], row["caption"]) for row in rows} == expected
    assert found == len(expected)
    assert crawl.candidates_of_pages(corpus, "recipe") == 0


@pytest.mark.usefixtures("ray_cluster")
def test_depth_and_number_of_pages_are_bounded(corpus: Corpus, pairs: list[Pair]) -> None:
    with MiniWeb(pairs, BLOCK).serve() as site:
        shallow = Site(kind="site", seeds=(f"{site}/",), depth=1)
        run(corpus, crawl.crawl_stage("shallow", shallow, Fetch(), datetime.now(UTC)), silent)
        few = Site(kind="site", seeds=(f"{site}/",), pages=17)
        run(corpus, crawl.crawl_stage("few", few, Fetch(), datetime.now(UTC)), silent)
    counts = corpus.sql(
        "SELECT source, max(depth) AS depth, count(*) AS pages FROM pages GROUP BY source ORDER BY source"
    )
    assert counts.to_pylist() == [
        {"source": "few", "depth": 2, "pages": 17},
        {"source": "shallow", "depth": 1, "pages": 1 + BLOCK // 50},
    ]


@pytest.mark.usefixtures("ray_cluster")
def test_a_seed_that_is_not_there_is_asked_by_every_build(corpus: Corpus) -> None:
    site = Site(kind="site", seeds=("http://127.0.0.1:9/",))
    for asked in (1, 2, 3):
        run(corpus, crawl.crawl_stage("gone", site, Fetch(attempts=2), datetime.now(UTC)), silent)
        rows = corpus.sql("SELECT status, error FROM pages").to_pylist()
        assert rows == [{"status": "transient", "error": "robots.txt cannot be had"}] * asked


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_a_list_of_urls(corpus: Corpus, tmp_path: Path, started: datetime, suffix: str) -> None:
    path = tmp_path / f"list{suffix}"
    rows = pa.table(
        {"link": ["http://a.example/1.jpg", "http://a.example/2.jpg", None], "words": ["红，苹果", None, "无"]}
    )
    if suffix == ".parquet":
        pq.write_table(rows, path)
    else:
        import duckdb

        options = {".jsonl": "FORMAT json", ".tsv": "DELIMITER '\t', HEADER", ".csv": "HEADER"}[suffix]
        duckdb.execute(f"COPY (SELECT * FROM rows) TO '{path}' ({options})")
    urls = Urls(kind="urls", path=path, url="link", caption="words")
    assert crawl.candidates_of_urls(corpus, "list", urls, "recipe", started) == 2
    assert crawl.candidates_of_urls(corpus, "list", urls, "recipe", started) == 0
    found = corpus.sql("SELECT url, caption FROM candidates ORDER BY url").to_pylist()
    assert [row["caption"] for row in found] == ["红，苹果", ""]


def test_a_list_that_cannot_be_used(corpus: Corpus, tmp_path: Path, started: datetime) -> None:
    path = tmp_path / "list.csv"
    with pytest.raises(JuZhouError, match="no such file; it is the source 'mine'"):
        crawl.candidates_of_urls(corpus, "mine", Urls(kind="urls", path=path), "recipe", started)
    path.write_text("a,b\n1,2\n")
    with pytest.raises(JuZhouError, match="no column 'url'; it has a, b"):
        crawl.candidates_of_urls(corpus, "mine", Urls(kind="urls", path=path), "recipe", started)
    path.rename(tmp_path / "list.parquet")
    with pytest.raises(JuZhouError, match="cannot be read as read_parquet"):
        crawl.candidates_of_urls(corpus, "mine", Urls(kind="urls", path=tmp_path / "list.parquet"), "recipe", started)
