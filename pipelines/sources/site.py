"""Live sites: pages and sitemaps followed from seeds, a level of links after the other, as politely as pictures.

The crawl is a stage as any other, so its frontier is what `pages` holds: it stops and goes on where it stood. Of the
well-kept crawlers it takes the parts that are not about that: Protego and w3lib of Scrapy for robots.txt, charsets and
URLs, lxml for HTML. A whole crawler would bring a scheduler, a queue and a store of its own beside Ray and the tables.
"""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

import pyarrow as pa

from pipelines import optout
from pipelines.corpus import Corpus
from pipelines.page import MAX_PAGE_BYTES, is_page, read_page
from pipelines.retry import attempts, retry_at
from pipelines.sitemap import MAX_BYTES, read_sitemap
from pipelines.stage import Rows, Stage
from pipelines.tombstones import Tombstones
from pipelines.views import literal
from pipelines.web import Answer, Failed, Web, host_of
from schemas.errors import JuZhouError
from schemas.identity import HOST, PAGE_ID
from schemas.recipe import Fetch, Site
from schemas.tables import PAGES, Status

SITEMAP_TYPES = {
    "application/xml", "text/xml", "application/rss+xml", "application/atom+xml", "text/plain",
    "application/gzip", "application/x-gzip", "application/octet-stream", "",
}  # fmt: skip
BATCH = 64
TURN_S = 10.0
"""A batch holds no more pages of one host than its limit lets through in this time."""


def crawl_stage(corpus: Corpus, name: str, site: Site, fetch: Fetch, started: datetime) -> Stage:
    """The pages of a source that are due: the nearest level of links first, so that depths do not depend on timing.

    Due is a page never asked; one whose failures were all transient, as they fall due; and once a build one so near to
    a seed that it announces what is new.

    Raises:
        JuZhouError: a seed is no URL of the web.
    """
    hosts = tuple(host.lower() for host in site.hosts)
    for seed in site.seeds:
        if urlsplit(seed).scheme not in ("http", "https") or not urlsplit(seed).hostname:
            raise JuZhouError(f"'{seed}' is no http or https URL; it is a seed of the source '{name}'")
    seeds = ", ".join(f"({literal(url)})" for url in site.seeds)
    before = f"last < TIMESTAMPTZ '{started.isoformat()}'"
    asked = attempts("pages", "page_id", f"source = {literal(name)}")
    inputs = f"""
        WITH asked AS ({asked}), links AS (
            SELECT url, 0 AS depth FROM (VALUES {seeds}) AS seeds(url)
            UNION ALL
            SELECT unnest(links) AS url, depth + 1 AS depth FROM pages
            WHERE source = {literal(name)} AND depth < {site.depth}
        ), found AS (
            SELECT source, url, {PAGE_ID} AS page_id, min(depth)::INT AS depth
            FROM (SELECT {literal(name)} AS source, * FROM links) GROUP BY source, url
        ), due AS (
            SELECT page_id, (coalesce(attempts, 0) + 1)::INT AS attempt, coalesce(tries, 0)::INT AS tries, source, url,
                depth, {HOST} AS host
            FROM found LEFT JOIN asked USING (page_id)
            WHERE attempts IS NULL OR (depth <= {site.announced} AND {before})
            OR (NOT settled AND tries < {fetch.attempts} AND retry_at <= now())
        )
        SELECT * FROM due WHERE depth = (SELECT min(depth) FROM due)
        ORDER BY attempt DESC, page_id
        LIMIT (SELECT count(*) FILTER (attempt > 1) + greatest(0, {site.pages} - (SELECT count(*) FROM asked)) FROM due)
    """
    rate = fetch.requests_per_second
    return Stage(
        name=f"crawl {name}",
        key=("page_id", "attempt"),
        inputs=inputs,
        outputs=(PAGES,),
        work=lambda: _Crawl(fetch, site, hosts, Tombstones.of(corpus)),
        batch=BATCH,
        together="host" if rate or fetch.connections_per_host else None,
        at_once=max(1, int(TURN_S * rate)) if rate else BATCH,
        due=f"SELECT min(retry_at) AS due FROM ({asked}) WHERE NOT settled AND tries < {fetch.attempts}",
        patience_s=fetch.patience_s,
    )


