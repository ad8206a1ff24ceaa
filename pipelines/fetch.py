"""Candidates → original bytes: img2dataset transfers, we decide what may be asked and keep a row of every attempt."""

import io
import re
import tarfile
import tempfile
import urllib.request
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
from PIL import ExifTags, Image

from pipelines.corpus import UNFINISHED, Corpus, flush
from pipelines.robots import Robots
from pipelines.stage import Rows, Stage, derive
from schemas.identity import SAMPLE_ID, digest
from schemas.recipe import Fetch
from schemas.tables import FETCHES, IMAGES, SAMPLES, Status

OPT_OUT = ("noai", "noimageai", "noindex", "noimageindex")
TAR_BLOCK = 512


def fetch_stage(corpus: Corpus, fetch: Fetch, started: datetime) -> Stage:
    """The URLs that were never asked, and once a build those whose failures were all transient."""
    inputs = f"""
        SELECT url_id, (count(fetches.url_id) + 1)::INT AS attempt, any_value(candidates.url) AS url
        FROM (SELECT DISTINCT url_id, url FROM candidates) AS candidates LEFT JOIN fetches USING (url_id)
        GROUP BY url_id
        HAVING count(fetches.url_id) = 0 OR (
            bool_and(status = 'transient') AND count(fetches.url_id) < {fetch.attempts}
            AND max(fetched_at) < TIMESTAMPTZ '{started.isoformat()}'
        )
    """
    return Stage(
        name="fetch",
        key=("url_id", "attempt"),
        inputs=inputs,
        outputs=(FETCHES,),
        work=lambda: _Fetch(fetch, corpus.blobs),
        batch=128,
    )


