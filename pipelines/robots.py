"""What a site's robots.txt (RFC 9309) lets us ask."""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

from protego import Protego

from pipelines.hosts import NotNow

EXPIRES_S = 24 * 3600.0
"""RFC 9309, 2.4: a copy should not be used for longer than a day."""
UNAVAILABLE_S = 600.0
"""How long a host whose robots.txt could not be had is left alone."""
MAX_BYTES = 512 * 1024
"""RFC 9309, 2.5: at least 500 KiB are parsed; what comes after is not."""
REMEMBERED = 50_000

Ask = Callable[[str], tuple[int, bytes]]
"""A URL → the HTTP code and the body; raises OSError where there is no answer."""


@dataclass
class _Copy:
    """A host's rules as they were read; None where they could not be had, which forbids everything for now."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    expires_at: float = float("-inf")
    rules: Protego | None = None
    trouble: str = ""


class Robots:
    """The rules of origins (scheme, host and port), each asked once and remembered for a day."""

    def __init__(self, user_agent: str, ask: Ask) -> None:
        self._user_agent = user_agent
        self._ask = ask
        self._lock = threading.Lock()
        self._copies: OrderedDict[str, _Copy] = OrderedDict()

    def rules(self, origin: str) -> Protego:
        """The rules of an origin such as `https://example.org`.

        A host that has none (4xx) forbids nothing (RFC 9309, 2.3.1.3). One that gives 5xx or no answer may not be asked
        for now (2.3.1.4); 429 counts as that too, for it means that we ask too much already.

        Raises:
            NotNow: the rules cannot be had.
        """
        with self._lock:
            copy = self._copies.setdefault(origin, _Copy())
            self._copies.move_to_end(origin)
            if len(self._copies) > REMEMBERED:
                self._copies.popitem(last=False)
        with copy.lock:
            if time.monotonic() >= copy.expires_at:
                copy.rules, copy.trouble = self._read(origin)
                copy.expires_at = time.monotonic() + (EXPIRES_S if copy.rules else UNAVAILABLE_S)
            if copy.rules is None:
                raise NotNow(f"robots.txt cannot be had: {copy.trouble}", copy.expires_at - time.monotonic())
            return copy.rules

    def pause_s(self, rules: Protego) -> float:
        """The seconds that the rules want between two requests, 0 where they say nothing of it."""
        delay = float(rules.crawl_delay(self._user_agent) or 0)
        rate = rules.request_rate(self._user_agent)
        return max(delay, rate.seconds / rate.requests if rate and rate.requests else 0.0)

    def _read(self, origin: str) -> tuple[Protego | None, str]:
        """The rules, or what is in the way of them."""
        try:
            code, body = self._ask(f"{origin}/robots.txt")
        except OSError as error:
            return None, str(error)
        if code >= 500 or code == 429:
            return None, f"HTTP {code}"
        return Protego.parse(body[:MAX_BYTES].decode("utf-8", "replace") if code < 300 else ""), ""
