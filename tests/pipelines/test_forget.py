"""Take-downs: nothing is left, nothing else is touched, nothing comes back; killed at any moment, done anew."""

import itertools
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines import candidates, dedupe, fetch, forget
from pipelines import corpus as storage
from pipelines.blob import Blob
from pipelines.corpus import Corpus
from pipelines.forget import Request
from pipelines.sources import folder, parquet, site, synthesis, tar, urls, warc
from pipelines.stage import Stage, pending
from pipelines.tombstones import Tombstones, normal, normal_host
from schemas import recipe as recipes
from schemas import tables
from schemas.errors import JuZhouError
from schemas.identity import digest
from tests.juzhou.test_acquire import archived
from tests.pipelines.faults import Web, asked, picture, serve
from tests.pipelines.test_fetch import FREE, fetched_here, fetching, last_attempts

JUZHOU = [sys.executable, "-c", "from juzhou.cli import main; main()"]
ROOT = Path(__file__).parents[2]
NOW = datetime(2026, 1, 2, tzinfo=UTC)
KILLS = 10
SEMANTIC = pa.schema({"leader": tables.ID, "place": pa.int32()})
PARTS = 3
"""Parts of each table; every third picture is of the host that is taken down."""
GONE = "https://img.gone.example/"
KEPT = "https://kept.example/"


def cut(rows: list[dict[str, Any]], table: tables.Table, corpus: Corpus) -> None:
    """Add rows in several parts."""
    for number in range(PARTS):
        corpus.append(table, pa.Table.from_pylist(rows[number::PARTS], schema=table.schema))


