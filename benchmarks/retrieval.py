"""Lines of 330,000 poems for a million pictures: how long it takes, in what memory, and what the clusters miss.

    python benchmarks/retrieval.py            all of chinese-poetry, 1,000,000 pictures (half an hour on two cores)
    python benchmarks/retrieval.py --quick    ci and qu alone, 20,000 pictures

The poems are real, with the keywords that the lexicon finds. Pictures in such numbers do not exist here: each is made
of one to four keywords of a poem drawn by chance, whose vectors' mean, with noise as large as itself, stands for what a
CLIP would see; its caption names these keywords. The peer is brute force over the same vectors.
"""

import argparse
import json
import os
import resource
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import duckdb
import numpy as np
import pyarrow as pa

sys.path.insert(0, str(Path(__file__).parents[1]))

from filters import e5
from filters.alignment import unit
from pipelines import material
from pipelines.poetry import index
from pipelines.poetry.collection import entries
from pipelines.poetry.imagery import cut, keywords
from pipelines.poetry.poems import cleaned, flaw_of, simplified
from pipelines.poetry.retrieval import LOOKED_UP, fits
from pipelines.poetry.variants import standing
from pipelines.releases.selection import LINES
from schemas.policy import PoemLines

AT_ONCE = 1024
EXACT = 1000
"""Pictures for which brute force is tried."""
TIE = 2e-3
"""What half precision may cost of a similarity. Poems that show the same are equally near: any of them counts."""
NOISE = 1.0
BEST = 8
"""Lines kept for a picture before the caps."""
QUICK = ("songci", "yuanqu")

Made = TypeVar("Made")


def timed(name: str, seconds: dict[str, float], work: Callable[[], Made]) -> Made:
    """What the work gives; how long it took is noted and told."""
    started = time.perf_counter()
    made = work()
    seconds[name] = round(time.perf_counter() - started, 1)
    print(f"{name:>22}: {seconds[name]:>8.1f} s", flush=True)
    return made


def poems(quick: bool) -> list[list[str]]:
    """The usable poems by their lines, variants merged."""
    found = []
    for entry in entries(material.poetry(print), None):
        if quick and not any(name in entry.source for name in QUICK):
            continue
        lines = [cleaned(simplified(line)) for line in entry.lines]
        lines = [line for line in lines if line]
        if not entry.flaw and flaw_of(lines, entry.form) is None:
            found.append(lines)
    found.sort(key=lambda lines: -len("".join(lines)))
    leaders, _ = standing(found)
    return [lines for number, lines in enumerate(found) if leaders[number] == number]


def pictures(
    shown: Sequence[Sequence[str]], meanings: dict[str, np.ndarray], mean: np.ndarray, count: int, seed: int
) -> tuple[np.ndarray, list[str]]:
    """Vectors and captions of pictures that nobody has."""
    random = np.random.default_rng(seed)
    seen, said = [], []
    for poem in random.integers(len(shown), size=count).tolist():
        words = shown[poem]
        some = [words[place] for place in random.permutation(len(words))[: random.integers(1, 5)]]
        seen.append(np.mean([meanings[word] for word in some], axis=0) - mean)
        said.append(some)
    signal = unit(np.array(seen, np.float32))
    noise = unit(random.standard_normal(signal.shape).astype(np.float32)) * np.float32(NOISE)
    words = np.array([index.sketches(some).sum(axis=0) for some in said], np.float32)
    return index.joined(signal + noise, words), ["、".join(some) for some in said]


