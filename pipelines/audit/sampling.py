"""Draws that anyone can repeat, and what the opinions on them say of a filter: shares with their 95 % intervals."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pipelines.audit.shelf import STRATUM, Shelf
from pipelines.views import literal

Z_95 = 1.959963984540054
"""The 97.5 % point of the normal distribution."""
RANDOM = "random"
KEPT = "kept"

LATEST = """
    SELECT sample_id, arg_max(opinion, reviewed_at) FILTER (opinion IS NOT NULL) AS opinion,
        arg_max(coalesce(note, ''), reviewed_at) FILTER (opinion IS NOT NULL) AS note
    FROM reviewed GROUP BY sample_id
"""
"""The opinion on each reviewed sample that counts: the last that anyone gave."""
UNDONE = "undone"
"""The note of a row that takes the opinion before it back."""
OPEN = f"opinion IS NULL OR (opinion = 'unsure' AND note = '{UNDONE}')"
"""Of a row of LATEST: nobody has an opinion, or who had one took it back."""


@dataclass(frozen=True)
class Draw:
    """Samples to look at: `size` of all, or of each rule's rejected and of the kept. The same seed draws the same."""

    stratified: bool
    size: int
    seed: int
    rule: str | None = None
    """Of this rule's rejected samples alone (or of the kept, under their name)."""

    def samples(self, shelf: Shelf) -> list[tuple[bytes, str]]:
        """sample_id and `drawn_by` of each, in an order of chance: who looks cannot tell what comes next.

        A sample's place in line is the MD5 of seed and id, so that a draw grows with its size and with the corpus and
        what was drawn before stays drawn where it is still among the first.
        """
        key = f"md5('{self.seed}:' || hex(sample_id))"
        where = f"stratum = {literal(self.rule)}" if self.rule else "stratum IS NOT NULL"
        if self.stratified or self.rule:
            chosen = f"WHERE {where} QUALIFY row_number() OVER (PARTITION BY stratum ORDER BY key) <= {self.size}"
        else:
            chosen = f"ORDER BY key LIMIT {self.size}"
        rows = shelf.ask(
            f"WITH keyed AS (SELECT sample_id, {STRATUM} AS stratum, {key} AS key FROM shelf), "
            f"chosen AS (SELECT * FROM keyed {chosen}) SELECT sample_id, stratum FROM chosen ORDER BY key"
        )
        by_rule = self.stratified or self.rule
        return [(row["sample_id"], _drawn_by(row["stratum"]) if by_rule else RANDOM) for row in rows]


def _drawn_by(stratum: str) -> str:
    return stratum if stratum == KEPT else f"rule:{stratum}"


@dataclass(frozen=True)
class Interval:
    """A share and its 95 % interval."""

    share: float
    low: float
    high: float


@dataclass(frozen=True)
class Estimate:
    """What the opinions say of a stratum: `agree` are with the filter, `against` are not, unsure ones stand apart."""

    stratum: str
    population: int
    """Samples of it in the corpus."""
    agree: int
    against: int
    unsure: int

    @property
    def opinions(self) -> int:
        return self.agree + self.against

    @property
    def interval(self) -> Interval | None:
        """The share of the stratum in which the reviewers would agree; None without an opinion."""
        return wilson(self.agree, self.opinions) if self.opinions else None


def wilson(hits: int, trials: int, z: float = Z_95) -> Interval:
    """The score interval of a proportion, which holds for small counts and for shares near 0 and 1.

    E. B. Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22 (1927), 209–212:
    (p + z²/2n ± z √(p(1−p)/n + z²/4n²)) / (1 + z²/n).

    Args:
        trials: at least 1.
    """
    share = hits / trials
    centre = share + z * z / (2 * trials)
    half = z * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    scale = 1 + z * z / trials
    low = 0.0 if hits == 0 else (centre - half) / scale
    high = 1.0 if hits == trials else (centre + half) / scale
    return Interval(share, low, high)


def overall(estimates: Sequence[Estimate]) -> Interval | None:
    """The share over several strata, each weighted by its population; strata without an opinion do not count.

    The stratified mean is Σ Wₕpₕ (W. G. Cochran, Sampling Techniques, 3rd ed., 1977, eq. 5.1). Its interval joins the
    Wilson limits of the strata by the method of variance estimates recovery (G. Zou and A. Donner, "Construction of
    confidence limits about effect measures: a general approach", Statistics in Medicine 27 (2008), 1693–1702):
    p − √Σ Wₕ²(pₕ − lₕ)² and p + √Σ Wₕ²(uₕ − pₕ)². With a single stratum it is that stratum's own.
    """
    known = [(estimate.population, estimate.interval) for estimate in estimates if estimate.interval]
    total = sum(population for population, _ in known)
    if not total:
        return None
    share = below = above = 0.0
    for population, interval in known:
        assert interval
        weight = population / total
        share += weight * interval.share
        below += (weight * (interval.share - interval.low)) ** 2
        above += (weight * (interval.high - interval.share)) ** 2
    return Interval(share, max(0.0, share - math.sqrt(below)), min(1.0, share + math.sqrt(above)))


def estimates(shelf: Shelf) -> list[Estimate]:
    """By stratum, the opinions on what was drawn under the policy as it is; kept first, then as the rules stand.

    What a reviewer came upon is left out: it was chosen by eye, and a share of it says nothing of the rest.
    """
    policy = literal(shelf.digest) if shelf.digest else "NULL"
    rows = shelf.ask(f"""
        WITH drawn AS (
            SELECT DISTINCT sample_id FROM reviewed
            WHERE drawn_by IS NOT NULL AND opinion IS NOT NULL AND policy IS NOT DISTINCT FROM {policy}
        ), latest AS (SELECT * FROM ({LATEST}) SEMI JOIN drawn USING (sample_id) WHERE NOT coalesce({OPEN}, false)),
        placed AS (SELECT sample_id, {STRATUM} AS stratum FROM shelf)
        SELECT stratum, count(*) AS population,
            count(*) FILTER (opinion = 'keep') AS keep, count(*) FILTER (opinion = 'drop') AS drop,
            count(*) FILTER (opinion = 'unsure') AS unsure
        FROM placed LEFT JOIN latest USING (sample_id) WHERE stratum IS NOT NULL GROUP BY stratum
    """)
    found = {
        row["stratum"]: Estimate(
            row["stratum"],
            row["population"],
            row["keep"] if row["stratum"] == KEPT else row["drop"],
            row["drop"] if row["stratum"] == KEPT else row["keep"],
            row["unsure"],
        )
        for row in rows
    }
    order = [KEPT, *(name for name in shelf.criteria), *found]
    return [found[name] for name in dict.fromkeys(order) if name in found]


def rows(shelf: Shelf) -> int:
    """How many rows of reviews there are."""
    return int(shelf.ask("SELECT count(*) AS rows FROM reviewed")[0]["rows"])


def other_policies(shelf: Shelf) -> int:
    """How many drawn opinions were given under another policy than the one that the verdicts are of."""
    policy = literal(shelf.digest) if shelf.digest else "NULL"
    [row] = shelf.ask(
        "SELECT count(*) AS rows FROM reviewed WHERE drawn_by IS NOT NULL AND opinion IS NOT NULL "
        f"AND policy IS DISTINCT FROM {policy}"
    )
    return int(row["rows"])
