"""A small web on 127.0.0.1 with the dirt of the large one: a crawl can be run, timed and judged without a network.

Page i and its pictures depend on i and on the material alone: a web of 2,450 pages holds one of 2,400 unchanged.
"""

import datetime
import os
import pickle
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache, cached_property
from html import escape
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pipelines.dirt import (
    BLOCK,
    CAPTION_DIRT,
    DAMAGE,
    EXTRAS,
    banner,
    chance,
    draw,
    pick,
    published,
    published_suffix,
    spoiled_picture,
    spoiled_words,
    tracker,
    words,
)
from pipelines.material import Pair
from schemas.errors import JuZhouError

PAGES_A_LIST = 50
SITE = "拾图百科"
CONTENT_TYPES = {".webp": "image/webp", ".png": "image/png", ".jpg": "image/jpeg", ".gif": "image/gif"}
ROBOTS = "User-agent: *\nDisallow: /private/\n"


@dataclass(frozen=True)
class Truth:
    """A picture on a page, and what it is. `kind` is `clean` or a key of CAPTION_DIRT, DAMAGE or EXTRAS; `pair` and
    `true_caption` say what the picture shows, and are None where it shows nothing of the material."""

    page: str
    picture: str
    caption: str
    kind: str
    pair: int | None
    true_caption: str | None


@dataclass(frozen=True)
class Response:
    """What the server answers."""

    status: int
    content_type: str
    body: bytes


