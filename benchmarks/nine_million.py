"""How fast one can decide, ask and look up in a corpus of nine million samples, on one machine.

    python benchmarks/nine_million.py                    nine million samples (minutes, 12 GB in a temporary folder)
    python benchmarks/nine_million.py --quick            900,000, in less than a minute
    python benchmarks/nine_million.py --keep FOLDER      tables are made in FOLDER, or those that are there are taken

The rows are synthetic, under the real schemas: no pictures and no vectors lie behind them, and no figure says anything
of real data. Hosts and captions are skewed as on the web, 1.3 candidates make a sample, a tenth of the pictures are
copies; a part of each table holds 500,000 samples' rows, as a build a week leaves them. Each figure is taken in a
process of its own, so that its peak is its own:
    decide   verdicts under recipes/policy.yaml, nothing known before
    again    the same with another threshold, by the values that the first kept
    what if  who enters and who leaves if one policy takes another's place
    stats    all statistics, for the terminal and as a page
    lookup   one sample with all that is known of it; the median of twenty
    sql      three questions over the view `corpus`; the slowest
"""

import argparse
import json
import os
import resource
import shutil
import statistics as numbers
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

sys.path.insert(0, str(Path(__file__).parents[1]))

from filters import registry
from pipelines import decide, statistics
from pipelines.corpus import Corpus
from pipelines.measure import tables_of
from pipelines.semantic import COLUMNS as SEMANTIC
from schemas.identity import CANDIDATE_ID, SAMPLE_ID, URL_ID
from schemas.policy import Policy
from schemas.tables import CANDIDATES, FETCHES, IMAGES, OUTCOME, SAMPLES, Table, duplicates_table, measure_table

SAMPLES_IN_ALL = 9_000_000
QUICK = 900_000
PART = 500_000
MEASURES = (
    "size", "pixels", "blur", "tone", "layout", "watermark", "faces", "ocr", "nsfw", "pdq",
    "lite_embedding", "lite_aesthetic", "text", "lite_alignment",
)  # fmt: skip
VECTORS = "lite_embedding"
"""Named because others want it; its table is left out."""
DAYS = 90
HOSTS = 20_000
LOOKUPS = 20
RECIPE = '{"synthetic": "nine million samples"}'
"""By it a corpus of this benchmark is known."""
POLICY = Path(__file__).parents[1] / "recipes" / "policy.yaml"

LIMITS = {"decide_s": 60, "decide_again_s": 10, "whatif_s": 10, "stats_s": 20, "lookup_s": 0.5, "peak_gb": 6}

WORDS = list("山水云雪花鸟猫狗树桥船灯窗茶饭瓜果红蓝绿")

QUESTIONS = (
    "SELECT verdict.rule, count(*) AS samples FROM corpus GROUP BY ALL ORDER BY samples DESC",
    "SELECT source, count(*), avg(lite_alignment.score) FROM corpus WHERE size.width >= 512 GROUP BY source",
    "SELECT caption, url FROM corpus WHERE verdict.kept AND caption LIKE '%雪山%' ORDER BY sample_id LIMIT 20",
)

MACROS = """
    CREATE MACRO u(i, salt) AS hash(i * 1000003 + salt) / 18446744073709551616.0;
    CREATE MACRO bell(i, salt) AS 2 * (u(i, salt) + u(i, salt + 1) + u(i, salt + 2)) - 3;
    CREATE MACRO within(x, low, high) AS least(greatest(x, low), high);
    CREATE MACRO picture_of(i) AS if(u(i, 1) < 0.05 AND i % 2 = 1, i - 1, i);
    CREATE MACRO image_id(i) AS unhex(left(sha256('picture' || picture_of(i)), 32));
    CREATE MACRO stands(i) AS u(i, 9) >= 0.1;
    CREATE MACRO copy_of(i) AS (i - 2 * (1 + (u(i, 10) * 40000)::BIGINT)) // 2 * 2;
"""
"""u: uniform in 0–1, the same for the same numbers; bell: about normal, −3 to 3. A twentieth of the samples share the
picture of the sample before. A tenth of the pictures are copies, of an earlier picture that is none."""

