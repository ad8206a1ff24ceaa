"""Each fault is what its path says, seen through a bare socket: the tests of a fetcher rest on it."""

import gzip
import io
import re
import socket
import struct
import threading
import time
import urllib.error
import urllib.request
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from email.utils import parsedate_to_datetime
from math import inf
from urllib.parse import quote, unquote_to_bytes

import pytest
from PIL import ExifTags, Image, ImageSequence

from schemas.tables import Status
from tests.pipelines.faults import (
    DRIP_S,
    FAULTS,
    LONG,
    PAGES,
    ROBOTS,
    RULES,
    WHOLE,
    Connection,
    Log,
    Request,
    Web,
    asked,
    dns_answers,
    most_at_once,
    most_in_a_second,
    picture,
    serve,
)

QUIET_S = 0.4
CAP = 1_000_000


@pytest.fixture
def web() -> Iterator[Web]:
    with serve() as web:
        yield web


def send(web: Web, path: str, timeout_s: float = 5.0, address: str = "127.0.0.1") -> socket.socket:
    """A connection on which a path was just asked for."""
    connection = socket.create_connection((address, web.port), timeout=timeout_s)
    connection.sendall(f"GET {quote(path, safe='/%')} HTTP/1.1\r\nHost: {address}\r\n\r\n".encode())
    return connection


def ask(web: Web, path: str) -> tuple[bytes, str]:
    """All that comes, and how it ended: `closed`, `reset`, `quiet`, `slow` where it still drips, `full` at the cap."""
    came = b""
    until = time.monotonic() + 2 * QUIET_S
    with send(web, path, QUIET_S) as connection:
        while len(came) < CAP and time.monotonic() < until:
            try:
                piece = connection.recv(65_536)
            except TimeoutError:
                return came, "quiet"
            except ConnectionResetError:
                return came, "reset"
            if not piece:
                return came, "closed"
            came += piece
    return came, "full" if len(came) >= CAP else "slow"


def stated(head: bytes) -> int:
    """The length that it states."""
    return int(re.findall(rb"Content-Length: (\d+)", head)[0])


def read(web: Web, path: str, address: str = "127.0.0.1") -> tuple[int, list[str], bytes]:
    """An answer as it should be: code, header lines and a body of the stated length; the connection stays open."""
    with send(web, path, address=address) as connection:
        came = b""
        while not (found := re.fullmatch(rb"(.*?)\r\n\r\n(.*)", came, re.DOTALL)) or len(found[2]) < stated(found[1]):
            piece = connection.recv(CAP)
            assert piece
            came += piece
        status, *headers = found[1].decode().split("\r\n")
        body = found[2]
        assert len(body) == stated(found[1])
        connection.setblocking(False)
        with pytest.raises(BlockingIOError):
            connection.recv(1)
    return int(status.split()[1]), headers, body


def test_the_table_names_states_that_a_fetch_can_have() -> None:
    assert {state for fault in FAULTS.values() for state in fault.wanted} == set(Status)
    assert all(fault.wanted for fault in FAULTS.values())


def test_a_slow_body_has_its_head_at_once(web: Web) -> None:
    with socket.create_connection(("127.0.0.1", web.port), timeout=5) as connection:
        began = time.monotonic()
        connection.sendall(b"GET /drip-body.jpg HTTP/1.1\r\n\r\n")
        came = connection.recv(4096)
        assert time.monotonic() - began < DRIP_S
        assert b"Content-Length: 10000\r\n" in came and b"\r\n\r\n" in came
        while len(came.partition(b"\r\n\r\n")[2]) < 4:
            came += connection.recv(4096)
        assert 3 * DRIP_S - 0.05 < time.monotonic() - began < 3 * DRIP_S + 0.5
        assert WHOLE.startswith(came.partition(b"\r\n\r\n")[2])


def test_a_slow_head_does_not_end(web: Web) -> None:
    came, end = ask(web, "/drip-headers.jpg")
    assert end == "slow"
    assert re.fullmatch(rb"HTTP/1.1 200 OK\r\nX-Slow: x{2,6}", came)


