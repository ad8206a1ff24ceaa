"""How many poems there are, how long it takes to read them, and how well the lexicon says what they show.

    python benchmarks/poems.py            the whole of chinese-poetry (minutes)
    python benchmarks/poems.py --quick    the three hundred Tang poems, in half a minute

The gold set is `pipelines/poetry/gold.txt`; its second half, which the lexicon was not tuned on, counts. A model of the
text alone to compare with does not run here, so the peer is jieba's own keyword extraction (TextRank over its nouns).
"""

import argparse
import json
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import jieba
import jieba.analyse

sys.path.insert(0, str(Path(__file__).parents[1]))

from pipelines import cluster, material
from pipelines.corpus import Corpus
from pipelines.poetry import imagery, variants
from pipelines.poetry.gold import GoldPoem, compare, gold_poems, scores
from pipelines.poetry.poems import poems_stage
from pipelines.stage import run

REPORTED = 330_000
"""Poems that the report keeps, about."""
WORST, SHOWN = 10, 30


def silent(name: str, done: int, total: int) -> None:
    """Tell nothing."""


def read(folder: Path, only: str | None) -> dict[str, object]:
    """Read a collection into a fresh corpus, as a build does; times, counts, and some poems with their keywords."""
    with tempfile.TemporaryDirectory() as place:
        corpus = Corpus.create(Path(place) / "corpus")
        stage = imagery.keywords_stage()
        corpus.adopt("{}", [variants.table(), *stage.outputs])
        steps: dict[str, Callable[[], int]] = {
            "read": lambda: run(corpus, poems_stage(folder, only), silent),
            "variants": lambda: variants.run(corpus),
            "keywords": lambda: run(corpus, stage, silent),
        }
        seconds = {}
        for name, step in steps.items():
            started = time.perf_counter()
            rows = step()
            seconds[name] = round(time.perf_counter() - started, 1)
            print(f"{name:>10}: {rows:>9,} rows in {seconds[name]} s", flush=True)
        cluster.stop()
        reasons = corpus.sql(
            "SELECT dynasty, coalesce(reason, 'usable') AS what, count(*) AS n FROM poems GROUP BY ALL ORDER BY ALL"
        ).to_pylist()
        standing = corpus.sql(
            f"SELECT dynasty, count(*) AS n FROM ({variants.STANDING}) GROUP BY ALL ORDER BY n DESC"
        ).to_pylist()
        for row in corpus.sql(f"""
            SELECT author, title, lines, keywords FROM poems JOIN keywords USING (poem_id)
            WHERE len(array_to_string(lines, '')) <= 60 ORDER BY md5(hex(poem_id)) LIMIT {SHOWN}
        """).to_pylist():
            print(f"  {row['author']}《{row['title']}》{''.join(row['lines'])} → {', '.join(row['keywords'])}")
        return {
            "entries": corpus.sql("SELECT count(*) AS n FROM poems").column(0)[0].as_py(),
            "poems": sum(row["n"] for row in standing),
            "by_dynasty": {row["dynasty"]: row["n"] for row in standing},
            "by_reason": {f"{row['dynasty']} {row['what']}": row["n"] for row in reasons},
            "keywords": corpus.sql("SELECT sum(len(keywords))::BIGINT AS n FROM keywords").column(0)[0].as_py(),
            "seconds": seconds,
            "gigabytes_of_the_driver": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
        }


def jieba_keywords(poems: Sequence[Sequence[str]]) -> list[list[str]]:
    """Nouns that jieba finds, by TextRank."""
    return [jieba.analyse.textrank("".join(lines), topK=imagery.MOST, allowPOS=("n", "ns", "nz")) for lines in poems]


def judge(gold: Sequence[GoldPoem], worst: bool) -> dict[str, dict[str, float]]:
    """Precision, recall and F1 by half and by method; the worst poems of the test half, if they are wanted."""
    found = {}
    for half, poems in (("tune", gold[::2]), ("test", gold[1::2])):
        for method, say in (("lite", imagery.keywords), ("jieba", jieba_keywords)):
            outcomes = [compare(poem, said) for poem, said in zip(poems, say([p.lines for p in poems]), strict=True)]
            found[f"{method} {half}"] = {name: round(v, 3) for name, v in scores(outcomes)._asdict().items()}
            if worst and (method, half) == ("lite", "test"):
                ranked = sorted(
                    zip(outcomes, poems, strict=True), key=lambda pair: -len(pair[0].wrong + pair[0].missed)
                )
                for outcome, poem in ranked[:WORST]:
                    missed = "、".join("/".join(names) for names in outcome.missed)
                    wrong, text = "、".join(outcome.wrong), "".join(poem.lines)[:60]
                    print(f"  {poem.author} {text} wrong: {wrong}; missed: {missed}")
    return found


def main() -> None:
    """Print a table, and the same figures as one JSON object in the last line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    jieba.setLogLevel("WARNING")
    folder = material.poetry(print)
    figures: dict[str, object] = {"reported_poems": REPORTED}
    figures |= read(folder, "唐诗三百首.json" if quick else None)
    judged = judge(gold_poems(folder), worst=not quick)
    for name, figure in figures.items():
        print(f"{name:>24}: {figure}")
    for name, figures_of in judged.items():
        print(f"{name:>24}: " + " · ".join(f"{key} {value}" for key, value in figures_of.items()))
    print(json.dumps(figures | {"gold": judged}, ensure_ascii=False))


if __name__ == "__main__":
    main()
