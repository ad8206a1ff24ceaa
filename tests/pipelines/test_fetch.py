"""Candidates → bytes: a web of faults ends in the right rows, the server's own log agrees, and nothing is lost."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pyarrow as pa
import pytest

from pipelines import fetch
from pipelines.corpus import Corpus
from pipelines.stage import count, derive, pending, run
from schemas.errors import JuZhouError
from schemas.identity import CANDIDATE_ID, URL_ID, digest
from schemas.recipe import Fetch
from schemas.tables import CANDIDATES, FETCHES
from tests.pipelines.faults import FAULTS, ROBOTS, Web, asked, most_at_once, most_in_a_second, picture, serve

LOOPBACK = {"networks": ["127.0.0.0/8"]}
FREE: dict[str, Any] = {"requests_per_second": None, "connections_per_host": None}
PER_SECOND = 20
AT_ONCE = 3


def fetching(**settings: Any) -> Fetch:
    """Limits that make a test quick: a tenth of a second before the second attempt."""
    quick = {"timeout_s": 0.6, "transfer_s": 1.2, "retry_s": 0.1, "patience_s": 3.0, "max_bytes": 1_000_000}
    return Fetch.model_validate(LOOPBACK | quick | settings)


def silent(name: str, done: int, total: int) -> None:
    pass


def listed(corpus: Corpus, *urls: str, source: str = "list") -> None:
    rows = pa.table({"url": urls})
    query = f"""
        SELECT {CANDIDATE_ID} AS candidate_id, source, {URL_ID} AS url_id, url, caption, 'list' AS caption_from,
            NULL AS words, NULL AS page_url, NULL AS licence, now() AS found_at, 'recipe' AS recipe
        FROM (SELECT '{source}' AS source, url, '词' AS caption FROM listed)
    """
    derive(corpus, CANDIDATES, query, {"listed": rows})


def fetched(corpus: Corpus, settings: Fetch, refetch: bool = False) -> dict[str, dict[str, Any]]:
    """Run the stage on Ray, and give the last attempt at each URL."""
    run(corpus, fetch.fetch_stage(corpus, ["list"], settings, datetime.now(UTC), refetch), silent)
    return last_attempts(corpus)


def fetched_here(corpus: Corpus, settings: Fetch, refetch: bool = False) -> dict[str, dict[str, Any]]:
    """The same in this process, once over all that is due: no worker has to start."""
    stage = fetch.fetch_stage(corpus, ["list"], settings, datetime.now(UTC), refetch)
    work, left = stage.work(), pending(corpus, stage)
    while left.num_rows:
        new = dict(work(left))
        corpus.append(FETCHES, new[FETCHES])
        left = new.get(None, left.slice(0, 0))
    return last_attempts(corpus)


def last_attempts(corpus: Corpus) -> dict[str, dict[str, Any]]:
    last = "SELECT unnest(last) FROM (SELECT arg_max(fetches, attempt) AS last FROM fetches GROUP BY url_id)"
    return {row["url"]: row for row in corpus.sql(last).to_pylist()}


@pytest.fixture
def web() -> Iterator[Web]:
    with serve(("127.0.0.1", "127.0.0.2")) as served:
        yield served


@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize("limited", [False, True], ids=["no limits", "limits a host"])
def test_what_becomes_of_each_fault(corpus: Corpus, web: Web, limited: bool) -> None:
    limits = {"requests_per_second": PER_SECOND, "connections_per_host": AT_ONCE} if limited else FREE
    urls = {web.site() + path: path for path in FAULTS}
    listed(corpus, *urls)
    last = fetched(corpus, fetching(attempts=3, **limits))

    ended = {path: last[url]["status"] for url, path in urls.items()}
    assert {path for path, fault in FAULTS.items() if ended[path] not in fault.wanted} == set()
    assert all(row["error"] and row["error"].count("\n") == 0 for row in last.values() if row["status"] != "ok")
    assert all((row["image_id"] is not None) == (row["status"] == "ok") for row in last.values())

    times = {path: asked(web.log, path) for path in FAULTS}
    assert times["/disallowed/picture.jpg"] == asked(web.log, "/disallowed/redirected.jpg") == 0
    for path in FAULTS:
        attempts = corpus.sql(f"SELECT count(*) AS n FROM fetches WHERE asked AND url = '{web.site() + path}'")
        if not path.startswith(("/ring-", "/redirects/")):
            assert times[path] == attempts.column("n")[0].as_py(), f"{path}: rows and log"
        if ended[path] == "transient":
            assert times[path] == 3, f"{path}: asked as often as the recipe allows"
    if limited:
        assert most_in_a_second(web.log) <= PER_SECOND
        assert most_at_once(web.log) <= AT_ONCE

    known = len(web.log.requests)
    assert fetched(corpus, fetching(attempts=3, **limits)).keys() == last.keys()
    assert [request.path for request in web.log.requests[known:]] == [], "what is settled is not asked again"


def test_the_bytes_are_the_original_ones(corpus: Corpus, web: Web) -> None:
    paths = [f"/fine/{number}.jpg" for number in range(40)]
    listed(corpus, *(web.site() + path for path in paths), f"{web.site()}/packed.jpg", f"{web.site()}/turned.jpg")
    fetched_here(corpus, fetching(timeout_s=20, transfer_s=40, **FREE))
    assert fetch.images_of_fetches(corpus) == 42
    assert fetch.samples_of_images(corpus) == 42
    images = {row["image_id"]: row for row in corpus.sql("FROM images").to_pylist()}
    for content in (picture("packed"), *(picture(path) for path in paths)):
        row = images[digest(content)]
        assert corpus.read(row["tar"], row["offset"], row["length"]) == content
        assert (row["format"], row["width"], row["height"]) == ("jpeg", 96, 72)
    assert sorted({row["orientation"] for row in images.values()}) == [1, 6]


def test_only_what_is_transient_is_asked_again_and_not_before_its_time(corpus: Corpus, web: Web) -> None:
    paths = ("/picture.jpg", "/404.jpg", "/500.jpg", "/429-date.jpg")
    listed(corpus, *(web.site() + path for path in paths))
    last = fetched_here(corpus, fetching(retry_s=100.0, **FREE))
    wait = {path: last[web.site() + path]["retry_at"] for path in paths}
    assert wait["/picture.jpg"] is None and wait["/404.jpg"] is None
    assert timedelta(seconds=60) < wait["/500.jpg"] - datetime.now(UTC) < timedelta(seconds=126)
    fetched_here(corpus, fetching(**FREE))
    assert [asked(web.log, path) for path in paths] == [1, 1, 1, 1]


@pytest.mark.usefixtures("ray_cluster")
def test_retry_after_is_obeyed(corpus: Corpus, web: Web) -> None:
    listed(corpus, f"{web.site()}/429-seconds.jpg", f"{web.site('127.0.0.2')}/429-date.jpg")
    last = fetched(corpus, fetching(retry_s=0.01, patience_s=5.0, **FREE))
    assert {row["status"] for row in last.values()} == {"ok"}
    for path in ("/429-seconds.jpg", "/429-date.jpg"):
        first, second = (request.at for request in web.log.requests if request.path == path)
        assert 0.9 < second - first < 5


def test_new_urls_alone_are_fetched_unless_refetch(corpus: Corpus, web: Web) -> None:
    old, gone, new = (f"{web.site()}{path}" for path in ("/picture.jpg", "/404.jpg", "/fine/new.jpg"))
    listed(corpus, old, gone)
    fetched_here(corpus, fetching(**FREE))
    listed(corpus, new)
    fetched_here(corpus, fetching(**FREE))
    assert [asked(web.log, path) for path in ("/picture.jpg", "/404.jpg", "/fine/new.jpg")] == [1, 1, 1]
    last = fetched_here(corpus, fetching(**FREE), refetch=True)
    assert [asked(web.log, path) for path in ("/picture.jpg", "/404.jpg", "/fine/new.jpg")] == [2, 2, 2]
    assert {row["attempt"] for row in last.values()} == {2}
    assert fetch.images_of_fetches(corpus) == 2


def test_a_source_that_left_the_recipe_is_not_fetched_here(corpus: Corpus, web: Web) -> None:
    listed(corpus, f"{web.site()}/fine/a.jpg")
    listed(corpus, f"{web.site()}/fine/b.jpg", source="other")
    assert [url[-6:] for url in fetched_here(corpus, fetching(**FREE))] == ["/a.jpg"]


@pytest.mark.parametrize(
    ("robots", "status"),
    [
        *((name, "ok") for name in ("403", "404", "redirect", "long")),
        *((name, "transient") for name in ("429", "500", "503", "hang")),
    ],
)
def test_robots_that_are_not_a_plain_file(corpus: Corpus, web: Web, robots: str, status: str) -> None:
    web.robots["127.0.0.1"] = ROBOTS[robots]
    urls = [f"{web.site()}/fine/{number}.jpg" for number in range(5)]
    listed(corpus, *urls, f"{web.site()}/disallowed/a.jpg", f"{web.site()}/late/a.jpg")
    last = fetched_here(corpus, fetching(requests_per_second=PER_SECOND))
    assert {last[url]["status"] for url in urls} == {status}
    assert asked(web.log, "/robots.txt") == 1, "once a host"
    if status == "transient":
        assert len(web.log.requests) == 1
        assert {row["asked"] for row in last.values()} == {False}
        assert all(row["error"].startswith("robots.txt cannot be had: ") for row in last.values())
    elif robots in ("redirect", "long"):
        assert last[f"{web.site()}/disallowed/a.jpg"]["status"] == "disallowed"
        assert asked(web.log, "/disallowed/a.jpg") == 0
    if robots == "long":
        assert last[f"{web.site()}/late/a.jpg"]["status"] == "disallowed"


@pytest.mark.usefixtures("ray_cluster")
def test_a_crawl_delay_slows_us_down(corpus: Corpus, web: Web) -> None:
    web.robots["127.0.0.1"] = ROBOTS["crawl-delay"]
    listed(corpus, *(f"{web.site()}/fine/{number}.jpg" for number in range(3)))
    listed(corpus, *(f"{web.site('127.0.0.2')}/fine/{number}.jpg" for number in range(30)))
    fetched(corpus, fetching(requests_per_second=50.0))
    slow = [request.at for request in web.log.requests if request.host == "127.0.0.1" and "fine" in request.path]
    fast = [request.at for request in web.log.requests if request.host == "127.0.0.2"]
    assert min(later - earlier for earlier, later in pairwise(slow)) > 0.99
    assert max(fast) < slow[-1], "other hosts do not wait for it"


@pytest.mark.usefixtures("ray_cluster")
def test_hosts_take_turns(corpus: Corpus, web: Web) -> None:
    """The default limit is a request a second: thirty of each of two hosts would otherwise come one host at a time."""
    for address in ("127.0.0.1", "127.0.0.2"):
        listed(corpus, *(f"{web.site(address)}/fine/{number}.jpg" for number in range(30)))
    fetched(corpus, fetching(requests_per_second=PER_SECOND))
    times = {
        address: [request.at for request in web.log.requests if request.host == address]
        for address in ("127.0.0.1", "127.0.0.2")
    }
    assert max(times["127.0.0.1"][0], times["127.0.0.2"][0]) < min(times["127.0.0.1"][-1], times["127.0.0.2"][-1])
    assert most_in_a_second(web.log) <= PER_SECOND


def test_a_redirect_to_another_host_keeps_to_that_hosts_rules(corpus: Corpus, web: Web) -> None:
    web.robots["127.0.0.2"] = ROBOTS["503"]
    moved = f"{web.site()}/redirect-other-host.jpg"
    listed(corpus, moved)
    assert fetched_here(corpus, fetching())[moved]["status"] == "transient"
    assert asked(web.log, "/fine/other.jpg") == 0
    web.robots["127.0.0.2"] = ROBOTS["404"]
    row = fetched_here(corpus, fetching(), refetch=True)[moved]
    assert row["status"] == "transient", "it is not due yet: its host is left alone for a while"


def test_who_asks_beyond_this_machine_must_say_who_they_are(corpus: Corpus, web: Web) -> None:
    listed(corpus, f"{web.site()}/picture.jpg", "http://pictures.example/a.jpg")
    with pytest.raises(JuZhouError, match=r"before pictures\.example is asked it needs a contact"):
        fetched_here(corpus, fetching())
    assert not web.log.requests
    assert corpus.sql("FROM fetches").num_rows == 0


def test_what_is_no_url_is_permanent_at_once(corpus: Corpus) -> None:
    urls = [
        "file:///etc/hostname",
        "http://[bad/a.jpg",
        "not a url",
        "ftp://a.example/b",
        "http://",
        "",
        "http://x:99999/",
    ]
    urls += [
        "http://a.example/\x00",
        "javascript:alert(1)",
        "data:image/png;base64,AAAA",
        "http://a.example/" + "x" * 9000,
    ]
    listed(corpus, *urls)
    last = fetched_here(corpus, fetching(user_agent="Tester/1 (me@tester.example)"))
    assert {row["status"] for row in last.values()} == {"permanent"}
    assert {row["asked"] for row in last.values()} == {False}
    assert len(last) == len(urls)


def test_an_address_that_may_not_be_asked(corpus: Corpus, web: Web) -> None:
    urls = [
        web.site() + "/picture.jpg",
        f"http://localhost:{web.port}/picture.jpg",
        f"http://[::ffff:127.0.0.1]:{web.port}/a",
    ]
    urls += ["http://169.254.169.254/latest/meta-data/", "http://10.0.0.1/", "http://0.0.0.0/", "http://[::1]/"]
    listed(corpus, *urls)
    settings = fetching(networks=[], user_agent="Tester/1 (me@tester.example)")
    last = fetched_here(corpus, settings)
    assert {row["status"] for row in last.values()} == {"disallowed"}
    assert all("no public address" in row["error"] for row in last.values())
    assert not web.log.connections


@pytest.mark.usefixtures("ray_cluster")
def test_what_is_left_is_counted(corpus: Corpus, web: Web) -> None:
    listed(corpus, *(f"{web.site()}/fine/{number}.jpg" for number in range(7)), f"{web.site()}/500.jpg")
    stage = fetch.fetch_stage(corpus, ["list"], fetching(patience_s=0.0, retry_s=50.0, **FREE), datetime.now(UTC))
    assert count(corpus, stage) == 8
    seen: list[tuple[int, int]] = []
    run(corpus, stage, lambda _, done, total: seen.append((done, total)))
    assert seen[0] == (0, 8) and seen[-1] == (8, 8)
    assert count(corpus, stage) == 1


def test_a_full_disk_is_no_fault_of_the_pictures(
    corpus: Corpus, web: Web, draw: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pipelines.blob.Blob.add", full)
    listed(corpus, f"{web.site()}/picture.jpg")
    stage = fetch.fetch_stage(corpus, ["list"], fetching(), datetime.now(UTC))
    with pytest.raises(OSError, match="No space left"):
        stage.work()(pending(corpus, stage))
