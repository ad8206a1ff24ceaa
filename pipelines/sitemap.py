"""What a site says of its own pages: sitemaps and their indices, plain lists of URLs, feeds."""

import contextlib
import gzip
import io
import re
import zlib
from urllib.parse import urlsplit

import lxml.etree

from pipelines.page import MAX_ENTRIES, resolved

MAX_BYTES = 52_428_800
"""What is read of a sitemap, unpacked: the most that sitemaps.org allows one to have."""
PIECE = 2**20
GZIP = b"\x1f\x8b"
BARE = re.compile(rb"(?s)<!\[CDATA\[.*?(?:\]\]>|\Z)|&(?!(?:amp|lt|gt|quot|apos|#\d+|#x[0-9a-fA-F]+);)")
"""An ampersand that should have been written as `&amp;`, or text in which it need not be."""
MAX_DEPTH = 100
MARKS = {("url", "loc"), ("sitemap", "loc"), ("item", "link"), ("entry", "link")}
"""Elements that hold a URL, as text or, in Atom, as `href`: each with the one around it."""
ROOTS = {"urlset", "sitemapindex", "rss", "rdf", "feed"}


def read_sitemap(content: bytes, url: str) -> list[str] | None:
    """The URLs that a sitemap names, each once: of pages, or of further sitemaps; None where it is no sitemap.

    What is damaged gives what could be read. Of a list longer than sitemaps may be, the beginning counts.

    Args:
        content: packed with gzip or not.
        url: where it was had; a plain list is one whose path ends in `.txt`.
    """
    if content.startswith(GZIP):
        content = _unpacked(content)
    content = content[:MAX_BYTES].removeprefix(b"\xef\xbb\xbf").lstrip()
    if content.startswith(b"<"):
        named = _marked(content)
    elif urlsplit(url).path.lower().removesuffix(".gz").endswith(".txt"):
        lines = content.decode("utf-8", "replace").splitlines()
        named = [line for line in lines if line.strip().startswith(("http://", "https://"))] or None
    else:
        named = None
    if named is None:
        return None
    return list({whole: None for one in named if (whole := resolved(url, one))})[:MAX_ENTRIES]


def _unpacked(content: bytes) -> bytes:
    """As much of it as may be and can be had."""
    unpacked = bytearray()
    try:
        with gzip.open(io.BytesIO(content)) as stream:
            while len(unpacked) < MAX_BYTES and (piece := stream.read1(PIECE)):
                unpacked += piece
    except (OSError, EOFError, zlib.error):
        pass
    return bytes(unpacked)


def _marked(content: bytes) -> list[str] | None:
    """The URLs in XML, as written. Nothing outside of it is read."""
    reader = _Reader()
    parser = lxml.etree.XMLParser(target=reader, recover=True, resolve_entities="internal")
    with contextlib.suppress(lxml.etree.LxmlError):
        parser.feed(BARE.sub(lambda bare: bare[0] if bare[0] != b"&" else b"&amp;", content))
        parser.close()
    return reader.named if reader.root in ROOTS else None


class _Reader:
    """Takes in what the parser meets, until that is enough."""

    def __init__(self) -> None:
        self.root: str | None = None
        self.named: list[str] = []
        self._path: list[str] = []
        self._text: list[str] | None = None

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        name = tag.rpartition("}")[2].rpartition(":")[2].lower()
        if self.root is None:
            self.root = name
        if self._path and (self._path[-1], name) in MARKS:
            if attributes.get("rel", "alternate") == "alternate" and "href" in attributes:
                self.named.append(attributes["href"])
            self._text = []
        self._path.append(name)
        if len(self._path) > MAX_DEPTH or len(self.named) == MAX_ENTRIES:
            raise lxml.etree.LxmlError("enough")

    def data(self, text: str) -> None:
        if self._text is not None:
            self._text.append(text)

    def end(self, tag: str) -> None:
        self._path.pop()
        if self._text:
            self.named.append("".join(self._text).strip())
        self._text = None

    def close(self) -> None:
        pass
