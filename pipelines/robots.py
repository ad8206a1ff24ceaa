"""What a site lets us ask for: robots.txt by RFC 9309."""

import time
from urllib.parse import urlsplit

import requests
from protego import Protego

EXPIRES_S = 24 * 3600.0
"""RFC 9309, 2.4: a copy should not be used for longer than a day."""


class Robots:
    """The rules of hosts, each asked once and remembered for a day."""

    def __init__(self, user_agent: str, timeout_s: float) -> None:
        self._user_agent = user_agent
        self._timeout_s = timeout_s
        self._rules: dict[str, tuple[float, Protego | None]] = {}

    def allowed(self, url: str) -> bool:
        """May we ask for this URL? A host whose robots.txt fails with 5xx or no answer forbids all (2.3.1.4), one that
        has none (4xx) forbids nothing (2.3.1.3)."""
        parts = urlsplit(url)
        host = f"{parts.scheme}://{parts.netloc}"
        read_at, rules = self._rules.get(host, (-EXPIRES_S, None))
        if time.monotonic() - read_at >= EXPIRES_S:
            rules = self._read(host)
            self._rules[host] = (time.monotonic(), rules)
        return rules is not None and rules.can_fetch(url, self._user_agent)

    def _read(self, host: str) -> Protego | None:
        try:
            headers = {"User-Agent": self._user_agent}
            response = requests.get(f"{host}/robots.txt", headers=headers, timeout=self._timeout_s)
        except requests.RequestException:
            return None
        if response.status_code >= 500:
            return None
        return Protego.parse(response.text if response.ok else "")
