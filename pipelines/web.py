"""The one way to the web: whatever asks a server goes through here, and with it all that guards servers and ourselves.

Only http and https; only addresses that may be asked, checked on the connection itself; robots.txt, opt-outs and the
limits of each host; caps on time, size and redirects. Proxies are not used: through one, no address could be checked.
"""

import contextlib
import http.client
import io
import ipaddress
import re
import socket
import ssl
import string
import time
import zlib
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from email.message import Message
from functools import lru_cache
from http import HTTPStatus
from typing import Any, Self
from urllib.parse import quote, urldefrag, urljoin, urlsplit

from w3lib.url import safe_url_string

from pipelines import optout
from pipelines.hosts import Host, Hosts, NotNow
from pipelines.retry import retry_after_s
from pipelines.robots import MAX_BYTES as ROBOTS_BYTES
from pipelines.robots import Robots
from schemas.errors import JuZhouError
from schemas.recipe import Fetch
from schemas.tables import Status

REDIRECTS = (301, 302, 303, 307, 308)
PIECE = 65_536
LONGEST_URL = 8_192
NAMES_KEPT_S = 300.0
NAMES_KEPT = 100_000
MOST_ADDRESSES = 3
"""Addresses of a host that are tried."""
PLAIN = re.compile(
    r"https?://[A-Za-z0-9.\-]+(:[1-9]\d{0,4})?(/[A-Za-z0-9\-._~%!$&'()*+,;=:@/]*)?(\?[A-Za-z0-9\-._~%!$&'()*+,;=:@/?]*)?"
)
"""URLs that can be asked as they are."""
FORGOTTEN = "forgotten"
"""The error of what is refused because it was taken down."""
CONTACT = re.compile(r"https?://\S|[^\s@]+@[^\s@]+\.\w")
EMBEDDED = (ipaddress.ip_network("64:ff9b::/96"), ipaddress.ip_network("::/96"))
"""IPv6 networks whose last 32 bits are an IPv4 address: NAT64 and IPv4-compatible."""

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(eq=False)
class Failed(Exception):
    """Why there is no answer, and whether there might be one later."""

    status: str
    error: str
    http_code: int | None = None
    retry_after_s: float | None = None
    """How long the server, or what we owe to it, wants us to wait."""
    asked: bool = True
    """Whether an attempt was made, be it in vain, rather than put off."""
    moved_to: str | None = None
    """Where another host has it, if that host is not ours to ask here."""

    def __str__(self) -> str:
        return self.error


class Answer:
    """A server's answer whose body is read within the caps; a context that gives its connection back."""

    def __init__(
        self, url: str, response: http.client.HTTPResponse, took_s: float, max_bytes: int, resources: ExitStack
    ) -> None:
        self.url = url
        self.took_s = took_s
        self.code = response.status
        self.headers: Message = response.headers
        self._response = response
        self._max_bytes = max_bytes
        self._resources = resources

    def read(self) -> bytes:
        """The whole body, unpacked where it came packed.

        Raises:
            Failed: it is larger than the cap, packed or unpacked; it ends early; or it takes too long.
        """
        if (self._response.length or 0) > self._max_bytes:
            raise self._too_large()
        content = self.read_up_to(self._max_bytes + 1)
        if len(content) > self._max_bytes:
            raise self._too_large()
        return content

    def read_up_to(self, limit: int) -> bytes:
        """The body's first bytes."""
        unpack = _unpacker(self.headers.get("Content-Encoding", ""))
        pieces: list[bytes] = []
        size = arrived = 0
        try:
            while size < limit and (piece := self._response.read1(PIECE)):
                arrived += len(piece)
                if arrived > self._max_bytes:
                    raise self._too_large()
                piece = unpack(piece, limit - size)
                size += len(piece)
                pieces.append(piece)
        except (OSError, http.client.HTTPException, zlib.error) as error:
            raise Failed(
                Status.TRANSIENT, f"the body broke off after {arrived:,} bytes: {_words(error)}", self.code
            ) from error
        if size < limit and self._response.length:
            missing = self._response.length
            raise Failed(Status.TRANSIENT, f"the body ended {missing:,} bytes early", self.code)
        return b"".join(pieces)

    def _too_large(self) -> Failed:
        return Failed(Status.PERMANENT, f"more than {self._max_bytes:,} bytes", self.code)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._resources.close()


