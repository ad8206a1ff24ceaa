"""Archives of pages: what they hold comes in once, whatever is wrong with them; what refuses use is left."""

import gzip
import json
import zlib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import brotli
import pytest
from fastwarc.stream_io import ZstdWriter
from fastwarc.warc import WarcRecord, WarcRecordType
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipelines.corpus import Corpus
from pipelines.sources import warc
from pipelines.sources.warc import warc_stage
from pipelines.stage import Stage, pending, run
from schemas.errors import JuZhouError
from schemas.recipe import Warc
from schemas.tables import FILES, PAGES

UA = "JuZhou/0.1 (+https://corpus.example/bot)"
DATE = "2026-03-01T12:00:00Z"
HTML = "text/html; charset=utf-8"
PAGE = '<html><body><h1>题</h1><p><img src="/{0}.jpg" alt="图{0}"> 旁</p><a href="/next">x</a></body></html>'


def record(kind: str, url: str, block: bytes, number: object = 0, date: str = DATE) -> bytes:
    head = {
        "WARC-Type": kind,
        "WARC-Target-URI": url,
        "WARC-Date": date,
        "WARC-Record-ID": f"<urn:uuid:{number}>",
        "Content-Type": "application/json" if kind == "metadata" else f"application/http; msgtype={kind}",
        "Content-Length": str(len(block)),
    }
    lines = "".join(f"{name}: {value}\r\n" for name, value in head.items())
    return f"WARC/1.0\r\n{lines}\r\n".encode() + block + b"\r\n\r\n"


def response(number: object, body: bytes | str | None = None, status: str = "200 OK", **headers: str) -> bytes:
    """A record of a page of its own for each number; header names are written with `_`."""
    headers = {"Content_Type": HTML} | headers
    lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    if not isinstance(body, bytes):
        body = (body or PAGE.format(number)).encode()
    block = f"HTTP/1.1 {status}\r\n{lines}\r\n".encode("latin-1") + body
    return record("response", f"http://a.example/{number}", block, number)


def stage_of(corpus: Corpus, path: Path | str) -> Stage:
    return warc_stage(corpus, "crawl", Warc(kind="warc", path=str(path)), UA)


def read(corpus: Corpus, path: Path | str) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """What a worker makes of the one archive of a folder: the rows of pages, and that of the file."""
    stage = stage_of(corpus, path)
    rows: dict[str, list[dict[str, Any]]] = {PAGES.path: [], FILES.path: []}
    for piece in stage.work()(pending(corpus, stage)):
        for table, new in piece:
            assert table is not None and new.schema == table.schema
            rows[table.path] += new.to_pylist()
    [file] = rows[FILES.path]
    assert file["count"] == len(rows[PAGES.path])
    assert len({row["page_id"] for row in rows[PAGES.path]}) == file["count"]
    return rows[PAGES.path], file


def pages_of(corpus: Corpus, folder: Path, *records: bytes) -> list[dict[str, Any]]:
    path = folder / "a.warc"
    path.write_bytes(b"".join(records))
    pages, file = read(corpus, path)
    assert file["status"] == "ok", file["error"]
    return pages


def seen(pages: list[dict[str, Any]]) -> list[tuple[str, str, str | None, list[str]]]:
    return [
        (page["url"].removeprefix("http://a.example/"), page["status"], page["error"], captions(page)) for page in pages
    ]


def captions(page: dict[str, Any]) -> list[str]:
    return [picture["caption"] for picture in page["pictures"]]


def zstd(content: list[bytes], path: Path) -> bytes:
    with ZstdWriter(str(path)) as writer:
        for one in content:
            writer.write(one)
            writer.finish()
    return path.read_bytes()


PACKINGS = {
    "a.warc": lambda records, scratch: b"".join(records),
    "a.warc.gz": lambda records, scratch: b"".join(map(gzip.compress, records)),
    "b.warc.gz": lambda records, scratch: gzip.compress(b"".join(records)),
    "a.warc.zst": zstd,
}


