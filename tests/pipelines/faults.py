"""A web of faults on loopback, so that whatever asks the web can be hurt on purpose: each path does one thing wrong.

    with serve(("127.0.0.1", "127.0.0.2")) as web:
        web.robots["127.0.0.2"] = ROBOTS["503"]
        ...  # ask for web.site() + path, for each path of FAULTS
    assert most_at_once(web.log) <= 2

Paths below /fine/ answer with a picture of their own each, as many as one likes.
"""

import asyncio
import io
import random
import socket
import struct
import threading
import time
import zlib
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.utils import formatdate
from functools import cache, partial
from http import HTTPStatus
from itertools import accumulate
from math import inf
from typing import Any
from unittest import mock
from urllib.parse import unquote_to_bytes

from PIL import ExifTags, Image, ImageDraw

DRIP_S = 0.2
"""Between two bytes of a slow answer."""
RULES = "User-agent: *\nDisallow: /disallowed/\n"
"""The robots.txt of an address that was given no other."""


@dataclass(frozen=True)
class Request:
    """What was asked: `at` in monotonic seconds, the address that was called, the path as sent, the peer's port."""

    at: float
    host: str
    method: str
    path: str
    headers: Mapping[str, str]
    port: int

    @property
    def agent(self) -> str | None:
        return self.headers.get("user-agent")


@dataclass
class Connection:
    """From when until when a peer was connected to an address, in monotonic seconds."""

    host: str
    port: int
    opened: float
    closed: float = inf


@dataclass(frozen=True)
class Log:
    """All that came, in order of arrival; it only grows."""

    requests: list[Request] = field(default_factory=list)
    connections: list[Connection] = field(default_factory=list)


def most_in_a_second(log: Log) -> int:
    """The most requests that one address got within any second. Arrivals jitter by milliseconds: allow one more."""
    times = defaultdict(list)
    for request in log.requests:
        times[request.host].append(request.at)
    return max((bisect_left(each, at + 1) - n for each in times.values() for n, at in enumerate(each)), default=0)


def most_at_once(log: Log) -> int:
    """The most connections that one address had open at any time."""
    steps: dict[str, list[tuple[float, int]]] = defaultdict(list)
    for one in log.connections:
        steps[one.host] += [(one.opened, 1), (one.closed, -1)]
    return max((most for each in steps.values() for most in accumulate(step for _, step in sorted(each))), default=0)


def asked(log: Log, path: str) -> int:
    """How often a path was asked, however it was escaped, all addresses together."""
    return sum(_plain(request.path) == _plain(path) for request in log.requests)


@dataclass(frozen=True)
class Exchange:
    """A request that wants its answer: `turn` counts the requests for this path of this address, from 1; `other` is
    the next address's site."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    turn: int
    site: str
    other: str

    async def send(self, content: bytes) -> None:
        """Hand all of it to the kernel, and let the others have their turn."""
        self.writer.write(content)
        await self.writer.drain()
        await asyncio.sleep(0)


Answer = Callable[[Exchange], Awaitable[None]]
"""Sends something; the connection stays open for the next request unless the answer ends it."""


async def hang(to: Exchange) -> None:
    """Say nothing until the other side leaves."""
    await to.reader.read()


async def close(to: Exchange) -> None:
    to.writer.close()


async def reset(to: Exchange) -> None:
    """RST in place of FIN, once the other side had time to read what was sent."""
    await asyncio.sleep(0.05)
    to.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    to.writer.transport.abort()


def drip(content: bytes) -> Answer:
    async def answer(to: Exchange) -> None:
        for byte in content:
            await to.send(bytes([byte]))
            await asyncio.sleep(DRIP_S)

    return answer


def endless(piece: bytes) -> Answer:
    """A piece again and again, as fast as it is taken."""

    async def answer(to: Exchange) -> None:
        while True:
            await to.send(piece)

    return answer


def head(status: int, *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}", *headers, "", ""]
    return "\r\n".join(lines).encode()


def sends(content: bytes, then: Answer | None = None) -> Answer:
    async def answer(to: Exchange) -> None:
        await to.send(content)
        if then:
            await then(to)

    return answer


def reply(status: int, body: bytes = b"", *headers: str) -> Answer:
    """An answer as it should be, of its true length."""
    return sends(head(status, f"Content-Length: {len(body)}", *headers) + body)


def shown(name: str, *headers: str, kind: str = "jpeg", **options: Any) -> Answer:
    return reply(200, picture(name, kind, **options), f"Content-Type: image/{kind}", *headers)


def heavy(make: Callable[[], bytes], *headers: str) -> Answer:
    """A body that takes long to make: made when it is asked for, beside the server's own thread."""

    async def answer(to: Exchange) -> None:
        await reply(200, await asyncio.to_thread(make), *headers)(to)

    return answer