class Web:
    """A worker's way to the web, shared by its threads. Give each host to one worker: its limits are kept here."""

    def __init__(
        self, fetch: Fetch, max_bytes: int | None = None, refuse: Callable[[str], bool] = lambda _: False
    ) -> None:
        """Args:
        fetch: the recipe's limits.
        max_bytes: the largest body, where it is not the recipe's.
        refuse: says of a URL whether it was taken down; nothing is asked there.
        """
        self._fetch = fetch
        self._refuse = refuse
        self._max_bytes = max_bytes or fetch.max_bytes
        self._token = fetch.user_agent.partition("/")[0].strip()
        self._hosts = Hosts(fetch.requests_per_second, fetch.connections_per_host)
        self._robots = Robots(self._token, self._ask_robots)
        self._names = _Names(fetch)
        self._tls = ssl.create_default_context()
        self._stays = bool(fetch.requests_per_second or fetch.connections_per_host)

    def introduce(self, urls: Iterable[str]) -> None:
        """See to it that those who are asked can reach who asks.

        Raises:
            JuZhouError: a host beyond this machine would be asked, and the user agent names no contact.
        """
        if CONTACT.search(self._fetch.user_agent):
            return
        for url in urls:
            with contextlib.suppress(Failed):
                self._check(url)
                if not _is_loopback(host := host_of(plain(url))):
                    raise JuZhouError(
                        f"fetch.user_agent is '{self._fetch.user_agent}': before {host} is asked it needs a contact, "
                        "such as 'YourTeam/1.0 (+https://your.site/crawler; you@your.site)'"
                    )

    def get(self, url: str) -> Answer:
        """The answer to a GET that went well, its body still to be read.

        Args:
            url: as it was found; what is not ASCII in it is percent-encoded.

        Raises:
            Failed: there is none, for whatever reason.
        """
        asked, left_s = False, self._fetch.transfer_s
        url = plain(url)
        try:
            for _ in range(self._fetch.redirects + 1):
                self._check(url, asked)
                self._names.allowed(url)
                rules = self._robots.rules(_origin(url))
                if not rules.can_fetch(url, self._token):
                    raise Failed(Status.DISALLOWED, "robots.txt", asked=asked)
                host = self._hosts[host_of(url)]
                if pause_s := self._robots.pause_s(rules):
                    host.slow_down(pause_s)
                answer = self._exchange(url, left_s, self._max_bytes)
                asked = True
                left_s -= answer.took_s
                if answer.code not in REDIRECTS:
                    return self._accepted(answer)
                with answer:
                    target = self._target(answer)
                if self._stays and host_of(target) != host_of(url):
                    raise Failed(Status.TRANSIENT, "moved to another host", answer.code, moved_to=target)
                url = target
        except NotNow as later:
            raise Failed(Status.TRANSIENT, str(later), retry_after_s=later.wait_s, asked=asked) from later
        raise Failed(Status.PERMANENT, f"more than {self._fetch.redirects} redirects", answer.code)

    def sitemaps(self, url: str) -> list[str]:
        """The sitemaps that the robots.txt of a URL's host names; none where it cannot be had."""
        try:
            return list(self._robots.rules(_origin(plain(url))).sitemaps)
        except (NotNow, Failed):
            return []

    def _check(self, url: str, asked: bool = False) -> None:
        """See to it that nothing is asked of what was taken down.

        Raises:
            Failed: it was.
        """
        if self._refuse(url):
            raise Failed(Status.DISALLOWED, FORGOTTEN, asked=asked)

    def _exchange(self, url: str, left_s: float, max_bytes: int) -> Answer:
        """One request and its answer's head.

        Raises:
            Failed, NotNow: there is no answer.
        """
        parts = urlsplit(url)
        host = self._hosts[host_of(url)]
        with ExitStack() as resources:
            resources.enter_context(host.connection())
            try:
                wire = resources.enter_context(self._connected(url, host))
                host.wait_turn()
                started = wire.start(left_s)
                path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
                wire.send(
                    f"GET {path} HTTP/1.1\r\nHost: {parts.netloc.rpartition('@')[2]}\r\n"
                    f"User-Agent: {self._fetch.user_agent}\r\nAccept: */*\r\nAccept-Encoding: gzip\r\n"
                    "Connection: close\r\n\r\n".encode("latin-1")
                )
                response = http.client.HTTPResponse(wire, method="GET")  # type: ignore[arg-type]
                resources.callback(response.close)
                response.begin()
            except (OSError, http.client.HTTPException) as error:
                raise Failed(Status.TRANSIENT, _words(error)) from error
            return Answer(url, response, time.monotonic() - started, max_bytes, resources.pop_all())

    def _connected(self, url: str, host: Host) -> "_Wire":
        """A connection to an address that may be asked."""
        try:
            link = self._names.connect(url)
            if url.startswith("https:"):
                try:
                    link = self._tls.wrap_socket(link, server_hostname=host_of(url).strip("[]"))
                except BaseException:
                    link.close()
                    raise
        except OSError:
            host.failed()
            raise
        host.answered()
        return _Wire(link, self._fetch.timeout_s)

    def _accepted(self, answer: Answer) -> Answer:
        """An answer that says yes, and does not forbid what we want of it; both are known before the body is read."""
        code = answer.code
        try:
            status = Status.of_http(code)
            if status is not Status.OK:
                wait_s = retry_after_s(answer.headers.get("Retry-After"))
                if code in (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE):
                    self._hosts[host_of(answer.url)].busy(wait_s)
                raise Failed(status, f"HTTP {code}", code, retry_after_s=wait_s)
            if code not in (HTTPStatus.OK, HTTPStatus.NON_AUTHORITATIVE_INFORMATION):
                raise Failed(Status.PERMANENT, f"HTTP {code}", code)
            if refused := optout.refused(answer.headers.get_all("X-Robots-Tag", []), self._fetch.user_agent):
                raise Failed(Status.DISALLOWED, f"X-Robots-Tag: {refused}", code)
        except Failed:
            with answer:
                raise
        return answer

    def _target(self, answer: Answer) -> str:
        """Where a redirect leads."""
        location = answer.headers.get("Location")
        if not location:
            raise Failed(Status.PERMANENT, f"HTTP {answer.code} that leads nowhere", answer.code)
        try:
            target = plain(urljoin(answer.url, quote(location.strip().encode("latin-1"), safe=string.printable)))
        except (Failed, ValueError) as error:
            reason = error.error if isinstance(error, Failed) else str(error)
            raise Failed(Status.PERMANENT, f"redirected to {location[:80]!r}: {reason}", answer.code) from error
        if not CONTACT.search(self._fetch.user_agent) and not _is_loopback(host_of(target)):
            raise Failed(
                Status.DISALLOWED,
                f"redirected to {host_of(target)}, and fetch.user_agent names no contact",
                answer.code,
            )
        return target

    def _ask_robots(self, url: str) -> tuple[int, bytes]:
        """The answer for a robots.txt. Five redirects are followed, to other hosts too (RFC 9309, 2.3.1.2)."""
        left_s = self._fetch.transfer_s
        try:
            for _ in range(6):
                self._check(url)
                with self._exchange(url, left_s, 2 * ROBOTS_BYTES) as answer:
                    if answer.code not in REDIRECTS:
                        wait_s = retry_after_s(answer.headers.get("Retry-After"))
                        if wait_s and answer.code in (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE):
                            self._hosts[host_of(url)].busy(wait_s)
                        return answer.code, answer.read_up_to(ROBOTS_BYTES) if answer.code < 300 else b""
                    url = self._target(answer)
                left_s -= answer.took_s
        except Failed as failure:
            raise OSError(failure.error) from failure
        return HTTPStatus.NOT_FOUND, b""