class _Crawl:
    """Asks for pages and reads what they show."""

    def __init__(self, fetch: Fetch, site: Site, hosts: tuple[str, ...], forgotten: Tombstones) -> None:
        self._fetch = fetch
        self._sitemaps = site.sitemaps
        self._seeds = {host_of(seed) for seed in site.seeds}
        self._hosts = hosts
        self._forgotten = forgotten
        self._web = Web(fetch, max_bytes=MAX_BYTES, refuse=forgotten.refuse)

    def __call__(self, batch: pa.Table) -> Rows:
        pages = batch.to_pylist()
        self._web.introduce(page["url"] for page in pages)
        with ThreadPoolExecutor(min(self._fetch.threads, len(pages))) as pool:
            rows = list(pool.map(self._visit, pages))
        return [(PAGES, pa.Table.from_pylist(rows, schema=PAGES.schema))]

    def lost(self, batch: pa.Table, error: str) -> Rows:
        [page] = batch.to_pylist()
        row = self._row(page, {"status": Status.PERMANENT, "error": error})
        return [(PAGES, pa.Table.from_pylist([row], schema=PAGES.schema))]

    def _visit(self, page: dict[str, Any]) -> dict[str, Any]:
        """The row of an attempt at a page. A redirect to another host is a link to it."""
        try:
            with self._web.get(page["url"]) as answer:
                seen = self._seen(answer)
        except Exception as error:
            reason = f"cannot be read: {type(error).__name__}: {error}".splitlines()[0]
            failure = error if isinstance(error, Failed) else Failed(Status.PERMANENT, reason)
            if failure.moved_to:
                seen = {"status": Status.OK, "http_code": failure.http_code, "links": [failure.moved_to]}
            else:
                seen = {"status": failure.status, "http_code": failure.http_code, "error": failure.error}
                seen["asked"] = failure.asked
                if failure.status == Status.TRANSIENT:
                    tries = page["tries"] + 1 if failure.asked else 0
                    seen["retry_at"] = retry_at(tries, self._fetch.retry_s, failure.retry_after_s)
        links = seen.get("links", [])
        if page["depth"] == 0 and self._sitemaps:
            links += self._web.sitemaps(page["url"])
        return self._row(page, seen | {"links": [link for link in dict.fromkeys(links) if self._followed(link)]})

    def _seen(self, answer: Answer) -> dict[str, Any]:
        """What a page or a sitemap holds.

        Raises:
            Failed: it is neither, or cannot be read.
        """
        kind = answer.headers.get("Content-Type", "")
        media = kind.partition(";")[0].strip().lower()
        ok = {"status": Status.OK, "http_code": answer.code}
        if is_page(kind):
            content = answer.read()
            if len(content) > MAX_PAGE_BYTES:
                raise Failed(Status.PERMANENT, f"a page of more than {MAX_PAGE_BYTES:,} bytes", answer.code)
            try:
                page = read_page(content, answer.url, kind, self._fetch.user_agent)
            except ValueError as error:
                raise Failed(Status.PERMANENT, f"cannot be read: {error}", answer.code) from error
            said = answer.headers.get_all("X-Robots-Tag", [])
            links = [] if optout.unfollowed(said, self._fetch.user_agent) else page.links
            if page.refusal:
                return ok | {"status": Status.DISALLOWED, "error": f"meta {page.refusal}", "links": links}
            pictures = [noted for found in page.pictures if (noted := self._forgotten.noted(found))]
            return ok | {"links": links, "pictures": pictures}
        if media in SITEMAP_TYPES and (listed := read_sitemap(answer.read(), answer.url)) is not None:
            return ok | {"links": listed}
        raise Failed(Status.PERMANENT, f"neither HTML nor a sitemap but {media or 'of no stated type'}", answer.code)

    def _followed(self, link: str) -> bool:
        """Whether a link stays within the hosts of the recipe, or those of the seeds."""
        try:
            host = (urlsplit(link).hostname or "").lower()
        except ValueError:
            return False
        if self._hosts:
            return any(host == one or host.endswith("." + one) for one in self._hosts)
        return host in {seed.strip("[]") for seed in self._seeds}

    def _row(self, page: dict[str, Any], seen: dict[str, Any]) -> dict[str, Any]:
        about = {name: page[name] for name in ("page_id", "attempt", "source", "url", "depth")}
        return about | {"asked": True, "fetched_at": datetime.now(UTC), "links": [], "pictures": []} | seen
