"""What an HTML page shows: its links, and its pictures with all that it says of them. Web and archives share it."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urljoin, urlsplit

import lxml.etree
from w3lib.encoding import html_body_declared_encoding, http_content_type_encoding, read_bom, to_unicode
from w3lib.url import safe_url_string

from pipelines import optout

PAGE_TYPES = ("text/html", "application/xhtml+xml")
MAX_PAGE_BYTES = 10_000_000
"""Pages that are larger are not read."""
MAX_URL = 2_048
MAX_WORDS = 1_000
"""Characters of a caption, a title or a heading; longer ones are cut."""
MAX_CONTEXT = 200
MAX_LICENCE = 300
MAX_ENTRIES = 50_000
"""Links, and pictures, that are taken from a page: with the lengths above this bounds what 10 MB can be made to say."""
MAX_DEPTH = 1_000
"""Blocks within blocks that are told apart."""

CHARSETS = ("utf-", "gb", "big5", "hz", "cp", "iso", "koi8", "euc", "mac")
"""What the names of codecs that pages are written in begin with; others, such as punycode, take their time."""
HEADINGS = {"h1", "h2", "h3", "h4", "h5", "h6"}
SECTIONS = {"article", "aside", "nav", "section"}
"""A heading in one of them is none for what follows it."""
BLOCKS = {
    *HEADINGS, *SECTIONS, "address", "blockquote", "caption", "center", "dd", "details", "dialog", "div", "dl", "dt",
    "fieldset", "figcaption", "figure", "footer", "form", "header", "li", "main", "ol", "p", "pre", "summary", "table",
    "tbody", "td", "tfoot", "th", "thead", "tr", "ul",
}  # fmt: skip
BREAKS = {"br", "hr"}
HIDDEN = {"iframe", "noembed", "noscript", "script", "select", "style", "template", "textarea", "title"}
"""Their text is not the page's."""

LAZY = (
    "zoomfile", "data-original", "data-src", "data-lazy-src", "data-lazy", "data-actualsrc", "data-echo", "data-url",
    "file",
)  # fmt: skip
"""Where scripts keep a picture's URL until it is scrolled to; zoomfile and file are Discuz's."""
LAZY_SETS = ("data-srcset", "data-lazy-srcset")
PLACEHOLDER = re.compile(
    r"(?:^|[/_.-])(?:blank|loading|lazy|placeholder|spacer|transparent|none|pixel|1x1|empty)[\w-]*\.\w+$", re.I
)
SIZED = re.compile(r"([^\s,]\S*)(?:\s+(\d{1,9}(?:\.\d{1,9})?)([wx])(?![^\s,]))?")
"""An entry of a `srcset`."""
SPACES = re.compile(r"\s+")

SHARED = ("og:image", "og:image:url", "og:image:secure_url", "twitter:image", "twitter:image:src")
"""Metas with the picture that a page is shared with: the first kind that it has counts."""
COMMONS = re.compile(r"(?:https?:)?//(?:www\.)?creativecommons\.org/(?:licenses|publicdomain)/", re.I)
LICENCE_METAS = {
    "copyright", "dc.license", "dc.rights", "dc.rights.license", "dcterms.license", "dcterms.rights", "licence",
    "license", "rights",
}  # fmt: skip
LINKED, COMMONS_LINKED, IN_META, IN_JSON = range(4)
"""Ways to state a licence; the first that is there counts."""


@dataclass(frozen=True)
class Page:
    """What a page shows.

    `links` are whole http and https URLs on any host, each once; none where the page says nofollow. `pictures` are
    rows of `schemas.tables.FOUND`; none where the page refuses, for which `refusal` is the directive.
    """

    links: list[str]
    pictures: list[dict[str, Any]]
    refusal: str | None


def is_page(content_type: str | None) -> bool:
    """Whether what has this HTTP header says that it is HTML."""
    return (content_type or "").partition(";")[0].strip().lower() in PAGE_TYPES


