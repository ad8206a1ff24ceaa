"""How exact and how fast copies are found among random 256-bit hashes with planted neighbours.

    python benchmarks/near_duplicates.py           100,000, 1,000,000 and 9,000,000 hashes (minutes)
    python benchmarks/near_duplicates.py --quick   100,000 and 300,000, in less than a minute

A tenth of the hashes are neighbours of others at 0 to 31 bits, planted as often at each distance. Per size, each in a
process of its own:
    pairs      all pairs within 31 bits; `recall` is the least share of planted pairs found at any distance
    flat       the same by faiss's IndexBinaryFlat on the same cores: a share of the queries, scaled to all
    ray        all pairs, shared out as tasks of a local Ray cluster
    whole      who stands for whom: leader clustering of all, nothing known before
    added      a hundredth more hashes, once the others have their places
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from pipelines import cluster, hamming
from pipelines.leaders import Found, leaders

RADIUS = 31
SIZES = (100_000, 1_000_000, 9_000_000)
QUICK = (100_000, 300_000)
FLAT_QUERIES = 20_000
"""Queries that the flat index is asked; its time is proportional to them."""
AT_ONCE = 100_000


def planted(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Hashes, of which the last tenth are neighbours of the first, and the bits in which each of these differs."""
    random = np.random.default_rng(seed)
    hashes = random.integers(0, 2**64, (count, hamming.WORDS), dtype=np.uint64)
    copies = count // 10
    bits = np.arange(copies) % (RADIUS + 1)
    for start in range(0, copies, AT_ONCE):
        some = slice(start, min(start + AT_ONCE, copies))
        places = np.argsort(random.random((some.stop - start, 256), dtype=np.float32), axis=1)
        flips = np.zeros(places.shape, np.uint8)
        np.put_along_axis(flips, places, (np.arange(256) < bits[some, None]).astype(np.uint8), axis=1)
        target = slice(count - copies + start, count - copies + some.stop)
        hashes[target] = hashes[some] ^ np.packbits(flips, axis=1).view(np.uint64)
    return hashes, bits


def recall(found: list[Found], count: int, bits: np.ndarray) -> float:
    """The least share, over the distances, of planted pairs that were found at their distance."""
    first = count - len(bits)
    seen = np.zeros(len(bits), bool)
    for row, head, distance in found:
        right = (row - first == head) & (row >= first)
        right[right] = bits[head[right]] == distance[right]
        seen[head[right]] = True
    return min(float(seen[bits == distance].mean()) for distance in range(RADIUS + 1))


def measured(count: int, what: str) -> dict[str, Any]:
    """Seconds and peak memory of one way, in this process."""
    hashes, bits = planted(count, count)
    everything = np.arange(count)
    list(hamming.matches(hashes, everything[:99], everything[:99], RADIUS))  # compiled, or read from the cache
    result: dict[str, Any] = {}

    def near(rows: np.ndarray, heads: np.ndarray) -> Iterator[Found]:
        return hamming.matches(hashes, rows, heads, RADIUS)

    if what == "ray":
        cluster.start()
        list(cluster.spread(hamming._of_chunk, (hashes, everything[:99], None, RADIUS), range(hamming.CHUNKS)))
    started = time.perf_counter()
    if what == "flat":
        result["seconds"] = flat(hashes) * count / FLAT_QUERIES
    elif what in ("pairs", "ray"):
        spread = cluster.spread if what == "ray" else hamming.threads
        found = list(hamming.matches(hashes, everything, everything, RADIUS, spread))
        result["seconds"] = time.perf_counter() - started
        result["recall"] = recall(found, count, bits)
    elif what == "whole":
        leader, distance = leaders(0, count, near)
        result["seconds"] = time.perf_counter() - started
        first = count - len(bits)
        right = (leader[first:] == everything[: len(bits)]) & (distance[first:] == bits)
        result["recall"] = float((right.mean() + (leader[:first] == everything[:first]).mean()) / 2)
    else:
        known = count - count // 100
        leaders(known, count, near)
        result["seconds"] = time.perf_counter() - started
    cluster.stop()
    return result | {"peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20}


def flat(hashes: np.ndarray) -> float:
    """Seconds of FLAT_QUERIES range searches over all hashes by faiss's brute force, on all cores of this process."""
    import faiss

    faiss.omp_set_num_threads(len(os.sched_getaffinity(0)))
    index = faiss.IndexBinaryFlat(256)
    index.add(hashes.view(np.uint8))
    queries = hashes[:: len(hashes) // FLAT_QUERIES][:FLAT_QUERIES].view(np.uint8)
    started = time.perf_counter()
    index.range_search(queries, RADIUS + 1)
    return time.perf_counter() - started


def apart(count: int, what: str) -> dict[str, Any]:
    """The same in a process of its own, so that its peak is its own."""
    done = subprocess.run(
        [sys.executable, __file__, "--one", str(count), what], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(done.stderr)
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--one", nargs=2, metavar=("COUNT", "WHAT"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measured(int(arguments.one[0]), arguments.one[1])), flush=True)
        os._exit(0)
    sizes = QUICK if arguments.quick else SIZES
    columns = ("hashes", "way", "seconds", "peak GB", "recall", "note")
    print(f"{columns[0]:>10}  {columns[1]:<7}{columns[2]:>9}{columns[3]:>9}{columns[4]:>8}  {columns[5]}")
    figures: dict[str, Any] = {"recall": {}, "speedup_faiss_flat": {}, "seconds": {}, "peak_gb": {}, "added_share": {}}
    for count in sizes:
        ways = ["pairs", "whole", "added"] + (["flat", "ray"] if count <= 1_000_000 else [])
        rows = {way: apart(count, way) for way in ways}
        key = str(count)
        figures["seconds"][key] = {way: round(row["seconds"], 2) for way, row in rows.items()}
        figures["peak_gb"][key] = round(max(rows[way]["peak_gb"] for way in ("pairs", "whole")), 2)
        figures["recall"][key] = min(row["recall"] for row in rows.values() if "recall" in row)
        figures["added_share"][key] = round(rows["added"]["seconds"] / rows["whole"]["seconds"], 4)
        notes = {"added": f"{figures['added_share'][key]:.2%} of the whole"}
        if "flat" in rows:
            speedup = rows["flat"]["seconds"] / rows["pairs"]["seconds"]
            figures["speedup_faiss_flat"][key] = round(speedup, 1)
            notes["flat"] = f"{speedup:.0f} times the pairs' time; {FLAT_QUERIES:,} queries, scaled"
        for way, row in rows.items():
            share = f"{row['recall']:.3f}" if "recall" in row else ""
            print(f"{count:>10,}  {way:<7}{row['seconds']:>9.2f}{row['peak_gb']:>9.2f}{share:>8}  {notes.get(way, '')}")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
