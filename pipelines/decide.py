"""Verdicts: a policy over what was measured. Nothing is measured again, and no row is lost."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines import values
from pipelines.corpus import Corpus
from pipelines.judgement import Facts, Judgement, Line, judge
from pipelines.views import blob
from schemas.errors import JuZhouError
from schemas.identity import HOST, fingerprint
from schemas.policy import Listed, Policy
from schemas.tables import Table, verdicts_table

OPINIONS = """
    SELECT sample_id, arg_max(opinion, (reviewed_at, reviewer)) AS opinion FROM reviews
    WHERE opinion IS NOT NULL GROUP BY sample_id HAVING opinion IN ('keep', 'drop')
"""
"""The last word of people on a sample."""

LISTED = {
    "image": "SELECT sample_id FROM standing WHERE image_id IN (SELECT unhex(entry) FROM entries)",
    "sample": "SELECT unhex(entry) AS sample_id FROM entries",
    "url": """
        SELECT sample_id FROM standing JOIN candidates USING (candidate_id)
        WHERE url IN (FROM entries) OR page_url IN (FROM entries)
    """,
    "host": f"""
        WITH urls AS (
            SELECT sample_id, unnest([url, page_url]) AS url FROM standing JOIN candidates USING (candidate_id)
        ), hosts AS (
            SELECT sample_id, {HOST} AS host FROM urls
        ), known AS (
            SELECT host, array_to_string(parts[first:], '.') AS above FROM (
                SELECT host, parts, unnest(range(1, len(parts) + 1)) AS first
                FROM (SELECT DISTINCT host, string_split(host, '.') AS parts FROM hosts)
            )
        )
        SELECT sample_id FROM hosts WHERE host IN (SELECT host FROM known WHERE above IN (FROM entries))
    """,
}
"""The samples that a list's entries mean, by what the entries are."""


def table_of(corpus: Corpus, policy: Policy) -> Table:
    """The table of a policy's verdicts on the rows as they are now; new rows or opinions make another table."""
    query = f"SELECT sha256(string_agg(hex(sample_id) || opinion, ' ' ORDER BY sample_id)) FROM ({OPINIONS})"
    opinions = corpus.sql(query).column(0)[0].as_py() if corpus.parts("reviews") else None
    return verdicts_table(policy.name, fingerprint(policy=policy.digest, state=corpus.state, opinions=opinions))


def adopt(corpus: Corpus, policy: Policy) -> int:
    """Make a policy's verdicts the current ones, written where they are not there; returns how many were written.

    The caller has the right to write. A kill leaves the old verdicts current, or the new ones, whole.

    Raises:
        JuZhouError: as `run`.
    """
    table = table_of(corpus, policy)
    written = run(corpus, policy, table)
    corpus.adopt_verdicts(table, policy.model_dump_json())
    return written


def run(corpus: Corpus, policy: Policy, table: Table) -> int:
    """Write a verdict on every sample, in one part; returns how many.

    Raises:
        JuZhouError: an expression is not SQL or names a column that is not there, a list cannot be read, or a quota
            cannot hold.
    """
    if corpus.parts(table.path):
        return 0
    values.keep(corpus, policy)
    rows = judged(corpus, policy)
    corpus.append(table, rows)
    return rows.num_rows


def judged(corpus: Corpus, policy: Policy) -> pa.Table:
    """The verdicts of a policy, in the order of sample_id; nothing is written."""
    columns = values.gather(corpus, values.wanted(policy))
    return _judgement(corpus, policy, columns).rows(columns.column("sample_id"))


def funnel(corpus: Corpus, policy: Policy) -> list[Line]:
    """What each reason of a policy rejects alone, what it alone rejects, and what is left; nothing is written."""
    return _judgement(corpus, policy, values.gather(corpus, values.wanted(policy))).funnel()


@dataclass(frozen=True)
class Change:
    """Samples that one policy keeps and another does not, by the first reason of the other."""

    rule: str
    criterion: str
    samples: int
    examples: list[dict[str, Any]]
    """Rows with sample_id, caption, value and threshold."""