def read_page(content: bytes, url: str, content_type: str | None, user_agent: str) -> Page:
    """Read an HTML page, however broken or hostile, in a time that grows with its size.

    A picture's caption is its `alt`; without one, the `figcaption` of the figure it stands in; without that, its
    `title`; without any, empty. A licence holds for the smallest block around its statement that shows a picture, be
    it the whole page; a picture has that of the smallest block around it for which one holds.

    Args:
        url: where the page was had, after redirects.
        content_type: the HTTP header, for its charset.
        user_agent: ours, for directives that name it.

    Raises:
        ValueError: nothing in it can be read as HTML.
    """
    reader = Reader(user_agent)
    parser = lxml.etree.HTMLParser(target=reader, encoding="utf-8", huge_tree=True)
    try:
        parser.feed(_decoded(content, content_type).encode("utf-8", "replace"))
        parser.close()
    except lxml.etree.LxmlError as error:
        raise ValueError(f"no HTML: {error}") from error
    if not reader.met_any:
        raise ValueError("no HTML")
    return reader.page(url)


def resolved(base: str, reference: str) -> str | None:
    """A reference as a whole http or https URL, without its fragment and in ASCII; None where it is something else."""
    try:
        url = urljoin(base, reference.strip()).partition("#")[0] if len(reference) <= MAX_URL else ""
        if not url.isascii() or " " in url:
            url = safe_url_string(url)
        parts = urlsplit(url)
        whole = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0 and len(url) <= MAX_URL
        return url if whole else None
    except ValueError:
        return None


def squeezed(text: str | None, longest: int = MAX_WORDS) -> str | None:
    """A text with single spaces, cut to a length, that UTF-8 can hold; None where nothing is left."""
    return " ".join((text or "").split())[:longest].rstrip().encode("utf-8", "replace").decode() or None


def found(page_url: str, url: str, words: Mapping[str, str | None], licence: str | None) -> dict[str, Any]:
    """A row of `schemas.tables.FOUND`.

    Args:
        words: those that there are of alt, title, figcaption, heading and context, squeezed.
    """
    caption_from = next((name for name in ("alt", "figcaption", "title") if words.get(name)), "none")
    return {
        "url": url,
        "caption": words.get(caption_from) or "",
        "caption_from": caption_from,
        "words": {name: words.get(name) for name in ("alt", "title", "figcaption", "heading", "context")},
        "page_url": page_url,
        "licence": licence,
    }


def shared(metas: Iterable[tuple[str, str]], title: str | None) -> list[tuple[str, dict[str, str | None]]]:
    """The pictures that metas name for sharing: a URL, maybe relative, and the words for it.

    Args:
        metas: names or properties in lower case, with their contents.
        title: the page's.
    """
    metas = list(metas)
    first = {name: content for name, content in reversed(metas)}
    kind = next((kind for kind in SHARED if kind in first), None)
    if kind is None:
        return []
    alt_of = kind.partition(":")[0] + ":image:alt"
    title = squeezed(first.get("og:title")) or squeezed(title)
    pictures: list[tuple[str, dict[str, str | None]]] = []
    for name, content in metas:
        if name == kind:
            pictures.append((content, {"alt": None, "title": title}))
        elif name == alt_of and pictures:
            pictures[-1][1]["alt"] = squeezed(content)
    return pictures


def _decoded(content: bytes, content_type: str | None) -> str:
    """A page's characters, by its byte order mark, the header, its own word, or else what its bytes look like."""
    charset = read_bom(content)[0] or http_content_type_encoding(content_type) or html_body_declared_encoding(content)
    if charset is None or not charset.startswith(CHARSETS):
        as_utf8 = content.decode("utf-8", "replace")
        charset = "utf-8" if as_utf8.count("\ufffd") <= len(content) - len(as_utf8) else "gb18030"
    return to_unicode(content, charset).removeprefix("\ufeff").replace("\0", "\ufffd")


