"""What the pages ask: samples, both sides of a threshold, what another would change, copies, one sample's history."""

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import duckdb

from pipelines import views
from pipelines.audit.sampling import LATEST, OPEN
from pipelines.audit.shelf import Criterion, Shelf, quoted
from pipelines.corpus import Corpus
from schemas.errors import JuZhouError

PAGE_ROWS = 48
SIDE_ROWS = 16
CHANGED_ROWS = 9
GROUPS = 12
GROUP_PICTURES = 14
BINS = 72
SQL_ROWS = 1_000
SQL_S = 10.0
SQL_MEMORY = "1GiB"
SQL_SPILL = "4GiB"
BOUNDS = {
    "memory_limit": SQL_MEMORY,
    "max_temp_directory_size": SQL_SPILL,
    "python_enable_replacements": "false",
}
SQL_CELL = 2_000
"""Characters of an answer's value that are shown."""

VERDICTS = {"kept": "kept", "rejected": "NOT kept", "none": "kept IS NULL"}
OPINIONS = {
    "any": f"NOT coalesce({OPEN}, true)",
    "none": f"coalesce({OPEN}, true)",
    "keep": "opinion = 'keep'",
    "drop": "opinion = 'drop'",
    "unsure": f"opinion = 'unsure' AND NOT ({OPEN})",
}


@dataclass(frozen=True)
class Filter:
    """Which samples the grid shows, and in which order; empty texts ask for nothing."""

    rule: str = ""
    how: str = ""
    """`any`: the rule is among those that a sample fails; otherwise it is the first."""
    source: str = ""
    verdict: str = ""
    release: str = ""
    text: str = ""
    """Stands in the caption, original or simplified, in any case."""
    opinion: str = ""
    score: str = ""
    low: str = ""
    high: str = ""
    order: str = ""
    """`up` or `down` by the score; by sample_id without."""

    def condition(self, shelf: Shelf) -> str:
        """It as SQL over the shelf.

        Raises:
            JuZhouError: it names something that there is not.
        """
        parts = ["true"]
        if self.rule:
            name = views.literal(_known(self.rule, shelf.criteria, "rule"))
            parts.append(f"list_contains(failed, {name})" if self.how == "any" else f"NOT kept AND rule = {name}")
        if self.source:
            parts.append(f"source = {views.literal(self.source)}")
        if self.verdict:
            parts.append(VERDICTS[_known(self.verdict, VERDICTS, "verdict")])
        if self.release:
            name = views.literal(_known(self.release, shelf.releases, "release"))
            parts.append(f"sample_id IN (SELECT sample_id FROM released WHERE release = {name})")
        if self.text:
            found = f"contains(lower({{}}), lower({views.literal(self.text)}))"
            parts.append(
                f"(sample_id IN (SELECT sample_id FROM samples WHERE {found.format('caption')}) OR sample_id IN "
                f"(SELECT sample_id FROM captions WHERE kind = 'simplified' AND {found.format('text')}))"
            )
        if self.opinion:
            parts.append(OPINIONS[_known(self.opinion, OPINIONS, "opinion")])
        if self.score:
            value = shelf.number(_known(self.score, shelf.columns, "score"))
            parts.append(f"isfinite({value})")
            for bound, sign in ((self.low, ">="), (self.high, "<=")):
                if bound:
                    parts.append(f"{value} {sign} {_number(bound)!r}::DOUBLE")
        return " AND ".join(f"({part})" for part in parts)

    def key(self, shelf: Shelf) -> str | None:
        """What samples are ordered by before their id."""
        if not self.score or self.order not in ("up", "down"):
            return None
        return f"{'-' if self.order == 'down' else ''}({shelf.number(self.score)})"


@dataclass(frozen=True)
class Page:
    """Some samples, and the cursors before and after them where there are more."""

    rows: list[dict[str, Any]]
    before: str | None
    after: str | None


def grid(shelf: Shelf, wanted: Filter, before: str = "", after: str = "") -> Page:
    """A page of the samples that a filter asks for."""
    return _page(shelf, wanted.condition(shelf), wanted.key(shelf), before, after, PAGE_ROWS, wanted.score or None)


