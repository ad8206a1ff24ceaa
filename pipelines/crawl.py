"""Sources → candidates: pages of sites followed from their seeds, and lists of URLs."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urldefrag, urljoin, urlsplit

import duckdb
import lxml.etree
import lxml.html
import pyarrow as pa
import requests

from pipelines.corpus import Corpus
from pipelines.robots import Robots
from pipelines.stage import Rows, Stage, derive
from pipelines.views import literal
from schemas.errors import JuZhouError
from schemas.identity import CANDIDATE_ID, PAGE_ID, URL_ID
from schemas.recipe import Fetch, Site, Urls
from schemas.tables import CANDIDATES, PAGES, Status

MAX_PAGE_BYTES = 10_000_000
THREADS = 8


def crawl_stage(name: str, site: Site, fetch: Fetch, started: datetime) -> Stage:
    """The pages of a source that are due: the nearest level of links first, so that depths do not depend on timing.

    Due is a page never asked; one whose failures were all transient, once a build; and once a build one so near to a
    seed that it announces what is new.
    """
    seeds = ", ".join(f"({literal(url)})" for url in site.seeds)
    before = f"last < TIMESTAMPTZ '{started.isoformat()}'"
    inputs = f"""
        WITH asked AS (
            SELECT page_id, count(*) AS attempts, max(fetched_at) AS last, bool_or(status <> 'transient') AS settled
            FROM pages WHERE source = {literal(name)} GROUP BY page_id
        ), links AS (
            SELECT url, 0 AS depth FROM (VALUES {seeds}) AS seeds(url)
            UNION ALL
            SELECT unnest(links) AS url, depth + 1 AS depth FROM pages
            WHERE source = {literal(name)} AND depth < {site.depth}
        ), found AS (
            SELECT source, url, {PAGE_ID} AS page_id, min(depth)::INT AS depth
            FROM (SELECT {literal(name)} AS source, * FROM links) GROUP BY source, url
        ), due AS (
            SELECT page_id, (coalesce(attempts, 0) + 1)::INT AS attempt, source, url, depth
            FROM found LEFT JOIN asked USING (page_id)
            WHERE attempts IS NULL
            OR ({before} AND (depth <= {site.announced} OR (NOT settled AND attempts < {fetch.attempts})))
        )
        SELECT * FROM due WHERE depth = (SELECT min(depth) FROM due)
        ORDER BY attempt DESC, page_id
        LIMIT (SELECT count(*) FILTER (attempt > 1) + greatest(0, {site.pages} - (SELECT count(*) FROM asked)) FROM due)
    """
    return Stage(
        name=f"crawl {name}",
        key=("page_id", "attempt"),
        inputs=inputs,
        outputs=(PAGES,),
        work=lambda: _Crawl(fetch),
        batch=64,
    )


def candidates_of_pages(corpus: Corpus, recipe: str) -> int:
    """Every picture that a page shows, with its words. The same picture with the same words is one candidate."""
    query = f"""
        SELECT {CANDIDATE_ID} AS candidate_id, source, {URL_ID} AS url_id, url, caption,
            first(caption_from ORDER BY page_url) AS caption_from, min(page_url) AS page_url,
            first(licence ORDER BY page_url) AS licence, min(found_at) AS found_at, {literal(recipe)} AS recipe
        FROM (
            SELECT source, url AS page_url, fetched_at AS found_at, unnest(pictures, recursive := true) FROM pages
        ) AS found(source, page_url, found_at, url, caption, caption_from, licence)
        GROUP BY source, url, caption
    """
    return derive(corpus, CANDIDATES, query)


def candidates_of_urls(corpus: Corpus, name: str, urls: Urls, recipe: str, started: datetime) -> int:
    """Every row of a list that has a URL.

    Raises:
        JuZhouError: the file cannot be read, or has no such columns.
    """
    reader = {".parquet": "read_parquet", ".jsonl": "read_json", ".ndjson": "read_json"}.get(
        urls.path.suffix, "read_csv"
    )
    if not urls.path.is_file():
        raise JuZhouError(f"{urls.path}: no such file; it is the source '{name}'")
    listed = f"{reader}({literal(urls.path)})"
    try:
        with corpus.connect() as connection:
            columns = connection.sql(f"SELECT * FROM {listed} LIMIT 0").columns
    except duckdb.Error as error:
        raise JuZhouError(f"{urls.path}: cannot be read as {reader}: {str(error).splitlines()[0]}") from error
    for wanted in (urls.url, urls.caption):
        if wanted not in columns:
            raise JuZhouError(f"{urls.path}: no column '{wanted}'; it has {', '.join(columns)}")
    query = f"""
        SELECT {CANDIDATE_ID} AS candidate_id, source, {URL_ID} AS url_id, url, caption, 'list' AS caption_from,
            NULL AS page_url, NULL AS licence, TIMESTAMPTZ '{started.isoformat()}' AS found_at,
            {literal(recipe)} AS recipe
        FROM (
            SELECT DISTINCT {literal(name)} AS source, "{urls.url}"::VARCHAR AS url,
                coalesce("{urls.caption}"::VARCHAR, '') AS caption
            FROM {listed} WHERE "{urls.url}" IS NOT NULL
        )
    """
    try:
        return derive(corpus, CANDIDATES, query)
    except duckdb.Error as error:
        raise JuZhouError(f"{urls.path}: {str(error).splitlines()[0]}; mend the file and run again") from error


class _Crawl:
    """Asks for pages and reads what they show."""

    def __init__(self, fetch: Fetch) -> None:
        self._robots = Robots(fetch.user_agent, fetch.timeout_s)
        self._timeout_s = fetch.timeout_s
        self._session = requests.Session()
        self._session.headers["User-Agent"] = fetch.user_agent

    def __call__(self, batch: pa.Table) -> Rows:
        pages = batch.to_pylist()
        refused = [self._robots.refusal(page["url"]) for page in pages]
        with ThreadPoolExecutor(THREADS) as pool:
            seen = list(pool.map(self._visit, [page["url"] for page in pages], refused))
        return [_rows(pages, seen)]

    def lost(self, batch: pa.Table, error: str) -> Rows:
        return [_rows(batch.to_pylist(), [_failure(Status.PERMANENT, error)])]

    def _visit(self, url: str, refused: tuple[Status, str] | None) -> dict[str, Any]:
        if refused:
            return _failure(*refused)
        try:
            with self._session.get(url, timeout=self._timeout_s, stream=True) as response:
                status = Status.of_http(response.status_code)
                if status is not Status.OK:
                    return _failure(status, f"HTTP {response.status_code}", response.status_code)
                kind = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
                if kind not in ("text/html", "application/xhtml+xml"):
                    return _failure(
                        Status.PERMANENT, f"not HTML but {kind or 'of no stated type'}", response.status_code
                    )
                content = response.raw.read(MAX_PAGE_BYTES + 1, decode_content=True)
                charset = response.encoding if "charset" in response.headers.get("Content-Type", "") else None
        except requests.RequestException as error:
            return _failure(Status.TRANSIENT, type(error).__name__)
        if len(content) > MAX_PAGE_BYTES:
            return _failure(Status.PERMANENT, f"more than {MAX_PAGE_BYTES:,} bytes", response.status_code)
        try:
            links, pictures = read_page(content, url, charset)
        except (lxml.etree.LxmlError, ValueError) as error:
            return _failure(Status.PERMANENT, f"cannot be read: {error}", response.status_code)
        return {"status": Status.OK, "http_code": response.status_code, "links": links, "pictures": pictures}


def read_page(content: bytes, url: str, charset: str | None) -> tuple[list[str], list[dict[str, str | None]]]:
    """What an HTML page links to on its own host, and the pictures that it shows.

    A picture's caption is its `alt`; without one, the `figcaption` of the figure it stands in; without that, its
    `title`; without any, empty. The licence is the page's `rel=license` link.

    Args:
        charset: as the HTTP header states it; the page's own `meta` decides without one.

    Raises:
        lxml.etree.LxmlError or ValueError: there is nothing in it that could be read as HTML.
    """
    page = lxml.html.document_fromstring(content, parser=lxml.html.HTMLParser(encoding=charset))
    host = urlsplit(url).netloc
    linked = {_resolve(url, anchor.get("href")): None for anchor in page.xpath("//a[@href]")}
    links = [link for link in linked if link and urlsplit(link).netloc == host]
    licences = page.xpath("//*[contains(concat(' ', normalize-space(@rel), ' '), ' license ')]/@href")
    licence = _resolve(url, licences[0]) if licences else None
    pictures = []
    for image in page.xpath("//img[@src]"):
        if source := _resolve(url, image.get("src")):
            caption, caption_from = _caption(image)
            pictures.append({"url": source, "caption": caption, "caption_from": caption_from, "licence": licence})
    return links, pictures


def _resolve(page: str, reference: str) -> str | None:
    """A reference as a whole http or https URL without its fragment; None where it is something else."""
    try:
        url = urldefrag(urljoin(page, reference.strip())).url
        return url if urlsplit(url).scheme in ("http", "https") else None
    except ValueError:
        return None


def _caption(image: lxml.html.HtmlElement) -> tuple[str, str]:
    figures = image.xpath("ancestor::figure[1]//figcaption")
    words = {
        "alt": image.get("alt") or "",
        "figcaption": figures[0].text_content() if figures else "",
        "title": image.get("title") or "",
    }
    for caption_from, text in words.items():
        if text.strip():
            return " ".join(text.split()), caption_from
    return "", "none"


def _failure(status: Status, error: str, http_code: int | None = None) -> dict[str, Any]:
    return {"status": status, "http_code": http_code, "error": error, "links": [], "pictures": []}


def _rows(pages: list[dict[str, Any]], seen: list[dict[str, Any]]) -> tuple[Any, pa.Table]:
    now = datetime.now(UTC)
    columns = ("page_id", "attempt", "source", "url", "depth")
    rows = [
        {column: page[column] for column in columns} | {"error": None, "fetched_at": now} | outcome
        for page, outcome in zip(pages, seen, strict=True)
    ]
    return PAGES, pa.Table.from_pylist(rows, schema=PAGES.schema)