class Thing:
    """A picture with all that a corpus may hold of it."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.content = f"the bytes of picture {number} ".encode() * 20
        self.image_id = digest(self.content)
        self.url = f"{KEPT if number % 3 else GONE}{number}.jpg"
        self.caption = f"第{number}幅"
        self.url_id = digest(self.url.encode())
        self.sample_id = digest(self.image_id + self.caption.encode())
        self.candidate_id = digest(f"list\n{self.url}\n{self.caption}".encode())
        self.page = f"https://pages.example/{number // 6}.html"
        self.lies: dict[str, Any] = {}


@pytest.fixture(scope="module")
def things() -> list[Thing]:
    return [Thing(number) for number in range(30)]


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory, things: list[Thing]) -> Corpus:
    """Thirty pictures in every kind of table, in current variants and others, in several tars, and in a release."""
    corpus = Corpus.create(tmp_path_factory.mktemp("full") / "corpus")
    for start in range(0, len(things), 10):
        with Blob(corpus.blobs) as blob:
            for thing in things[start : start + 10]:
                blob.add(thing.image_id, thing.content)
        for thing in things[start : start + 10]:
            thing.lies = blob.location(thing.image_id)
    with Blob(corpus.blobs) as stray:
        stray.add(things[0].image_id, things[0].content)
        stray.add(things[1].image_id, things[1].content)
    had = {"status": "ok", "format": "jpeg", "width": 100, "height": 100, "orientation": 1}
    found = {"caption_from": "alt", "licence": "CC BY 4.0"}
    rows: dict[tables.Table, list[dict[str, Any]]] = {}

    def put(table: tables.Table, **row: Any) -> None:
        rows.setdefault(table, []).append(row)

    variants = [tables.measure_table("size", 12 * "0", "image_id", pa.schema({"width": pa.int32()}))]
    variants += [tables.measure_table("size", 12 * "1", "image_id", pa.schema({"width": pa.int32()}))]
    variants += [tables.measure_table("text", 12 * "0", "sample_id", pa.schema({"filename": pa.bool_()}))]
    semantic = tables.measure_table("semantic", 12 * "0", "image_id", SEMANTIC)
    copies = [tables.duplicates_table("copies", 12 * digit) for digit in "01"]
    captions = tables.captions_table("simplified", 12 * "0")
    verdicts = [tables.verdicts_table("policy", 12 * digit) for digit in "01"]
    for thing in things:
        ids = {"image_id": thing.image_id, "sample_id": thing.sample_id, "candidate_id": thing.candidate_id}
        about = found | {"url": thing.url, "caption": thing.caption, "page_url": thing.page}
        about["words"] = {"alt": thing.caption}
        put(tables.CANDIDATES, **about, **ids, url_id=thing.url_id, source="list", found_at=NOW, recipe="r")
        failed = {"url": thing.url, "url_id": thing.url_id, "fetched_at": NOW, "asked": True}
        put(tables.FETCHES, **failed, attempt=1, status="transient", error="HTTP 503")
        put(tables.FETCHES, **failed | had, **thing.lies, image_id=thing.image_id, attempt=2)
        put(tables.IMAGES, **had, **thing.lies, image_id=thing.image_id)
        put(tables.SAMPLES, **ids, caption=thing.caption)
        for variant in variants:
            put(variant, **ids, width=1, filename=False)
        for variant in copies:
            put(variant, image_id=thing.image_id, representative=things[thing.number // 3 * 3].image_id)
        put(semantic, image_id=thing.image_id, leader=things[thing.number // 15 * 15].image_id, place=1)
        put(captions, sample_id=thing.sample_id, rank=1, text=thing.caption)
        for variant in verdicts:
            put(variant, sample_id=thing.sample_id, kept=True)
        if thing.number % 2:
            put(tables.REVIEWS, sample_id=thing.sample_id, reviewed_at=NOW, reviewer="r", note=f"我见过{thing.number}")
    for number in range(len(things) // 6):
        some = things[6 * number : 6 * number + 6]
        shown = [
            found | {"url": thing.url, "caption": thing.caption, "page_url": thing.page, "words": {"alt": "词"}}
            for thing in some
        ]
        put(
            tables.PAGES,
            page_id=digest(some[0].page.encode()),
            attempt=1,
            source="web",
            url=some[0].page,
            status="ok",
            links=[thing.url.replace(".jpg", ".html") for thing in some],
            pictures=shown,
        )
        items = [one | had | thing.lies | {"image_id": thing.image_id} for one, thing in zip(shown, some, strict=True)]
        items = [
            item | {"url": f"file:tars/{number}.tar#{place}", "page_url": None} for place, item in enumerate(items)
        ]
        put(tables.FILES, file_id=digest(bytes([number])), source="tars", path=f"{number}.tar", count=6, pictures=items)
    for table, held in rows.items():
        cut(held, table, corpus)
    corpus.adopt("{}", [variants[0], variants[2], semantic, copies[0], captions])
    for name, some in (("v1", things[:10]), ("v2", things[1:3])):
        (corpus.releases / name).mkdir()
        ids = pa.array([thing.image_id for thing in some], tables.ID)
        place = {"split": "train", "shard": "train-00000.tar", "offset": 512, "length": 1}
        columns = {name: [value] * len(some) for name, value in place.items()}
        released = pa.table({"image_id": ids, "sample_id": ids} | columns)
        pq.write_table(released, corpus.releases / name / "samples.parquet")
    return corpus


def copied(full: Corpus, place: Path) -> Corpus:
    shutil.copytree(full.path, place)
    return Corpus(place)


def tree(corpus: Corpus) -> dict[str, list[dict[str, Any]]]:
    """All rows of all parts but the tombstones."""
    parts = corpus.tables.rglob("part-*.parquet")
    return {
        str(part.relative_to(corpus.tables)): pq.read_table(part).to_pylist()
        for part in sorted(parts)
        if part.parent.name != "forgotten"
    }


def test_nothing_is_left_of_a_domain_and_nothing_else_is_touched(
    full: Corpus, things: list[Thing], tmp_path: Path
) -> None:
    corpus = copied(full, tmp_path / "corpus")
    (corpus.path / "cache/x").mkdir(parents=True)
    before, inodes = tree(corpus), {part: part.stat().st_ino for part in corpus.tables.rglob("*.parquet")}
    with corpus.writing():
        outcome = forget.forget(corpus, [Request.of_domain("gone.example")], "asked")
    assert outcome
    gone, kept = things[::3], [thing for thing in things if thing.number % 3]
    assert (outcome.images, outcome.samples, outcome.candidates) == (10, 10, 10)
    assert outcome.releases == [("v1", 4)]
    assert not (corpus.path / "cache").exists()

    check_gone(corpus, gone)
    marks = [mark for thing in gone for mark in (repr(thing.image_id), repr(thing.sample_id), GONE)]
    after = tree(corpus)
    assert after.keys() == before.keys()
    for part, rows in before.items():
        marked = [any(mark in repr(row) for mark in marks) for row in rows]
        path = corpus.tables / part
        assert (path.stat().st_ino == inodes[path]) == (not any(marked)), "parts that hold none of it stay"
        there = [repr(row) for row in after[part]]
        untouched = [repr(row) for row, mark in zip(rows, marked, strict=True) if not mark]
        if part.split("/")[0] in ("pages", "files"):
            assert len(there) == len(rows)
        elif "semantic" in part:  # groups whose representative is gone are judged anew
            assert there == []
        else:
            assert there == untouched, part
    for page in corpus.sql("FROM pages").to_pylist():
        assert len(page["links"]) == len(page["pictures"]) == 4
    for file in corpus.sql("FROM files").to_pylist():
        assert len(file["pictures"]) == file["count"] == 4 and all(one["caption"] for one in file["pictures"])
    for thing in kept:
        assert corpus.read(**thing.lies) == thing.content
    for path in corpus.blobs.glob("*.tar"):
        with tarfile.open(path) as archive:
            for member in archive:
                file = archive.extractfile(member)
                assert file
                content = file.read()
                assert digest(content).hex() == member.name or not any(content)

    with corpus.writing():
        assert forget.forget(corpus, [Request.of_domain("GONE.example.")]) is None
        assert forget.finish(corpus) is None
    assert forget.held(corpus) == [("v1", 4)]


def check_gone(corpus: Corpus, gone: list[Thing]) -> None:
    """Neither words nor bytes of some pictures stand anywhere but in releases and tombstones."""
    for path in corpus.path.rglob("*"):
        if path.is_dir() or "releases" in path.parts or path.parent.name == "forgotten":
            continue
        content = path.read_bytes()
        if path.suffix == ".parquet":
            content = repr(pq.read_table(path).to_pylist()).encode()
        for thing in gone:
            marks = [thing.content, thing.url.encode()]
            if path.suffix == ".parquet":
                marks += [repr(thing.image_id).encode(), repr(thing.sample_id).encode(), repr(thing.caption).encode()]
            assert not any(mark in content for mark in marks), (path, thing.number)


@pytest.mark.parametrize("number", [0, 4])
def test_a_url_takes_what_it_gave(full: Corpus, things: list[Thing], tmp_path: Path, number: int) -> None:
    corpus = copied(full, tmp_path / "corpus")
    thing = things[number]
    with corpus.writing():
        outcome = forget.forget(
            corpus, [Request.of_url(thing.url.replace("https", "HTTP").upper().replace("JPG", "jpg"))]
        )
    assert outcome and (outcome.images, outcome.samples, outcome.candidates) == (1, 1, 1)
    check_gone(corpus, [thing])
    assert corpus.sql("SELECT count(*) AS n FROM samples").column("n")[0].as_py() == 29
    told = corpus.sql("SELECT kind, image_id FROM forgotten ORDER BY image_id NULLS FIRST").to_pylist()
    assert told == [{"kind": "url", "image_id": None}, {"kind": "url", "image_id": thing.image_id}]


def test_a_page_takes_the_pictures_that_it_shows(full: Corpus, things: list[Thing], tmp_path: Path) -> None:
    corpus = copied(full, tmp_path / "corpus")
    with corpus.writing():
        outcome = forget.forget(corpus, [Request.of_url(things[0].page)])
    assert outcome and outcome.images == 6
    check_gone(corpus, things[:6])
    assert things[0].page not in repr(tree(corpus))
    refused = Tombstones.of(corpus)
    assert all(refused.refuse(thing.url) for thing in things[:6]) and not refused.refuse(things[6].url)


def test_a_picture_is_forgotten_by_its_bytes(full: Corpus, things: list[Thing], tmp_path: Path) -> None:
    corpus = copied(full, tmp_path / "corpus")
    (tmp_path / "a.jpg").write_bytes(things[7].content)
    done = juzhou("forget", corpus.path, "--image", tmp_path / "a.jpg", "--image", things[9].image_id.hex())
    assert done.returncode == 0, done.stderr
    assert "2 pictures, 2 samples and 2 candidates forgotten" in done.stdout
    assert "v1" in done.stdout and "v2" not in done.stdout
    check_gone(corpus, [things[7], things[9]])
    assert Tombstones.of(corpus).refuse(things[7].url), "nor is it asked for again"


def test_what_gave_another_picture_too_stays_for_that(corpus: Corpus, things: list[Thing]) -> None:
    one, other = things[:2]
    row = {"url": one.url, "url_id": one.url_id, "status": "ok", "asked": True}
    rows = [row | {"attempt": 1, "image_id": one.image_id}, row | {"attempt": 2, "image_id": other.image_id}]
    corpus.append(tables.FETCHES, pa.Table.from_pylist(rows, schema=tables.FETCHES.schema))
    about = {"candidate_id": one.candidate_id, "url": one.url, "url_id": one.url_id, "caption": "词", "source": "list"}
    corpus.append(tables.CANDIDATES, pa.Table.from_pylist([about], schema=tables.CANDIDATES.schema))
    with corpus.writing():
        assert forget.forget(corpus, [Request.of_image(one.image_id.hex())])
    left = corpus.sql("SELECT attempt, status, error, image_id FROM fetches ORDER BY attempt").to_pylist()
    assert left == [
        {"attempt": 1, "status": "disallowed", "error": "forgotten", "image_id": None},
        {"attempt": 2, "status": "ok", "error": None, "image_id": other.image_id},
    ]
    assert corpus.sql("FROM candidates").num_rows == 1 and not Tombstones.of(corpus).refuse(one.url)


def test_stopped_after_any_step_it_is_done_anew(
    full: Corpus, things: list[Thing], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = copied(full, tmp_path / "whole")
    with whole.writing():
        forget.forget(whole, [Request.of_domain("gone.example")])
    wanted = tree(whole)
    flush, left = storage.flush, 0

    def failing(path: Path) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise KeyboardInterrupt
        flush(path)

    for module in (storage, forget):
        monkeypatch.setattr(module, "flush", failing)
    stopped = 0
    for steps in itertools.count(0, 8):
        corpus = copied(full, tmp_path / str(steps))
        left = steps
        try:
            with corpus.writing():
                forget.forget(corpus, [Request.of_domain("gone.example")])
        except KeyboardInterrupt:
            stopped += 1
        else:
            break
        left = 10_000
        with corpus.writing():
            if forget.finish(corpus) is None:
                assert steps == 0, "the tombstone was not there yet"
                assert tree(corpus) == tree(full)
                continue
        assert tree(corpus) == wanted
        check_gone(corpus, things[::3])
        shutil.rmtree(corpus.path)
    assert stopped > 4


def test_killed_at_ten_random_moments(full: Corpus, things: list[Thing], tmp_path: Path) -> None:
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(["pandas", "pipelines.forget"])
    request = Request.of_domain("gone.example")
    dice = random.Random(os.environ.get("JUZHOU_KILL_SEED", "1"))

    def started(corpus: Corpus) -> Any:
        process = server.Process(target=forget.forget, args=(corpus, [request]))
        process.start()
        return process

    took = 0.0
    for number in range(2):  # the first one starts the server too
        whole, since = copied(full, tmp_path / f"whole-{number}"), time.monotonic()
        started(whole).join()
        took = time.monotonic() - since
    wanted = tree(whole)
    kills = halves = 0
    corpus = copied(full, tmp_path / "0")
    while kills < KILLS:
        process = started(corpus)
        time.sleep(dice.uniform(0.2, 1.0) * took)
        process.kill()
        process.join()
        kills += 1
        begun = corpus.parts("forgotten")
        halves += process.exitcode == -signal.SIGKILL and bool(begun)
        if process.exitcode == 0 or kills in (4, 7, KILLS):
            if begun:
                with corpus.writing():
                    forget.finish(corpus)
                assert tree(corpus) == wanted
                check_gone(corpus, things[::3])
                assert all(corpus.read(**thing.lies) == thing.content for thing in things if thing.number % 3)
            corpus = copied(full, tmp_path / str(kills))
    assert halves > 2, "some kills came half-way"


def test_who_reads_meanwhile_sees_whole_parts(full: Corpus, tmp_path: Path) -> None:
    corpus = copied(full, tmp_path / "corpus")
    stop, counts = threading.Event(), []

    def reads() -> None:
        while not stop.is_set():
            counts.append(corpus.sql("SELECT count(*) AS n FROM corpus").column("n")[0].as_py())

    thread = threading.Thread(target=reads)
    thread.start()
    try:
        with corpus.writing(), pytest.raises(JuZhouError, match="another process is writing"), corpus.writing():
            pass
        with corpus.writing():
            forget.forget(corpus, [Request.of_domain("gone.example")])
    finally:
        time.sleep(0.1)
        stop.set()
        thread.join()
    assert counts[0] == 30 and counts[-1] == 20 and counts == sorted(counts, reverse=True)


def test_a_group_whose_head_goes_is_judged_anew(corpus: Corpus, draw: Callable[..., bytes]) -> None:
    ids = [digest(bytes([number])) for number in range(4)]
    sizes = [(400, 400), (300, 300), (200, 200), (100, 100)]
    rows = [{"image_id": one, "width": w, "height": h} for one, (w, h) in zip(ids, sizes, strict=True)]
    corpus.append(tables.IMAGES, pa.Table.from_pylist(rows, schema=tables.IMAGES.schema))
    pdq = tables.measure_table("pdq", 12 * "0", "image_id", pa.schema({"hash": pa.binary(32), "quality": pa.int32()}))
    alike = [bytes(32), bytes(31) + b"\x01", bytes(31) + b"\x03", b"\xff" * 32]
    hashes = [{"image_id": one, "hash": code, "quality": 100} for one, code in zip(ids, alike, strict=True)]
    corpus.append(pdq, pa.Table.from_pylist(hashes, schema=pdq.schema))
    wanted = recipes.Dedupe()
    copies = dedupe.table_of(wanted, {"pdq": pdq})
    corpus.adopt("{}", [pdq, copies])
    dedupe.run(corpus, wanted, copies, ["pdq"], lambda *_: None)
    heads = "SELECT image_id, representative FROM duplicates ORDER BY image_id"
    assert {row["representative"] for row in corpus.sql(heads).to_pylist()} == {ids[0], ids[3]}
    with corpus.writing():
        forget.forget(corpus, [Request.of_image(ids[0].hex())])
    assert corpus.sql(heads).column("image_id").to_pylist() == [ids[3]]
    dedupe.run(corpus, wanted, copies, ["pdq"], lambda *_: None)
    placed = {row["image_id"]: row["representative"] for row in corpus.sql(heads).to_pylist()}
    assert placed == {ids[1]: ids[1], ids[2]: ids[1], ids[3]: ids[3]}


@pytest.fixture
def web() -> Iterator[Web]:
    with serve(("127.0.0.1", "127.0.0.2")) as served:
        yield served


def of_list(corpus: Corpus, path: Path, *rows: tuple[str, str, str]) -> None:
    """Put a list down, and find what is on it."""
    named = zip(("url", "caption", "page"), zip(*rows, strict=True), strict=True)
    pq.write_table(pa.table({name: list(column) for name, column in named}), path)
    source = recipes.Urls(kind="urls", path=str(path), page_url="page")
    urls.add_candidates(corpus, "list", source, "recipe", datetime.now(UTC))


def through(corpus: Corpus) -> dict[str, dict[str, Any]]:
    """Fetch what is pending, and do what a build does after that."""
    ours = "Tester/1 (+http://tester.example/)"
    fetched_here(corpus, fetching(timeout_s=20, transfer_s=40, user_agent=ours, **FREE))
    with corpus.writing():
        forget.finish(corpus)
    fetch.images_of_fetches(corpus)
    fetch.samples_of_images(corpus)
    return last_attempts(corpus)


def test_what_is_forgotten_is_not_asked_for_again(corpus: Corpus, web: Web, tmp_path: Path) -> None:
    first, second = web.site("127.0.0.1"), web.site("127.0.0.2")
    page = "http://page.example/"
    rows = [
        (f"{first}/fine/1.jpg", "一", page),
        (f"{first}/fine/2.jpg", "二", page),
        (f"{second}/fine/3.jpg", "三", page),
    ]
    of_list(corpus, tmp_path / "list.parquet", *rows)
    through(corpus)
    assert corpus.sql("FROM samples").num_rows == 3
    with corpus.writing():
        forget.forget(corpus, [Request.of_url(f"{first}/fine/1.jpg"), Request.of_domain("127.0.0.2")])
    assert corpus.sql("SELECT caption FROM samples").column(0).to_pylist() == ["二"]
    assert corpus.sql("FROM candidates").num_rows == corpus.sql("FROM fetches").num_rows == 1

    known = len(web.log.requests)
    port = first.rpartition(":")[2]
    again = [
        f"{first}/fine/1.jpg",
        f"{first}/fine/%31.jpg#top",
        f"http://user@127.1:{port}/x/../fine/1.jpg",
        f"{second}/fine/4.jpg",
        f"http://0x7f.0.0.2:{port}/fine/5.jpg",
    ]
    of_list(corpus, tmp_path / "list.parquet", *rows, *((url, "词", page) for url in again))
    last = through(corpus)
    assert [request.path for request in web.log.requests[known:]] == []
    for url in again:
        assert (last[url]["status"], last[url]["error"], last[url]["asked"]) == ("disallowed", "forgotten", False)
    noted = corpus.sql("SELECT DISTINCT caption, words, page_url FROM candidates WHERE caption <> '二'").to_pylist()
    assert noted == [{"caption": "", "words": None, "page_url": None}], "they are known by their URLs alone"
    assert corpus.sql("FROM samples").num_rows == 1


def test_the_same_bytes_from_elsewhere_are_not_kept(corpus: Corpus, web: Web, tmp_path: Path) -> None:
    first, second = web.site("127.0.0.1"), web.site("127.0.0.2")
    with corpus.writing():
        outcome = forget.forget(corpus, [Request.of_image(digest(picture("/fine/1.jpg")).hex())])
    assert outcome and outcome.told("image", digest(picture("/fine/1.jpg")).hex()) == "never met; it will be refused"
    of_list(
        corpus, tmp_path / "a.parquet", *((f"{one}/fine/{n}.jpg", "词", "") for one in (first, second) for n in (1, 2))
    )
    last = through(corpus)
    assert asked(web.log, "/fine/1.jpg") == 2
    for one in (first, second):
        row = last[f"{one}/fine/1.jpg"]
        assert (row["status"], row["error"], row["image_id"], row["tar"]) == ("disallowed", "forgotten", None, None)
    assert corpus.sql("SELECT count(*) AS n FROM candidates").column("n")[0].as_py() == 2, "its words are gone too"
    assert not any(picture("/fine/1.jpg") in path.read_bytes() for path in corpus.blobs.iterdir())
    of_list(corpus, tmp_path / "a.parquet", (f"{first}/fine/1.jpg", "词", ""))
    through(corpus)
    assert asked(web.log, "/fine/1.jpg") == 2, "once is enough"


def test_a_redirect_does_not_lead_there(corpus: Corpus, web: Web, tmp_path: Path) -> None:
    site = web.site()
    of_list(corpus, tmp_path / "a.parquet", (f"{site}/redirect.jpg", "词", ""))
    row = through(corpus)[f"{site}/redirect.jpg"]
    target = row["final_url"]
    assert row["status"] == "ok" and target
    with corpus.writing():
        outcome = forget.forget(corpus, [Request.of_url(target)])
    assert outcome and outcome.images == 1, "what led there gave it"
    assert corpus.sql("FROM fetches").num_rows == corpus.sql("FROM candidates").num_rows == 0
    with corpus.writing():
        forget.forget(corpus, [Request.of_url(f"{web.site('127.0.0.2')}/fine/other.jpg")])
    of_list(corpus, tmp_path / "a.parquet", (f"{site}/redirect-other-host.jpg", "词", ""))
    assert through(corpus)[f"{site}/redirect-other-host.jpg"]["error"] == "forgotten"
    assert (asked(web.log, "/redirect-other-host.jpg"), asked(web.log, "/fine/other.jpg")) == (1, 0)
    assert corpus.sql("FROM candidates").num_rows == 0, "its words are gone too"


def test_a_crawl_keeps_away_from_it(corpus: Corpus, web: Web) -> None:
    first, second = web.site("127.0.0.1"), web.site("127.0.0.2")
    with corpus.writing():
        forget.forget(corpus, [Request.of_domain("127.0.0.2"), Request.of_domain("pictures.example")])
    seeds = (f"{second}/sitemap.xml", f"{second}/page-gbk.html")
    stage = site.crawl_stage(corpus, "web", recipes.Site(kind="site", seeds=seeds), fetching(**FREE), datetime.now(UTC))
    [(_, rows)] = stage.work()(pending(corpus, stage))
    assert set(rows.column("error").to_pylist()) == {"forgotten"} and web.log.requests == []
    assert first not in repr(rows.to_pylist())


def read(stage: Stage, corpus: Corpus) -> list[dict[str, Any]]:
    """What a worker makes of a source's files."""
    given = stage.work()(pending(corpus, stage))
    pieces = [given] if isinstance(given, list) else list(given)
    for table, rows in itertools.chain.from_iterable(pieces):
        assert table
        corpus.append(table, rows)
    return [row for piece in pieces for _, rows in piece for row in rows.to_pylist()]


