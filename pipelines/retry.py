"""When what failed may be tried again: exponential back-off with jitter, and never sooner than a server asks."""

import random
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

LONGEST_S = 24 * 3600.0
"""Back-off grows no further."""
JITTER = 0.25
LONGEST_RETRY_S = 7 * 24 * 3600.0
"""A Retry-After of more is taken for this."""


def retry_at(tries: int, first_s: float, retry_after_s: float | None = None) -> datetime:
    """The time of the next attempt.

    Args:
        tries: attempts that were made; one that was put off is none, and only what it waits for counts.
        first_s: the wait after the first attempt; it doubles with each one more, give or take a quarter.
        retry_after_s: what the server asks for, or what the attempt was put off for.
    """
    back_off_s = min(first_s * 2.0 ** min(tries - 1, 30), LONGEST_S) if tries else 0.0
    back_off_s *= random.uniform(1 - JITTER, 1 + JITTER)
    return datetime.now(UTC) + timedelta(seconds=max(back_off_s, retry_after_s or 0.0))


def attempts(table: str, key: str, where: str = "true") -> str:
    """A query for what was tried of each key of `pages` or `fetches`: `settled` is one whose failures are not all
    transient, and `tries` counts the attempts that were not put off."""
    return f"""
        SELECT {key}, count(*) AS attempts, count(*) FILTER (asked) AS tries, max(fetched_at) AS last,
            max(retry_at) AS retry_at, bool_or(status <> 'transient') AS settled
        FROM {table} WHERE {where} GROUP BY {key}
    """


def retry_after_s(value: str | None) -> float | None:
    """The seconds of a Retry-After header (RFC 9110, 10.2.3): a number of them, or a date; None where it is neither."""
    if value is None:
        return None
    try:
        if value.strip().isdigit():
            wait_s = float(value)
        else:
            wait_s = (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds()
    except (ValueError, TypeError, OverflowError):
        return None
    return min(max(wait_s, 0.0), LONGEST_RETRY_S)