def number_of(shelf: Shelf, wanted: Filter) -> int:
    """How many samples a filter asks for."""
    [row] = shelf.ask(f"SELECT count(*) AS samples FROM {_reviewed()} WHERE {wanted.condition(shelf)}")
    return int(row["samples"])


def some(shelf: Shelf, sample_ids: Sequence[bytes]) -> list[dict[str, Any]]:
    """Given samples, in the given order, as far as they are there."""
    rows = _page(shelf, f"sample_id IN ({_ids(sample_ids)})", None, "", "", len(sample_ids)).rows if sample_ids else []
    by_id = {row["sample_id"]: row for row in rows}
    return [by_id[sample_id] for sample_id in sample_ids if sample_id in by_id]


@dataclass(frozen=True)
class Change:
    """What another threshold would do, all other rules as they are."""

    threshold: float
    enter: int
    """Samples that fail no other rule and would pass."""
    leave: int
    """Samples that are kept and would fail."""
    entering: list[dict[str, Any]]
    leaving: list[dict[str, Any]]
    """Some of them, nearest to the threshold first."""


def change(shelf: Shelf, criterion: Criterion, threshold: float) -> Change:
    """Who would enter and who would leave with another threshold; what people or lists decided stays."""
    passes = criterion.passes(threshold)
    name = views.literal(criterion.name)
    enters = f"NOT kept AND \"by\" = 'rules' AND len(failed) = 1 AND failed[1] = {name} AND {passes}"
    leaves = f"kept AND \"by\" = 'rules' AND NOT {passes}"
    query = f"SELECT count(*) FILTER ({enters}) AS enter, count(*) FILTER ({leaves}) AS leave FROM shelf"
    [counts] = shelf.ask(query)
    distance = f"abs({criterion.column} - {threshold!r}::DOUBLE)"
    entering, leaving = (
        _page(shelf, which, f"coalesce({distance}, 'inf'::DOUBLE)", "", "", CHANGED_ROWS, criterion=criterion).rows
        for which in (enters, leaves)
    )
    return Change(threshold, counts["enter"], counts["leave"], entering, leaving)


def side(
    shelf: Shelf, criterion: Criterion, threshold: float, passing: bool, before: str = "", after: str = ""
) -> Page:
    """Samples whose value passes a threshold, or fails it, nearest to it first, whatever else they fail."""
    where = f"{criterion.fits} AND {criterion.column} IS NOT NULL AND isfinite({criterion.column})"
    where += f" AND {'' if passing else 'NOT '}{criterion.passes(threshold)}"
    key = f"abs({criterion.column} - {threshold!r}::DOUBLE)"
    return _page(shelf, where, key, before, after, SIDE_ROWS, criterion=criterion)


@dataclass(frozen=True)
class Bin:
    """A bar of a histogram: samples that are kept, that fail this rule alone, and all others."""

    low: float
    kept: int
    alone: int
    other: int


@dataclass(frozen=True)
class Spread:
    """The values of a rule, from the 0.5 % to the 99.5 % point and as far as the threshold; bins of equal width."""

    low: float
    high: float
    whole: bool
    """All values are whole numbers."""
    bins: list[Bin]
    missing: int
    """Samples that the rule concerns and that have no value."""