def redirect(location: str) -> Answer:
    """`{site}` and `{other}` stand for this address's site and the next one's."""

    async def answer(to: Exchange) -> None:
        await reply(302, b"", f"Location: {location.format(site=to.site, other=to.other)}")(to)

    return answer


def in_turn(*answers: Answer) -> Answer:
    """The first request gets the first answer, and so on; the last one stays."""

    async def answer(to: Exchange) -> None:
        await answers[min(to.turn, len(answers)) - 1](to)

    return answer


async def busy_until(to: Exchange) -> None:
    """429 with a date one to two seconds ahead: it has whole seconds."""
    await reply(429, b"", f"Retry-After: {formatdate(time.time() + 2, usegmt=True)}")(to)


def picture(name: str, kind: str = "jpeg", mode: str = "RGB", **options: Any) -> bytes:
    """A small picture file that no other name has; `options` are those of Pillow's `save`."""
    chance = random.Random(name)
    image = Image.new("RGB", (96, 72), tuple(chance.randbytes(3)))
    pen = ImageDraw.Draw(image)
    for _ in range(6):
        x, y = chance.randrange(80), chance.randrange(60)
        pen.ellipse((x, y, x + 30, y + 20), fill=tuple(chance.randbytes(3)))
    sink = io.BytesIO()
    # Pillow makes 16 bits from grey only.
    (image.convert("L") if mode.startswith("I") else image).convert(mode).save(sink, kind, **options)
    return sink.getvalue()


def turned() -> Image.Exif:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    return exif


def _zeros(size: int, wbits: int) -> bytes:
    """So many zero bytes, packed a thousandfold: gzip for 31 window bits, zlib for 15."""
    packer = zlib.compressobj(9, wbits=wbits)
    whole, rest = divmod(size, 1 << 20)
    pieces = [packer.compress(bytes(length)) for length in [1 << 20] * whole + [rest]]
    return b"".join(pieces) + packer.flush()


@cache
def gzip_bomb() -> bytes:
    """200 MB in 200 KB."""
    return _zeros(200_000_000, 31)