def capped(found: pa.Table, lines: PoemLines) -> tuple[int, int, int, int]:
    """How often the commonest line stands beside a picture, and how many lines do, before the caps and after."""
    counted = "SELECT max(n), count(*) FROM (SELECT text, count(*) AS n FROM ({}) GROUP BY text)"
    with duckdb.connect() as connection:
        connection.register("found", found)
        connection.execute("""
            CREATE VIEW captions AS SELECT picture AS sample_id, line AS text, place AS rank, score, 'line' AS kind,
                0 AS poem_id FROM found;
            CREATE VIEW verdicts AS SELECT DISTINCT picture AS sample_id, true AS kept FROM found;
            CREATE VIEW poems AS SELECT 0 AS poem_id, [''] AS lines
        """)
        fitting = f"FROM captions WHERE score >= {lines.least} AND rank <= {lines.most}"
        [before] = connection.sql(counted.format(fitting)).fetchall()
        [after] = connection.sql(counted.format(LINES.format(**lines.model_dump(), learnt="true"))).fetchall()
    return (*before, *after)


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="ci and qu alone, and fewer pictures")
    parser.add_argument("--pictures", type=int, default=1_000_000)
    arguments = parser.parse_args()
    count = 20_000 if arguments.quick else arguments.pictures
    seconds: dict[str, float] = {}

    texts = timed("read and merge poems", seconds, lambda: poems(arguments.quick))
    shown = timed("their keywords", seconds, lambda: keywords(texts))
    texts, shown = zip(*((lines, words) for lines, words in zip(texts, shown, strict=True) if words), strict=True)
    vocabulary = sorted({word for words in shown for word in words})
    meanings = timed("read keywords by e5", seconds, lambda: dict(zip(vocabulary, e5.vectors(vocabulary), strict=True)))
    mean = np.stack([*meanings.values()]).mean(axis=0)
    vectors = timed("vectors of poems", seconds, lambda: index.poem_vectors(shown, meanings))
    lines = timed("what is in the lines", seconds, lambda: index.lines_of(texts))
    shelf = timed("clusters", seconds, lambda: index.search(vectors))
    strangers = index.strangers(vectors)

    queries, _ = pictures(shown, meanings, mean, EXACT, seed=1)
    exact = timed("brute force, 1,000", seconds, lambda: brute(vectors, queries))
    found, _ = timed("clusters, 1,000", seconds, lambda: shelf.search(queries, 10))
    recall = float((found >= exact[:, 9:] - TIE).mean())

    spent = {"making pictures": 0.0, "looking up": 0.0, "weighing lines": 0.0}
    rows = []
    for start in range(0, count, AT_ONCE):
        begun = time.perf_counter()
        queries, captions = pictures(shown, meanings, mean, min(AT_ONCE, count - start), seed=2 + start)
        made = time.perf_counter()
        near, some = shelf.search(queries, LOOKED_UP)
        looked = time.perf_counter()
        weighed = index.weigh(lines, cut(captions), some)
        score = fits(index.nearness(near, queries, strangers), weighed.overlap, weighed.shared)
        order = np.argsort(-score, axis=1, kind="stable")[:, :BEST]
        rows.append(
            pa.table(
                {
                    "picture": np.repeat(np.arange(start, start + len(queries)), order.shape[1]),
                    "place": np.tile(np.arange(1, order.shape[1] + 1), len(queries)),
                    "line": np.take_along_axis(weighed.line, order, axis=1).ravel(),
                    "score": np.take_along_axis(score, order, axis=1).ravel(),
                }
            )
        )
        ended = time.perf_counter()
        for name, took in zip(spent, (made - begun, looked - made, ended - looked), strict=True):
            spent[name] += took
    seconds |= {name: round(took, 1) for name, took in spent.items()}
    for name in spent:
        print(f"{name:>22}: {seconds[name]:>8.1f} s", flush=True)
    policy = PoemLines()
    before, lines_before, after, lines_after = timed("caps", seconds, lambda: capped(pa.concat_tables(rows), policy))

    scale = count / EXACT
    work = seconds["looking up"] + seconds["weighing lines"]
    figures = {
        "poems": len(texts),
        "lines": len(lines.texts),
        "pictures": count,
        "seconds": seconds,
        "pictures_per_second": round(count / work),
        "recall_at_10": round(recall, 4),
        "brute_force_over_clusters": round(seconds["brute force, 1,000"] / max(seconds["looking up"] / scale, 1e-3), 1),
        "gigabytes": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
        "commonest_line_before": before,
        "commonest_line_after": after,
        "lines_before": lines_before,
        "lines_after": lines_after,
        "cores": len(os.sched_getaffinity(0)),
    }
    print(f"\n{len(texts):,} poems of {len(lines.texts):,} lines, {count:,} pictures, {figures['cores']} cores")
    print(f"pictures a second {figures['pictures_per_second']:,} · recall of the first ten {recall:.3f} · brute force "
          f"takes {figures['brute_force_over_clusters']} × as long · {figures['gigabytes']} GB")  # fmt: skip
    print(f"the commonest line stands beside {before:,} pictures, after the caps beside {after:,}; "
          f"{lines_before:,} lines stand somewhere, after the caps {lines_after:,}")  # fmt: skip
    print(json.dumps(figures))


def brute(vectors: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """How near the ten nearest are, by looking at all, as faiss does it."""
    import faiss

    flat = faiss.IndexFlatIP(vectors.shape[1])
    flat.add(vectors)
    near: np.ndarray = flat.search(queries, 10)[0]
    return near


if __name__ == "__main__":
    main()