def spread(shelf: Shelf, criterion: Criterion) -> Spread | None:
    """How the values of a rule are spread; None where there is none."""
    value, fits = criterion.column, criterion.fits
    [row] = shelf.ask(f"""
        SELECT quantile_cont(v, 0.005) AS low, quantile_cont(v, 0.995) AS high, bool_and(v = floor(v)) AS whole,
            (SELECT count(*) FROM shelf WHERE {fits} AND {value} IS NULL) AS missing
        FROM (SELECT {value} AS v FROM shelf WHERE {fits} AND isfinite({value}))
    """)
    if row["low"] is None:
        return None
    low, high = min(row["low"], criterion.limit), max(row["high"], criterion.limit)
    margin = (high - low) * 0.02 or 0.5
    low, high = low - (0 if row["whole"] else margin), high + (1 if row["whole"] else margin)
    width = (high - low) / BINS
    name = views.literal(criterion.name)
    rows = shelf.ask(f"""
        SELECT least(greatest(floor(({value} - {low!r}) / {width!r}), 0), {BINS - 1})::INT AS bin,
            count(*) FILTER (kept) AS kept,
            count(*) FILTER (NOT coalesce(kept, false) AND len(failed) = 1 AND failed[1] = {name}) AS alone,
            count(*) AS samples
        FROM shelf WHERE {fits} AND isfinite({value}) GROUP BY bin
    """)
    found = {row["bin"]: row for row in rows}
    empty = {"kept": 0, "alone": 0, "samples": 0}
    bins = []
    for index in range(BINS):
        one = found.get(index, empty)
        rest = one["samples"] - one["kept"] - one["alone"]
        bins.append(Bin(low + index * width, one["kept"], one["alone"], rest))
    return Spread(low, high, bool(row["whole"]), bins, row["missing"])


def groups(shelf: Shelf, before: str = "", after: str = "") -> Page:
    """Groups of copies, the largest first, each with its first pictures: the representative, then by distance."""
    sizes = "(SELECT representative, count(*) AS size FROM duplicates GROUP BY representative HAVING size > 1)"
    page = _keyset(
        shelf, f"SELECT representative AS id, size, -size::DOUBLE AS key FROM {sizes}", before, after, GROUPS
    )
    for group in page.rows:
        group["pictures"] = group_of(shelf, group["id"])[:GROUP_PICTURES]
    return page


def group_of(shelf: Shelf, representative: bytes) -> list[dict[str, Any]]:
    """The pictures of a group, its representative first, then by distance; with a caption of each."""
    return shelf.ask(f"""
        WITH members AS (SELECT * FROM duplicates WHERE representative = {_blob(representative)})
        SELECT members.image_id, any_value(distance) AS distance, any_value(method) AS method,
            members.image_id = any_value(representative) AS representative, any_value(format) AS format,
            any_value(width) AS width, any_value(height) AS height, any_value(images.length) AS bytes,
            min(samples.sample_id) AS sample_id, arg_min(caption, samples.sample_id) AS caption
        FROM members LEFT JOIN images USING (image_id) LEFT JOIN samples USING (image_id)
        GROUP BY members.image_id ORDER BY representative DESC, distance NULLS LAST, members.image_id
    """)


def history(shelf: Shelf, corpus: Corpus, sample_id: bytes) -> dict[str, Any] | None:
    """All that the corpus holds of a sample, from URL to shard; None where there is no such sample."""
    rows = some(shelf, [sample_id])
    if not rows:
        return None
    [row] = rows
    is_it = f"sample_id = {_blob(sample_id)}"
    is_image = f"image_id = {_blob(row['image_id'])}"
    [sample] = shelf.ask(f"SELECT * FROM samples WHERE {is_it} LIMIT 1")
    candidates = shelf.ask(f"SELECT * FROM candidates WHERE candidate_id = {_blob(sample['candidate_id'])}")
    had = shelf.ask(f"SELECT DISTINCT url_id FROM fetches WHERE {is_image}")
    others = _others(shelf, [one["url_id"] for one in had], sample["candidate_id"])
    url_id = candidates[0]["url_id"] if candidates else None
    captions = shelf.ask(f"SELECT * FROM captions WHERE {is_it} ORDER BY kind, rank")
    duplicates = shelf.ask(f"SELECT * FROM duplicates WHERE {is_image}")
    return row | {
        "candidate": candidates[0] if candidates else None,
        "also_found": others,
        "fetches": shelf.ask(f"SELECT * FROM fetches WHERE url_id = {_blob(url_id)} ORDER BY attempt"),
        "image": next(iter(shelf.ask(f"SELECT * FROM images WHERE {is_image}")), None),
        "measures": _measured(shelf, corpus, row),
        "duplicate": duplicates[0] if duplicates else None,
        "group": group_of(shelf, duplicates[0]["representative"]) if duplicates else [],
        "captions": captions,
        "failures": _failures(shelf, row),
        "reviews": shelf.ask(f"SELECT * FROM reviewed WHERE {is_it} ORDER BY reviewed_at"),
        "releases": shelf.ask(f"SELECT * FROM released WHERE {is_it} ORDER BY release"),
    }


