"""What was taken down, and how it is known again: a URL or a host however it is spelled, a picture by its bytes."""

import ipaddress
import re
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, Self
from urllib.parse import quote, unquote_to_bytes, urlsplit

import pyarrow as pa

from pipelines.corpus import Corpus
from pipelines.web import FORGOTTEN, Failed, plain
from schemas.tables import Status

OWN = ("file:", "synthesis:")
"""How URLs begin that the corpus itself gives to pictures of files and of teachers."""
BARE_HOST = r"^\s*[A-Za-z][A-Za-z0-9+.\-]*://(?:[^/?#\\]*@)?(\[[^\]/]*\]|[^/?#:\\]*)"
"""Finds the host of a URL as it is spelled there; of Python and of SQL alike."""
KEPT = "/:@!$&'()*+,;=-._~?"
"""Characters of a path or a query that are not percent-encoded."""
PORTS = {"http": 80, "https": 443}


def normal(url: str) -> str | None:
    """A URL in the one spelling that all its spellings share; None where the web cannot be asked for it.

    Lower case and ASCII in scheme and host; no user, default port or fragment; a path without dots, which percent-
    encodes no more than it must.
    """
    if url.startswith(OWN):
        return url
    try:
        parts = urlsplit(plain(url))
        port = "" if parts.port in (None, PORTS[parts.scheme]) else f":{parts.port}"
    except (Failed, ValueError):
        return None
    host = normal_host(parts.hostname or "")
    host = f"[{host}]" if ":" in host else host
    query = f"?{_encoded(parts.query)}" if parts.query else ""
    return f"{parts.scheme}://{host}{port}{_without_dots(_encoded(parts.path))}{query}"


@lru_cache(maxsize=1_000_000)
def normal_host(host: str) -> str:
    """A host in lower case and ASCII, without a last dot; an address as addresses are written, without brackets."""
    try:
        name = host.strip("[]").encode("idna").decode().lower().rstrip(".")
    except UnicodeError:
        name = host.strip("[]").lower().rstrip(".")
    try:
        if re.fullmatch(r"(0x[0-9a-f]*|\d+)(\.(0x[0-9a-f]*|\d+)){0,3}", name):
            name = socket.inet_ntoa(socket.inet_aton(name))
        address = ipaddress.ip_address(name.partition("%")[0])
    except (ValueError, OSError):
        return name
    return str(getattr(address, "ipv4_mapped", None) or address)


def host_in(url: str) -> str | None:
    """The host of a URL, normal; None where it names none."""
    found = re.match(BARE_HOST, url)
    return normal_host(found[1]) if found else None


def is_address(host: str) -> bool:
    """Whether a normal host is an address of IPv4 or IPv6."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


@dataclass(frozen=True)
class Tombstones:
    """What may not be had again; it travels to the workers that ask and read."""

    urls: Mapping[str, str]
    """URLs by what they say without their scheme: http and https are one."""
    domains: frozenset[str]
    images: frozenset[bytes]

    @classmethod
    def of(cls, corpus: Corpus) -> Self:
        """All of a corpus."""
        if not corpus.parts("forgotten"):
            return cls({}, frozenset(), frozenset())
        return cls.from_rows(corpus.sql("SELECT DISTINCT kind, value, image_id FROM forgotten").to_pylist())

    @classmethod
    def from_rows(cls, rows: Iterable[Mapping[str, Any]]) -> Self:
        """Those that some rows of `forgotten` stand for."""
        rows = list(rows)
        return cls(
            urls={_address(row["value"]): row["value"] for row in rows if row["kind"] == "url"},
            domains=frozenset(row["value"] for row in rows if row["kind"] == "domain"),
            images=frozenset(row["image_id"] for row in rows if row["image_id"]),
        )

    def concern(self, host: str) -> bool:
        """Whether something at a normal host may be meant."""
        return bool(self._above(host)) or host in self._hosts

    def met(self, url: str | None) -> list[tuple[str, str]]:
        """Kind and value of the tombstones that mean a URL. A domain means all below it, one without a dot itself."""
        if not url or not (self.urls or self.domains):
            return []
        host = host_in(url)
        found = [("domain", domain) for domain in self._above(host)] if host else []
        if host in self._hosts and (spelled := normal(url)) and (value := self.urls.get(_address(spelled))):
            found.append(("url", value))
        return found

    def refuse(self, url: str | None) -> bool:
        """Whether nothing may be asked there."""
        return bool(self.met(url))

    def noted(self, found: dict[str, Any]) -> dict[str, Any] | None:
        """What may be known of a picture that was found: where its URL is forgotten, that alone; None where its page
        is."""
        if self.refuse(found.get("page_url")):
            return None
        return wordless(found["url"]) if self.refuse(found["url"]) else found

    def noted_list(self, rows: pa.RecordBatch) -> pa.RecordBatch:
        """The same of rows that have `url` and `page_url`."""
        if not (self.urls or self.domains):
            return rows
        urls, pages = rows["url"].to_pylist(), rows["page_url"].to_pylist()
        if not any(self.refuse(url) or self.refuse(page) for url, page in zip(urls, pages, strict=True)):
            return rows
        noted = (self.noted(row) for row in rows.to_pylist())
        return pa.RecordBatch.from_pylist([row for row in noted if row], schema=rows.schema)

    def _above(self, host: str) -> list[str]:
        labels = host.split(".")
        above = [".".join(labels[first:]) for first in range(1, len(labels) - 1)]
        return [name for name in (host, *above) if name in self.domains]

    @cached_property
    def _hosts(self) -> frozenset[str | None]:
        return frozenset(host_in(value) for value in self.urls.values())


def wordless(url: str) -> dict[str, Any]:
    """A picture that was found and may not be had: its URL, and no word of where it stood."""
    return {"url": url, "caption": "", "caption_from": "none"}


def refused(url: str) -> dict[str, Any]:
    """The same as an item of a file."""
    return wordless(url) | {"status": Status.DISALLOWED, "error": FORGOTTEN}


def _address(url: str) -> str:
    return url if url.startswith(OWN) else url.partition(":")[2]


def _encoded(text: str) -> str:
    return quote(unquote_to_bytes(text), safe=KEPT)


def _without_dots(path: str) -> str:
    """RFC 3986, 5.2.4."""
    steps: list[str] = []
    names = path.split("/")[1:] or [""]
    for name in names:
        if name == "..":
            steps = steps[:-1]
        elif name != ".":
            steps.append(name)
    return "/" + "/".join([*steps, ""] if names[-1] in (".", "..") else steps)
