"""How fast the pages of the audit are, as a browser shows them: from the click to the last thumbnail painted.

    python benchmarks/audit.py            100,000 samples
    python benchmarks/audit.py --quick    20,000 samples, in less than a minute
    python benchmarks/audit.py --rows N   any number

The corpus is made for it: 2,000 distinct JPEGs of 320 × 240 in a tar, at which all images point; captions, candidates,
fetches, six measures and copies of chance; verdicts of a policy of six rules. The browser is headless Chromium with an
empty cache, the server a process of its own, as `juzhou audit` starts it. Each figure is the slowest of its kind:

    first     the grid, the first page of all, right after the start, with 48 thumbnails that nobody asked for before
    next      each of eight next pages, with 48 new thumbnails, a second after the page before it was there
    hurried   the same, without the second, in which the browser gets the pictures of the page that comes next
    slider    from the move of the slider to the new numbers and cards on the page
    sample    a sample's page with its picture and its history

`load` is the seconds that the server takes until it answers, `memory` the resident GB of it at the end.
"""

import argparse
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
from PIL import Image
from playwright.sync_api import Page, sync_playwright

sys.path.insert(0, str(Path(__file__).parents[1]))

from pipelines import decide
from pipelines.blob import Blob
from pipelines.corpus import Corpus
from schemas.identity import CANDIDATE_ID, SAMPLE_ID, digest, sql_digest
from schemas.policy import Policy
from schemas.tables import CANDIDATES, FETCHES, IMAGES, SAMPLES, Table, duplicates_table, measure_table

ROOT = Path(__file__).parents[1]
PICTURES = 2_000
NEXT_PAGES = 8
LOOK_S = 1.0
MOVES = 8
SAMPLES_OPENED = 5
PART_ROWS = 500_000

MEASURES = {
    "size": ("image_id", {"width": pa.int32(), "height": pa.int32(), "pixels": pa.int64(), "aspect": pa.float32()}),
    "blur": ("image_id", {"sharpness": pa.float32()}),
    "tone": ("image_id", {"brightness": pa.float32(), "contrast": pa.float32()}),
    "lite_aesthetic": ("image_id", {"score": pa.float32()}),
    "text": ("sample_id", {"length": pa.int32(), "han_share": pa.float32(), "phone": pa.bool_()}),
    "lite_alignment": ("sample_id", {"score": pa.float32()}),
}
SEEN = {
    "size": "200 + i % 1800 AS width, 200 + i % 1500 AS height, (200 + i % 1800) * (200 + i % 1500) AS pixels, "
    "1 + u(i, 11) * 3 AS aspect",
    "blur": "1000 * u(i, 12) * u(i, 13) AS sharpness",
    "tone": "255 * u(i, 14) AS brightness, 90 * u(i, 15) AS contrast",
    "lite_aesthetic": "10 * (u(i, 16) + u(i, 17)) / 2 AS score",
    "text": "length(caption) AS length, u(i, 18) AS han_share, u(i, 19) < 0.02 AS phone",
    "lite_alignment": "(u(i, 20) + u(i, 21) + u(i, 22)) / 3 - 0.3 AS score",
}
POLICY = {
    "name": "benchmark",
    "rules": [
        {"name": "banner", "value": "size.aspect", "max": 3.7},
        {"name": "blurred", "value": "blur.sharpness", "min": 30},
        {"name": "dark", "value": "tone.brightness", "min": 10},
        {"name": "contact", "value": "text.phone", "max": 0},
        {"name": "near-duplicate", "value": "stands_for_itself", "min": 1},
        {"name": "misaligned", "value": "lite_alignment.score", "min": 0.0},
    ],
}
WORDS = [
    "红色",
    "苹果",
    "蓝天",
    "白云",
    "山水",
    "小猫",
    "咖啡",
    "城市",
    "夜景",
    "花朵",
    "老人",
    "海边",
    "森林",
    "古镇",
    "雪山",
]


def draw(seed: int) -> bytes:
    """A JPEG of its own: soft blots of colour with some grain."""
    chance = np.random.default_rng(seed)
    small = Image.fromarray(chance.integers(0, 255, (5, 6, 3), np.uint8)).resize((320, 240), Image.Resampling.BICUBIC)
    grain = chance.normal(0, 8, (240, 320, 1))
    sink = io.BytesIO()
    Image.fromarray((np.asarray(small) + grain).clip(0, 255).astype(np.uint8)).save(sink, "jpeg", quality=85)
    return sink.getvalue()