def test_files_do_not_bring_it_back(corpus: Corpus, draw: Callable[..., bytes], tmp_path: Path) -> None:
    gone, kept = draw(1), draw(2)
    limits = fetching()
    (tmp_path / "photos").mkdir()
    for name, content in (("a", gone), ("b", kept)):
        (tmp_path / f"photos/{name}.jpg").write_bytes(content)
        (tmp_path / f"photos/{name}.txt").write_text(f"词{name}", "utf-8")
    with tarfile.open(tmp_path / "some.tar", "w") as archive:
        for path in sorted((tmp_path / "photos").iterdir()):
            archive.add(path, path.name)
    pq.write_table(pa.table({"image": [gone, kept], "text": ["词a", "词b"]}), tmp_path / "hub.parquet")

    def stages() -> list[Stage]:
        return [
            folder.folder_stage(corpus, "photos", recipes.Folder(kind="folder", path=str(tmp_path / "photos")), limits),
            tar.tar_stage(corpus, "tars", recipes.Tar(kind="tar", path=str(tmp_path / "some.tar")), limits),
            parquet.parquet_stage(
                corpus, "hub", recipes.Parquet(kind="parquet", path=str(tmp_path / "hub.parquet")), limits
            ),
        ]

    def build() -> set[tuple[str, str]]:
        for stage in stages():
            if pending(corpus, stage).num_rows:
                read(stage, corpus)
        candidates.of_files(corpus, ["photos", "tars", "hub"], "recipe")
        candidates.fetches_of_files(corpus)
        fetch.images_of_fetches(corpus)
        fetch.samples_of_images(corpus)
        return {(row["source"], row["caption"]) for row in corpus.sql("FROM candidates").to_pylist()}

    assert len(build()) == 6
    with corpus.writing():
        outcome = forget.forget(corpus, [Request.of_image(digest(gone).hex())])
    assert outcome and outcome.candidates == 3
    left = {(source, "词b") for source in ("photos", "tars", "hub")}
    assert build() == left
    os.utime(tmp_path / "some.tar", (1, 1))
    os.utime(tmp_path / "hub.parquet", (1, 1))
    assert build() == left
    refused = corpus.sql("SELECT url, status, image_id FROM fetches WHERE error = 'forgotten'").to_pylist()
    assert len(refused) == 3 and {(row["status"], row["image_id"]) for row in refused} == {("disallowed", None)}
    assert corpus.sql("FROM images").num_rows == corpus.sql("FROM samples").num_rows == 1
    assert not any(gone in path.read_bytes() for path in corpus.blobs.iterdir())
    assert "词a" not in repr(tree(corpus))


