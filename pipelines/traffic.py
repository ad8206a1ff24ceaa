"""How fetching goes, as the disk tells: rows a second, what comes of them by error and by host, and the time left."""

from dataclasses import dataclass

import pyarrow as pa

from pipelines.corpus import Corpus
from schemas.identity import HOST

RECENT = "INTERVAL 10 MINUTES"
"""The rate is that of the last attempts, up to so much before the newest."""

RATE = f"""
    SELECT count(*) AS attempts, date_diff('millisecond', min(fetched_at), max(fetched_at)) / 1000 AS seconds
    FROM fetches WHERE asked AND fetched_at >= (SELECT max(fetched_at) FROM fetches WHERE asked) - {RECENT}
"""
LAST = """
    SELECT unnest(last) FROM (SELECT arg_max(fetches, attempt) AS last FROM fetches GROUP BY url_id)
"""
BY_ERROR = f"""
    SELECT status, coalesce(regexp_replace(error, '[0-9,]*[:=] .*|[0-9,]+ bytes.*', ''), '') AS error, count(*) AS urls
    FROM ({LAST}) GROUP BY ALL ORDER BY urls DESC, status, error
"""
BY_HOST = f"""
    SELECT {HOST} AS host, count(*) AS urls, count(*) FILTER (status = 'ok') AS ok,
        count(*) FILTER (status = 'transient') AS to_retry,
        arg_max(error, fetched_at) FILTER (status <> 'ok') AS last_error
    FROM ({LAST}) GROUP BY host ORDER BY urls DESC, host LIMIT {{hosts}}
"""


@dataclass(frozen=True)
class Traffic:
    """What became of the URLs so far."""

    rows_a_second: float | None
    """Attempts, over the last ten minutes of them; None before there are two."""
    by_error: pa.Table
    """status, error, urls: each URL's last attempt."""
    by_host: pa.Table
    """host, urls, ok, to_retry, last_error: the hosts with the most URLs."""

    def seconds_left(self, urls: int) -> float | None:
        """The time that so many URLs will take at this rate."""
        return urls / self.rows_a_second if self.rows_a_second else None


def traffic(corpus: Corpus, hosts: int = 10) -> Traffic:
    """Read how fetching goes; it may be going on."""
    [rate] = corpus.sql(RATE).to_pylist()
    return Traffic(
        rows_a_second=rate["attempts"] / rate["seconds"] if rate["seconds"] else None,
        by_error=corpus.sql(BY_ERROR),
        by_host=corpus.sql(BY_HOST.format(hosts=hosts)),
    )