@dataclass(slots=True, eq=False)
class _Block:
    """A block of the page: where its text lies within the page's, and what is stated in it."""

    parent: "_Block | None"
    tag: str
    start: int
    images: int
    """Images before it."""
    shown: int
    """Those of them that are more than a licence's badge."""
    before: "_Block | None"
    """The heading before it."""
    figure: "_Block | None" = None
    figcaption: "_Block | None" = None
    end: int = 0
    licence: tuple[int, str] | None = None
    """How it is stated, and what."""
    telling: "_Block | None" = None
    """The nearest block, itself or around it, that has text."""
    wider: "_Block | None" = None
    """The nearest around that one that has more."""
    holds: str | None = None
    """The licence that holds for its pictures."""

    def state(self, licence: tuple[int, str]) -> None:
        if self.licence is None or licence[0] < self.licence[0]:
            self.licence = licence


@dataclass(slots=True)
class _Image:
    """An `img` as it stands in the page."""

    candidates: list[str]
    """Its URLs as written, best first."""
    alt: str | None
    title: str | None
    block: _Block
    heading: _Block | None
    at: int
    """Its place in the page's text."""
    unscripted: bool
    """It is for browsers without scripts, perhaps in place of another."""


class Reader:
    """Takes in the elements of a page as a parser, or an archive that kept some of them, tells of them.

    No tree is built, so that depth breaks nothing.
    """

    def __init__(self, user_agent: str) -> None:
        self.met_any = False
        self._user_agent = user_agent
        self._root = self._block = _Block(None, "", 0, 0, 0, None)
        self._depth = 0
        self._pictured: list[_Block] = []
        self._heading: _Block | None = None
        self._hidden = self._unscripted = 0
        self._text: list[str] = []
        self._length = self._inked = 0
        self._spaced = True
        self._kept: list[str] | None = None
        self._titles: list[list[str]] = []
        self._json: list[list[str]] = []
        self._in_licence = False
        self._base: str | None = None
        self._links: dict[str, None] = {}
        self._metas: list[tuple[str, str]] = []
        self._sources: list[str] = []
        self._images: list[_Image] = []
        self._shown = 0

    def start(self, tag: str, attributes: Mapping[str, str]) -> None:
        self.met_any = True
        if tag in BLOCKS:
            self._open(tag)
        elif tag in BREAKS:
            self._write(" ")
        elif tag in HIDDEN:
            self._hide(tag, attributes)
        elif tag == "img":
            self._image(attributes)
        elif tag == "picture":
            self._sources = []
        elif tag == "source":
            self._sources.append(attributes.get("data-srcset") or attributes.get("srcset") or "")
        elif tag == "meta":
            name = attributes.get("name") or attributes.get("property") or ""
            self._metas.append((name.strip().lower(), attributes.get("content", "")))
        elif tag == "base":
            self._base = self._base or attributes.get("href")
        elif tag in ("a", "area", "link") and (reference := attributes.get("href")):
            self._reference(tag, reference, attributes.get("rel", "").lower().split())

    def end(self, tag: str) -> None:
        if tag in BLOCKS:
            self._close()
        elif tag in HIDDEN:
            self._hidden -= 1
            self._unscripted -= tag == "noscript"
            self._kept = None
        elif tag == "picture":
            self._sources = []
        elif tag == "a":
            self._in_licence = False

    def data(self, text: str) -> None:
        if self._kept is not None:
            self._kept.append(text)
        elif not self._hidden:
            self._write(SPACES.sub(" ", text))

    def close(self) -> None:
        while self._depth:
            self._close()
        self._root.end = self._inked

    def page(self, url: str) -> Page:
        """What was met, once it is closed, as a page that was had at a URL."""
        base = (self._base and resolved(url, self._base)) or url
        said = [content for name, content in self._metas if optout.addressed(name, self._user_agent)]
        refusal = optout.refused(said, self._user_agent)
        links = () if optout.unfollowed(said, self._user_agent) else self._links
        whole = {link: None for reference in links if (link := resolved(base, reference))}
        pictures: dict[tuple[str, str], dict[str, Any]] = {}
        for picture in () if refusal else self._pictures(url, base):
            pictures.setdefault((picture["url"], picture["caption"]), picture)
        return Page(list(whole), list(pictures.values())[:MAX_ENTRIES], refusal)

    def _open(self, tag: str) -> None:
        self._write(" ")
        self._depth += 1
        if self._depth > MAX_DEPTH:
            return
        around = self._block
        block = _Block(around, tag, self._length, len(self._images), self._shown, self._heading, around.figure)
        if tag == "figure":
            block.figure = block
        elif tag == "figcaption" and around.figure and not around.figure.figcaption:
            around.figure.figcaption = block
        elif tag in HEADINGS:
            self._heading = block
        self._block = block

    def _close(self) -> None:
        self._write(" ")
        self._depth -= 1
        if self._depth >= MAX_DEPTH:
            return
        block, around = self._block, self._block.parent
        assert around
        block.end = max(block.start, self._inked)
        if block.tag in SECTIONS or (block.tag in HEADINGS and block.end == block.start):
            self._heading = block.before
        if len(self._images) > block.images:
            self._pictured.append(block)
        if block.licence and (self._shown == block.shown or block.tag in ("header", "footer")):
            around.state(block.licence)
        self._block = around

    def _hide(self, tag: str, attributes: Mapping[str, str]) -> None:
        self._hidden += 1
        self._unscripted += tag == "noscript"
        if tag == "title":
            self._kept = []
            self._titles.append(self._kept)
        elif tag == "script" and attributes.get("type", "").strip().lower() == "application/ld+json":
            self._kept = []
            self._json.append(self._kept)

    def _write(self, text: str) -> None:
        """Add to the page's text, which has no two spaces together."""
        if self._spaced:
            text = text.removeprefix(" ")
        if text:
            self._text.append(text)
            self._length += len(text)
            self._spaced = text.endswith(" ")
            self._inked = self._length - self._spaced

    def _reference(self, tag: str, reference: str, rel: list[str]) -> None:
        stated = LINKED if "license" in rel else COMMONS_LINKED if COMMONS.match(reference.strip()) else None
        if stated is not None:
            self._block.state((stated, reference))
            self._in_licence = tag == "a"
        if tag != "link" and "nofollow" not in rel and len(self._links) < MAX_ENTRIES:
            self._links[reference] = None

    def _image(self, attributes: Mapping[str, str]) -> None:
        candidates = _candidates(attributes, self._sources)
        beacon = attributes.get("width") in ("0", "1") and attributes.get("height") in ("0", "1")
        if not candidates or beacon or len(self._images) == MAX_ENTRIES:
            return
        self._shown += not self._in_licence
        self._images.append(
            _Image(
                candidates,
                squeezed(attributes.get("alt")),
                squeezed(attributes.get("title")),
                self._block,
                self._heading,
                self._length,
                self._unscripted > 0,
            )
        )

    def _pictures(self, page_url: str, base: str) -> Iterator[dict[str, Any]]:
        text = "".join(self._text)
        of_urls = self._settle(base)
        for reference, words in shared(self._metas, "".join(self._titles[0]) if self._titles else None):
            if url := resolved(base, reference):
                yield found(page_url, url, words, of_urls.get(url) or self._root.holds)
        pictures = []
        scripted = set()
        for image in self._images:
            url = next((url for one in image.candidates if (url := resolved(base, one))), None)
            if url is None:
                continue
            caption_of = image.block.figure and image.block.figure.figcaption
            words = {"alt": image.alt, "title": image.title, "figcaption": _words(text, caption_of)}
            words["heading"] = _words(text, image.heading)
            picture = found(page_url, url, words, of_urls.get(url) or image.block.holds)
            picture["words"]["context"] = _context(text, image, picture["caption"])
            pictures.append((image, picture))
            if not image.unscripted:
                scripted |= {url, (image.block, picture["caption"])}
        for image, picture in pictures:
            if not image.unscripted or scripted.isdisjoint({picture["url"], (image.block, picture["caption"])}):
                yield picture

    def _settle(self, base: str) -> dict[str, str]:
        """Say for each block with pictures what licence holds and which text is near; gives licences of single URLs."""
        of_urls = {}
        for picture, statement in _stated_in_json("".join(pieces) for pieces in self._json):
            if picture is None:
                self._root.state((IN_JSON, statement))
            elif (url := resolved(base, picture)) and (licence := _licence(base, IN_JSON, statement)):
                of_urls[url] = licence
        for name, content in self._metas:
            if name in LICENCE_METAS and content.strip():
                self._root.state((IN_META, content))
        for block in (self._root, *reversed(self._pictured)):
            around = block.parent
            own = _licence(base, *block.licence) if block.licence else None
            block.holds = own or (around.holds if around else None)
            if around is None or around.telling is None:
                block.telling = block if block.end > block.start else None
            elif block.end == block.start:
                block.telling, block.wider = around.telling, around.wider
            else:
                more = around.telling.end - around.telling.start > block.end - block.start
                block.telling, block.wider = block, around.telling if more else around.wider
        return of_urls