def test_archives_do_not_bring_it_back(corpus: Corpus, tmp_path: Path) -> None:
    with corpus.writing():
        forget.forget(corpus, [Request.of_domain("gone.example"), Request.of_url("http://a.example/cat.jpg")])
    shown = (
        '<img src="http://www.gone.example/1.jpg" alt="狗"><img src="/cat.jpg" alt="猫"><img src="/tree.jpg" alt="树">'
    )
    with (tmp_path / "a.warc.gz").open("wb") as file:
        for page in ("http://a.example/1.html", "https://GONE.example/2.html"):
            file.write(archived(page, shown))
    read(warc.warc_stage(corpus, "old", recipes.Warc(kind="warc", path=str(tmp_path / "a.warc.gz")), "Us"), corpus)
    pages = {row["url"]: row for row in corpus.sql("FROM pages").to_pylist()}
    words = {one["url"]: one["caption"] for one in pages["http://a.example/1.html"]["pictures"]}
    assert words == {
        "http://www.gone.example/1.jpg": "",
        "http://a.example/cat.jpg": "",
        "http://a.example/tree.jpg": "树",
    }
    assert (pages["https://GONE.example/2.html"]["error"], pages["https://GONE.example/2.html"]["pictures"]) == (
        "forgotten",
        [],
    )