FOUND = f"""
    SELECT *, {CANDIDATE_ID} AS candidate_id, {URL_ID} AS url_id FROM (
        SELECT i, {{has_picture}} AS has_picture,
            if(u(i, 2) < 0.3, '热门标题' || floor(u(i, 3) ** 4 * 20000)::INT, array_to_string(
                [words[1 + (u(i * 31 + j, 4) * 99)::INT % len(words)] for j in range(4 + (u(i, 17) * 9)::INT)], ''
            ) || i) AS caption,
            CASE WHEN u(i, 5) < 0.5 THEN 'wukong' WHEN u(i, 5) < 0.75 THEN 'zero' WHEN u(i, 5) < 0.9 THEN 'site'
                ELSE 'laion' END AS source,
            floor({HOSTS} ** u(i, 6))::INT AS site,
            'https://img' || site || '.example.cn/pictures/' || md5(i::VARCHAR) || '.jpg' AS url,
            'https://www' || site || '.example.cn/page/' || i // 3 || '.html' AS page_url,
            CASE WHEN u(i, 7) < 0.6 THEN 'alt' WHEN u(i, 7) < 0.8 THEN 'title' WHEN u(i, 7) < 0.9 THEN 'figcaption'
                ELSE 'context' END AS caption_from,
            CASE WHEN u(i, 8) < 0.08 THEN 'https://creativecommons.org/licenses/by/4.0/' END AS licence,
            TIMESTAMPTZ '2026-01-01 00:00:00+00' + to_seconds({DAYS * 86400} * {{place}}) AS found_at
        FROM range({{start}}, {{stop}}) AS numbers(i), (SELECT {WORDS} AS words)
    )
"""

WIDTH, HEIGHT = "(64 + 2400 * u(picture_of(i), 13) ** 2)::INT", "(64 + 1800 * u(picture_of(i), 14) ** 2)::INT"
LOCATION = f"""
    't' || picture_of(i) // 1000 || '.tar' AS tar, picture_of(i) % 1000 * 100000 AS "offset",
    50000 + (u(picture_of(i), 11) * 50000)::BIGINT AS length,
    CASE WHEN u(picture_of(i), 12) < 0.8 THEN 'jpeg' WHEN u(picture_of(i), 12) < 0.9 THEN 'png' ELSE 'webp' END
        AS format,
    {WIDTH} AS width, {HEIGHT} AS height, 1 AS orientation
"""

FETCHED = f"""
    SELECT url_id, url, 1 AS attempt, NULL AS final_url, 200 AS http_code, true AS asked,
        found_at + INTERVAL 1 DAY AS fetched_at, NULL AS retry_at, 'ok' AS status, NULL AS error,
        image_id(i) AS image_id, {LOCATION}
    FROM found WHERE has_picture
    UNION ALL BY NAME
    SELECT url_id, url, unnest(range(1, attempts + 1)) AS attempt, NULL AS final_url, http_code,
        error <> 'robots.txt' AS asked, found_at + to_days(attempt::INT) AS fetched_at, NULL AS retry_at, status, error,
        {", ".join(f'NULL AS "{name}"' for name in OUTCOME if name not in ("status", "error"))}
    FROM found JOIN (VALUES
        (0.00, 0.35, 'permanent', 'HTTP 404', 404, 1),
        (0.35, 0.60, 'transient', 'HTTP 503', 503, 3),
        (0.60, 0.85, 'permanent', 'not a picture', 200, 1),
        (0.85, 0.90, 'transient', 'timed out', NULL, 3),
        (0.90, 1.01, 'disallowed', 'robots.txt', NULL, 1)
    ) AS failures(low, high, status, error, http_code, attempts) ON u(i, 15) >= low AND u(i, 15) < high
    WHERE NOT has_picture
"""

COPIED = """
    SELECT image_id, if(is_copy, image_id(copy_of(i)), image_id) AS representative,
        if(is_copy, floor(31 * u(i, 16)), 0) AS distance, CASE WHEN is_copy THEN 'pdq' END AS method
    FROM (SELECT *, NOT stands(i) AND i > 90000 AND stands(copy_of(i)) AS is_copy FROM pictures)
"""