@cache
def vast_png() -> bytes:
    """168 megapixels in 20 KB: 16,000 × 10,500 of black, a bit each."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", 16_000, 10_500, 1, 0, 0, 0, 0)
    rows = _zeros((1 + 16_000 // 8) * 10_500, 15)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


@dataclass(frozen=True)
class Fault:
    """What a path does, and the states in which the last attempt at it may end where five are made."""

    answer: Answer
    wanted: tuple[str, ...]


JPEG = "Content-Type: image/jpeg"
WHOLE = picture("whole")
HALF = head(200, f"Content-Length: {len(WHOLE)}", JPEG) + WHOLE[: len(WHOLE) // 2]
PADDED = WHOLE.ljust(10_000, b"\0")
HTML = b"<!doctype html><html><body><p>not a picture</p></body></html>"
SVG = b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><rect width="9" height="9"/></svg>'
PACKED = zlib.compress(picture("packed"), wbits=31)
COOKIES = [f"Set-Cookie: c{number}={'x' * 4_000}" for number in range(60)]
LONG = f"/{'long-' * 1_600}.jpg"

_BY_END: dict[tuple[str, ...], dict[str, Answer]] = {
    ("ok",): {
        "/picture.jpg": shown("picture"),
        "/packed.jpg": reply(200, PACKED, JPEG, "Content-Encoding: gzip"),
        "/redirect.jpg": redirect("{site}/fine/redirect.jpg"),
        "/redirect-relative.jpg": redirect("fine/relative.jpg"),
        "/redirect-chinese.jpg": redirect("/fine/图片.jpg"),
        "/redirect-other-host.jpg": redirect("{other}/fine/other.jpg"),
        "/429-seconds.jpg": in_turn(reply(429, b"", "Retry-After: 1"), shown("429-seconds")),
        "/429-date.jpg": in_turn(busy_until, shown("429-date")),
        "/503-twice.jpg": in_turn(reply(503), reply(503), shown("503-twice")),
        "/animated.gif": shown("animated", kind="gif", save_all=True, append_images=[Image.new("RGB", (96, 72))]),
        "/cmyk.jpg": shown("cmyk", mode="CMYK"),
        "/grey-16-bit.png": shown("grey", kind="png", mode="I;16"),
        "/turned.jpg": shown("turned", exif=turned()),
        "/picture.webp": shown("webp", kind="webp"),
        "/picture.avif": shown("avif", kind="avif"),
        "/progressive.jpg": shown("progressive", progressive=True),
        "/half-a-file.jpg": reply(200, picture("half")[:-300], JPEG),
        "/tag-otherbot.jpg": shown("otherbot", "X-Robots-Tag: otherbot: noindex"),
        "/图片/苹果.jpg": shown("raw"),
        "/%E5%9B%BE%E7%89%87/%E6%A2%A8.jpg": shown("escaped"),
        "/%CD%BC%C6%AC.jpg": shown("escaped GBK"),
        "/a picture.jpg": shown("space"),
        LONG: shown("long"),
        "/named.jpg": shown("named", 'Content-Disposition: attachment; filename="../../etc/passwd"'),
        "/cookies.jpg": shown("cookies", *COOKIES),
    },
    ("transient",): {
        "/drip-body.jpg": sends(head(200, f"Content-Length: {len(PADDED)}", JPEG), then=drip(PADDED)),
        "/drip-headers.jpg": sends(b"HTTP/1.1 200 OK\r\nX-Slow: ", then=drip(b"x" * 10_000)),
        "/hang.jpg": hang,
        "/hang-in-body.jpg": sends(HALF, then=hang),
        "/reset.jpg": reset,
        "/reset-in-body.jpg": sends(HALF, then=reset),
        "/cut-short.jpg": sends(HALF, then=close),
        "/500.jpg": reply(500),
    },
    ("permanent",): {
        "/endless-chunks.jpg": sends(
            head(200, "Transfer-Encoding: chunked", JPEG) + b"%x\r\n%b\r\n" % (len(WHOLE), WHOLE),
            then=endless(b"10000\r\n" + bytes(65_536) + b"\r\n"),
        ),
        "/endless-body.jpg": sends(head(200, JPEG, "Connection: close") + WHOLE, then=endless(bytes(65_536))),
        "/ten-terabytes.jpg": sends(head(200, f"Content-Length: {10**13}", JPEG) + WHOLE, then=hang),
        "/gzip-bomb.jpg": heavy(gzip_bomb, JPEG, "Content-Encoding: gzip"),
        "/vast.png": heavy(vast_png, "Content-Type: image/png"),
        "/ring-a.jpg": redirect("/ring-b.jpg"),
        "/ring-b.jpg": redirect("/ring-a.jpg"),
        "/redirects/20.jpg": redirect("/redirects/19.jpg"),
        "/redirect-nowhere.jpg": reply(302),
        "/401.jpg": reply(401, b"", 'WWW-Authenticate: Basic realm="members"'),
        "/403.jpg": reply(403),
        "/404.jpg": reply(404),
        "/410.jpg": reply(410),
        "/html.jpg": reply(200, HTML, JPEG),
        "/svg.png": reply(200, SVG, "Content-Type: image/png"),
        "/json.jpg": reply(200, b'{"error": "no such picture"}', "Content-Type: application/json"),
        "/empty.jpg": reply(200, b"", JPEG),
        "/204.jpg": sends(head(204)),
    },
    ("disallowed",): {
        "/disallowed/picture.jpg": shown("disallowed"),
        "/redirect-disallowed.jpg": redirect("/disallowed/redirected.jpg"),
        "/redirect-metadata.jpg": redirect("http://169.254.169.254/latest/meta-data/"),
        "/tag-noai.jpg": shown("noai", "X-Robots-Tag: noai"),
        "/tag-noindex.jpg": shown("noindex", "X-Robots-Tag: noindex"),
        "/tag-juzhou.jpg": shown("juzhou", "X-Robots-Tag: juzhou: noimageai"),
        "/tag-twice.jpg": shown("twice", "X-Robots-Tag: otherbot: all", "X-Robots-Tag: noai"),
    },
    ("permanent", "disallowed"): {
        "/redirect-file.jpg": redirect("file:///etc/hostname"),
        "/redirect-ftp.jpg": redirect("ftp://127.0.0.1/picture.jpg"),
    },
    ("transient", "permanent"): {
        "/garbage.jpg": sends(random.Random("garbage").randbytes(2_000) + b"\r\n\r\n", then=close),
        "/endless-headers.jpg": sends(b"HTTP/1.1 200 OK\r\n", then=endless(f"X-More: {'x' * 1_000}\r\n".encode())),
        "/206.jpg": reply(206, WHOLE[:700], JPEG, f"Content-Range: bytes 0-699/{len(WHOLE)}"),
    },
    ("ok", "transient"): {
        "/length-too-small.jpg": sends(head(200, f"Content-Length: {len(WHOLE) // 2}", JPEG) + WHOLE),
    },
}
FAULTS = {path: Fault(answer, wanted) for wanted, answers in _BY_END.items() for path, answer in answers.items()}

ROBOTS: dict[str, Answer] = {
    "rules": reply(200, RULES.encode(), "Content-Type: text/plain"),
    **{str(code): reply(code) for code in (403, 404, 429, 500, 503)},
    "hang": hang,
    "redirect": redirect("/robots-real.txt"),
    # 490 KiB, the rule against /late/ and more filling: RFC 9309 wants 500 KiB read at least.
    "long": reply(200, (RULES + "#" * 501_760 + "\nDisallow: /late/\n" + "#" * 100_000).encode()),
    "crawl-delay": reply(200, f"{RULES}Crawl-delay: 1\n".encode()),
}
"""What an address may answer for its robots.txt."""


@dataclass(frozen=True)
class Page:
    """An HTML page that shows one picture with one caption."""

    answer: Answer
    picture: str
    caption: str


def page(name: str, caption: str, charset: str, meta: str = "", stated: bool = False) -> Page:
    """`stated`: the HTTP header names the charset."""
    shows = f"/fine/{name}.jpg"
    html = f'<!doctype html>\n<html><head>{meta}</head>\n<body><img src="{shows}" alt="{caption}"></body></html>\n'
    kind = f"Content-Type: text/html{f'; charset={charset}' if stated else ''}"
    return Page(reply(200, html.encode(charset), kind), shows, caption)


GBK_META = '<meta http-equiv="Content-Type" content="text/html; charset=gbk">'
PAGES = {
    "/page-gb18030.html": page("gb18030", "𠮷祥的红苹果", "gb18030", stated=True),
    "/page-gbk-meta.html": page("gbk", "一朵蓝花", "gbk", GBK_META),
    "/page-big5.html": page("big5", "一隻貓與蘋果", "big5", '<meta charset="big5">'),
    "/page-noai.html": page("noai", "不许拿去的画", "utf-8", '<meta name="robots" content="noai">', stated=True),
}


async def sitemap(to: Exchange) -> None:
    """The pages, and with the last of them a picture that no page shows."""
    urls = [f"<loc>{to.site}{path}</loc>" for path in PAGES]
    urls[-1] += f"<image:image><image:loc>{to.site}/fine/sitemap.jpg</image:loc></image:image>"
    images = 'xmlns:image="http://www.google.com/schemas/sitemap-image/1.1"'
    entries = "".join(f"<url>{url}</url>\n" for url in urls)
    xml = f'<urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9" {images}>\n{entries}</urlset>\n'
    await reply(200, xml.encode(), "Content-Type: application/xml")(to)


def _plain(path: str) -> bytes:
    """A path without its escapes, in bytes: what it means, however it was written."""
    return unquote_to_bytes(path.encode("utf-8", "surrogateescape"))


_ROUTES = {
    _plain(path): answer
    for path, answer in (
        *((path, fault.answer) for path, fault in FAULTS.items()),
        *((path, page.answer) for path, page in PAGES.items()),
        *((f"/redirects/{left}.jpg", redirect(f"/redirects/{left - 1}.jpg")) for left in range(1, 20)),
        ("/redirects/0.jpg", shown("redirects")),
        ("/robots-real.txt", ROBOTS["rules"]),
        ("/sitemap.xml", sitemap),
    )
}


class Web:
    """The server while it runs. `robots` may be changed at any time; `errors` are the server's own, not its faults."""

    def __init__(self, addresses: tuple[str, ...]) -> None:
        self._listeners = {addresses[0]: socket.create_server((addresses[0], 0), backlog=128)}
        self.port: int = self._listeners[addresses[0]].getsockname()[1]
        for address in addresses[1:]:
            self._listeners[address] = socket.create_server((address, self.port), backlog=128)
        self.log = Log()
        self.robots = dict.fromkeys(self._listeners, ROBOTS["rules"])
        self.errors: list[Exception] = []
        self._turns: Counter[tuple[str, bytes]] = Counter()

    def site(self, address: str = "127.0.0.1") -> str:
        return f"http://{address}:{self.port}"

    async def run(self, stop: Future[None]) -> None:
        """Until `stop` is done; `asyncio.run` then cancels what still answers."""
        loop = asyncio.get_running_loop()
        protocol = partial(_Watched, self._converse, self.log.connections)
        servers = [await loop.create_server(protocol, sock=listener) for listener in self._listeners.values()]
        await asyncio.wrap_future(stop)
        for server in servers:
            server.close()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.transport.set_write_buffer_limits(0)
        try:
            while not writer.is_closing():
                await self._answer(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # the other side has left, or the server ends
        except Exception as error:
            self.errors.append(error)
        finally:
            writer.transport.abort()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host, port = writer.get_extra_info("sockname")[0], writer.get_extra_info("peername")[1]
        line, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("utf-8", "surrogateescape").split("\r\n")
        method, _, rest = line.partition(" ")
        path = rest.rpartition(" ")[0]
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[:-2])}
        self.log.requests.append(Request(time.monotonic(), host, method, path, headers, port))
        self._turns[host, _plain(path)] += 1
        addresses = list(self._listeners)
        other = addresses[(addresses.index(host) + 1) % len(addresses)]
        exchange = Exchange(reader, writer, self._turns[host, _plain(path)], self.site(host), self.site(other))
        if not path.startswith("/") or " " in path:
            await sends(head(400, "Connection: close"), then=close)(exchange)
        elif method != "GET":
            await sends(head(405, "Connection: close"), then=close)(exchange)
        else:
            await self._route(host, path)(exchange)

    def _route(self, host: str, path: str) -> Answer:
        plain = _plain(path)
        if plain == b"/robots.txt":
            return self.robots[host]
        if plain not in _ROUTES and plain.startswith((b"/fine/", b"/disallowed/", b"/late/")):
            return shown(path)
        return _ROUTES.get(plain, reply(404))


