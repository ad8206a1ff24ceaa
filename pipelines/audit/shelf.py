"""What the pages ask of again and again, held in memory: a row a sample with its verdict and its numbers."""

import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb

from pipelines import values
from pipelines.corpus import Corpus
from pipelines.views import literal
from schemas.policy import Policy, Rule
from schemas.tables import REVIEWS

WHOLE = ("tinyint", "smallint", "integer", "bigint", "utinyint", "usmallint", "uinteger", "ubigint")
NUMBERS = (*WHOLE, "boolean", "float", "double")
CHECKED_S = 2.0
"""What changed on the disk is looked for so often at most."""
PATIENCE = 10
"""A shelf is filled anew after so many times the seconds that it took at the earliest: a build adds rows all along."""

ALL_NUMBERS = 2_000_000
"""Samples up to which every number is held; of more, the values of the policy's rules alone, which `decide` keeps."""
VERDICT_COLUMNS = ("kept", "by", "rule", "value", "threshold", "failed")
STRATUM = """
    coalesce(list_filter(failed, lambda name: name <> 'review')[1], CASE WHEN kept IS NOT NULL THEN 'kept' END)
"""
"""What the rules alone make of a sample: the first that it fails, or `kept`; a review changes nothing of it."""


@dataclass(frozen=True)
class Criterion:
    """A rule as the pages show it; `column` and `fits` are SQL over the shelf.

    Of a rule for the top or bottom share, `column` is the place among the samples that it is a share of, 0–1, best
    first, and `limit` the share: its place is what a sample passes or fails by.
    """

    name: str
    first: int
    """Rejected samples that fail it before all others."""
    failed: int
    """Samples that fail it."""
    rule: Rule | None = None
    """As the policy says it; None where the verdicts alone tell of it."""
    column: str | None = None
    """Its value; None where no number is known that a threshold could be moved along."""
    fits: str = "true"
    at_least: bool = True
    limit: float = 0.0
    narrow: bool = False
    """Values are compared as 32-bit floats, as a verdict does with what has no more digits."""
    missing: str | None = None
    """Why its value cannot be asked, in one line."""

    @property
    def complete(self) -> bool:
        """Whether the values of all samples are known, those of the kept ones too."""
        return self.rule is not None

    def passes(self, threshold: float) -> str:
        """A SQL condition over the shelf that never is NULL."""
        sign, kind = ">=" if self.at_least else "<=", "FLOAT" if self.narrow else "DOUBLE"
        return f"coalesce(NOT {self.fits} OR ({self.column})::{kind} {sign} {threshold!r}::{kind}, false)"

    def line(self, threshold: float) -> str | None:
        """The rule with another threshold, as the line of YAML that a policy holds."""
        if not self.rule:
            return None
        fields: dict[str, str | float] = {
            "name": self.rule.name,
            "value": self.rule.value,
            self.rule.bound: float(f"{threshold:.10g}"),
        }
        fields |= {key: text for key in ("within", "where", "why") if (text := getattr(self.rule, key))}
        return "- {" + ", ".join(f"{key}: {_scalar(value)}" for key, value in fields.items()) + "}"


@dataclass(frozen=True)
class Shelf:
    """A corpus at a moment. `connection` has the views of the corpus and the table `shelf`; take a cursor to ask."""

    connection: duckdb.DuckDBPyConnection
    columns: tuple[str, ...]
    """SQL over the view `corpus` whose numbers the shelf holds, each in a column of its own name."""
    criteria: Mapping[str, Criterion]
    sources: Mapping[str, int]
    samples: int
    kept: int
    rejected: int
    releases: tuple[str, ...]
    policy: Policy | None
    digest: str | None
    """Of the policy."""
    seconds: float
    """What it took to fill."""

    def ask(self, query: str, parameters: Any = ()) -> list[dict[str, Any]]:
        """The rows of a query."""
        with self.connection.cursor() as cursor:
            found = cursor.execute(query, parameters)
            names = [column[0] for column in found.description or ()]
            return [dict(zip(names, row, strict=True)) for row in found.fetchall()]

    def number(self, column: str) -> str:
        """A column of `columns` as SQL over the shelf."""
        return f"{quoted(column)}::DOUBLE"