class _Names:
    """Names → connections, to addresses alone that may be asked: what the check sees is what is connected to."""

    def __init__(self, fetch: Fetch) -> None:
        self._timeout_s = fetch.timeout_s
        self._networks = fetch.networks
        self._known: dict[str, tuple[float, list[tuple[int, Any]]]] = {}

    def connect(self, url: str) -> socket.socket:
        """A connection to the first address of a URL's host that answers.

        Raises:
            Failed: no address of it may be asked.
            OSError: none answers.
        """
        port = _port(url)
        for family, address in self.allowed(url)[:MOST_ADDRESSES]:
            link = socket.socket(family, socket.SOCK_STREAM)
            try:
                link.settimeout(self._timeout_s)
                link.connect((address[0], port, *address[2:]))
                link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                return link
            except OSError as failure:
                link.close()
                error = failure
        self._known.pop(host_of(url), None)
        raise error

    def allowed(self, url: str) -> list[tuple[int, Any]]:
        """Family and socket address of each address of a URL's host that may be asked.

        Raises:
            Failed: there is none, or the name is not known.
        """
        name = host_of(url)
        expires_at, found = self._known.get(name, (0.0, []))
        if time.monotonic() >= expires_at:
            try:
                answers = socket.getaddrinfo(name.strip("[]"), None, type=socket.SOCK_STREAM)
            except (OSError, UnicodeError) as error:
                raise Failed(Status.TRANSIENT, f"the name is not known: {error}") from error
            found = [(family, address) for family, _, _, _, address in answers]
            if len(self._known) >= NAMES_KEPT:
                self._known.clear()
            self._known[name] = (time.monotonic() + NAMES_KEPT_S, found)
        allowed = [one for one in found if may_be_asked(str(one[1][0]), self._networks)]
        if not allowed:
            reason = f"{name} is {found[0][1][0]}, which is no public address; see fetch.networks"
            raise Failed(Status.DISALLOWED, reason, asked=False)
        return allowed