class Console:
    """Questions in SQL by whoever sits before the page: bounded in rows, time and memory, one at a time a session."""

    def __init__(self, corpus: Corpus) -> None:
        self._corpus = corpus
        self._lock = threading.Lock()
        self._asking: set[str] = set()

    def ask(self, session: str, query: str) -> tuple[list[str], list[tuple[Any, ...]], bool]:
        """Columns, rows as texts, and whether there were more than SQL_ROWS.

        Raises:
            JuZhouError: it is no single question, cannot be answered within the bounds, or another one is running.
        """
        query = views.read_only(query)
        with self._turn(session), self._corpus.fenced(query, **BOUNDS) as connection:
            timer = threading.Timer(SQL_S, connection.interrupt)
            timer.start()
            try:
                return _answer(connection, query)
            except duckdb.InterruptException as error:
                raise JuZhouError(f"stopped after {SQL_S:.0f} s; ask for less") from error
            except duckdb.OutOfMemoryException as error:
                raise JuZhouError(f"a question may use {SQL_MEMORY} of memory here; ask `juzhou sql`") from error
            except duckdb.Error as error:
                raise JuZhouError(str(error)) from error
            finally:
                timer.cancel()

    @contextmanager
    def _turn(self, session: str) -> Iterator[None]:
        with self._lock:
            if session in self._asking:
                raise JuZhouError("your last question is still being answered; wait for it")
            self._asking.add(session)
        try:
            yield
        finally:
            with self._lock:
                self._asking.discard(session)


def _answer(connection: duckdb.DuckDBPyConnection, query: str) -> tuple[list[str], list[tuple[Any, ...]], bool]:
    if duckdb.extract_statements(query)[0].type == duckdb.StatementType.EXPLAIN:
        return ["plan"], [(str(row[-1]),) for row in connection.execute(query).fetchall()], False
    relation = connection.sql(query)
    shown = ", ".join(
        f"hex({quoted(name)})" if kind.id == "blob" else f"left({quoted(name)}::VARCHAR, {SQL_CELL})"
        for name, kind in zip(relation.columns, relation.types, strict=True)
    )
    rows = relation.limit(SQL_ROWS + 1).project(shown).fetchall()
    return relation.columns, rows[:SQL_ROWS], len(rows) > SQL_ROWS


def _page(
    shelf: Shelf,
    where: str,
    key: str | None,
    before: str,
    after: str,
    size: int,
    score: str | None = None,
    criterion: Criterion | None = None,
) -> Page:
    """Samples that meet a condition, with what a card shows of each."""
    number = criterion.column if criterion else shelf.number(score) if score else "NULL"
    page = _keyset(
        shelf,
        f'SELECT sample_id AS id, sample_id, image_id, source, kept, "by", rule, value, threshold, failed, opinion, '
        f"{number} AS number, {key or 'NULL'} AS key FROM {_reviewed()} WHERE {where}",
        before,
        after,
        size,
        key is not None,
    )
    if page.rows:
        captions = _captions(shelf, [row["sample_id"] for row in page.rows])
        for row in page.rows:
            row["caption"] = captions.get(row["sample_id"], "")
    return page