def _candidates(attributes: Mapping[str, str], sources: list[str]) -> list[str]:
    """The URLs of an `img`, best first: no placeholders, what scripts keep, the largest, and its own before others'."""
    ranked: list[tuple[bool, bool, bool, float, str]] = []

    def add(lazy: bool, url: str, by_width: bool = False, size: float = 1.0) -> None:
        if (url := url.strip()) and url[:5].lower() != "data:":
            ranked.append((bool(PLACEHOLDER.search(url.partition("?")[0][-100:])), not lazy, not by_width, -size, url))

    for name in LAZY:
        if (url := attributes.get(name)) and ("/" in url or "." in url):
            add(True, url)
    for name in LAZY_SETS:
        for entry in _srcset(attributes.get(name, "")):
            add(True, *entry)
    add(False, attributes.get("src", ""))
    for value in (attributes.get("srcset", ""), *sources):
        for entry in _srcset(value):
            add(False, *entry)
    return [url for *_, url in sorted(ranked, key=lambda entry: entry[:4])]


def _srcset(value: str) -> Iterator[tuple[str, bool, float]]:
    """Each URL of a `srcset`, whether its size is a width, and the size: in pixels, or as a density."""
    for url, size, unit in SIZED.findall(value):
        yield url.rstrip(","), unit == "w", float(size or 1)


