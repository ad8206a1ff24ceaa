"""Pages → candidates: what is read from a page, and which pages are asked again."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from pipelines import candidates
from pipelines.corpus import Corpus
from pipelines.dirt import BLOCK
from pipelines.material import Pair
from pipelines.miniweb import MiniWeb
from pipelines.sources.site import crawl_stage
from pipelines.stage import pending, run
from schemas.errors import JuZhouError
from schemas.recipe import Fetch, Site
from tests.pipelines.faults import PAGES, Web, asked, most_in_a_second, reply, serve

FREE: dict[str, Any] = {"requests_per_second": None, "connections_per_host": None}


def fetching(**settings: Any) -> Fetch:
    quick = {"networks": ["127.0.0.0/8"], "timeout_s": 0.6, "retry_s": 0.1}
    return Fetch.model_validate(quick | FREE | settings)


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
        source = Site(kind="site", seeds=(f"{site}/",), sitemaps=False, announced=1)
        stage = crawl_stage(corpus, "web", source, fetching(), datetime.now(UTC))
        run(corpus, stage, silent)
        asked = log.read_text().splitlines()
        assert len([line for line in asked if "/page/" in line]) == BLOCK
        assert not [line for line in asked if "/private/" in line]
        assert run(corpus, stage, silent) == 0, "one build asks once"
        log.write_text("")
        run(corpus, crawl_stage(corpus, "web", source, fetching(), datetime.now(UTC)), silent)
        assert {line.partition(" /")[2].partition("/")[0] for line in log.read_text().splitlines()} <= {
            "",
            "list",
            "robots.txt",
        }
    disallowed = corpus.sql("SELECT count(*) AS n FROM pages WHERE status = 'disallowed' AND error = 'robots.txt'")
    assert disallowed.column("n")[0].as_py() > 0
    found = candidates.of_pages(corpus, ["web"], "recipe")
    shown = [truth for truth in web.truth() if truth.kind != "tracker"]  # one pixel wide, as its page says: no picture
    expected = {(f"{site}{truth.picture}", " ".join(truth.caption.split())) for truth in shown}
    rows = corpus.sql("SELECT url, caption FROM candidates").to_pylist()
    assert {(row["url"], row["caption"]) for row in rows} == expected
    assert found == len(expected)
    assert candidates.of_pages(corpus, ["web"], "recipe") == 0


@pytest.mark.usefixtures("ray_cluster")
def test_depth_and_number_of_pages_are_bounded(corpus: Corpus, pairs: list[Pair]) -> None:
    with MiniWeb(pairs, BLOCK).serve() as site:
        shallow = Site(kind="site", seeds=(f"{site}/",), depth=1)
        run(corpus, crawl_stage(corpus, "shallow", shallow, fetching(), datetime.now(UTC)), silent)
        few = Site(kind="site", seeds=(f"{site}/",), pages=17)
        run(corpus, crawl_stage(corpus, "few", few, fetching(), datetime.now(UTC)), silent)
    counts = corpus.sql(
        "SELECT source, max(depth) AS depth, count(*) AS pages FROM pages GROUP BY source ORDER BY source"
    )
    assert counts.to_pylist() == [
        {"source": "few", "depth": 2, "pages": 17},
        {"source": "shallow", "depth": 1, "pages": 1 + BLOCK // 50 + 1},
    ]


@pytest.mark.usefixtures("ray_cluster")
def test_a_seed_that_is_not_there_is_asked_by_every_build(corpus: Corpus) -> None:
    site = Site(kind="site", seeds=("http://127.0.0.1:9/",))
    for tried in (1, 2, 3):
        run(corpus, crawl_stage(corpus, "gone", site, fetching(patience_s=0.0), datetime.now(UTC)), silent)
        rows = corpus.sql("SELECT status, error, asked FROM pages").to_pylist()
        assert [(row["status"], row["asked"]) for row in rows] == [("transient", False)] * tried
        assert all(row["error"].startswith("robots.txt cannot be had: ConnectionRefusedError") for row in rows)


@pytest.fixture
def faults() -> Iterator[Web]:
    with serve(("127.0.0.1", "127.0.0.2")) as served:
        yield served


def crawled(corpus: Corpus, site: Site, fetch: Fetch) -> dict[str, dict[str, Any]]:
    """All levels of a crawl in this process; the last visit of each page by its path."""
    stage = crawl_stage(corpus, "web", site, fetch, datetime.now(UTC))
    work = stage.work()
    while (due := pending(corpus, stage)).num_rows:
        for table, rows in work(due):
            assert table
            corpus.append(table, rows)
    return {"/" + row["url"].split("/", 3)[3]: row for row in corpus.sql("FROM pages ORDER BY attempt").to_pylist()}


def test_a_sitemap_leads_to_pages_in_every_charset(corpus: Corpus, faults: Web) -> None:
    site = Site(kind="site", seeds=(f"{faults.site()}/sitemap.xml",))
    pages = crawled(corpus, site, fetching())
    assert pages["/sitemap.xml"]["links"] == [faults.site() + path for path in PAGES]
    for path, page in PAGES.items():
        if "noai" in path:
            row = pages[path]
            assert (row["status"], row["error"], row["pictures"]) == ("disallowed", "meta noai", [])
        else:
            [picture] = pages[path]["pictures"]
            assert (picture["url"], picture["caption"]) == (faults.site() + page.picture, page.caption)
    assert candidates.of_pages(corpus, ["web"], "recipe") == 3
    assert asked(faults.log, "/robots.txt") == 1


def test_the_sitemaps_of_robots_txt_are_followed_if_asked_for(corpus: Corpus, faults: Web) -> None:
    faults.robots["127.0.0.1"] = reply(200, f"Sitemap: {faults.site()}/sitemap.xml\n".encode())
    seed = f"{faults.site()}/page-big5.html"
    alone = crawled(corpus, Site(kind="site", seeds=(seed,), sitemaps=False), fetching())
    assert list(alone) == ["/page-big5.html"]
    stage = crawl_stage(corpus, "other", Site(kind="site", seeds=(seed,)), fetching(), datetime.now(UTC))
    [(_, rows)] = stage.work()(pending(corpus, stage))
    assert rows.column("links").to_pylist() == [[f"{faults.site()}/sitemap.xml"]]


def test_pages_keep_to_the_limits_of_their_host(corpus: Corpus, faults: Web) -> None:
    site = Site(kind="site", seeds=(f"{faults.site()}/sitemap.xml",))
    crawled(corpus, site, fetching(requests_per_second=4.0, connections_per_host=1))
    assert len(faults.log.requests) == 2 + len(PAGES)
    assert most_in_a_second(faults.log) <= 4


def test_links_and_redirects_stay_within_the_hosts(corpus: Corpus, faults: Web) -> None:
    seeds = (f"{faults.site()}/redirect-other-host.jpg",)
    limited = fetching(requests_per_second=50.0)
    pages = crawled(corpus, Site(kind="site", seeds=seeds), limited)
    assert list(pages) == ["/redirect-other-host.jpg"] and pages["/redirect-other-host.jpg"]["links"] == []
    wide = Site(kind="site", seeds=seeds, hosts=("127.0.0.1", "127.0.0.2"), announced=0)
    assert "/fine/other.jpg" in crawled(corpus, wide, limited)
    assert [request.path for request in faults.log.requests if request.host == "127.0.0.2"][-1] == "/fine/other.jpg"


def test_what_is_no_page_is_permanent(corpus: Corpus, faults: Web) -> None:
    paths = ("/picture.jpg", "/404.jpg", "/json.jpg", "/svg.png", "/html.jpg", "/empty.jpg", "/disallowed/x.html")
    pages = crawled(corpus, Site(kind="site", seeds=tuple(faults.site() + path for path in paths)), fetching())
    assert [pages[path]["status"] for path in paths] == ["permanent"] * 6 + ["disallowed"]
    assert all(page["error"] for page in pages.values())


def test_a_page_that_breaks_its_reader_costs_a_row(
    corpus: Corpus, faults: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(content: bytes, url: str, *_: object) -> None:
        raise RecursionError(f"too deep: {url}")

    monkeypatch.setattr("pipelines.sources.site.read_page", broken)
    pages = crawled(corpus, Site(kind="site", seeds=(f"{faults.site()}/sitemap.xml",)), fetching())
    assert pages["/sitemap.xml"]["status"] == "ok"
    assert {pages[path]["error"].partition(": http")[0] for path in PAGES} == {
        "cannot be read: RecursionError: too deep"
    }


def test_a_seed_that_is_no_url(corpus: Corpus) -> None:
    with pytest.raises(JuZhouError, match=r"'a\.example' is no http or https URL; it is a seed of the source 'web'"):
        crawl_stage(corpus, "web", Site(kind="site", seeds=("a.example",)), fetching(), datetime.now(UTC))
