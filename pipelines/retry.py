"""When what failed may be tried again: exponential back-off with jitter, and never sooner than a server asks."""

import random
from datetime import UTC, datetime, timedelta

LONGEST_S = 24 * 3600.0
"""Back-off grows no further."""
JITTER = 0.25


def retry_at(tries: int, first_s: float, retry_after_s: float | None = None) -> datetime:
    """The time of the next attempt.

    Args:
        tries: attempts that were made; one that was put off is none, and only what it waits for counts.
        first_s: the wait after the first attempt; it doubles with each one more, give or take a quarter.
        retry_after_s: what the server asks for, or what the attempt was put off for.
    """
    wait_s = (
        min(first_s * 2.0 ** min(tries - 1, 30), LONGEST_S) * random.uniform(1 - JITTER, 1 + JITTER) if tries else 0.0
    )
    return datetime.now(UTC) + timedelta(seconds=max(wait_s, retry_after_s or 0.0))