@dataclass(frozen=True)
class MiniWeb:
    """The web as a pure description: pages 1 to `pages`, one pair a page; more pages than pairs show pairs again."""

    pairs: Sequence[Pair]
    pages: int

    def truth(self) -> list[Truth]:
        """Every picture on every ordinary page, in order; the pages under /private/ repeat some of them."""
        return [picture for page in range(1, self.pages + 1) for picture in self._pictures(page)]

    def get(self, path: str, site: str = "http://127.0.0.1") -> Response:
        """The answer to a GET of a path; `site` is how the asker called this server (a sitemap holds whole URLs)."""
        if path in self._truth_by_picture:
            return self._picture(self._truth_by_picture[path])
        if path == "/robots.txt":
            return Response(200, "text/plain; charset=utf-8", f"{ROBOTS}Sitemap: {site}/sitemap.xml\n".encode())
        if path == "/sitemap.xml":
            return Response(200, "application/xml; charset=utf-8", self._sitemap(site).encode())
        return self._document(path) or _html("404", "<main><p>页面不存在</p></main>", 404)

    @contextmanager
    def serve(self, port: int = 0, log: Path | None = None) -> Iterator[str]:
        """Serve from a process of its own, and give the address; port 0 takes a free one.

        The server ends with the context, or with this process however that ends. Each request is appended to `log` as
        `GET 200 /path`, before it is answered.

        Raises:
            JuZhouError: the port or the log cannot be had.
        """
        try:
            listener = socket.create_server(("127.0.0.1", port), backlog=128)
        except (OSError, OverflowError) as error:
            raise JuZhouError(f"port {port} of 127.0.0.1 cannot be used ({error}); choose another port") from error
        address = f"http://127.0.0.1:{listener.getsockname()[1]}"
        with listener:
            server = self._start(listener, log)
        with server:  # leaving it closes the pipe, which ends the server, and waits
            yield address

    def _start(self, listener: socket.socket, log: Path | None) -> "subprocess.Popen[bytes]":
        """A process that serves what it reads from a pipe, until that closes: no pipe outlives its writer."""
        try:
            requests = (log or Path(os.devnull)).open("ab")
        except OSError as error:
            raise JuZhouError(f"{log}: the request log cannot be written ({error.strerror}); check the path") from error
        with requests:
            server = subprocess.Popen(
                [sys.executable, "-c", f"from pipelines.miniweb import _serve; _serve({listener.fileno()})"],
                stdin=subprocess.PIPE,
                stdout=requests,
                pass_fds=[listener.fileno()],
                env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
                start_new_session=True,
            )
        assert server.stdin
        pickle.dump(self, server.stdin)
        server.stdin.flush()
        return server

    @cached_property
    def _order(self) -> list[int]:
        """The pairs in the order of the pages: shuffled, so that neighbours have nothing in common."""
        names = [f"{pair.source} {pair.caption} {pair.picture.name}" for pair in self.pairs]
        return sorted(range(len(names)), key=lambda index: chance("order", names[index]))

    @cached_property
    def _truth_by_picture(self) -> dict[str, Truth]:
        return {picture.picture: picture for picture in self.truth()}

    @property
    def _lists(self) -> int:
        return -(-self.pages // PAGES_A_LIST)

    def _pair(self, page: int) -> Pair:
        return self.pairs[self._order[(page - 1) % len(self.pairs)]]

    def _pictures(self, page: int) -> list[Truth]:
        """The page's own picture, and a second one on some pages."""
        kind = _kind(page)
        shown_before = range(page - len(self.pairs), 0, -len(self.pairs))
        if kind in CAPTION_DIRT or kind in DAMAGE:
            own = kind
        else:
            own = "copy" if any(_kind(earlier) not in DAMAGE for earlier in shown_before) else "clean"
        pictures = [self._truth(page, own, page)]
        if kind in EXTRAS:
            pictures.append(self._truth(page, kind, page if kind == "private" else self._earlier(page)))
        return pictures

    def _truth(self, page: int, kind: str, shown: int) -> Truth:
        """A picture on `page` with the pair of the page `shown`."""
        seed = f"{page} {kind} {shown}"
        pair = self._pair(shown)
        suffix = {"tracker": ".gif", "banner": ".png"}.get(kind)
        if not suffix:
            as_published = kind in {"clean", "copy", "private", "truncated", "missing"} or kind in CAPTION_DIRT
            suffix = published_suffix(pair) if as_published else ".jpg"
        name = f"{chance('name', seed).hex()[:10]}{suffix}"
        picture = f"{'/private' if kind == 'private' else ''}/img/{_date(page).replace('-', '/')[:7]}/{name}"
        if kind == "tracker":
            return Truth(f"/page/{page}.html", picture, "", kind, None, None)
        if kind == "banner":
            return Truth(f"/page/{page}.html", picture, "限时优惠，点击进入", kind, None, None)
        if kind == "wrong":
            caption = words(self._stranger(pair, seed), seed)
        elif kind in CAPTION_DIRT:
            caption = spoiled_words(kind, pair, seed)
        else:
            caption = words(pair, seed)
        index = self._order[(shown - 1) % len(self.pairs)]
        return Truth(f"/page/{page}.html", picture, caption, kind, index, pair.caption)

    def _earlier(self, page: int) -> int:
        """A page, this one at the latest, that shows a whole picture under the same licence."""
        start = 1 + draw(page, str(page), "earlier")
        licence = self._pair(page).licence
        return next(
            (at for at in range(start, 0, -1) if _kind(at) not in DAMAGE and self._pair(at).licence == licence), page
        )

    def _stranger(self, pair: Pair, seed: str) -> Pair:
        """A pair that shares no word with this one; the material must hold one."""
        start = draw(len(self.pairs), seed, "stranger")
        own = {pair.caption, *pair.tags}
        others = (self.pairs[(start + step) % len(self.pairs)] for step in range(len(self.pairs)))
        return next(other for other in others if own.isdisjoint({other.caption, *other.tags}))

    def _document(self, path: str) -> Response | None:
        if path == "/":
            return _html(SITE, self._index())
        match = re.fullmatch(r"/(list|page|private)/([1-9][0-9]*)\.html", path)
        if not match:
            return None
        folder, number = match[1], int(match[2])
        if folder == "list" and number <= self._lists:
            return _html(f"目录第 {number} 页", self._list(number))
        if folder == "page" and number <= self.pages:
            return _html(self._pair(number).caption, self._article(number))
        if folder == "private" and number <= self.pages and _kind(number) == "private":
            return _html("会员原图", f"<main>{_figure(self._pictures(number)[-1])}</main>")
        return None

    def _picture(self, truth: Truth) -> Response:
        content_type = CONTENT_TYPES[Path(truth.picture).suffix]
        match truth.kind:
            case "missing":
                return _html("404", "<main><p>图片不存在</p></main>", 404)
            case "html":
                return replace(_html("请先登录", "<main><p>登录后查看图片。</p></main>"), content_type=content_type)
            case "tracker":
                return Response(200, content_type, tracker())
            case "banner":
                return Response(200, content_type, banner(truth.picture))
        assert truth.pair is not None
        content = published(self.pairs[truth.pair])
        if truth.kind in DAMAGE or truth.kind in {"reencoded", "resized", "cropped"}:
            content = spoiled_picture(truth.kind, content, truth.picture)
        return Response(200, content_type, content)

    def _index(self) -> str:
        lists = "".join(
            f'<li><a href="/list/{number}.html">目录第 {number} 页</a></li>\n' for number in range(1, self._lists + 1)
        )
        return f"<main><h1>{SITE}</h1>\n<ul>\n{lists}</ul></main>"

    def _list(self, number: int) -> str:
        first = (number - 1) * PAGES_A_LIST + 1
        pages = range(first, min(first + PAGES_A_LIST, self.pages + 1))
        return f"<main><h1>目录第 {number} 页</h1>\n<ul>\n{self._links(pages)}</ul></main>"

    def _links(self, pages: Sequence[int]) -> str:
        return "".join(
            f'<li><a href="/page/{page}.html">{escape(self._pair(page).caption)}</a></li>\n' for page in pages
        )

    def _sitemap(self, site: str) -> str:
        entries = "".join(
            f"<url><loc>{site}/page/{page}.html</loc><lastmod>{_date(page)}</lastmod></url>\n"
            for page in range(1, self.pages + 1)
        )
        return (
            '<?xml version="1.0" encoding="UTF-8"?>\n'
            f'<urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9">\n{entries}</urlset>\n'
        )

    def _article(self, page: int) -> str:
        pair, (own, *others) = self._pair(page), self._pictures(page)
        name, topics = escape(pair.caption), escape("、".join(pair.tags[:5]) or "图片")
        opening = pick(
            (f"本条目介绍“{name}”。", f"今天和大家聊聊“{name}”。", f"“{name}”是读者常看的条目之一。"),
            str(page),
            "opening",
        )
        previous = f' <a href="/page/{page - 1}.html">上一篇</a>' if page > 1 else ""
        member = f'<p><a href="/private/{page}.html">会员原图下载</a></p>\n' if _kind(page) == "private" else ""
        related = {1 + draw(page - 1, str(page), "related", step) for step in "abc"} if page > 1 else set()
        return f"""<header><a href="/">{SITE}</a>
<nav><a href="/list/{(page - 1) // PAGES_A_LIST + 1}.html">目录</a>{previous}</nav></header>
<main>
<article>
<h1>{name}</h1>
<p><time datetime="{_date(page)}">{_date(page)}</time> 更新</p>
<p>{opening}相关主题：{topics}。</p>
{_figure(own)}<p>以上内容由读者整理，如有错漏，欢迎指正。</p>
{"".join(map(_figure, others))}{member}</article>
<aside><h2>相关条目</h2>
<ul>
{self._links(sorted(related))}</ul></aside>
</main>
<footer>本页图片采用 <a rel="license" href="{pair.licence_url}">{pair.licence}</a> 许可。</footer>"""


@cache
def _kinds(block: int) -> list[str]:
    """What the pages of a block carry beside clean pictures: the shares hold in every block, the order is by chance."""
    kinds = [kind for shares in (CAPTION_DIRT, DAMAGE, EXTRAS) for kind, share in shares.items() for _ in range(share)]
    kinds += ["clean"] * (BLOCK - len(kinds))
    places = sorted(range(BLOCK), key=lambda place: chance("dirt", str(block), str(place)))
    return [kinds[place] for place in places]


def _kind(page: int) -> str:
    block, place = divmod(page - 1, BLOCK)
    return _kinds(block)[place]


def _date(page: int) -> str:
    day = datetime.date(2022, 1, 1) + datetime.timedelta(days=draw(1000, str(page), "date"))
    return day.isoformat()


def _figure(truth: Truth) -> str:
    """The picture with its words where a site may put them: `alt`, `title` or a `figcaption`."""
    words_at = "alt" if not truth.caption else pick(("alt", "title", "figcaption"), truth.picture, "words at")
    caption = escape(truth.caption)
    if truth.kind == "tracker":
        return f'<img src="{truth.picture}" width="1" height="1" alt="">\n'
    if words_at == "figcaption":
        return f'<figure><img src="{truth.picture}" alt=""><figcaption>{caption}</figcaption></figure>\n'
    alt, title = (caption, "") if words_at == "alt" else ("", f' title="{caption}"')
    return f'<figure><img src="{truth.picture}" alt="{alt}"{title}></figure>\n'


def _html(title: str, body: str, status: int = 200) -> Response:
    head = f'<meta charset="utf-8">\n<title>{escape(title)} - {SITE}</title>'
    text = f'<!doctype html>\n<html lang="zh-CN">\n<head>\n{head}\n</head>\n<body>\n{body}\n</body>\n</html>\n'
    return Response(status, "text/html; charset=utf-8", text.encode())


class _Server(ThreadingHTTPServer):
    """Answers from a MiniWeb on a socket that already listens."""

    def __init__(self, web: MiniWeb, listener: socket.socket) -> None:
        super().__init__(listener.getsockname(), _Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = listener
        self.web = web

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    server: _Server

    def do_GET(self) -> None:
        response = self.server.web.get(urlsplit(self.path).path, "http://{}:{}".format(*self.server.server_address))
        os.write(sys.stdout.fileno(), f"{self.command} {response.status} {self.path}\n".encode())
        self.send_response(response.status)
        self.send_header("Content-Type", response.content_type)
        self.send_header("Content-Length", str(len(response.body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(response.body)

    do_HEAD = do_GET

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: the log is the caller's."""


def _serve(listener: int) -> None:
    """The server's process: the web comes on standard input; when that ends, so does the process."""
    web: MiniWeb = pickle.load(sys.stdin.buffer)
    server = _Server(web, socket.socket(fileno=listener))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    sys.stdin.buffer.read()
