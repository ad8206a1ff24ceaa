"""Candidates → original bytes: img2dataset moves batches, our web guards each request, and every URL ends in a row."""

import io
import tempfile
import urllib.request
from collections.abc import Collection
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa

from filters.picture import read_header
from pipelines.blob import Blob
from pipelines.corpus import Corpus
from pipelines.retry import attempts, retry_at
from pipelines.stage import ROUND, Rows, Stage, derive
from pipelines.tombstones import Tombstones
from pipelines.views import literal
from pipelines.web import FORGOTTEN, Failed, Web, host_of
from schemas.identity import HOST, SAMPLE_ID, digest
from schemas.recipe import Fetch
from schemas.tables import FETCHES, IMAGES, SAMPLES, Status

BATCH = 1024
TURN_S = 10.0
"""A batch holds no more URLs of one host than its limit lets through in this time, …"""
LOOKUP_S = 600.0
"""… and a look-up no more than in this, so that no host holds the others up."""
SCHEME = "juzhou:"
"""What img2dataset takes for a URL is this and the row's key; the web is asked for the row's own URL."""


def fetch_stage(
    corpus: Corpus, sources: Collection[str], fetch: Fetch, started: datetime, refetch: bool = False
) -> Stage:
    """The URLs of some sources that were never asked, and those whose failures were all transient once they fall due.

    Args:
        refetch: what the web answered for good before `started` is asked again too.
    """
    limited = fetch.requests_per_second or fetch.connections_per_host
    rate = fetch.requests_per_second
    of_the_web = "regexp_matches(url, '^https?://', 'i')"
    again = f"{of_the_web} AND settled AND last < TIMESTAMPTZ '{started.isoformat()}'" if refetch else "false"
    fetched = attempts("fetches", "url_id")
    wanted = f"""
        SELECT url_id, any_value(url) AS url FROM candidates
        WHERE source IN ({", ".join(map(literal, sources)) or "NULL"}) GROUP BY url_id
    """
    to_do = f"""
        SELECT * FROM ({wanted}) LEFT JOIN ({fetched}) USING (url_id)
        WHERE (attempts IS NULL OR {again} OR (NOT settled AND tries < {fetch.attempts}))
    """
    inputs = f"""
        SELECT url_id, (coalesce(attempts, 0) + 1)::INT AS attempt, coalesce(tries, 0)::INT AS tries, url, url AS at,
            0 AS hops, {HOST} AS host
        FROM (
            {to_do} AND coalesce(retry_at, now()) <= now()
            ORDER BY url_id < (SELECT unhex(md5(random()::VARCHAR))), url_id LIMIT {4 * ROUND}
        )
        {f"QUALIFY row_number() OVER (PARTITION BY host ORDER BY url_id) <= {LOOKUP_S * rate}" if rate else ""}
    """
    return Stage(
        name="fetch",
        key=("url_id", "attempt"),
        inputs=inputs,
        outputs=(FETCHES,),
        work=lambda: _Fetch(fetch, corpus.blobs, Tombstones.of(corpus)),
        batch=BATCH,
        together="host" if limited else None,
        at_once=max(1, int(TURN_S * rate)) if rate else BATCH,
        remaining=f"SELECT count(*) FROM ({to_do})",
        due=f"SELECT min(retry_at) AS due FROM ({to_do})",
        patience_s=fetch.patience_s,
    )


def images_of_fetches(corpus: Corpus) -> int:
    """Each picture once, however many URLs gave the same bytes."""
    columns = [name for name in IMAGES.schema.names if name != "image_id"]
    firsts = ", ".join(f'first("{name}" ORDER BY url_id, attempt) AS "{name}"' for name in columns)
    return derive(
        corpus, IMAGES, f"SELECT image_id, {firsts} FROM fetches WHERE image_id IS NOT NULL GROUP BY image_id"
    )


def samples_of_images(corpus: Corpus) -> int:
    """Each picture with each caption that was found for it."""
    query = f"""
        SELECT {SAMPLE_ID} AS sample_id, image_id, caption, min(candidate_id) AS candidate_id
        FROM candidates JOIN fetches USING (url_id) WHERE image_id IS NOT NULL
        GROUP BY image_id, caption
    """
    return derive(corpus, SAMPLES, query)


class _Fetch:
    """A batch of URLs → one tar of original bytes and a row an attempt."""

    def __init__(self, fetch: Fetch, blobs: Path, forgotten: Tombstones) -> None:
        self._fetch = fetch
        self._blobs = blobs
        self._forgotten = forgotten
        self._web = Web(fetch, refuse=forgotten.refuse)

    def __call__(self, batch: pa.Table) -> Rows:
        asked = {row["url_id"].hex(): row for row in batch.to_pylist()}
        self._web.introduce(row["at"] for row in asked.values())
        urls = {name: row["at"] for name, row in asked.items()}
        with Blob(self._blobs) as blob:
            transfer = _Transfer(self._web, urls, self._fetch.max_pixels, blob, self._forgotten.images)
            transfer.run(self._fetch.threads)
        outcomes, moved = [], []
        for name, row in asked.items():
            failure = transfer.failures.get(name)
            if failure and failure.moved_to and row["hops"] < self._fetch.redirects:
                moved.append(row | {"at": failure.moved_to, "hops": row["hops"] + 1})
            elif failure:
                outcomes.append(self._failed(row, failure))
            elif found := transfer.found.get(name):
                outcomes.append(_row(row, Status.OK) | found | blob.location(found["image_id"]))
            else:
                lost = transfer.messages.get(name, "the transfer left no word of it")
                outcomes.append(self._failed(row, Failed(Status.TRANSIENT, lost)))
        rows: list[Any] = [(FETCHES, pa.Table.from_pylist(outcomes, schema=FETCHES.schema))]
        return [*rows, (None, _with_hosts(moved, batch.schema))] if moved else rows

    def lost(self, batch: pa.Table, error: str) -> Rows:
        [row] = batch.to_pylist()
        outcome = self._failed(row, Failed(Status.PERMANENT, error))
        return [(FETCHES, pa.Table.from_pylist([outcome], schema=FETCHES.schema))]

    def _failed(self, row: dict[str, Any], failure: Failed) -> dict[str, Any]:
        status, error = failure.status, failure.error
        if failure.moved_to:
            status, error = Status.PERMANENT, f"more than {self._fetch.redirects} redirects"
        again = None
        if status == Status.TRANSIENT:
            again = retry_at(row["tries"] + 1 if failure.asked else 0, self._fetch.retry_s, failure.retry_after_s)
        about = {"http_code": failure.http_code, "error": error, "asked": failure.asked, "retry_at": again}
        return _row(row, status) | about