def test_a_teacher_does_not_bring_it_back(corpus: Corpus, draw: Callable[..., bytes]) -> None:
    with corpus.writing():
        forget.forget(corpus, [Request.of_image(digest(draw(1)).hex())])
    source = recipes.Synthesis.model_construct(steps=1, guidance=1.0, batch=2)
    work = synthesis._Draw(corpus.blobs, "drawn", source, "teacher", Tombstones.of(corpus))
    vars(work)["_teacher"] = lambda rows: [draw(row["seed"]) for row in rows]
    prompts = [{"synthesis_id": digest(bytes([n])), "prompt": "画", "negative_prompt": None, "seed": n} for n in (1, 2)]
    [(table, rows)] = work(pa.Table.from_pylist(prompts))
    assert table
    corpus.append(table, rows)
    synthesis.add_candidates(corpus, "drawn", None, "recipe")
    synthesis.add_fetches(corpus, "drawn")
    told = corpus.sql("SELECT prompt, status, syntheses.error, image_id IS NULL AS none FROM syntheses ORDER BY prompt")
    assert told.to_pylist() == [
        {"prompt": "", "status": "disallowed", "error": "forgotten", "none": True},
        {"prompt": "画", "status": "ok", "error": None, "none": False},
    ]
    assert corpus.sql("FROM candidates").num_rows == 1 and corpus.sql("FROM fetches").num_rows == 2
    assert not any(draw(1) in path.read_bytes() for path in corpus.blobs.iterdir())

    [kept] = corpus.sql("SELECT url FROM candidates").column(0).to_pylist()
    with corpus.writing():
        outcome = forget.forget(corpus, [Request.of_url(kept)])
    assert outcome and outcome.images == 1
    assert "画" not in repr(tree(corpus)) and kept not in repr(tree(corpus))


