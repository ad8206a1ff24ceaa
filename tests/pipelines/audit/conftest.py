"""A small corpus to look at: drawn pictures with words, scores, copies and verdicts, some of them broken or hostile."""

import io
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pytest
from PIL import Image

from pipelines import decide
from pipelines.blob import Blob
from pipelines.corpus import Corpus
from schemas.identity import digest
from schemas.policy import Policy
from schemas.tables import (
    CANDIDATES,
    FETCHES,
    IMAGES,
    SAMPLES,
    captions_table,
    duplicates_table,
    measure_table,
)

ROWS = 60
POLICY = """
name: small
rules:
  - {name: blurred, value: blur.sharpness, min: 10, why: out of focus}
  - {name: near-duplicate, value: stands_for_itself, min: 1}
  - {name: misaligned, value: lite_alignment.score, min: 0.3, why: "words, not of it"}
  - {name: plain, value: blur.sharpness, top: 0.9}
"""
HOSTILE = {
    50: {"caption": "<script>window.hit = 1</script>"},
    51: {"caption": '"><img src=x onerror="window.hit = 2">'},
    52: {"url": "javascript:window.hit = 3", "page_url": "javascript:alert(4)"},
    53: {"url": 'http://127.0.0.1:9/"><script>window.hit = 5</script>', "licence": "<svg onload=window.hit=6>"},
    54: {"source": "<b onmouseover=window.hit=7>s</b>", "licence": "javascript:window.hit = 8"},
    55: {"caption": "{{ 7 * 7 }} ' onfocus='window.hit = 9' autofocus='"},
    56: {"page_url": "data:text/html,<script>parent.hit = 10</script>"},
}
"""What strangers put where, by the number of the sample."""
POLYGLOT = 57
BROKEN = 58
EXIF = 59


@pytest.fixture
def policy_path(tmp_path: Path) -> Path:
    path = tmp_path / "policy.yaml"
    path.write_text(POLICY)
    return path


@pytest.fixture
def stocked(tmp_path: Path, shop: Corpus) -> Corpus:
    """A copy of `shop` to write to."""
    shutil.copytree(shop.path, tmp_path / "stocked")
    return Corpus(tmp_path / "stocked")


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory, draw: Callable[..., bytes]) -> Corpus:
    """Sixty samples of two sources, to look at.

    Sample i has the sharpness i and the alignment i / 60; each tenth is a copy of the sample before it; sample POLYGLOT
    ends in HTML, BROKEN is no picture, EXIF has markup for an author.
    """
    folder = tmp_path_factory.mktemp("shop")
    (folder / "policy.yaml").write_text(POLICY)
    corpus = Corpus.create(folder / "corpus")
    contents = [draw(number) for number in range(ROWS)]
    contents[POLYGLOT] += b"<html><script>window.hit = 11</script></html>"
    contents[BROKEN] = b"\xff\xd8\xff not a picture"
    contents[EXIF] = with_author(contents[EXIF], "<script>window.hit = 12</script>")
    with Blob(corpus.blobs) as blob:
        for content in contents:
            blob.add(digest(content), content)
    found_at = datetime(2026, 1, 2, tzinfo=UTC)
    rows: dict[str, list[dict[str, object]]] = {"candidates": [], "fetches": [], "images": [], "samples": []}
    for number, content in enumerate(contents):
        image_id, own = digest(content), digest(f"sample {number}".encode())
        about = {"caption": f"第{number}张图片", "source": "wukong" if number % 3 else "zero", "licence": "CC0"}
        about |= {"url": f"http://a.example/{number}.jpg", "page_url": f"http://a.example/{number}"}
        about |= HOSTILE.get(number, {})
        words = {"alt": about["caption"], "context": "<i>words</i> around it"}
        located = blob.location(image_id)
        header = {"format": "jpeg", "width": 160, "height": 120, "orientation": 1}
        rows["candidates"].append(
            about | {"candidate_id": own, "url_id": own, "words": words, "caption_from": "alt", "found_at": found_at}
        )
        fetch = {"url_id": own, "url": about["url"], "status": "transient", "attempt": 1, "error": "http: <b>503</b>"}
        had = {"url_id": own, "url": about["url"], "status": "ok", "attempt": 2, "http_code": 200, "image_id": image_id}
        rows["fetches"] += [fetch, had | located | header]
        rows["images"].append({"image_id": image_id} | located | header)
        rows["samples"].append(
            {"sample_id": own, "image_id": image_id, "caption": about["caption"], "candidate_id": own}
        )
    for table in (CANDIDATES, FETCHES, IMAGES, SAMPLES):
        corpus.append(table, pa.Table.from_pylist(rows[table.path], table.schema))
    images = [digest(content) for content in contents]
    samples = [row["sample_id"] for row in rows["samples"]]
    blur = measure_table("blur", "0" * 12, "image_id", pa.schema([("sharpness", pa.float32())]))
    alignment = measure_table("lite_alignment", "0" * 12, "sample_id", pa.schema([("score", pa.float32())]))
    duplicates = duplicates_table("copies", "0" * 12)
    simplified = captions_table("simplified", "0" * 12)
    copies = [
        {"image_id": one, "representative": images[k - 1], "distance": 6.0, "method": "pdq"}
        if k % 10 == 9
        else {"image_id": one, "representative": one, "distance": 0.0}
        for k, one in enumerate(images)
    ]
    sharp = [{"image_id": one, "sharpness": k, "error": None} for k, one in enumerate(images)]
    sharp[0] |= {"sharpness": None, "error": "<b>broken</b>"}
    scores = [{"sample_id": one, "score": k / ROWS, "error": None} for k, one in enumerate(samples)]
    texts = [{"sample_id": one, "rank": 1, "text": f"简化{k}"} for k, one in enumerate(samples)]
    for table, values in ((blur, sharp), (alignment, scores), (duplicates, copies), (simplified, texts)):
        corpus.append(table, pa.Table.from_pylist(values, table.schema))
    corpus.adopt("{}", [blur, alignment, duplicates, simplified])
    decide.adopt(corpus, Policy.load(folder / "policy.yaml"))
    return corpus


def with_author(content: bytes, author: str) -> bytes:
    """A JPEG with an EXIF author and description."""
    image = Image.open(io.BytesIO(content))
    exif = image.getexif()
    exif[0x013B], exif[0x010E] = author, author
    sink = io.BytesIO()
    image.save(sink, "jpeg", exif=exif)
    return sink.getvalue()