class _Transfer:
    """The opener, the resizer and the writer that img2dataset works with, for one batch."""

    def __init__(
        self, web: Web, urls: dict[str, str], max_pixels: int, blob: Blob, forgotten: Collection[bytes]
    ) -> None:
        self._web = web
        self._urls = urls
        self._max_pixels = max_pixels
        self._blob = blob
        self._forgotten = forgotten
        self._broken: OSError | None = None
        self.found: dict[str, dict[str, Any]] = {}
        self.failures: dict[str, Failed] = {}
        self.messages: dict[str, str] = {}
        self._answers: dict[str, dict[str, Any]] = {}

    def run(self, threads: int) -> None:
        """Move the batch; afterwards each name is in `found`, in `failures` or in `messages`, or its word was lost.

        Raises:
            OSError: the blob cannot be written.
        """
        # It takes seconds to import, and workers alone need it.
        from img2dataset.downloader import Downloader

        urllib.request.install_opener(self)  # type: ignore[arg-type]
        with tempfile.TemporaryDirectory() as folder:
            shard = Path(folder) / "urls.feather"
            table = pa.table({"url": [SCHEME + name for name in self._urls]})
            with pa.OSFile(str(shard), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
                writer.write_table(table)
            download = Downloader(
                sample_writer_class=lambda *_: self,
                resizer=self.keep,
                thread_count=min(threads, len(self._urls)),
                save_caption=False,
                extract_exif=False,
                output_folder=folder,
                column_list=["url"],
                timeout=None,
                number_sample_per_shard=max(len(self._urls), 2),
                oom_shard_count=5,
                compute_hash=None,
                verify_hash_type=None,
                encode_format="",
                retries=0,
                user_agent_token=None,
                disallowed_header_directives=None,
            )
            try:
                download((0, str(shard)))
            finally:
                urllib.request.install_opener(None)
        if self._broken:
            raise self._broken

    def open(self, request: urllib.request.Request, data: Any, timeout: Any) -> io.BytesIO:
        """In place of urllib's opener: the whole of a picture, by the key that stands in for its URL."""
        name = request.full_url.removeprefix(SCHEME)
        url = self._urls[name]
        try:
            with self._web.get(url) as answer:
                content = answer.read()
        except Failed as failure:
            self.failures[name] = failure
            raise
        self._answers[name] = {"http_code": answer.code, "final_url": answer.url if answer.url != url else None}
        return io.BytesIO(content)

    def keep(self, stream: io.BytesIO, _boxes: Any) -> tuple[bytes, None, None, None, None, None]:
        """In place of the resizer: the bytes as they are."""
        return stream.getvalue(), None, None, None, None, None

    def write(self, content: bytes | None, _key: str, _caption: str | None, about: dict[str, Any]) -> None:
        """In place of the writer: keep what is a picture by its header. One thread calls it; what it raises is lost."""
        name = about["url"].removeprefix(SCHEME)
        if content is None:
            self.messages[name] = " ".join(str(about["error_message"]).split())
            return
        try:
            header = read_header(content, self._max_pixels)
        except ValueError as error:
            self.failures[name] = Failed(Status.PERMANENT, str(error), self._answers[name]["http_code"])
            return
        image_id = digest(content)
        if image_id in self._forgotten:
            self.failures[name] = Failed(Status.DISALLOWED, FORGOTTEN, self._answers[name]["http_code"])
            return
        try:
            self._blob.add(image_id, content)
        except OSError as error:
            self._broken = error
            return
        self.found[name] = self._answers[name] | vars(header) | {"image_id": image_id}

    def close(self) -> None:
        """Called by img2dataset at the end; nothing is buffered here."""


def _row(row: dict[str, Any], status: str) -> dict[str, Any]:
    """What an attempt's row holds whatever comes of it."""
    about = {name: row[name] for name in ("url_id", "attempt", "url")}
    return about | {"status": status, "asked": True, "fetched_at": datetime.now(UTC)}


def _with_hosts(rows: list[dict[str, Any]], schema: pa.Schema) -> pa.Table:
    """Inputs for the workers of the hosts that they have moved to."""
    moved = pa.Table.from_pylist(rows, schema=schema)
    hosts = [host_of(row["at"]) for row in rows]
    return moved.set_column(schema.get_field_index("host"), "host", pa.array(hosts, schema.field("host").type))