class _Wire(io.RawIOBase):
    """A connection with two clocks: one for each wait, and one for all of them, however little trickles in."""

    def __init__(self, link: socket.socket, timeout_s: float) -> None:
        self._link = link
        self._timeout_s = timeout_s
        self._ends_at = time.monotonic() + timeout_s

    def start(self, left_s: float) -> float:
        """Start the clock of the whole, and say when that was."""
        started = time.monotonic()
        self._ends_at = started + left_s
        return started

    def send(self, content: bytes) -> None:
        self._link.settimeout(self._wait_s())
        self._link.sendall(content)

    def makefile(self, mode: str) -> io.BufferedReader:
        """What HTTPResponse reads from."""
        return io.BufferedReader(self, PIECE)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._link.settimeout(self._wait_s())
        return self._link.recv_into(buffer)

    def close(self) -> None:
        self._link.close()
        super().close()

    def _wait_s(self) -> float:
        left_s = self._ends_at - time.monotonic()
        if left_s <= 0:
            raise TimeoutError("it takes too long")
        return min(left_s, self._timeout_s)


@lru_cache(maxsize=65_536)
def may_be_asked(address: str, networks: tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]) -> bool:
    """Whether an address is public, or in one of the networks; one of IPv6 that holds one of IPv4 is that one too."""
    outer = ipaddress.ip_address(address.partition("%")[0])
    inner = _inner(outer)
    addresses = [outer] if inner is None else [inner]
    if any(one in network for one in (outer, *addresses) for network in networks):
        return True
    return all(one.is_global and not one.is_multicast and not one.is_reserved for one in addresses)


def _inner(address: Address) -> ipaddress.IPv4Address | None:
    """The IPv4 address that an IPv6 address stands for: mapped, 6to4, Teredo, NAT64."""
    if isinstance(address, ipaddress.IPv4Address):
        return None
    if any(address in network for network in EMBEDDED) and int(address) > 1:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour or (address.teredo[1] if address.teredo else None)


def plain(url: str) -> str:
    """A URL that can be asked: http or https with a host, without a fragment, percent-encoded.

    Raises:
        Failed: there is no such URL.
    """
    if len(url) <= LONGEST_URL and (found := PLAIN.fullmatch(url)) and int((found[1] or ":0")[1:]) < 65_536:
        return url
    try:
        if len(url) > LONGEST_URL:
            raise ValueError(f"a URL of {len(url):,} characters")
        if re.search(r"[\x00-\x1f\x7f]", url):
            raise ValueError("a URL with control characters")
        plain = safe_url_string(urldefrag(url).url)
        parts = urlsplit(plain)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("not an http or https URL")
        if parts.port == 0:
            raise ValueError("a URL with port 0")
        plain.encode("ascii")
        return plain
    except ValueError as error:
        raise Failed(Status.PERMANENT, f"cannot be asked: {error}".splitlines()[0], asked=False) from error


def _origin(url: str) -> str:
    return "/".join(url.split("/", 3)[:3]).partition("?")[0].lower()


def host_of(url: str) -> str:
    """The host that a plain URL names, as hosts are told apart: without its port; IPv6 stays in its brackets."""
    netloc = url.split("/", 3)[2].partition("?")[0].rpartition("@")[2].lower()
    return netloc if netloc.endswith("]") else re.sub(r":\d*$", "", netloc)


def _port(url: str) -> int:
    parts = urlsplit(url)
    return parts.port or (443 if parts.scheme == "https" else 80)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _unpacker(encoding: str) -> Callable[[bytes, int], bytes]:
    """What turns packed pieces into bytes, at most so many at a time."""
    if encoding.strip().lower() not in ("gzip", "x-gzip", "deflate"):
        return lambda piece, most: piece
    packed = zlib.decompressobj(zlib.MAX_WBITS | 32)
    return lambda piece, most: packed.decompress(piece, most)


def _words(error: Exception) -> str:
    """An error in one line that says what happened and names no address of a variable."""
    text = " ".join(str(error).split())[:200]
    kind = type(error).__name__
    return f"{kind}: {text}" if text else kind
