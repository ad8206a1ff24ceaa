"""Every kind of source in one recipe, and fetching killed at any moment, judged by the log of the server."""

import gzip
import os
import random
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.corpus import Corpus
from schemas.identity import digest
from schemas.release import Manifest
from tests.pipelines.faults import Web, asked, picture, serve

JUZHOU = [sys.executable, "-c", "from juzhou.cli import main; main()"]
ROOT = Path(__file__).parents[2]
KILLS = 10
URLS = 3000
IN_FLIGHT = 2 * 1024
"""Two workers, a batch each."""

POLICY = """
name: test
rules:
  - {name: readable, value: size.pixels, min: 1}
  - {name: near-duplicate, value: stands_for_itself, min: 1}
"""
RECIPE = """
corpus: corpus
sources:
  list: {{kind: urls, path: list.csv}}
  site: {{kind: site, seeds: ["{site}/sitemap.xml"]}}
  archive: {{kind: warc, path: archive.warc.gz}}
  photos: {{kind: folder, path: photos}}
  shards: {{kind: tar, path: "shards/*.tar"}}
  hub: {{kind: parquet, path: hub.parquet}}
fetch: {{networks: [127.0.0.0/8], requests_per_second: null, connections_per_host: null, retry_s: 0.2, timeout_s: 2}}
measures: [size, pdq]
policy: policy.yaml
release: test
"""


@pytest.fixture
def web() -> Iterator[Web]:
    with serve() as served:
        yield served


def juzhou(*arguments: str | Path) -> str:
    command = [*JUZHOU, *(str(argument) for argument in arguments)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout


def archived(url: str, html: str) -> bytes:
    """A record of a WARC, packed by itself as Common Crawl does."""
    answer = f"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\n\r\n{html}".encode()
    head = (
        f"WARC/1.0\r\nWARC-Type: response\r\nWARC-Record-ID: <urn:uuid:{digest(url.encode()).hex()}>\r\n"
        f"WARC-Target-URI: {url}\r\nWARC-Date: 2026-01-02T03:04:05Z\r\n"
        f"Content-Type: application/http; msgtype=response\r\nContent-Length: {len(answer)}\r\n\r\n"
    ).encode()
    return gzip.compress(head + answer + b"\r\n\r\n")


@pytest.fixture
def recipe(tmp_path: Path, web: Web, draw: Callable[..., bytes]) -> Path:
    """All kinds of sources, two or three pictures each."""
    site = web.site()
    (tmp_path / "policy.yaml").write_text(POLICY)
    (tmp_path / "list.csv").write_text(f"url,caption\n{site}/fine/list.jpg,红苹果\n{site}/404.jpg,没有\n", "utf-8")
    html = f'<h1>动物</h1><img src="{site}/fine/archive.jpg" alt="一只猫">'
    (tmp_path / "archive.warc.gz").write_bytes(archived("http://old.example/cat.html", html))
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/1.png").write_bytes(draw(1, "png"))
    (tmp_path / "photos/1.txt").write_text("第一张", "utf-8")
    (tmp_path / "photos/broken.png").write_bytes(b"\x89PNG")
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards/0.jpg").write_bytes(draw(2))
    (tmp_path / "shards/0.txt").write_text("第二张", "utf-8")
    with tarfile.open(tmp_path / "shards/a.tar", "w") as tar:
        tar.add(tmp_path / "shards/0.jpg", "0.jpg")
        tar.add(tmp_path / "shards/0.txt", "0.txt")
    pq.write_table(pa.table({"image": [{"bytes": draw(3)}], "text": ["第三张"]}), tmp_path / "hub.parquet")
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE.format(site=site))
    return path


def test_every_kind_of_source_ends_in_the_same_rows(recipe: Path, web: Web) -> None:
    juzhou("build", recipe)
    corpus = Corpus(recipe.parent / "corpus")
    found = {
        (row["source"], row["caption"]): row
        for row in corpus.sql("""
            SELECT candidates.*, status FROM candidates JOIN fetches USING (url_id)
            QUALIFY row_number() OVER (PARTITION BY candidate_id ORDER BY attempt DESC) = 1
        """).to_pylist()
    }
    assert {key: row["status"] for key, row in found.items()} == {
        ("list", "红苹果"): "ok",
        ("list", "没有"): "permanent",
        ("site", "𠮷祥的红苹果"): "ok",
        ("site", "一朵蓝花"): "ok",
        ("site", "一隻貓與蘋果"): "ok",
        ("archive", "一只猫"): "ok",
        ("photos", "第一张"): "ok",
        ("photos", ""): "permanent",
        ("shards", "第二张"): "ok",
        ("hub", "第三张"): "ok",
    }
    assert {len(row["recipe"]) for row in found.values()} == {12}
    assert all(row["found_at"] for row in found.values())
    cat = found["archive", "一只猫"]
    assert (cat["page_url"], cat["words"]["heading"]) == ("http://old.example/cat.html", "动物")
    assert str(cat["found_at"]).startswith("2026-01-02 03:04:05")
    release = Manifest.load(corpus.releases / "test-1")
    assert release.samples == 8

    shown = juzhou("status", corpus.path)
    for word in ("crawl site", "read archive", "HTTP 404", "127.0.0.1", "not a picture"):
        assert word in shown, shown

    before = len(web.log.requests)
    recipe.write_text(recipe.read_text().replace('  shards: {kind: tar, path: "shards/*.tar"}\n', ""))
    shutil.rmtree(recipe.parent / "shards")
    juzhou("build", recipe)
    assert [one.path for one in web.log.requests[before:] if "robots" not in one.path] == ["/sitemap.xml"]
    assert Manifest.load(corpus.releases / "test-2").samples == 7
    hidden = corpus.sql("SELECT caption, verdict.rule AS rule FROM corpus WHERE NOT verdict.kept").to_pylist()
    assert hidden == [{"caption": "第二张", "rule": "out-of-recipe"}]
    assert corpus.sql("SELECT 1 FROM candidates WHERE source = 'shards'").num_rows == 1, "nothing is deleted"

    juzhou("build", recipe, "--refetch")
    assert asked(web.log, "/404.jpg") == asked(web.log, "/fine/list.jpg") == 2
    local = corpus.sql("SELECT max(attempt) AS attempts FROM fetches WHERE url LIKE 'file:%'")
    assert local.to_pylist() == [{"attempts": 1}], "what lies here is not asked of the web"