@pytest.mark.parametrize(
    ("spelled", "wanted"),
    [
        ("HTTP://EXAMPLE.com:80/a%7eb?x=%e4#f", "http://example.com/a~b?x=%E4"),
        ("https://例子.cn/图.jpg", "https://xn--fsqu00a.cn/%E5%9B%BE.jpg"),
        ("http://ｅｘａｍｐｌｅ。com./a/./b/../c", "http://example.com/a/c"),
        ("http://user:pass@example.com", "http://example.com/"),
        ("http://example.com\\x.jpg", "http://example.com/x.jpg"),
        ("http://2130706433:8080/", "http://127.0.0.1:8080/"),
        ("http://[::ffff:127.0.0.1]/", "http://127.0.0.1/"),
        ("file:mine/cats/1.jpg", "file:mine/cats/1.jpg"),
        ("ftp://example.com/", None),
        ("example.com/a.jpg", None),
        ("http://example.com/\x00", None),
    ],
)
def test_a_url_has_one_spelling(spelled: str, wanted: str | None) -> None:
    assert normal(spelled) == wanted
    if wanted and wanted.startswith("http"):
        stones = Tombstones.from_rows([{"kind": "url", "value": wanted, "image_id": None}])
        assert stones.refuse(spelled) and stones.refuse(wanted.replace("http:", "https:"))
        assert not stones.refuse(wanted + "x")