SHAPES = {
    "size.width": WIDTH,
    "size.height": HEIGHT,
    "size.pixels": f"{WIDTH}::BIGINT * {HEIGHT}",
    "size.aspect": "exp(abs(bell(i, 100)) * 0.35)",
    "blur.sharpness": "exp(6 + 1.2 * bell(i, 103))",
    "tone.brightness": "within(135 + 45 * bell(i, 106), 0, 255)",
    "tone.contrast": "within(58 + 20 * bell(i, 109), 0, 127)",
    "tone.range": "within(190 + 40 * bell(i, 112), 0, 255)",
    "tone.entropy": "within(6.6 + 0.8 * bell(i, 106), 0, 8)",
    "tone.colourfulness": "within(45 + 25 * bell(i, 115), 0, 200)",
    "watermark.likelihood": "u(i, 118) ** 3",
    "faces.count": "floor(6 * u(i, 119) ** 8)",
    "ocr.boxes": "floor(25 * u(i, 120) ** 6)",
    "nsfw.probability": "u(i, 121) ** 12",
    "pdq.quality": "within(90 + 15 * bell(i, 122), 0, 100)",
    "lite_aesthetic.score": "within(5.2 + 1.4 * bell(i, 125) + 0.4 * bell(i, 109), 0, 10)",
    "lite_alignment.score": "within(0.11 + 0.09 * bell(i, 128), -1, 1)",
    "text.length": "length(caption)",
    "text.han_share": "within(1.1 - 0.5 * u(i, 131) ** 3, 0, 1)",
    "text.content_word_share": "within(0.7 + 0.2 * bell(i, 132), 0, 1)",
    "text.sales_words": "floor(4 * u(i, 135) ** 20)",
    "semantic.cluster": "floor(2000 * u(i, 136) ** 2)",
    "semantic.similarity": "1 - 0.05 * u(i, 137)",
    "semantic.leads": "u(i, 138) < 0.95",
    "semantic.place": "CASE WHEN u(i, 138) < 0.95 THEN floor(1 + 800 * u(i, 139) ** 2) END",
}
"""Columns whose values have a shape of their own; the others have that of their type."""


def value_of(label: str, kind: pa.DataType, salt: int) -> str:
    """A SQL expression for a column's values, over the number `i` of a picture or sample."""
    if label in SHAPES:
        return SHAPES[label]
    if pa.types.is_boolean(kind):
        return f"u(i, {salt}) < 0.02"
    if pa.types.is_floating(kind):
        return f"round(u(i, {salt}) ** 4, 4)"
    if pa.types.is_integer(kind):
        return f"floor(12 * u(i, {salt}) ** 5)"
    if pa.types.is_string(kind):
        return f"CASE WHEN u(i, {salt}) < 0.1 THEN '_站点' || floor(u(i, {salt}) * 1000)::INT END"
    return f"unhex(left(sha256('{salt}' || i), {2 * kind.byte_width}))"