FETCHING = """
import os, sys
from datetime import UTC, datetime
from pathlib import Path
from pipelines import cluster, fetch, stage
from pipelines.corpus import Corpus
from pipelines.sources import urls
from schemas.recipe import Fetch, Urls

stage.PART_ROWS = 1  # each batch a part, so that what is in flight can be counted
corpus = Corpus.create(Path(sys.argv[1]))
free = Fetch(networks=("127.0.0.0/8",), requests_per_second=None, connections_per_host=None)
with corpus.writing():
    urls.add_candidates(corpus, "list", Urls(kind="urls", path=sys.argv[2]), "recipe", datetime.now(UTC))
    stage.run(corpus, fetch.fetch_stage(corpus, ["list"], free, datetime.now(UTC)), lambda *_: None)
cluster.stop()
os._exit(0)
"""


def test_fetching_killed_at_ten_random_moments(tmp_path: Path, web: Web) -> None:
    paths = [f"/fine/{number}.jpg" for number in range(URLS)]
    others = {"/404.jpg": "permanent", "/html.jpg": "permanent", "/disallowed/a.jpg": "disallowed"}
    urls = {web.site() + path: path for path in [*paths, *others]}
    pq.write_table(pa.table({"url": list(urls), "caption": ["词"] * len(urls)}), tmp_path / "list.parquet")
    dice = random.Random(os.environ.get("JUZHOU_KILL_SEED", "1"))
    kills = trial = kept = 0
    while kills < KILLS:
        trial += 1
        place = tmp_path / f"corpus-{trial}"
        command = [sys.executable, "-c", FETCHING, str(place), str(tmp_path / "list.parquet")]
        settled: list[tuple[float, set[str]]] = []
        before, began = len(web.log.requests), kills
        while True:
            process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, start_new_session=True)
            try:
                limit = moment(process, web, dice) if kills < KILLS else 120
                _, said = process.communicate(timeout=limit)
                assert process.returncode == 0, said
                break
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.communicate()
                kills += 1
                time.sleep(1.0)  # workers of Ray end by themselves, once they miss the driver
                settled.append((time.monotonic(), settled_paths(place, urls)))
        fetches = Corpus(place).sql("SELECT url, attempt, status, image_id FROM fetches").to_pylist()
        assert len(fetches) == len(urls)
        had = {urls[row["url"]]: (row["attempt"], row["status"], row["image_id"]) for row in fetches}
        assert had == {path: (1, "ok", digest(picture(path))) for path in paths} | {
            path: (1, status, None) for path, status in others.items()
        }
        log = web.log.requests[before:]
        for killed_at, paths_then in settled:
            kept += len(paths_then)
            again = {one.path for one in log if one.at > killed_at} & paths_then
            assert not again, "what stands in a part is not asked again"
        pictures = [one for one in log if "fine" in one.path]
        assert len(pictures) <= URLS + (kills - began) * IN_FLIGHT
        assert not any("disallowed" in one.path for one in log)
    assert kept, "some kill came after the first part"


def moment(process: subprocess.Popen[bytes], web: Web, dice: random.Random) -> float:
    """Seconds from now until a fetch is to be killed: one time in three in its start, else once it has begun to ask,
    which it is waited for, as a start takes as long as the machine is busy."""
    if dice.random() < 1 / 3:
        return dice.uniform(0, 6)
    asked = len(web.log.requests)
    while process.poll() is None and len(web.log.requests) == asked:
        time.sleep(0.02)
    return dice.uniform(0, 3)


def settled_paths(place: Path, urls: dict[str, str]) -> set[str]:
    """The paths of the URLs that are settled on disk."""
    if not (place / "corpus.json").exists():
        return set()
    return {urls[row["url"]] for row in Corpus(place).sql("SELECT url FROM fetches").to_pylist()}
