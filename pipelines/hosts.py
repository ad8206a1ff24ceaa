"""What we owe a host: so many requests a second, so many connections, and to stay away when it says so."""

import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager

REMEMBERED = 100_000
"""Hosts that a worker remembers; the one not asked for the longest is forgotten."""
MARGIN = 1.05
"""A wait is longer than the limit asks by this factor, so that what jitters on the way stays within the limit."""
LONGEST_WAIT_S = 60.0
"""A request that would have to wait longer for its turn is not made now, …"""
LONGEST_STAY_S = 5.0
"""… nor one to a host that wants to be left alone for longer than this."""
SLOWEST_S = 60.0
"""Hosts that keep saying 429 are asked no seldomer than this."""
DOWN_AFTER = 5
"""Connections that failed in a row after which a host counts as down, …"""
DOWN_S = 300.0
"""… for so long."""


class NotNow(Exception):
    """A host is not to be asked now; `wait_s` says when it may be."""

    def __init__(self, reason: str, wait_s: float) -> None:
        super().__init__(reason)
        self.wait_s = wait_s


class Host:
    """One host's limits and its state, shared by the threads of a worker."""

    def __init__(self, interval_s: float, connections: int | None) -> None:
        """Args:
        interval_s: between two requests; 0 for no limit.
        connections: at one time; None for no limit.
        """
        self._interval_s = interval_s * MARGIN
        self._slots = threading.BoundedSemaphore(connections) if connections else None
        self._turn = threading.Lock()
        self._next_at = 0.0
        self._stay_away_until = 0.0
        self._reason = ""
        self._failures = 0

    @contextmanager
    def connection(self) -> Iterator[None]:
        """The right to have one connection more.

        Raises:
            NotNow: the host asked us to stay away for longer than a wait, or is down.
        """
        self._check()
        if self._slots is None:
            yield
        else:
            with self._slots:
                self._check()
                yield

    def wait_turn(self) -> None:
        """Wait until a request may be sent, and send it then: turns are counted from when they are given.

        Raises:
            NotNow: the host wants longer pauses than a request can wait for.
        """
        if not self._interval_s:
            return
        with self._turn:
            wait_s = self._next_at - time.monotonic()
            if wait_s > LONGEST_WAIT_S:
                raise NotNow(f"the host wants {self._interval_s:.0f} s between requests", wait_s)
            if wait_s > 0:
                time.sleep(wait_s)
            self._next_at = time.monotonic() + self._interval_s

    def slow_down(self, interval_s: float) -> None:
        """Leave at least so long between two requests: what a Crawl-delay says."""
        self._interval_s = max(self._interval_s, interval_s * MARGIN)

    def busy(self, retry_after_s: float | None) -> None:
        """The host said 429 or 503: stay away as long as it asks; where it names no time, ask half as often."""
        if retry_after_s is not None:
            self._stay_away(retry_after_s, "the host asked us to wait")
        elif self._interval_s:
            self._interval_s = min(2 * self._interval_s, max(SLOWEST_S, self._interval_s))

    def answered(self) -> None:
        """A connection was made."""
        self._failures = 0

    def failed(self) -> None:
        """No connection was made; after a few in a row the host counts as down for a while."""
        self._failures += 1
        if self._failures >= DOWN_AFTER:
            self._stay_away(DOWN_S, "the host does not answer")
            self._failures = 0

    def _stay_away(self, wait_s: float, reason: str) -> None:
        self._stay_away_until = max(self._stay_away_until, time.monotonic() + wait_s)
        self._reason = reason

    def _check(self) -> None:
        wait_s = self._stay_away_until - time.monotonic()
        if wait_s > LONGEST_STAY_S:
            raise NotNow(self._reason, wait_s)
        if wait_s > 0:
            time.sleep(wait_s)


class Hosts:
    """The hosts that a worker has to do with."""

    def __init__(self, requests_per_second: float | None, connections: int | None) -> None:
        self._interval_s = 1 / requests_per_second if requests_per_second else 0.0
        self._connections = connections
        self._lock = threading.Lock()
        self._hosts: OrderedDict[str, Host] = OrderedDict()

    def __getitem__(self, name: str) -> Host:
        with self._lock:
            host = self._hosts.get(name)
            if host is None:
                host = self._hosts[name] = Host(self._interval_s, self._connections)
                if len(self._hosts) > REMEMBERED:
                    self._hosts.popitem(last=False)
            else:
                self._hosts.move_to_end(name)
            return host