class _Watched(asyncio.StreamReaderProtocol):
    """Notes when a connection opens, and when either side closes it, whatever the answer is at."""

    def __init__(self, converse: Any, connections: list[Connection]) -> None:
        super().__init__(asyncio.StreamReader(), converse)
        self._connections = connections

    def connection_made(self, transport: Any) -> None:
        peer = transport.get_extra_info("peername") or ("", 0)
        self._connection = Connection(transport.get_extra_info("sockname")[0], peer[1], time.monotonic())
        self._connections.append(self._connection)
        super().connection_made(transport)

    def eof_received(self) -> bool | None:
        self._close()
        return super().eof_received()

    def connection_lost(self, error: Exception | None) -> None:
        self._close()
        super().connection_lost(error)

    def _close(self) -> None:
        self._connection.closed = min(self._connection.closed, time.monotonic())


@contextmanager
def serve(addresses: tuple[str, ...] = ("127.0.0.1",)) -> Iterator[Web]:
    """Serve on one free port of these loopback addresses from a thread; all of it ends with the context.

    Raises:
        ExceptionGroup: the server itself failed at something.
    """
    web = Web(addresses)
    stop: Future[None] = Future()
    thread = threading.Thread(target=lambda: asyncio.run(web.run(stop)), name="faults")
    thread.start()
    try:
        yield web
    finally:
        stop.set_result(None)
        thread.join()
    if web.errors:
        raise ExceptionGroup("the server of faults failed", web.errors)


@contextmanager
def dns_answers(names: Mapping[str, str | tuple[str, ...]]) -> Iterator[list[str]]:
    """Let `socket.getaddrinfo` of this process know made-up names, and no others; gives the names as they are asked.

    An answer is addresses with spaces between: `{"a.example": "127.0.0.1"}`. Several are given one after the other,
    and the last one stays: `{"rebind.example": ("192.0.2.1", "127.0.0.1")}`. Addresses and localhost work as ever.
    """
    real = socket.getaddrinfo
    seen: list[str] = []

    def answer(host: Any, port: Any, family: int = 0, type: int = 0, proto: int = 0, flags: int = 0) -> list[Any]:
        seen.append(host)
        if host not in names:
            return real(host, port, family, type, proto, flags | (host != "localhost") * socket.AI_NUMERICHOST)
        given = names[host]
        answers = (given,) if isinstance(given, str) else given
        addresses = answers[min(seen.count(host), len(answers)) - 1].split()
        return [found for address in addresses for found in real(address, port, family, type, proto, flags)]

    with mock.patch.object(socket, "getaddrinfo", answer):
        yield seen