def _keyset(shelf: Shelf, query: str, before: str, after: str, size: int, by_key: bool = True) -> Page:
    """A page of a query with the columns `key` (a number, or none) and `id`, in their order, from a cursor on.

    Nothing is skipped over: a page far down costs what the first one does.
    """
    cursor = before or after
    backwards = bool(before)
    sign, way = ("<", "DESC") if backwards else (">", "ASC")
    where = "true"
    if cursor:
        key, _, name = cursor.rpartition("_")
        last = _blob(_from_hex(name))
        where = f"id {sign} {last}"
        if by_key:
            where = f"(key {sign} {_number(key)!r}::DOUBLE OR key = {_number(key)!r}::DOUBLE AND id {sign} {last})"
    order = f"key {way}, id {way}" if by_key else f"id {way}"
    rows = shelf.ask(f"SELECT * FROM ({query}) WHERE {where} ORDER BY {order} LIMIT {size + 1}")
    more, rows = len(rows) > size, rows[:size]
    if backwards:
        rows.reverse()
    if not rows:
        return Page([], None, None)
    ends = [f"{row['key']!r}_{row['id'].hex()}" if by_key else row["id"].hex() for row in (rows[0], rows[-1])]
    return Page(
        rows,
        ends[0] if (more if backwards else bool(after)) else None,
        ends[1] if (True if backwards else more) else None,
    )


def _reviewed() -> str:
    return (
        f"shelf LEFT JOIN (SELECT sample_id, CASE WHEN {OPEN} THEN NULL ELSE opinion END AS opinion, note "
        f"FROM ({LATEST})) AS latest USING (sample_id)"
    )


def _captions(shelf: Shelf, sample_ids: Sequence[bytes]) -> dict[bytes, str]:
    rows = shelf.ask(f"SELECT sample_id, caption FROM samples WHERE sample_id IN ({_ids(sample_ids)})")
    return {row["sample_id"]: row["caption"] for row in rows}


def _others(shelf: Shelf, url_ids: Sequence[bytes], candidate_id: bytes | None) -> list[dict[str, Any]]:
    """Other candidates whose URL gave the same picture."""
    if not url_ids:
        return []
    query = f"SELECT * FROM candidates WHERE url_id IN ({_ids(url_ids)}) ORDER BY found_at, candidate_id LIMIT 50"
    return [row for row in shelf.ask(query) if row["candidate_id"] != candidate_id]


def _measured(shelf: Shelf, corpus: Corpus, row: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What each measure saw: its name and its columns; vectors and hashes are named by their size."""
    there = {view["view_name"] for view in shelf.ask("SELECT view_name FROM duckdb_views()")}
    names = (path.removeprefix("measures/").partition("@") for path in corpus.variants if path.startswith("measures/"))
    found = []
    for name, _, variant in sorted(names):
        if name not in there:
            continue
        columns = [column["column_name"] for column in shelf.ask(f"DESCRIBE {quoted(name)}")]
        key = "sample_id" if "sample_id" in columns else "image_id"
        for one in shelf.ask(f"SELECT * FROM {quoted(name)} WHERE {key} = {_blob(row[key])} LIMIT 1"):
            del one[key]
            found.append({"name": name, "variant": variant, "error": one.pop("error", None), "columns": one})
    return found


def _failures(shelf: Shelf, row: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Every rule that a sample fails, with its value and threshold as far as they are known."""
    failures = []
    for name in row["failed"] or ([row["rule"]] if row["rule"] else []):
        criterion = shelf.criteria.get(name)
        value, threshold = (row["value"], row["threshold"]) if name == row["rule"] else (None, None)
        if name != row["rule"] and criterion and criterion.complete and criterion.column:
            query = f"SELECT {criterion.column} AS value FROM shelf WHERE sample_id = {_blob(row['sample_id'])}"
            value, threshold = shelf.ask(query)[0]["value"], criterion.limit
        failures.append({"name": name, "criterion": criterion, "value": value, "threshold": threshold})
    return failures


def _known(name: str, names: Mapping[str, Any] | Sequence[str], what: str) -> str:
    if name not in names:
        raise JuZhouError(f"there is no {what} '{name}' here")
    return name


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise JuZhouError(f"'{text[:40]}' is no number") from None


def _from_hex(text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError:
        raise JuZhouError(f"'{text[:40]}' is no id") from None


def _blob(content: bytes | None) -> str:
    return f"unhex('{content.hex()}')" if content is not None else "NULL"


def _ids(ids: Sequence[bytes]) -> str:
    return ", ".join(map(_blob, ids))