def make(folder: Path, rows: int) -> Corpus:
    """A corpus of so many samples."""
    corpus = Corpus.create(folder)
    contents = [draw(seed) for seed in range(PICTURES)]
    with Blob(corpus.blobs) as blob:
        for content in contents:
            blob.add(digest(content), content)
    places = [{"k": k, **blob.location(digest(content))} for k, content in enumerate(contents)]
    connection = duckdb.connect()
    connection.execute("SET enable_progress_bar = false")
    connection.register("places", pa.Table.from_pylist(places))
    connection.execute("CREATE MACRO u(i, s) AS hash(i * 1000003 + s) / 18446744073709551616.0")
    words = "[" + ", ".join(f"'{word}'" for word in WORDS) + "]"
    phrase = f"array_to_string([{words}[1 + (hash(i * 31 + j) % {len(WORDS)})::INT] for j in range(3 + i % 9)], '')"
    connection.execute(f"""
        CREATE TABLE found AS
        WITH numbered AS (
            SELECT i, {sql_digest("'picture' || i")} AS image_id, {phrase} || i AS caption,
                CASE WHEN u(i, 1) < 0.6 THEN 'wukong' WHEN u(i, 1) < 0.9 THEN 'zero' ELSE 'site' END AS source,
                'https://img' || i % 977 || '.example.cn/' || md5(i::VARCHAR) || '.jpg' AS url
            FROM range({rows}) AS numbers(i)
        )
        SELECT numbered.*, {SAMPLE_ID} AS sample_id, {CANDIDATE_ID} AS candidate_id, {sql_digest("url")} AS url_id,
            tar, "offset", length
        FROM numbered JOIN places ON k = i % {PICTURES}
    """)
    header = "'jpeg' AS format, 320 AS width, 240 AS height, 1 AS orientation"
    words_of = "alt := caption, title := NULL::VARCHAR, figcaption := NULL::VARCHAR, heading := NULL::VARCHAR, "
    words_of += "context := NULL::VARCHAR"
    copies = f"SELECT image_id FROM found ORDER BY i LIMIT {max(1, rows // 30)}"
    duplicates = duplicates_table("copies", "0" * 12)
    put(corpus, connection, SAMPLES, "FROM found")
    put(corpus, connection, IMAGES, f"SELECT *, {header} FROM found")
    put(
        corpus,
        connection,
        CANDIDATES,
        f"SELECT *, 'alt' AS caption_from, struct_pack({words_of}) AS words, "
        "'https://www.example.cn/' || i AS page_url, 'CC BY 4.0' AS licence, "
        "TIMESTAMPTZ '2026-01-01' AS found_at, 'benchmark' AS recipe FROM found",
    )
    put(
        corpus,
        connection,
        FETCHES,
        "SELECT *, 1 AS attempt, NULL AS final_url, 200 AS http_code, true AS asked, TIMESTAMPTZ '2026-01-02' AS "
        f"fetched_at, NULL AS retry_at, 'ok' AS status, NULL AS error, {header} FROM found",
    )
    put(
        corpus,
        connection,
        duplicates,
        f"WITH heads AS (SELECT row_number() OVER () - 1 AS k, image_id AS head FROM ({copies})) "
        f"SELECT image_id, CASE WHEN u(i, 9) < 0.1 THEN head ELSE image_id END AS representative, "
        f"CASE WHEN u(i, 9) < 0.1 AND head <> image_id THEN floor(u(i, 10) * 20) ELSE 0 END AS distance, "
        f"CASE WHEN u(i, 9) < 0.1 AND head <> image_id THEN 'pdq' END AS method "
        f"FROM found JOIN heads ON k = i % {max(1, rows // 30)}",
    )
    tables = []
    for name, (key, columns) in MEASURES.items():
        tables.append(measure_table(name, "0" * 12, key, pa.schema(list(columns.items()))))
        put(corpus, connection, tables[-1], f"SELECT {key}, {SEEN[name]}, NULL AS error FROM found")
    corpus.adopt("{}", [*tables, duplicates])
    connection.close()
    decide.adopt(corpus, Policy.model_validate(POLICY))
    return corpus