def fill(corpus: Corpus, policy: Policy | None) -> Shelf:
    """Read a corpus into memory.

    Args:
        policy: the one that the verdicts are of.

    Raises:
        JuZhouError: a list of the policy cannot be read.
    """
    started = time.monotonic()
    connection = corpus.connect()
    digest = policy.digest if policy else None
    [(there,)] = connection.execute("SELECT count(*) FROM samples").fetchall()
    columns = dict.fromkeys(_numbers(connection) if there <= ALL_NUMBERS else ())
    rules = policy.rules if policy else ()
    missing = {rule.name: why for rule in rules if (why := _unasked(connection, rule))}
    asked = [rule for rule in rules if rule.name not in missing]
    columns |= dict.fromkeys(rule.value for rule in asked)
    _lay_out(connection, corpus, columns, asked)
    _share_empty_views(connection)
    connection.execute("CREATE TABLE reviewed AS SELECT * FROM reviews LIMIT 0")
    totals = "SELECT count(*), count(*) FILTER (kept), count(*) FILTER (NOT kept) FROM shelf"
    [(samples, kept, rejected)] = connection.execute(totals).fetchall()
    by_source = "SELECT source, count(*) FROM shelf WHERE source IS NOT NULL GROUP BY source ORDER BY 2 DESC, 1"
    return Shelf(
        connection,
        tuple(columns),
        {criterion.name: criterion for criterion in _criteria(connection, rules, missing)},
        dict(connection.execute(by_source).fetchall()),
        samples,
        kept,
        rejected,
        tuple(sorted(path.parent.name for path in corpus.releases.glob("[!.]*/samples.parquet"))),
        policy,
        digest,
        time.monotonic() - started,
    )


def _lay_out(
    connection: duckdb.DuckDBPyConnection, corpus: Corpus, columns: Iterable[str], rules: Sequence[Rule]
) -> None:
    """Make the table `shelf`, by and large in the order of sample_id."""
    wheres = [rule.where for rule in rules if rule.where]
    kinds = [f"{values.KIND}{rule.within}" for rule in rules if rule.within]
    numbers = dict.fromkeys([*columns, *wheres])
    connection.register("gathered", values.gather(corpus, dict.fromkeys([*numbers, *kinds], "of the audit")))
    selected = [f"{_present(column)} AS {quoted(column)}" for column in numbers]
    selected += [f"{_place(rule)} AS {quoted(_place_name(rule))}" for rule in rules if rule.is_share]
    verdict = [f'verdicts."{name}"' for name in VERDICT_COLUMNS]
    connection.execute(
        f"CREATE TABLE shelf AS SELECT sample_id, image_id, source, {', '.join(verdict + selected)} "
        "FROM gathered JOIN (SELECT sample_id, image_id, source FROM standing) AS standing USING (sample_id) "
        "LEFT JOIN verdicts USING (sample_id)"
    )
    connection.unregister("gathered")


class Shelves:
    """The newest shelf of a corpus that a build may be changing; safe to share among threads."""

    def __init__(self, corpus: Corpus, policy: Path | None) -> None:
        self.corpus = corpus
        self._policy = policy
        self._lock = threading.Lock()
        self._checked = time.monotonic()
        self._seen = self._state()
        self._shelf = self._fill()
        self._filled = time.monotonic()
        self._filling = False
        self._reviews: set[str] = set()

    def now(self) -> Shelf:
        """The shelf, with the reviews as they are on the disk now; other rows may be some seconds old."""
        with self._lock:
            self._refresh()
            shelf = self._shelf
            self._read_reviews(shelf)
        return shelf

    def _read_reviews(self, shelf: Shelf) -> None:
        """Bring the table `reviewed` up to date, by the parts that are new."""
        there = set(self.corpus.parts(REVIEWS.path))
        if there == self._reviews:
            return
        with shelf.connection.cursor() as cursor:
            if not self._reviews <= there:  # a take-down rewrote some
                cursor.execute("DELETE FROM reviewed")
                self._reviews = set()
            new = sorted(there - self._reviews)
            files = ", ".join(literal(self.corpus.tables / part) for part in new)
            if new:
                cursor.execute(f"INSERT INTO reviewed BY NAME SELECT * FROM read_parquet([{files}])")
        self._reviews = there

    def _refresh(self) -> None:
        """Fill a new shelf beside the old one, where rows or the policy changed."""
        now = time.monotonic()
        if self._filling or now - self._checked < CHECKED_S or now - self._filled < PATIENCE * self._shelf.seconds:
            return
        self._checked = now
        if (state := self._state()) != self._seen:
            self._filling = True
            threading.Thread(target=self._renew, args=(state,), daemon=True).start()

    def _renew(self, state: tuple[Any, ...]) -> None:
        try:
            shelf = self._fill()
            with self._lock:
                self._shelf, self._seen, self._reviews = shelf, state, set()
        finally:
            with self._lock:
                self._filled, self._filling = time.monotonic(), False

    def _fill(self) -> Shelf:
        if self._policy:
            return fill(self.corpus, Policy.load(self._policy))
        remembered = self.corpus.policy
        return fill(self.corpus, Policy.model_validate_json(remembered) if remembered else None)

    def _state(self) -> tuple[Any, ...]:
        """What a shelf is made from, by names, sizes and times."""
        watched = [self.corpus.path / "current.json", self.corpus.releases, *([self._policy] if self._policy else [])]
        times = [path.stat().st_mtime_ns if path.exists() else 0 for path in watched]
        return (*times, self.corpus.state, *self.corpus.parts("verdicts"))