def make(folder: Path, samples: int) -> None:
    """The tables of a corpus of so many samples, synthetic."""
    corpus = Corpus.create(folder)
    measures = tables_of(registry.build({name: {} for name in MEASURES}))
    del measures[VECTORS]
    measures["semantic"] = measure_table("semantic", "0" * 12, "image_id", SEMANTIC)
    copies = duplicates_table("copies", "0" * 12)
    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'")
    connection.execute(MACROS)
    for number, start in enumerate(range(0, samples, PART)):
        stop = min(samples, start + PART)
        had = FOUND.format(has_picture=True, place=f"i / {samples}", start=start, stop=stop)
        lost, more = samples + start * 3 // 10, samples + stop * 3 // 10
        failed = FOUND.format(has_picture=False, place=f"(i - {samples}) / {samples * 0.3}", start=lost, stop=more)
        connection.execute(f"CREATE OR REPLACE TEMP TABLE found AS ({had} UNION ALL {failed}) ORDER BY candidate_id")
        connection.execute(
            f"CREATE OR REPLACE TEMP TABLE shown AS SELECT *, {SAMPLE_ID} AS sample_id "
            "FROM (SELECT *, image_id(i) AS image_id FROM found WHERE has_picture) ORDER BY sample_id"
        )
        connection.execute(
            "CREATE OR REPLACE TEMP TABLE pictures AS "
            "SELECT i, image_id FROM shown WHERE i = picture_of(i) ORDER BY image_id"
        )

        def put(table: Table, query: str, number: int = number) -> None:
            _put(connection, corpus, table, query, number)

        words = "{'alt': caption, 'title': NULL, 'figcaption': NULL, 'heading': NULL, 'context': NULL}"
        put(CANDIDATES, f"SELECT *, {words} AS words, 'synthetic' AS recipe FROM found")
        put(FETCHES, f"FROM ({FETCHED}) ORDER BY url_id, attempt")
        put(IMAGES, f"SELECT *, {LOCATION} FROM pictures")
        put(SAMPLES, "FROM shown")
        put(copies, COPIED)
        salt = 200
        for name, table in measures.items():
            values = []
            for field in table.schema:
                salt += 1
                if field.name not in (*table.key, "error"):
                    value = value_of(f"{name}.{field.name}", field.type, salt)
                    values.append(f'CASE WHEN NOT is_broken THEN {value} END AS "{field.name}"')
            source = "shown" if "sample_id" in table.key else "pictures"
            rows = f"SELECT *, u(i, {salt}) < 0.001 AS is_broken FROM {source}"
            broken = "CASE WHEN is_broken THEN 'broken' END AS error"
            put(table, f"SELECT {table.key[0]}, {', '.join(values)}, {broken} FROM ({rows})")
        print(f"{stop:,} of {samples:,} samples made", file=sys.stderr, flush=True)
    connection.close()
    corpus.adopt(RECIPE, [*measures.values(), copies])


def _put(connection: duckdb.DuckDBPyConnection, corpus: Corpus, table: Table, query: str, number: int) -> None:
    """Add rows, which are in the order of the key, as one part."""
    folder = corpus.tables / table.path
    folder.mkdir(parents=True, exist_ok=True)
    columns = ", ".join(f'"{field.name}"::{sql_type(field.type)} AS "{field.name}"' for field in table.schema)
    connection.execute(
        f"COPY (SELECT {columns} FROM ({query})) TO '{folder}/part-{number:020d}-00000000.parquet' "
        "(FORMAT parquet, COMPRESSION zstd, COMPRESSION_LEVEL 1, ROW_GROUP_SIZE 61440)"
    )


def sql_type(kind: pa.DataType) -> str:
    """DuckDB's name of an Arrow type."""
    if pa.types.is_fixed_size_binary(kind):
        return "BLOB"
    with duckdb.connect() as connection:
        connection.register("empty", pa.schema([("column", kind)]).empty_table())
        return str(connection.execute("DESCRIBE empty").fetchall()[0][1])


def stricter(policy: Policy) -> Policy:
    """The same policy with another threshold for alignment."""
    rules = [rule.model_copy(update={"min": 0.1}) if rule.name == "misaligned" else rule for rule in policy.rules]
    return policy.model_copy(update={"rules": tuple(rules)})


def deciding(corpus: Corpus, policy: Policy) -> dict[str, Any]:
    """Verdicts as the command writes them."""
    seconds, rows = timed(lambda: decide.adopt(corpus, policy))
    kept = corpus.sql("SELECT count(*) FILTER (kept) AS kept FROM verdicts").column("kept")[0].as_py()
    return {"seconds": seconds, "note": f"{rows:,} verdicts, {kept:,} kept"}


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    started = time.perf_counter()
    result = work()
    return time.perf_counter() - started, result