def put(corpus: Corpus, connection: duckdb.DuckDBPyConnection, table: Table, query: str) -> None:
    """Add the rows of a query to a table, in the order of its key."""
    names = ", ".join(f'"{name}"' for name in table.schema.names)
    rows = connection.sql(f"SELECT {names} FROM ({query}) ORDER BY {table.key[0]}").to_arrow_table()
    for start in range(0, rows.num_rows, PART_ROWS):
        corpus.append(table, rows.slice(start, PART_ROWS))


def painted(page: Page) -> None:
    """Wait until every picture of the page is there, in sight or below, and a frame has been drawn after it."""
    page.evaluate("""async () => {
        const frame = () => new Promise((done) => requestAnimationFrame(done));
        while (![...document.images].every((one) => one.complete && one.naturalWidth)) await frame();
        await frame();
        await frame();
    }""")


def timed(page: Page, action: str, *arguments: str) -> float:
    """Milliseconds from an action on the page to the last picture painted."""
    begun = time.perf_counter()
    getattr(page, action)(*arguments)
    painted(page)
    return 1000 * (time.perf_counter() - begun)


def browse(address: str) -> dict[str, float]:
    """The slowest of each kind of page, in milliseconds."""
    chromium = shutil.which("chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_context(viewport={"width": 1440, "height": 900}).new_page()
        page.goto(f"{address}static/audit.css")
        first = timed(page, "goto", address)
        hurried = [timed(page, "click", "a[rel=next]") for _ in range(NEXT_PAGES)]
        following = []
        for _ in range(NEXT_PAGES):
            time.sleep(LOOK_S)
            following.append(timed(page, "click", "a[rel=next]"))
        ids = [one.get_attribute("data-sample") for one in page.locator("[data-sample]").all()[:SAMPLES_OPENED]]
        samples = [timed(page, "goto", f"{address}samples/{sample_id}") for sample_id in ids]
        page.goto(f"{address}rules/misaligned")
        painted(page)
        moves = [moved(page, place) for place in range(MOVES)]
        browser.close()
    return {
        "first_ms": first,
        "next_ms": max(following),
        "hurried_ms": max(hurried),
        "slider_ms": max(moves),
        "sample_ms": max(samples),
    }


def moved(page: Page, place: int) -> float:
    """Milliseconds from a move of the slider to the new numbers on the page."""
    script = """(place) => new Promise((done) => {
        const slider = document.getElementById("threshold"), change = document.getElementById("change");
        const begun = performance.now();
        new MutationObserver((_, observer) => {
            observer.disconnect();
            requestAnimationFrame(() => requestAnimationFrame(() => done(performance.now() - begun)));
        }).observe(change, { childList: true });
        slider.value = -0.05 + place * 0.02;
        slider.dispatchEvent(new Event("input"));
    })"""
    return float(page.evaluate(script, place))


def run(rows: int) -> dict[str, float]:
    """Make a corpus of so many samples, serve it, and look at it."""
    with tempfile.TemporaryDirectory() as name:
        begun = time.perf_counter()
        corpus = make(Path(name) / "corpus", rows)
        made = time.perf_counter() - begun
        juzhou = [sys.executable, "-c", "from juzhou.cli import main; main()"]
        command = [*juzhou, "audit", str(corpus.path), "--port", "0"]
        begun = time.perf_counter()
        server = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        try:
            assert server.stdout
            address = server.stdout.readline().split()[-1]
            load = time.perf_counter() - begun
            found = browse(address)
            status = Path(f"/proc/{server.pid}/status").read_text()
            memory = int(status.partition("VmRSS:")[2].split()[0]) / 1e6
        finally:
            server.terminate()
            server.wait()
    return {"rows": rows, **{key: round(value) for key, value in found.items()}} | {
        "made_s": round(made, 1),
        "load_s": round(load, 2),
        "memory_gb": round(memory, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="20,000 samples")
    parser.add_argument("--rows", type=int, help="so many samples")
    arguments = parser.parse_args()
    result = run(arguments.rows or (20_000 if arguments.quick else 100_000))
    columns = ("rows", "load_s", "first_ms", "next_ms", "hurried_ms", "slider_ms", "sample_ms", "memory_gb")
    print("".join(f"{name:>11}" for name in columns))
    print("".join(f"{result[name]:>11,}" for name in columns))
    print(json.dumps(result), flush=True)
    os._exit(0)


if __name__ == "__main__":
    main()
