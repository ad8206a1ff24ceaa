"""What may be asked of the web: http and https alone, and what a site's robots.txt (RFC 9309) lets us."""

import time
from urllib.parse import urlsplit

import requests
from protego import Protego

from schemas.tables import Status

EXPIRES_S = 24 * 3600.0
"""RFC 9309, 2.4: a copy should not be used for longer than a day."""


class Robots:
    """The rules of hosts, each asked once and remembered for a day."""

    def __init__(self, user_agent: str, timeout_s: float) -> None:
        self._user_agent = user_agent
        self._timeout_s = timeout_s
        self._rules: dict[str, tuple[float, Protego | None]] = {}

    def refusal(self, url: str) -> tuple[Status, str] | None:
        """Why a URL may not be asked, or None where it may.

        A host whose robots.txt gives 5xx or no answer may not be asked for now (RFC 9309, 2.3.1.4); one that has none
        (4xx) forbids nothing (2.3.1.3).
        """
        try:
            parts = urlsplit(url)
            asked = parts.scheme in ("http", "https") and parts.hostname is not None
        except ValueError:
            asked = False
        if not asked:
            return Status.PERMANENT, "not an http or https URL"
        host = f"{parts.scheme}://{parts.netloc}"
        read_at, rules = self._rules.get(host, (-EXPIRES_S, None))
        if time.monotonic() - read_at >= EXPIRES_S:
            rules = self._read(host)
            self._rules[host] = (time.monotonic(), rules)
        if rules is None:
            return Status.TRANSIENT, "robots.txt cannot be had"
        return None if rules.can_fetch(url, self._user_agent) else (Status.DISALLOWED, "robots.txt")

    def _read(self, host: str) -> Protego | None:
        try:
            headers = {"User-Agent": self._user_agent}
            response = requests.get(f"{host}/robots.txt", headers=headers, timeout=self._timeout_s)
        except requests.RequestException:
            return None
        if response.status_code >= 500:
            return None
        return Protego.parse(response.text if response.ok else "")