def quoted(name: str) -> str:
    """A SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def _numbers(connection: duckdb.DuckDBPyConnection) -> list[str]:
    """Every number and truth value that a measure gives: `blur.sharpness`."""
    relation = connection.sql("SELECT * EXCLUDE (verdict) FROM corpus LIMIT 0")
    return [
        f"{name}.{field}"
        for name, kind in zip(relation.columns, relation.types, strict=True)
        if kind.id == "struct"
        for field, inner in kind.children
        if getattr(inner, "id", "") in NUMBERS
    ]


def _unasked(connection: duckdb.DuckDBPyConnection, rule: Rule) -> str | None:
    """Why a rule's expressions cannot be asked of this corpus; None where they can."""
    try:
        connection.sql(
            f"SELECT ({rule.value})::DOUBLE, ({rule.where or 'true'})::BOOLEAN, ({rule.within or 'true'}) FROM corpus"
        )
    except duckdb.Error as error:
        return str(error).splitlines()[0]
    return None


def _place_name(rule: Rule) -> str:
    return f"place of {rule.name}"


def _present(column: str) -> str:
    """A column of numbers, NULL where it is none."""
    return f"CASE WHEN NOT isnan(gathered.{quoted(column)}) THEN gathered.{quoted(column)} END"


def _place(rule: Rule) -> str:
    """Where a sample stands among those that a share is taken of, 0–1, best first; equals stand at the same place.

    What is up to a share passes: of n samples the first ⌊share · n + ½⌋, the very best in any case.
    """
    value = _present(rule.value)
    within = quoted(values.KIND + rule.within) if rule.within else "true"
    counted = f"coalesce({_present(rule.where)} > 0, false)" if rule.where else "true"
    group = f"PARTITION BY {within}, {counted}, ({value}) IS NULL"
    rank = f"rank() OVER ({group} ORDER BY {value} {'DESC' if rule.at_least else 'ASC'})"
    place = f"CASE WHEN {rank} = 1 THEN 0 ELSE ({rank} - 0.5) / count(*) OVER ({group}) END"
    return f"CASE WHEN ({value}) IS NOT NULL THEN {place} END"


def _criteria(
    connection: duckdb.DuckDBPyConnection, rules: tuple[Rule, ...], missing: Mapping[str, str]
) -> list[Criterion]:
    """All rules that the policy or a verdict names, the policy's first and in its order."""
    first = dict(connection.execute("SELECT rule, count(*) FROM shelf WHERE NOT kept GROUP BY rule").fetchall())
    any_time = "SELECT name, count(*) FROM (SELECT unnest(failed) AS name FROM shelf) GROUP BY name ORDER BY 2 DESC, 1"
    failed = dict(connection.execute(any_time).fetchall())
    shelf = connection.sql("SELECT * FROM shelf LIMIT 0")
    types = {name: kind.id for name, kind in zip(shelf.columns, shelf.types, strict=True)}
    criteria = []
    for rule in rules:
        place = _place_name(rule) if rule.is_share else rule.value
        known = rule.name not in missing
        criteria.append(
            Criterion(
                rule.name,
                first.get(rule.name, 0),
                failed.get(rule.name, 0),
                rule,
                f"{quoted(place)}::DOUBLE" if known else None,
                f"coalesce({quoted(rule.where)} > 0, false)" if rule.where and known else "true",
                rule.at_least and not rule.is_share,
                rule.limit,
                types.get(place) == "float",
                missing.get(rule.name),
            )
        )
    others = [name for name in {**failed, **first} if name and name not in {rule.name for rule in rules}]
    return criteria + [_from_verdicts(connection, name, first.get(name, 0), failed.get(name, 0)) for name in others]


def _from_verdicts(connection: duckdb.DuckDBPyConnection, name: str, first: int, failed: int) -> Criterion:
    """A rule of which only its rejected samples tell; a threshold can be moved where all had the same."""
    query = """
        SELECT min(threshold), max(threshold), bool_and(value < threshold), bool_and(value > threshold),
            count(DISTINCT value)
        FROM shelf WHERE rule = ? AND NOT kept AND value IS NOT NULL
    """
    [(low, high, below, above, values)] = connection.execute(query, [name]).fetchall()
    if low is None or low != high or not (below or above) or values < 2:
        return Criterion(name, first, failed)
    column = "CASE WHEN rule = '{}' THEN value END".format(name.replace("'", "''"))
    return Criterion(name, first, failed, None, column, "true", bool(below), low)


def _share_empty_views(connection: duckdb.DuckDBPyConnection) -> None:
    """Make what the connection has registered for itself, tables without parts, known to its cursors too."""
    registered = "SELECT view_name FROM duckdb_views() WHERE temporary AND NOT internal"
    for (name,) in connection.execute(registered).fetchall():
        connection.execute(f"CREATE OR REPLACE TABLE memory.main.{quoted(name)} AS SELECT * FROM {quoted(name)}")


def _scalar(value: str | float) -> str:
    """A value of a flow mapping in YAML."""
    if isinstance(value, float):
        return f"{value:.10g}"
    plain = value and not any(mark in value for mark in ",:{}[]#&*!|>'\"%@`\\\n") and value.strip("-? ") == value
    return value if plain else '"' + value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", " ") + '"'
