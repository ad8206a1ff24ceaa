"""What sets two releases apart: samples, captions, splits, the rules that now reject, scores, and the policies."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb

from pipelines.corpus import Corpus
from pipelines.releases.base import REASON, SAMPLES
from pipelines.releases.card import numbers
from pipelines.views import literal
from schemas.errors import JuZhouError
from schemas.policy import Policy
from schemas.release import Manifest

COUNTS = """
    SELECT count(*) FILTER (one.sample_id IS NOT NULL AND other.sample_id IS NOT NULL),
        count(*) FILTER (other.sample_id IS NULL), count(*) FILTER (one.sample_id IS NULL),
        count(*) FILTER (one.caption <> other.caption), count(*) FILTER (one.split <> other.split)
    FROM one FULL JOIN other USING (sample_id)
"""
SOURCES = """
    SELECT coalesce(one.source, other.source) AS source,
        count(*) FILTER (one.sample_id IS NOT NULL AND other.sample_id IS NOT NULL) AS both,
        count(*) FILTER (other.sample_id IS NULL) AS gone, count(*) FILTER (one.sample_id IS NULL) AS new
    FROM one FULL JOIN other USING (sample_id) GROUP BY ALL ORDER BY gone + new DESC, source
"""
RULES = f"""
    WITH lost AS (FROM one ANTI JOIN other USING (sample_id)),
    why AS (SELECT {REASON} AS rule FROM lost LEFT JOIN verdicts USING (sample_id))
    SELECT rule, count(*) AS samples FROM why GROUP BY ALL ORDER BY samples DESC, rule
"""
CAPTIONS = """
    SELECT one.caption, other.caption FROM one JOIN other USING (sample_id)
    WHERE one.caption <> other.caption ORDER BY sample_id LIMIT 5
"""


@dataclass(frozen=True)
class Difference:
    """From one release to another of the same corpus."""

    both: int
    gone: int
    new: int
    captions: int
    """Samples of both whose caption changed; `reworded` has the first of them."""
    splits: int
    """Samples of both whose split changed."""
    sources: list[tuple[str, int, int, int]]
    """Source, and its samples in both, gone, new."""
    rules: list[tuple[str, int]]
    """Why samples of the first are not kept now, by the corpus's current verdicts; `kept now` where they are."""
    scores: list[tuple[str, float | None, float | None]]
    """The mean of each number in the first and in the second."""
    policy: list[tuple[str, str, str]]
    """Rules, lists and quotas that differ: name, as in the first, as in the second; empty where there is none."""
    reworded: list[tuple[str, str]]


def between(corpus: Corpus, first: str, second: str) -> Difference:
    """Compare two releases of a corpus by their rows.

    Raises:
        JuZhouError: there is no such release.
    """
    one, other = (_folder(corpus, name) for name in (first, second))
    with corpus.connect() as connection:
        for name, folder in (("one", one), ("other", other)):
            connection.execute(f"CREATE TEMP VIEW {name} AS FROM read_parquet({literal(folder / SAMPLES)})")
        [(both, gone, new, captions, splits)] = connection.execute(COUNTS).fetchall()
        return Difference(
            both,
            gone,
            new,
            captions,
            splits,
            sources=connection.execute(SOURCES).fetchall(),
            rules=connection.execute(RULES).fetchall(),
            scores=_means(connection),
            policy=_policies(one, other),
            reworded=connection.execute(CAPTIONS).fetchall(),
        )


def _folder(corpus: Corpus, name: str) -> Path:
    folder = corpus.releases / name
    if not folder.is_dir():
        there = ", ".join(sorted(path.name for path in corpus.releases.iterdir() if not path.name.startswith(".")))
        raise JuZhouError(f"there is no release {name}; there are: {there or 'none'}")
    Manifest.load(folder)
    return folder


def _means(connection: duckdb.DuckDBPyConnection) -> list[tuple[str, float | None, float | None]]:
    means: list[dict[str, float | None]] = []
    for relation in ("one", "other"):
        names = numbers(connection, relation)
        columns = ", ".join(f"avg(({name})::DOUBLE) FILTER (isfinite(({name})::DOUBLE))" for name in names)
        [row] = connection.execute(f"SELECT {columns or 0} FROM {relation}").fetchall()
        means.append(dict(zip(names, row, strict=bool(names))))
    return [(name, means[0].get(name), means[1].get(name)) for name in dict.fromkeys([*means[0], *means[1]])]


def _policies(one: Path, other: Path) -> list[tuple[str, str, str]]:
    before, after = (_said(Policy.load(folder / "policy.yaml")) for folder in (one, other))
    names = dict.fromkeys([*before, *after])
    return [(name, before.get(name, ""), after.get(name, "")) for name in names if before.get(name) != after.get(name)]


def _said(policy: Policy) -> dict[str, str]:
    """What each list, rule and quota says, by its name."""
    said = {rule.name: f"{rule.value} {rule.criterion}" for rule in policy.rules}
    lists: dict[str, Any] = {
        entry.name: f"{'allow' if entry.allow else 'deny'} {len(entry.entries())} {entry.of}s" for entry in policy.lists
    }
    quotas = {
        quota.name: f"at most {quota.most or quota.share} of each {quota.by}"
        + (f", first {quota.first}" if quota.first else "")
        for quota in policy.quotas
    }
    return lists | said | quotas