@dataclass(frozen=True)
class Comparison:
    """Two policies over the same samples."""

    samples: int
    kept: tuple[int, int]
    enter: list[Change]
    """By the rule of the first policy that kept them out."""
    leave: list[Change]
    """By the rule of the second that keeps them out."""


def compare(corpus: Corpus, before: Policy, after: Policy, examples: int = 3) -> Comparison:
    """Who enters and who leaves if one policy takes another's place; nothing is written.

    Raises:
        JuZhouError: as `run`.
    """
    columns = values.gather(corpus, values.wanted(before) | values.wanted(after))
    old, new = (_judgement(corpus, policy, columns) for policy in (before, after))
    ids = columns.column("sample_id")
    return Comparison(
        samples=len(ids),
        kept=(int(old.kept.sum()), int(new.kept.sum())),
        enter=_changes(corpus, ids, old, new.kept & ~old.kept, examples),
        leave=_changes(corpus, ids, new, old.kept & ~new.kept, examples),
    )


def _judgement(corpus: Corpus, policy: Policy, columns: pa.Table) -> Judgement:
    return judge(policy, _facts(corpus, policy, columns.column("sample_id")), columns.column)


def _facts(corpus: Corpus, policy: Policy, ids: pa.ChunkedArray) -> Facts:
    """What recipe, people and lists say of the samples; ids in their order."""
    with corpus.connect() as connection:

        def found(query: str) -> np.ndarray:
            return _marked(ids, connection.sql(query).to_arrow_table().column("sample_id"))

        listed = {}
        for entry in policy.lists:
            connection.register("entries", pa.table({"entry": pa.array(entry.entries(), pa.string())}))
            listed[entry.name] = found(_listed(entry))
        return Facts(
            out=found("FROM standing SELECT sample_id WHERE NOT in_recipe"),
            opinions=found(f"SELECT sample_id FROM ({OPINIONS}) WHERE opinion = 'keep'").astype(np.int8)
            - found(f"SELECT sample_id FROM ({OPINIONS}) WHERE opinion = 'drop'"),
            listed=listed,
        )


def _listed(entry: Listed) -> str:
    """The query for the samples that a list holds.

    Raises:
        JuZhouError: an entry is no id.
    """
    if entry.of in ("image", "sample"):
        for text in entry.entries():
            if not re.fullmatch(r"[0-9a-f]{32}", text):
                raise JuZhouError(f"list '{entry.name}': '{text}' is no {entry.of}_id; 32 hex digits are wanted")
    return LISTED[entry.of]


def _marked(ids: pa.ChunkedArray, some: pa.ChunkedArray) -> np.ndarray:
    """Which of the ids are among some of them."""
    if not len(some):
        return np.zeros(len(ids), bool)
    return pc.is_in(ids, value_set=some.combine_chunks()).to_numpy()


def _changes(
    corpus: Corpus, ids: pa.ChunkedArray, judgement: Judgement, changed: np.ndarray, examples: int
) -> list[Change]:
    """Samples that a judgement rejects, by the first reason, the commonest first."""
    rows = np.flatnonzero(changed)
    first = judgement.first(rows)
    found = []
    for index, count in sorted(enumerate(np.bincount(first, minlength=1).tolist()), key=lambda item: -item[1]):
        if not count:
            continue
        reason = judgement.reasons[index]
        some = rows[first == index][:examples]
        shown = [
            {"sample_id": ids[row].as_py(), "value": _at(reason.value, row), "threshold": _at(reason.threshold, row)}
            for row in some.tolist()
        ]
        found.append(Change(reason.name, reason.criterion, count, shown))
    captions = _captions(corpus, [example["sample_id"] for change in found for example in change.examples])
    for change in found:
        for example in change.examples:
            example["caption"] = captions[example["sample_id"]]
    return found


def _at(values: np.ndarray | float, row: int) -> float | None:
    value = float(values[row]) if isinstance(values, np.ndarray) else values
    return None if np.isnan(value) else value


def _captions(corpus: Corpus, sample_ids: Sequence[Any]) -> dict[Any, str]:
    wanted = ", ".join(map(blob, sample_ids)) or "NULL"
    rows = corpus.sql(f"SELECT sample_id, caption FROM samples WHERE sample_id IN ({wanted})").to_pylist()
    return {row["sample_id"]: row["caption"] for row in rows}