@pytest.mark.parametrize("name", PACKINGS)
def test_the_pages_of_an_archive(corpus: Corpus, tmp_path: Path, name: str) -> None:
    records = [
        record("warcinfo", "", b"software: x\r\n", "info"),
        record("request", "http://a.example/1", b"GET / HTTP/1.1\r\n\r\n", "request"),
        response(1),
        record("metadata", "http://a.example/1", b"fetchTimeMs: 1\r\n", "metadata"),
        response(2, status="404 Not Found"),
        response(3, "{}", Content_Type="application/json"),
        response(4, status="301 Moved", Location="/1"),
        record("revisit", "http://a.example/1", b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n", "revisit"),
        record("resource", "http://a.example/5.html", PAGE.encode(), "resource"),
        record("response", "dns:a.example", b"1.2.3.4", "dns"),
        response(6, Content_Type="application/xhtml+xml"),
        response(7, Content_Type="Text/HTML"),
    ]
    (tmp_path / name).write_bytes(PACKINGS[name](records, tmp_path / "scratch"))
    pages, file = read(corpus, tmp_path / name)
    assert seen(pages) == [("1", "ok", None, ["图1"]), ("6", "ok", None, ["图6"]), ("7", "ok", None, ["图7"])]
    assert {
        key: pages[0][key] for key in ("source", "attempt", "depth", "http_code", "asked", "retry_at", "links")
    } == {
        "source": "crawl",
        "attempt": 1,
        "depth": 0,
        "http_code": 200,
        "asked": False,
        "retry_at": None,
        "links": [],
    }
    assert pages[0]["fetched_at"] == datetime(2026, 3, 1, 12, tzinfo=UTC)
    [picture] = pages[0]["pictures"]
    assert (picture["url"], picture["page_url"]) == ("http://a.example/1.jpg", "http://a.example/1")
    assert (picture["words"]["heading"], picture["words"]["context"]) == ("题", "旁")
    assert (file["status"], file["error"], file["path"], file["pictures"]) == ("ok", None, name, [])


def test_an_archive_that_fastwarc_wrote(corpus: Corpus, tmp_path: Path) -> None:
    with (tmp_path / "a.warc").open("wb") as file:
        for number in range(3):
            one = WarcRecord()
            one.init_headers(WarcRecordType.response)
            one.headers["WARC-Target-URI"] = f"http://a.example/{number}"
            one.is_http = True
            one.set_bytes_content(f"HTTP/1.1 200 OK\r\nContent-Type: {HTML}\r\n\r\n{PAGE.format(number)}".encode())
            one.write(file, checksum_data=True)
    pages, outcome = read(corpus, tmp_path / "a.warc")
    assert outcome["status"] == "ok"
    assert [captions(page) for page in pages] == [["图0"], ["图1"], ["图2"]]


def test_characters(corpus: Corpus, tmp_path: Path) -> None:
    page = "<img src=1.jpg alt='镕是一个字'>"
    pages = pages_of(
        corpus,
        tmp_path,
        response(1, page.encode("gb18030"), Content_Type="text/html; charset=GB2312"),
        response(2, f"<meta charset=gbk>{page}".encode("gb18030"), Content_Type="text/html"),
        response(3, page.encode("gb18030"), Content_Type="text/html"),
        response(4, page.encode(), Content_Type="text/html"),
        response(5, "<img src=1.jpg alt=x>", Content_Type="text/html; charset=\xff", X_Odd="\xff"),
    )
    assert [captions(page) for page in pages] == [["镕是一个字"]] * 4 + [["x"]]


def test_what_refuses_is_left(corpus: Corpus, tmp_path: Path) -> None:
    pages = pages_of(
        corpus,
        tmp_path,
        response(1, f'<meta name="robots" content="noai">{PAGE}'),
        response(2, X_Robots_Tag="noindex, nofollow"),
        response(3, X_Robots_Tag="googlebot: noindex"),
        response(4, X_robots_tag="otherbot: noai\r\nX-Robots-Tag: juzhou: noimageai"),
        response(5, f'<meta name="googlebot" content="noindex">{PAGE.format(5)}'),
    )
    assert seen(pages) == [
        ("1", "disallowed", "meta noai", []),
        ("2", "disallowed", "X-Robots-Tag: noindex", []),
        ("3", "ok", None, ["图3"]),
        ("4", "disallowed", "X-Robots-Tag: noimageai", []),
        ("5", "ok", None, ["图5"]),
    ]


def test_what_http_packed_is_unpacked(corpus: Corpus, tmp_path: Path) -> None:
    def chunked(body: bytes, size: int = 50) -> bytes:
        chunks = [body[start : start + size] for start in range(0, len(body), size)]
        return b"".join(b"%x;x=y\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"

    page = PAGE.format("").encode() + b" " * 1000
    packed = {
        1: (gzip.compress(page), {"Content_Encoding": "gzip"}),
        2: (zlib.compress(page), {"Content_Encoding": "Deflate"}),
        3: (brotli.compress(page), {"Content_Encoding": "br"}),
        4: (chunked(page), {"Transfer_Encoding": "chunked"}),
        5: (chunked(gzip.compress(page)), {"Transfer_Encoding": "chunked", "Content_Encoding": "gzip"}),
        6: (page, {"Transfer_Encoding": "chunked", "Content_Encoding": "gzip"}),
        7: (brotli.compress(gzip.compress(page)), {"Content_Encoding": "gzip, br"}),
        8: (zstd([page], tmp_path / "scratch"), {"Content_Encoding": "zstd"}),
        9: (page, {"Content_Encoding": "UTF-8"}),
        10: (chunked(page)[:200], {"Transfer_Encoding": "chunked"}),
    }
    pages = pages_of(
        corpus, tmp_path, *(response(number, body, **headers) for number, (body, headers) in packed.items())
    )
    assert [captions(page) for page in pages] == [["图"]] * 10


def test_a_broken_record_costs_the_record(corpus: Corpus, tmp_path: Path) -> None:
    pages = pages_of(
        corpus,
        tmp_path,
        response(1, b"\x1f\x8bnonsense", Content_Encoding="gzip"),
        response(2, b""),
        response(3, b"zz\r\n", Transfer_Encoding="chunked"),
        response(4, b"<p>" + b"x" * warc.MAX_PAGE_BYTES),
        response(5, gzip.compress(b"<p>" + b" " * 50_000_000), Content_Encoding="gzip"),
        response(6, b"nonsense", Content_Encoding="br"),
        record("response", "http://a.example/7", b"no HTTP at all", 7),
        record("response", "http://a.example/8", b"", 8),
        record("response", "http://[broken", response(8).split(b"\r\n\r\n", 1)[1], "broken"),
        response(9),
        response(9),
        record("response", "http://a.example/10", response(10).split(b"\r\n\r\n", 1)[1], 10, date="yesterday"),
    )
    statuses = [(page["url"][-1], page["status"], len(page["pictures"])) for page in pages]
    assert statuses == [(str(number), "permanent", 0) for number in range(1, 7)] + [
        ("n", "ok", 0),
        ("9", "ok", 1),
        ("0", "ok", 1),
    ]
    assert pages[1]["error"] == "cannot be read: no HTML"
    assert pages[3]["error"] == pages[4]["error"] == "cannot be read: more than 10,000,000 bytes"
    assert pages[-1]["fetched_at"] is None


def test_a_head_without_end_costs_the_record(corpus: Corpus, tmp_path: Path) -> None:
    (tmp_path / "a.warc").write_bytes(response(1, X_Long="y" * 200_000) + response(2))
    pages, file = read(corpus, tmp_path)
    assert [page["url"][-1] for page in pages] == ["2"]
    assert file["status"] == "permanent" and "<urn:uuid:1>" in file["error"]


CUTS = {
    "in the last page": lambda whole, last: whole[: -last // 2],
    "in its head": lambda whole, last: whole[: len(whole) - last + 20],
    "after the third": lambda whole, last: whole[:-last] + b"nonsense, and more of it\r\n" * 20,
}


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("name", PACKINGS)
def test_a_damaged_archive_gives_what_could_be_read(corpus: Corpus, tmp_path: Path, name: str, cut: str) -> None:
    pack = PACKINGS[name]
    records = [response(number, PAGE.format(number) + str(number) * 10_000) for number in range(4)]
    whole = pack(records, tmp_path / "scratch")
    last = len(whole) - len(pack(records[:3], tmp_path / "scratch2"))
    (tmp_path / name).write_bytes(CUTS[cut](whole, last))
    pages, file = read(corpus, tmp_path / name)
    assert file["status"] == "permanent" and file["error"] and "\n" not in file["error"]
    if name != "b.warc.gz":  # packed as a whole, the bytes before the cut may tell nothing yet
        assert [captions(page) for page in pages] == [["图0"], ["图1"], ["图2"]]


@pytest.mark.parametrize(
    "content", [b"no archive " * 100, b"\x1f\x8b\x08\x00" + b"\xff" * 100, bytes(1000), b"WARC/1.0\r\n\r\n"]
)
@pytest.mark.parametrize("name", ["a.warc", "a.warc.gz", "a.warc.zst", "a.wat"])
def test_garbage(corpus: Corpus, tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    pages, file = read(corpus, tmp_path)
    assert pages == []
    assert file["status"] == "permanent" and "\n" not in file["error"]


def test_an_empty_archive_and_one_that_vanished(corpus: Corpus, tmp_path: Path) -> None:
    (tmp_path / "a.warc").write_bytes(b"")
    stage = stage_of(corpus, tmp_path)
    batch = pending(corpus, stage)
    [[(table, [*_])]] = [[(table, new.to_pylist()) for table, new in piece] for piece in stage.work()(batch)]
    assert table is FILES
    (tmp_path / "a.warc").unlink()
    [[(_, new)]] = list(stage.work()(batch))
    assert new.to_pylist()[0]["status"] == "permanent" and "FileNotFoundError" in new.to_pylist()[0]["error"]
    [(_, new)] = stage.work().lost(batch, "took its process down: x")
    assert new.to_pylist()[0]["error"] == "took its process down: x"
    with pytest.raises(JuZhouError, match=r"no \.warc or .* is there; it is the source 'crawl'"):
        stage_of(corpus, tmp_path)


@given(st.integers(0, 3000), st.binary(min_size=1, max_size=8), st.sampled_from(["a.warc", "a.warc.gz"]))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_is_overwritten(corpus: Corpus, tmp_path: Path, at: int, dirt: bytes, name: str) -> None:
    whole = PACKINGS[name]([response(number) for number in range(10)], tmp_path / "scratch")
    at %= len(whole)
    (tmp_path / name).write_bytes(whole[:at] + dirt + whole[at + len(dirt) :])
    pages, file = read(corpus, tmp_path / name)
    assert len(pages) >= 8 or file["status"] == "permanent"


def wat(number: int, **parts: Any) -> bytes:
    """A record of a WAT: of a page of its own for each number, or what `parts` put in its place."""
    html = {
        "Head": {
            "Title": "标题",
            "Base": "http://b.example/base/",
            "Metas": [{"name": "description", "content": "x"}, {"property": "og:image", "content": "/share.jpg"}, 7],
            "Link": [{"path": "LINK@/href", "rel": "stylesheet", "url": "/style.css"}],
        },
        "Links": [
            {"path": "A@/href", "url": "/next", "text": "下"},
            {"path": "IMG@/src", "url": f"{number}.jpg", "alt": f" 图{number} ", "title": "题"},
            {"path": "IMG@/src", "url": "/plain.jpg"},
            {"path": "IMG@/src", "url": "data:image/gif;base64,AA"},
            {"path": "IMG@/src", "url": "\ud800", "alt": "\ud800"},
            {"path": "SCRIPT@/src", "url": "/script.js"},
            {"path": "IMG@/src", "alt": None, "url": 5},
            "nonsense",
        ],
    }
    http = {
        "Response-Message": {"Status": "200", "Version": "HTTP/1.1", "Reason": "OK"},
        "Headers": {"content-type": HTML},
        "HTML-Metadata": html,
    } | parts
    envelope = {
        "WARC-Header-Metadata": {"WARC-Type": "response", "WARC-Record-ID": f"<urn:uuid:{number}>"},
        "Payload-Metadata": {"HTTP-Response-Metadata": http},
    }
    block = json.dumps({"Container": {}, "Envelope": envelope}).encode()
    return record("metadata", f"http://a.example/{number}", block, f"wat-{number}")


def test_the_pages_of_a_wat(corpus: Corpus, tmp_path: Path) -> None:
    path = tmp_path / "a.warc.wat.gz"
    path.write_bytes(gzip.compress(record("warcinfo", "", b"x: y\r\n", "info")) + gzip.compress(wat(1)))
    [page], file = read(corpus, path)
    assert (page["status"], page["links"], file["status"]) == ("ok", [], "ok")
    assert page["fetched_at"] == datetime(2026, 3, 1, 12, tzinfo=UTC)
    assert [(picture["url"], picture["caption"], picture["caption_from"]) for picture in page["pictures"]] == [
        ("http://b.example/share.jpg", "标题", "title"),
        ("http://b.example/base/1.jpg", "图1", "alt"),
        ("http://b.example/plain.jpg", "", "none"),
    ]
    assert page["pictures"][1]["words"] == {
        "alt": "图1",
        "title": "题",
        "figcaption": None,
        "heading": None,
        "context": None,
    }
    assert {picture["licence"] for picture in page["pictures"]} == {None}


CC = "https://creativecommons.org/licenses/by-sa/4.0/"


@pytest.mark.parametrize(
    ("html", "licence"),
    [
        ({"Head": {"Link": [{"path": "LINK@/href", "rel": "license", "url": "/l"}]}}, "http://a.example/l"),
        ({"Head": {"Metas": [{"name": "dc.rights", "content": "某人"}]}}, "某人"),
        ({"Links": [{"path": "A@/href", "url": CC}]}, CC),
        ({"Links": [{"path": "A@/href", "url": "/l", "rel": "license"}]}, "http://a.example/l"),
    ],
)
def test_licences_in_a_wat(corpus: Corpus, tmp_path: Path, html: dict[str, Any], licence: str) -> None:
    image = {"path": "IMG@/src", "url": "1.jpg"}
    html = html | {"Links": [image, *html.get("Links", [])]}
    [page] = pages_of(corpus, tmp_path, wat(1, **{"HTML-Metadata": html}))
    assert [picture["licence"] for picture in page["pictures"]] == [licence]


def test_what_is_no_page_or_refuses_in_a_wat(corpus: Corpus, tmp_path: Path) -> None:
    refusing = {"Head": {"Metas": [{"name": "robots", "content": "noimageai"}]}, "Links": []}
    pages = pages_of(
        corpus,
        tmp_path,
        wat(1, **{"HTML-Metadata": refusing}),
        wat(2, Headers={"Content-Type": HTML, "X-Robots-Tag": "noai"}),
        wat(3, Headers={"Content-Type": HTML, "X-Robots-Tag": ["googlebot: noai", "none"]}),
        wat(4, Headers={"Content-Type": "image/png"}),
        wat(5, **{"Response-Message": {"Status": "404"}}),
        wat(6, Headers=None),
        wat(7, **{"HTML-Metadata": None}),
        record("metadata", "http://a.example/8", b'{"Envelope": []}', 8),
    )
    assert seen(pages) == [
        ("1", "disallowed", "meta noimageai", []),
        ("2", "disallowed", "X-Robots-Tag: noai", []),
        ("3", "disallowed", "X-Robots-Tag: none", []),
    ]


def test_a_wat_record_that_is_no_json_costs_the_record(corpus: Corpus, tmp_path: Path) -> None:
    broken = [record("metadata", "http://a.example/x", block, "x") for block in (b"{", b'{"a":' * 100_000)]
    (tmp_path / "a.wat").write_bytes(b"".join([wat(1), *broken, wat(2)]))
    pages, file = read(corpus, tmp_path)
    assert [page["url"][-1] for page in pages] == ["1", "2"]
    assert file["status"] == "permanent" and file["error"].startswith("<urn:uuid:x>: ")


def silent(name: str, done: int, total: int) -> None:
    pass


@pytest.mark.usefixtures("ray_cluster")
def test_an_archive_is_read_once_and_its_pages_come_once(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "archives"
    folder.mkdir()
    (folder / "a.warc.gz").write_bytes(b"".join(gzip.compress(response(number)) for number in range(5)))
    (folder / "b.warc").write_bytes(b"".join(response(number) for number in range(3, 9)))
    stage = stage_of(corpus, folder)
    monkeypatch.setattr(warc, "PIECE", 4)
    first = next(iter(stage.work()(pending(corpus, stage).slice(0, 1))))
    corpus.add(*first[0])  # as far as a build came that was killed
    before = corpus.sql("SELECT url FROM pages").num_rows
    assert 0 < before < 5
    assert run(corpus, stage, silent) == 2
    assert run(corpus, stage_of(corpus, folder), silent) == 0
    pages = corpus.sql("SELECT url, count(*) AS n, count(DISTINCT page_id) AS ids FROM pages GROUP BY url ORDER BY url")
    assert pages.to_pylist() == [{"url": f"http://a.example/{number}", "n": 1, "ids": 1} for number in range(9)]
    files = corpus.sql('SELECT path, status, "count" FROM files ORDER BY path').to_pylist()
    assert files == [
        {"path": "a.warc.gz", "status": "ok", "count": 5},
        {"path": "b.warc", "status": "ok", "count": 6},
    ]
    (folder / "c.warc").write_bytes(response(9))
    assert run(corpus, stage_of(corpus, folder), silent) == 1


def test_pieces_are_bounded(corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warc, "PIECE", 10)
    (tmp_path / "a.warc").write_bytes(b"".join(response(number) for number in range(20)))
    stage = stage_of(corpus, tmp_path)
    pieces = [[(table, new.num_rows) for table, new in piece] for piece in stage.work()(pending(corpus, stage))]
    assert pieces == [[(PAGES, 5)]] * 4 + [[(FILES, 1)]]