def test_a_domain_is_what_is_below_it() -> None:
    stones = Tombstones.from_rows([{"kind": "domain", "value": one, "image_id": None} for one in ("gone.cn", "host")])
    for url in ("http://gone.cn/", "https://A.b.GONE.cn.:8080/x", "http://u@x.gone.cn/"):
        assert stones.refuse(url), url
    for url in (
        "http://notgone.cn/",
        "http://gone.cn.example/",
        "http://a.host/",
        "http://x.cn/?gone.cn",
        "http://gone.cn@x/",
    ):
        assert not stones.refuse(url), url
    assert stones.refuse("http://host/") and normal_host("例子。CN") == "xn--fsqu00a.cn"


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--url", "nonsense"], "is no URL of the web"),
        (["--domain", ""], "is no domain"),
        (["--domain", "com"], "'com' is no host of the corpus"),
        (["--domain", "com.cn"], "strangers have their domains"),
        (["--domain", "example.org:80"], "has a port"),
        (["--domain", "https://example.org/"], "is no domain"),
        (["--domain", "*.example.org"], "is no domain"),
        (["--image", "no-such.jpg"], "neither an image_id of 32 hex digits nor a file"),
        (["--list", "no-such.txt"], "no-such.txt"),
    ],
)
def test_what_cannot_be_forgotten_is_one_line(full: Corpus, words: list[str], line: str) -> None:
    done = juzhou("forget", full.path, *words)
    assert done.returncode == 1 and done.stderr.count("\n") == 1, done.stderr
    assert line in done.stderr
    assert not full.parts("forgotten"), "nothing was written"


def test_a_list_names_all_kinds(corpus: Corpus, tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_text(f"# asked in May\nhttps://a.example/1.jpg\n\n例子.cn\n{'ab' * 16}\n", "utf-8")
    done = juzhou("forget", corpus.path, "--list", path, "--reason", "asked")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("never met; it will be refused") == 3
    rows = corpus.sql("SELECT kind, value, reason FROM forgotten ORDER BY kind").to_pylist()
    assert [(row["kind"], row["value"], row["reason"]) for row in rows] == [
        ("domain", "xn--fsqu00a.cn", "asked"),
        ("image", "ab" * 16, "asked"),
        ("url", "https://a.example/1.jpg", "asked"),
    ]
    path.write_text("a.example\nhttp://\n", "utf-8")
    done = juzhou("forget", corpus.path, "--list", path)
    assert done.returncode == 1 and "list.txt, line 2: " in done.stderr and done.stderr.count("\n") == 1
    assert juzhou("forget", corpus.path).stdout == "no take-down is left to complete\n"


def juzhou(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*JUZHOU, *map(str, arguments)], capture_output=True, text=True, cwd=ROOT, timeout=120)