def images_of_fetches(corpus: Corpus) -> int:
    """Each picture once, however many URLs gave the same bytes."""
    columns = [name for name in IMAGES.schema.names if name != "image_id"]
    firsts = ", ".join(f'first("{name}" ORDER BY url_id) AS "{name}"' for name in columns)
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

    def __init__(self, fetch: Fetch, blobs: Path) -> None:
        self._fetch = fetch
        self._blobs = blobs
        self._robots = Robots(fetch.user_agent, fetch.timeout_s)
        urllib.request.install_opener(urllib.request.build_opener(_Identify(fetch.user_agent)))

    def __call__(self, batch: pa.Table) -> Rows:
        asked = {row["url_id"].hex(): row for row in batch.to_pylist()}
        outcomes: dict[str, dict[str, Any]] = {}
        for name, row in asked.items():
            if refused := self._robots.refusal(row["url"]):
                outcomes[name] = _failure(*refused)
        allowed = {name: row["url"] for name, row in asked.items() if name not in outcomes}
        if allowed:
            outcomes |= self._transfer(allowed)
        for name in asked.keys() - outcomes.keys():
            outcomes[name] = _failure(Status.TRANSIENT, "the transfer left no word of it")
        return [_rows(asked, outcomes)]

    def lost(self, batch: pa.Table, error: str) -> Rows:
        asked = {row["url_id"].hex(): row for row in batch.to_pylist()}
        return [_rows(asked, {name: _failure(Status.PERMANENT, error) for name in asked})]

    def _transfer(self, urls: dict[str, str]) -> dict[str, dict[str, Any]]:
        """Download by img2dataset in this process; url_id in hex → columns of a row."""
        # It takes seconds to import, and workers alone need it.
        from img2dataset.downloader import Downloader

        with tempfile.TemporaryDirectory() as folder:
            shard = Path(folder) / "urls.feather"
            table = pa.table({"url": list(urls.values()), "url_id": list(urls)})
            with pa.OSFile(str(shard), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
                writer.write_table(table)
            kept = _Keeper()
            download = Downloader(
                sample_writer_class=lambda *_: kept,
                resizer=_inspect,
                thread_count=self._fetch.threads,
                save_caption=False,
                extract_exif=False,
                output_folder=folder,
                column_list=["url", "url_id"],
                timeout=self._fetch.timeout_s,
                number_sample_per_shard=max(len(urls), 2),
                oom_shard_count=5,
                compute_hash=None,
                verify_hash_type=None,
                encode_format="",
                retries=0,
                user_agent_token=self._fetch.user_agent.partition("/")[0],
                disallowed_header_directives=OPT_OUT,
            )
            download((0, str(shard)))
        locations = write_blob(self._blobs, sorted(kept.contents.items()))
        for outcome in kept.outcomes.values():
            if "image_id" in outcome:
                outcome |= locations[outcome["image_id"]]
        return kept.outcomes


class _Identify(urllib.request.BaseHandler):
    """Names us to servers by the recipe's user agent, in place of the browser that img2dataset names."""

    handler_order = 1000

    def __init__(self, user_agent: str) -> None:
        self._user_agent = user_agent

    def http_request(self, request: urllib.request.Request) -> urllib.request.Request:
        request.add_header("User-agent", self._user_agent)
        return request

    https_request = http_request


class _Keeper:
    """Takes the place of img2dataset's writer: bytes by image_id, an outcome by url_id."""

    def __init__(self) -> None:
        self.contents: dict[bytes, bytes] = {}
        self.outcomes: dict[str, dict[str, Any]] = {}

    def write(self, content: bytes | None, _key: str, _caption: str | None, about: dict[str, Any]) -> None:
        if content is None:
            self.outcomes[about["url_id"]] = outcome_of_error(about["error_message"])
            return
        image_id = digest(content)
        self.contents[image_id] = content
        header = read_header(content)
        self.outcomes[about["url_id"]] = {"status": Status.OK, "http_code": 200, "image_id": image_id} | header

    def close(self) -> None:
        """Called by img2dataset at the end; nothing is buffered here."""


def _inspect(
    stream: io.BytesIO, _boxes: Any
) -> tuple[bytes | None, int | None, int | None, int | None, int | None, str | None]:
    """Takes the place of img2dataset's resizer: the bytes as they are, if their header is that of a picture."""
    content = stream.getvalue()
    try:
        header = read_header(content)
    except ValueError as error:
        return None, None, None, None, None, str(error)
    size = (header["width"], header["height"])
    return content, *size, *size, None


def read_header(content: bytes) -> dict[str, Any]:
    """Format, size and EXIF orientation (1–8, 1 is upright) of a picture, without decoding it.

    Raises:
        ValueError: the bytes are not a picture.
    """
    try:
        with Image.open(io.BytesIO(content)) as image:
            orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
            return {
                "format": str(image.format).lower(),
                "width": image.width,
                "height": image.height,
                "orientation": orientation if orientation in range(1, 9) else 1,
            }
    except Exception as error:  # Pillow's plugins raise whatever their parsers raise
        raise ValueError(f"not a picture: {len(content)} bytes that begin with {content[:12]!r}") from error


def outcome_of_error(error: str) -> dict[str, Any]:
    """What img2dataset's message says of asking again."""
    if found := re.match(r"HTTP Error (\d{3})", error):
        return _failure(Status.of_http(int(found[1])), error, int(found[1]))
    if error.startswith("not a picture"):
        return _failure(Status.PERMANENT, error, 200)
    if "X-Robots-Tag" in error:
        return _failure(Status.DISALLOWED, error, 200)
    if re.search(r"unknown url type|no host given|nonnumeric port|can't contain control", error):
        return _failure(Status.PERMANENT, error)
    return _failure(Status.TRANSIENT, error)


def write_blob(blobs: Path, contents: list[tuple[bytes, bytes]]) -> dict[bytes, dict[str, Any]]:
    """Write pictures into one tar, named by what it holds; image_id → tar, offset and length of the bytes in it."""
    if not contents:
        return {}
    name = digest(b"".join(image_id for image_id, _ in contents)).hex() + ".tar"
    unfinished = blobs / f"{UNFINISHED}{uuid.uuid4().hex}"
    locations: dict[bytes, dict[str, Any]] = {}
    with tarfile.open(unfinished, "w", format=tarfile.USTAR_FORMAT) as tar:
        for image_id, content in contents:
            member = tarfile.TarInfo(image_id.hex())
            member.size = len(content)
            locations[image_id] = {"tar": name, "offset": tar.offset + TAR_BLOCK, "length": len(content)}
            tar.addfile(member, io.BytesIO(content))
    flush(unfinished)
    unfinished.replace(blobs / name)
    return locations


def _failure(status: Status, error: str, http_code: int | None = None) -> dict[str, Any]:
    return {"status": status, "error": error, "http_code": http_code}


def _rows(asked: dict[str, dict[str, Any]], outcomes: dict[str, dict[str, Any]]) -> tuple[Any, pa.Table]:
    now = datetime.now(UTC)
    rows = [
        {"url_id": row["url_id"], "attempt": row["attempt"], "url": row["url"], "fetched_at": now} | outcomes[name]
        for name, row in asked.items()
    ]
    return FETCHES, pa.Table.from_pylist(rows, schema=FETCHES.schema)