def measured(folder: Path, what: str) -> dict[str, Any]:
    """Seconds, a note, and the peak memory of one thing, in this process."""
    if what.startswith("make"):
        return {"seconds": timed(lambda: make(folder, int(what.split()[1])))[0]}
    corpus, policy = Corpus(folder), Policy.load(POLICY)
    if what in ("decide", "again"):
        found = deciding(corpus, policy if what == "decide" else stricter(policy))
    elif what == "what if":
        seconds, change = timed(lambda: decide.compare(corpus, policy, stricter(policy)))
        found = {"seconds": seconds, "note": "{:,} kept before, {:,} after".format(*change.kept)}
    elif what == "stats":
        page = folder / "statistics.html"

        def show() -> int:
            sections = statistics.ask(corpus)
            statistics.write(sections, "nine million", page)
            return sum(len(section.cells()) for section in statistics.brief(sections))

        seconds, lines = timed(show)
        found = {"seconds": seconds, "note": f"{lines:,} lines, and a page of {page.stat().st_size / 1000:.0f} kB"}
    elif what == "lookup":
        some = [
            f"(SELECT min(sample_id) FROM samples WHERE sample_id >= unhex('{256 * place // LOOKUPS:02x}'))"
            for place in range(LOOKUPS)
        ]
        ids = corpus.sql(f"SELECT unnest([{', '.join(some)}]) AS sample_id").column("sample_id").to_pylist()
        times = [timed(lambda sample_id=sample_id: corpus.sample(sample_id))[0] for sample_id in ids]
        found = {"seconds": numbers.median(times), "note": f"the slowest of {len(times)}: {max(times):.2f} s"}
    else:
        times = [timed(lambda query=query: corpus.ask(query))[0] for query in QUESTIONS]
        found = {"seconds": max(times), "note": ", ".join(f"{seconds:.1f}" for seconds in times) + " s"}
    return found | {"peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20}


def apart(folder: Path, what: str) -> dict[str, Any]:
    """The same in a process of its own."""
    done = subprocess.run(
        [sys.executable, __file__, "--one", folder, what], stdout=subprocess.PIPE, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"{what} failed")
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


KEYS = {
    "decide": "decide_s",
    "again": "decide_again_s",
    "what if": "whatif_s",
    "stats": "stats_s",
    "lookup": "lookup_s",
    "sql": "sql_s",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="a folder for the corpus, which stays")
    parser.add_argument("--one", nargs=2, metavar=("FOLDER", "WHAT"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measured(Path(arguments.one[0]), arguments.one[1])), flush=True)
        os._exit(0)
    samples = QUICK if arguments.quick else SAMPLES_IN_ALL
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.keep or Path(temporary)
        there = (folder / "current.json").exists()
        made = "found" if there else f"made in {apart(folder, f'make {samples}')['seconds']:.0f} s"
        corpus = Corpus(folder)
        if corpus.recipe != RECIPE:
            raise SystemExit(f"{folder} is a corpus of another kind; name a folder for this benchmark's own")
        forget(corpus)
        [rows] = corpus.sql(
            "SELECT (SELECT count(*) FROM samples) AS samples, (SELECT count(*) FROM candidates) AS candidates"
        ).to_pylist()
        print(f"{rows['samples']:,} samples of {rows['candidates']:,} candidates, synthetic; {made}")
        figures: dict[str, Any] = {"rows": rows["samples"]}
        print(f"{'':<9}{'seconds':>9}{'limit':>7}{'peak GB':>9}{'limit':>7}  note")
        for what, key in KEYS.items():
            found = apart(folder, what)
            figures[key] = round(found["seconds"], 3)
            figures["peak_gb"] = round(max(found["peak_gb"], figures.get("peak_gb", 0)), 2)
            limit = LIMITS.get(key, "")
            print(
                f"{what:<9}{found['seconds']:>9.2f}{limit:>7}{found['peak_gb']:>9.2f}{LIMITS['peak_gb']:>7}  "
                f"{found['note']}",
                flush=True,
            )
    print(json.dumps(figures))


def forget(corpus: Corpus) -> None:
    """Drop what earlier runs derived, so that deciding starts from the tables alone."""
    for folder in (corpus.path / "cache", corpus.tables / "verdicts"):
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
