"""Who may talk to the audit: checks on every request, and headers on every answer."""

import hmac
import ipaddress
import secrets
from collections import OrderedDict
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qsl, urlencode, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse, RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
COOKIE = "juzhou-audit"
SESSIONS = 1_000
BODY_BYTES = 65_536


class Guard:
    """Lets through what comes from a page of our own.

    - The Host header names this machine: a name that someone else's DNS points here gets nothing.
    - Nothing but POST changes anything, and a POST comes from our own origin and is JSON.
    - Where others can reach the port, `token` is wanted once; a cookie that no script can read stands for it then.
    """

    def __init__(self, app: ASGIApp, host: str, token: str | None = None) -> None:
        self._app = app
        self._host = host.lower()
        self._token = token
        self._sessions: OrderedDict[str, None] = OrderedDict()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        headers = Headers(scope=scope)
        session = _cookie(headers.get("cookie", ""))
        fresh = session not in self._sessions
        answer: ASGIApp = self._app
        if not self._is_ours(headers.get("host", "")):
            answer, fresh = PlainTextResponse("this name is not that of the audit", 421), False
        elif scope["method"] not in ("GET", "HEAD", "POST"):
            answer = PlainTextResponse("GET and POST alone are answered", 405)
        elif scope["method"] == "POST" and not _from_our_page(headers):
            answer = PlainTextResponse("this does not come from a page of the audit", 403)
        elif fresh and self._token is not None:
            answer, fresh = self._admit(scope)
        if fresh:
            session = self._begin()
        scope["session"] = session

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                out = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    out[name] = value
                out.setdefault("Cache-Control", "no-store")
                if fresh:
                    out.append("Set-Cookie", f"{COOKIE}={session}; HttpOnly; SameSite=Strict; Path=/")
            await send(message)

        await answer(scope, _bounded(receive), send_with_headers)

    def _is_ours(self, host: str) -> bool:
        """Whether a Host header names the loopback or what we are bound to; bound to everything, any bare address."""
        name = (urlsplit(f"//{host}").hostname or "") if host and "@" not in host and "/" not in host else ""
        if name in ("127.0.0.1", "localhost", "::1", self._host):
            return True
        if self._host not in ("0.0.0.0", "::"):
            return False
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True

    def _admit(self, scope: Scope) -> tuple[ASGIApp, bool]:
        """The way in for one who brings the token, which leaves the address at once."""
        asked = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        given = dict(asked).get("token", "")
        assert self._token is not None
        if not hmac.compare_digest(given.encode(), self._token.encode()):
            return PlainTextResponse("the address that `juzhou audit` printed lets you in", 401), False
        rest = urlencode([(name, value) for name, value in asked if name != "token"])
        return RedirectResponse(f"/{scope['path'].lstrip('/')}" + (f"?{rest}" if rest else ""), 303), True

    def _begin(self) -> str:
        session = secrets.token_urlsafe(24)
        self._sessions[session] = None
        while len(self._sessions) > SESSIONS:
            self._sessions.popitem(last=False)
        return session


def is_loopback(host: str) -> bool:
    """Whether a name or address to bind to is reached from this machine alone."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _from_our_page(headers: Headers) -> bool:
    """A page of another origin cannot send JSON without being asked first, nor our own origin at all."""
    origin = urlsplit(headers.get("origin", ""))
    json = headers.get("content-type", "").partition(";")[0].strip() == "application/json"
    return json and origin.scheme in ("http", "https") and origin.netloc == headers.get("host")


def _cookie(header: str) -> str:
    try:
        found = SimpleCookie(header).get(COOKIE)
    except CookieError:
        return ""
    return found.value if found else ""


def _bounded(receive: Receive) -> Receive:
    """The same body, cut off where it is longer than any of ours: what is cut is no JSON any more."""
    left = BODY_BYTES

    async def bounded() -> Message:
        nonlocal left
        message = await receive()
        if message["type"] == "http.request":
            body = message.get("body", b"")[:left]
            left -= len(body)
            message = {**message, "body": body, "more_body": message.get("more_body", False) and left > 0}
        return message

    return bounded