def _stated_in_json(texts: Iterable[str]) -> Iterator[tuple[str | None, str]]:
    """Licences that JSON-LD states, each with the URL of the picture that it is about, where it is about one."""
    for text in texts:
        try:
            left = [json.loads(text, strict=False)]
        except (ValueError, RecursionError):
            continue
        while left:
            value = left.pop()
            if isinstance(value, list):
                left.extend(reversed(value))
            elif isinstance(value, dict):
                statement = value.get("license")
                if isinstance(statement, dict):
                    statement = statement.get("@id") or statement.get("url")
                picture = value.get("contentUrl")
                if isinstance(statement, str) and statement.strip():
                    yield picture if isinstance(picture, str) else None, statement
                left.extend(reversed(value.values()))


def _licence(base: str, how: int, statement: str) -> str | None:
    if how in (LINKED, COMMONS_LINKED):
        return resolved(base, statement)
    return squeezed(statement, MAX_LICENCE)


def _words(text: str, block: _Block | None) -> str | None:
    return squeezed(text[block.start : min(block.end, block.start + MAX_WORDS)]) if block else None


def _context(text: str, image: _Image, caption: str) -> str | None:
    """Text around an image: of the nearest block that has more to say than its caption."""
    block = image.block.telling
    if block and block.end - block.start == len(caption) and text[block.start : block.end] == caption:
        block = image.block.wider
    if block is None:
        return None
    start = max(block.start, min(image.at - MAX_CONTEXT // 2, block.end - MAX_CONTEXT))
    return squeezed(text[start : min(start + MAX_CONTEXT, block.end)])
