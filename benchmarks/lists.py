"""How fast a list of picture URLs becomes candidates, and with how much memory: a list larger than it has to spill.

    python benchmarks/lists.py                  lists of 2 and of 10 million rows
    python benchmarks/lists.py --quick          one of 2 million, in less than a minute
    python benchmarks/lists.py --rows 40000000  one of any length; 0.8 GB of disk for each million rows

The lists are Parquet of URLs of 70 bytes or so and captions of 40 Chinese characters, all of them different but each
tenth, which repeats the row before it. DuckDB may use MEMORY_GB before it spills. `again` is the time of a second run
over the same list, which finds nothing new; `peak` is the largest resident memory of the process up to then.
"""

import argparse
import json
import os
import resource
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import duckdb

sys.path.insert(0, str(Path(__file__).parents[1]))

from pipelines import views
from pipelines.corpus import Corpus
from pipelines.sources.urls import add_candidates
from schemas.recipe import Urls

MEMORY_GB = 4
FILE_ROWS = 1_000_000
REPEATED = 10
"""One row in so many is that before it once more."""

ROW = """
    'https://img' || hash(i) % 5000 || '.example.cn/' || md5(i::VARCHAR) || '/' || hash(i + 7) % 100000000 || '.jpg'
        AS url,
    array_to_string([chr((19968 + hash(i * 41 + j) % 3500)::INT) FOR j IN range(40)], '') AS caption
"""


def write_lists(folder: Path, rows: int) -> None:
    """Make a list of so many rows, in files of FILE_ROWS."""
    for start in range(0, rows, FILE_ROWS):
        numbers = f"range({start}, {min(start + FILE_ROWS, rows)}) AS numbers(k)"
        repeated = f"SELECT k - (k % {REPEATED} = {REPEATED - 1})::INT AS i FROM {numbers}"
        duckdb.execute(f"COPY (SELECT {ROW} FROM ({repeated})) TO '{folder}/{start:012d}.parquet'")


def measure(folder: Path) -> tuple[int, float, float, float]:
    """Candidates of the lists in a folder: how many, seconds, seconds of a second run, and peak GB."""
    views.MEMORY_SHARE = MEMORY_GB * 2**30 / (os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    corpus = Corpus.create(folder / "corpus")
    source = Urls(kind="urls", path=str(folder / "lists"))
    times = [time.perf_counter()]
    added = []
    for _ in range(2):
        added.append(add_candidates(corpus, "list", source, "0" * 12, datetime.now(UTC)))
        times.append(time.perf_counter())
    if added[1]:
        raise RuntimeError(f"a second run found {added[1]} candidates more")
    return added[0], times[1] - times[0], times[2] - times[1], resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one list of 2 million rows")
    parser.add_argument("--rows", type=int, help="one list of so many rows")
    arguments = parser.parse_args()
    sizes = [arguments.rows] if arguments.rows else [2_000_000] if arguments.quick else [2_000_000, 10_000_000]
    results: dict[str, dict[str, float]] = {}
    print(f"{'rows':>12}{'candidates':>12}{'seconds':>9}{'rows/s':>10}{'again':>8}{'peak GB':>9}")
    for rows in sizes:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            (folder / "lists").mkdir()
            write_lists(folder / "lists", rows)
            added, seconds, again, peak = measure(folder)
        print(f"{rows:>12,}{added:>12,}{seconds:>9.1f}{rows / seconds:>10,.0f}{again:>8.1f}{peak:>9.2f}")
        results[str(rows)] = {
            "rows": rows,
            "seconds": round(seconds, 2),
            "rows_s": round(rows / seconds),
            "again_s": round(again, 2),
            "peak_gb": round(peak, 3),
        }
    print(json.dumps(results))


if __name__ == "__main__":
    main()