@pytest.mark.parametrize(
    ("path", "body", "end"),
    [
        ("/hang.jpg", None, "quiet"),
        ("/hang-in-body.jpg", WHOLE[: len(WHOLE) // 2], "quiet"),
        ("/reset.jpg", None, "reset"),
        ("/reset-in-body.jpg", WHOLE[: len(WHOLE) // 2], "reset"),
        ("/cut-short.jpg", WHOLE[: len(WHOLE) // 2], "closed"),
        ("/ten-terabytes.jpg", WHOLE, "quiet"),
        ("/length-too-small.jpg", WHOLE, "quiet"),
    ],
)
def test_answers_that_break_off(web: Web, path: str, body: bytes | None, end: str) -> None:
    came, ended = ask(web, path)
    assert ended == end
    if body is None:
        assert came == b""
        return
    head, _, rest = came.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert rest == body
    lengths = {"/ten-terabytes.jpg": 10**13, "/length-too-small.jpg": len(WHOLE) // 2}
    assert stated(head) == lengths.get(path, len(WHOLE))


def test_garbage_is_no_http(web: Web) -> None:
    came, end = ask(web, "/garbage.jpg")
    assert end == "closed"
    assert len(came) > 1_000 and b"HTTP" not in came and came.endswith(b"\r\n\r\n")


def test_what_never_ends(web: Web) -> None:
    for path in ("/endless-chunks.jpg", "/endless-body.jpg", "/endless-headers.jpg"):
        began = time.monotonic()
        came, end = ask(web, path)
        head, _, body = came.partition(b"\r\n\r\n")
        assert end == "full" and time.monotonic() - began < 1, path
        assert b"Content-Length" not in head
        match path:
            case "/endless-headers.jpg":
                assert not body
            case "/endless-body.jpg":
                assert body.startswith(WHOLE)
            case _:
                assert b"Transfer-Encoding: chunked" in head
                size, _, rest = body.partition(b"\r\n")
                assert rest[: int(size, 16)] == WHOLE
                assert re.match(rb"\r\n10000\r\n\0{65536}\r\n10000\r\n\0", rest[int(size, 16) :])


def test_bombs_are_small_and_valid(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    _, headers, body = read(web, "/packed.jpg")
    assert "Content-Encoding: gzip" in headers
    assert Image.open(io.BytesIO(gzip.decompress(body))).format == "JPEG"
    with urllib.request.urlopen(f"{web.site()}/gzip-bomb.jpg", timeout=5) as answer:
        assert answer.headers["Content-Encoding"] == "gzip"
        bomb = answer.read()
    assert len(bomb) < 250_000
    assert struct.unpack("<I", bomb[-4:])[0] == 200_000_000
    assert gzip.GzipFile(fileobj=io.BytesIO(bomb)).read(1_000) == bytes(1_000)
    with urllib.request.urlopen(f"{web.site()}/vast.png", timeout=5) as answer:
        vast = answer.read()
    assert len(vast) < 50_000
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100_000_000)  # ours is a limit of our own
    with pytest.warns(Image.DecompressionBombWarning), Image.open(io.BytesIO(vast)) as image:
        assert image.size == (16_000, 10_500) and image.width * image.height == 168_000_000
    length, packed = struct.unpack(">I", vast[33:37])[0], vast[41:]
    assert len(zlib.decompress(packed[:length])) == 10_500 * (1 + 16_000 // 8)


REDIRECTS = {
    "/redirect.jpg": "{site}/fine/redirect.jpg",
    "/redirect-relative.jpg": "fine/relative.jpg",
    "/redirect-chinese.jpg": "/fine/图片.jpg",
    "/redirect-other-host.jpg": "{other}/fine/other.jpg",
    "/redirect-disallowed.jpg": "/disallowed/redirected.jpg",
    "/redirect-metadata.jpg": "http://169.254.169.254/latest/meta-data/",
    "/redirect-file.jpg": "file:///etc/hostname",
    "/redirect-ftp.jpg": "ftp://127.0.0.1/picture.jpg",
    "/ring-a.jpg": "/ring-b.jpg",
    "/ring-b.jpg": "/ring-a.jpg",
    "/redirects/20.jpg": "/redirects/19.jpg",
}


def test_redirects_name_their_place() -> None:
    with serve(("127.0.0.1", "127.0.0.2")) as web:
        for path, location in REDIRECTS.items():
            status, headers, _ = read(web, path)
            wanted = location.format(site=web.site(), other=web.site("127.0.0.2"))
            assert (status, headers[-1]) == (302, f"Location: {wanted}")
        status, headers, _ = read(web, "/redirect-nowhere.jpg")
        assert status == 302 and not [header for header in headers if header.startswith("Location")]
        assert f"Location: {web.site()}/fine/other.jpg" in read(web, "/redirect-other-host.jpg", address="127.0.0.2")[1]


def test_twenty_redirects_end_in_a_picture(web: Web) -> None:
    path, hops = "/redirects/20.jpg", 0
    while (answer := read(web, path))[0] == 302:
        path, hops = answer[1][-1].partition(": ")[2], hops + 1
    assert hops == 20
    assert Image.open(io.BytesIO(answer[2])).format == "JPEG"


@pytest.mark.parametrize(
    ("path", "codes"),
    [
        ("/401.jpg", [401, 401]),
        ("/403.jpg", [403, 403]),
        ("/404.jpg", [404, 404]),
        ("/no-such-path", [404, 404]),
        ("/410.jpg", [410, 410]),
        ("/500.jpg", [500, 500, 500, 500]),
        ("/503-twice.jpg", [503, 503, 200, 200]),
        ("/429-seconds.jpg", [429, 200, 200]),
        ("/429-date.jpg", [429, 200, 200]),
    ],
)
def test_codes_in_turn(web: Web, path: str, codes: list[int]) -> None:
    answers = [read(web, path) for _ in codes]
    assert [status for status, _, _ in answers] == codes
    waits = [header.partition(": ")[2] for header in answers[0][1] if header.startswith("Retry-After")]
    if path == "/429-seconds.jpg":
        assert waits == ["1"]
    elif path == "/429-date.jpg":
        assert 0 < parsedate_to_datetime(waits[0]).timestamp() - time.time() < 2
    else:
        assert not waits
    for status, _, body in answers:
        assert (status == 200) == (body == picture(path.removeprefix("/").removesuffix(".jpg")))


def test_each_address_has_its_own_turns() -> None:
    with serve(("127.0.0.1", "127.0.0.2")) as web:
        codes = [read(web, "/503-twice.jpg", address=host)[0] for host in ("127.0.0.1", "127.0.0.2") for _ in "abc"]
    assert codes == [503, 503, 200] * 2


def test_what_is_no_picture(web: Web) -> None:
    starts = {"/html.jpg": b"<!doctype", "/svg.png": b"<svg", "/json.jpg": b"{", "/empty.jpg": b""}
    kinds = {"/html.jpg": "image/jpeg", "/svg.png": "image/png", "/json.jpg": "application/json"}
    for path, start in starts.items():
        status, headers, body = read(web, path)
        assert status == 200 and body.startswith(start)
        assert f"Content-Type: {kinds.get(path, 'image/jpeg')}" in headers
    assert read(web, "/empty.jpg")[2] == b""
    assert ask(web, "/204.jpg") == (b"HTTP/1.1 204 No Content\r\n\r\n", "quiet")
    status, headers, body = read(web, "/206.jpg")
    assert status == 206 and headers[-1] == f"Content-Range: bytes 0-{len(body) - 1}/{len(WHOLE)}"
    assert WHOLE.startswith(body)
    assert Image.open(io.BytesIO(body)).size == (96, 72), "its header gives nothing away"


KINDS = {
    "/animated.gif": ("GIF", "RGB", 2),
    "/cmyk.jpg": ("JPEG", "CMYK", 1),
    "/grey-16-bit.png": ("PNG", "I;16", 1),
    "/picture.webp": ("WEBP", "RGB", 1),
    "/picture.avif": ("AVIF", "RGB", 1),
}
PLAIN = [
    path
    for path, fault in FAULTS.items()
    if "ok" in fault.wanted and not path.startswith(("/redirect", "/429", "/503", "/length", "/packed", "/half-a-file"))
]


@pytest.mark.parametrize("path", PLAIN, ids=lambda path: path[:30])
def test_fine_pictures(web: Web, path: str) -> None:
    status, headers, body = read(web, path)
    image = Image.open(io.BytesIO(body))
    kind, mode, frames = KINDS.get(path, ("JPEG", "RGB", 1))
    assert (status, image.format, len(list(ImageSequence.Iterator(image)))) == (200, kind, frames)
    assert image.mode == mode or kind == "GIF"
    assert f"Content-Type: {Image.MIME[kind]}" in headers
    assert image.getexif().get(ExifTags.Base.Orientation, 1) == (6 if path == "/turned.jpg" else 1)
    assert bool(image.info.get("progressive")) == (path == "/progressive.jpg")
    image.load()


def test_no_two_paths_show_one_picture(web: Web) -> None:
    bodies = [read(web, path)[2] for path in [*PLAIN, "/fine/1.jpg", "/fine/2.jpg", "/disallowed/picture.jpg"]]
    assert len(set(bodies)) == len(bodies)
    assert read(web, "/fine/1.jpg")[2] == bodies[-3]


def test_half_a_file_has_a_whole_header(web: Web) -> None:
    _, _, body = read(web, "/half-a-file.jpg")
    image = Image.open(io.BytesIO(body))
    assert image.size == (96, 72)
    with pytest.raises(OSError, match="truncated"):
        image.load()


def test_headers_that_matter(web: Web) -> None:
    for path, tags in {
        "/tag-noai.jpg": ["noai"],
        "/tag-noindex.jpg": ["noindex"],
        "/tag-otherbot.jpg": ["otherbot: noindex"],
        "/tag-juzhou.jpg": ["juzhou: noimageai"],
        "/tag-twice.jpg": ["otherbot: all", "noai"],
        "/picture.jpg": [],
    }.items():
        assert [line[14:] for line in read(web, path)[1] if line.startswith("X-Robots-Tag: ")] == tags
    assert 'Content-Disposition: attachment; filename="../../etc/passwd"' in read(web, "/named.jpg")[1]
    cookies = [line for line in read(web, "/cookies.jpg")[1] if line.startswith("Set-Cookie: ")]
    assert len(cookies) == 60 and sum(map(len, cookies)) > 200_000


def test_paths_are_what_they_mean_and_the_log_keeps_how_they_came(web: Web) -> None:
    with socket.create_connection(("127.0.0.1", web.port), timeout=5) as connection:
        for target in ("/图片/苹果.jpg", quote("/图片/苹果.jpg"), LONG):
            connection.sendall(f"GET {target} HTTP/1.1\r\n\r\n".encode())
            assert connection.recv(65_536).startswith(b"HTTP/1.1 200 OK\r\n"), target
        connection.sendall(f"GET {quote(quote('/图片/苹果.jpg'))} HTTP/1.1\r\n\r\n".encode())
        assert connection.recv(65_536).startswith(b"HTTP/1.1 404 "), "escaped twice"
        connection.sendall(b"GET /a picture.jpg HTTP/1.1\r\n\r\n")
        assert connection.recv(65_536).startswith(b"HTTP/1.1 400 ")
    assert asked(web.log, "/图片/苹果.jpg") == 2
    assert [request.path for request in web.log.requests[:2]] == ["/图片/苹果.jpg", quote("/图片/苹果.jpg")]
    assert read(web, "/%CD%BC%C6%AC.jpg")[0] == 200
    assert unquote_to_bytes("/%CD%BC%C6%AC.jpg").decode("gbk") == "/图片.jpg"
    assert len(LONG) > 8_000


def test_robots_of_each_address() -> None:
    with serve(("127.0.0.1", "127.0.0.2")) as web:
        web.robots["127.0.0.2"] = ROBOTS["503"]
        assert read(web, "/robots.txt")[2].decode() == RULES
        assert read(web, "/robots.txt", address="127.0.0.2")[0] == 503
        for code in (403, 404, 429, 500):
            web.robots["127.0.0.1"] = ROBOTS[str(code)]
            assert read(web, "/robots.txt")[0] == code
        web.robots["127.0.0.1"] = ROBOTS["hang"]
        assert ask(web, "/robots.txt") == (b"", "quiet")
        web.robots["127.0.0.1"] = ROBOTS["redirect"]
        assert "Location: /robots-real.txt" in read(web, "/robots.txt")[1]
        assert read(web, "/robots-real.txt")[2].decode() == RULES
        web.robots["127.0.0.1"] = ROBOTS["long"]
        body = read(web, "/robots.txt")[2]
        assert len(body) >= 600_000 and body.startswith(RULES.encode())
        assert 480 * 1024 < body.index(b"Disallow: /late/") < 500 * 1024
        web.robots["127.0.0.1"] = ROBOTS["crawl-delay"]
        assert read(web, "/robots.txt")[2].decode() == f"{RULES}Crawl-delay: 1\n"
        assert read(web, "/late/1.jpg")[0] == 200


def test_pages_and_their_charsets(web: Web) -> None:
    charsets = {"/page-gb18030.html": "gb18030", "/page-gbk-meta.html": "gbk", "/page-big5.html": "big5"}
    for path, page in PAGES.items():
        status, headers, body = read(web, path)
        charset = charsets.get(path, "utf-8")
        html = body.decode(charset)
        assert status == 200 and f'<img src="{page.picture}" alt="{page.caption}">' in html
        in_header = f"Content-Type: text/html; charset={charset}" in headers
        assert in_header == (path in ("/page-gb18030.html", "/page-noai.html"))
        assert in_header or f"charset={charset}" in html.replace('"', "")
        assert charset == "utf-8" or page.caption.encode("utf-8") not in body
        assert read(web, page.picture)[0] == 200
    assert '<meta name="robots" content="noai">' in read(web, "/page-noai.html")[2].decode()
    sitemap = read(web, "/sitemap.xml")[2].decode()
    assert re.findall("<loc>([^<]+)", sitemap) == [web.site() + path for path in PAGES]
    assert re.findall("<image:loc>([^<]+)", sitemap) == [f"{web.site()}/fine/sitemap.jpg"]


def test_the_log_of_connections(web: Web) -> None:
    first, second = (socket.create_connection(("127.0.0.1", web.port), timeout=5) for _ in "ab")
    first.sendall(b"GET /fine/1.jpg HTTP/1.1\r\nUser-Agent: Bare/1\r\nHost: a.example\r\n\r\n")
    first.recv(65_536)
    second.sendall(b"GET /drip-body.jpg HTTP/1.1\r\n\r\n")
    second.recv(65_536)
    ports = [first.getsockname()[1], second.getsockname()[1]]
    assert [(one.host, one.port, one.closed) for one in web.log.connections] == [
        ("127.0.0.1", port, inf) for port in ports
    ]
    assert most_at_once(web.log) == 2
    left = time.monotonic()
    second.close()
    first.close()
    read(web, "/fine/2.jpg")
    assert most_at_once(web.log) == 2, "what a peer has closed is closed, whatever the answer was at"
    assert all(left <= one.closed < left + 0.1 for one in web.log.connections[:2])
    requests = web.log.requests
    assert [(one.method, one.path, one.agent, one.port) for one in requests[:2]] == [
        ("GET", "/fine/1.jpg", "Bare/1", ports[0]),
        ("GET", "/drip-body.jpg", None, ports[1]),
    ]
    assert requests[0].headers["host"] == "a.example"
    assert sorted(one.at for one in requests) == [one.at for one in requests]


def test_counts_of_the_log() -> None:
    log = Log()
    assert (most_in_a_second(log), most_at_once(log), asked(log, "/")) == (0, 0, 0)
    for host, times in {"a": (0.0, 0.9, 1.0, 1.8, 1.89), "b": (0.95, 1.05)}.items():
        log.requests.extend(Request(at, host, "GET", "/", {}, 1) for at in times)
    assert most_in_a_second(log) == 4
    assert asked(log, "/") == 7
    log.connections.extend(Connection("a", 1, *span) for span in ((0.0, 2.0), (1.0, 3.0), (2.0, 4.0), (3.0, inf)))
    log.connections.extend(Connection("b", 1, *span) for span in ((0.0, 9.0), (1.0, 8.0), (5.0, 7.0)))
    assert most_at_once(log) == 3
    log.connections[-1].host = "c"
    assert most_at_once(log) == 2


def test_other_methods_and_other_protocols(web: Web) -> None:
    for request, code in {
        b"HEAD /picture.jpg HTTP/1.1\r\n\r\n": b"405",
        b"GET picture.jpg HTTP/1.1\r\n\r\n": b"400",
        b"\x16\x03\x01\x02\xff\r\n\r\n": b"400",
    }.items():
        with socket.create_connection(("127.0.0.1", web.port), timeout=5) as connection:
            connection.sendall(request)
            assert connection.recv(4096).startswith(b"HTTP/1.1 " + code)
            assert connection.recv(4096) == b""


def test_all_faults_at_once_and_the_server_goes_on() -> None:
    threads = threading.active_count()
    with serve(("127.0.0.1", "127.0.0.2")) as web:
        with ThreadPoolExecutor(32) as pool:
            ends = dict(zip(FAULTS, pool.map(lambda path: ask(web, path)[1], FAULTS), strict=True))
        assert {path: end for path, end in ends.items() if end != "quiet"} == {
            "/drip-body.jpg": "slow",
            "/drip-headers.jpg": "slow",
            "/reset.jpg": "reset",
            "/reset-in-body.jpg": "reset",
            "/cut-short.jpg": "closed",
            "/garbage.jpg": "closed",
            "/endless-chunks.jpg": "full",
            "/endless-body.jpg": "full",
            "/endless-headers.jpg": "full",
        }
        assert all(asked(web.log, path) == 1 for path in FAULTS)
        # The server learns of an end a little after the client has begun the next.
        assert 16 < most_at_once(web.log) <= 40
        assert read(web, "/picture.jpg", address="127.0.0.2")[0] == 200
        left = time.monotonic() + 2
        while any(one.closed == inf for one in web.log.connections) and time.monotonic() < left:
            time.sleep(0.01)
        assert all(one.closed < inf for one in web.log.connections)
    assert threading.active_count() == threads


def test_the_end_of_the_context_is_the_end_of_all(caplog: pytest.LogCaptureFixture) -> None:
    threads = threading.active_count()
    with serve(("127.0.0.1", "127.0.0.2")) as web:
        peers = [socket.create_connection(("127.0.0.1", web.port), timeout=5) for _ in range(40)]
        paths = ["/hang.jpg", "/drip-body.jpg", "/endless-body.jpg", "/vast.png"] * 9
        for peer, path in zip(peers[: len(paths)], paths, strict=True):
            peer.sendall(f"GET {path} HTTP/1.1\r\n\r\n".encode())
        while len(web.log.requests) < 36:
            time.sleep(0.01)
        leaving = time.monotonic()
    assert time.monotonic() - leaving < 1
    assert not caplog.records, "and a quiet one"
    assert threading.active_count() == threads
    for address in ("127.0.0.1", "127.0.0.2"):
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((address, web.port), timeout=5)
    for peer in peers:
        with peer, suppress(ConnectionResetError):
            while peer.recv(1 << 20):
                pass
    assert all(one.closed < inf for one in web.log.connections)


def test_what_the_server_gets_wrong_is_raised() -> None:
    async def wrong(to: object) -> None:
        raise ZeroDivisionError

    with pytest.raises(ExceptionGroup, match="the server of faults failed") as caught, serve() as web:
        web.robots["127.0.0.1"] = wrong
        assert ask(web, "/robots.txt") == (b"", "closed")
        assert read(web, "/picture.jpg")[0] == 200
    assert isinstance(caught.value.exceptions[0], ZeroDivisionError)


def test_made_up_names(web: Web) -> None:
    real = socket.getaddrinfo
    names: dict[str, str | tuple[str, ...]] = {
        "a.example": "127.0.0.1",
        "two.example": "192.0.2.1 127.0.0.1",
        "rebind.example": ("192.0.2.1", "127.0.0.1"),
    }
    with dns_answers(names) as seen:
        with urllib.request.urlopen(f"http://a.example:{web.port}/fine/1.jpg", timeout=5) as answer:
            assert answer.status == 200
        assert web.log.requests[-1].headers["host"] == f"a.example:{web.port}"

        def addresses(name: str) -> list[str]:
            found = socket.getaddrinfo(name, 80, type=socket.SOCK_STREAM)
            return [str(place[0]) for *_, place in found]

        assert [addresses("rebind.example") for _ in range(3)] == [["192.0.2.1"], ["127.0.0.1"], ["127.0.0.1"]]
        assert addresses("two.example") == ["192.0.2.1", "127.0.0.1"]
        assert addresses("127.0.0.1") == ["127.0.0.1"] and "127.0.0.1" in addresses("localhost")
        with pytest.raises(socket.gaierror):
            addresses("elsewhere.example")
        assert seen.count("rebind.example") == 3
    assert socket.getaddrinfo is real
