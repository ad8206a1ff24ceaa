"""Verdicts: a policy over what was measured. Nothing is measured again, and no row is lost."""

import difflib
import re

import duckdb
import pyarrow as pa

from pipelines.corpus import Corpus
from pipelines.views import joined, literal
from schemas.errors import JuZhouError
from schemas.identity import fingerprint
from schemas.policy import Policy, Rule
from schemas.tables import VERDICTS, Table, verdicts_table

READ = ("candidates", "images", "samples", "measures", "duplicates")
"""Tables whose rows a verdict depends on."""


def table_of(corpus: Corpus, policy: Policy) -> Table:
    """The table of a policy's verdicts on the rows as they are now; new rows make another table."""
    current = [path for path in corpus.variants if not path.startswith(("verdicts/", "captions/"))]
    facts = {"policy": policy.digest, "variants": current, "parts": corpus.parts(*READ), "hidden": corpus.hidden}
    return verdicts_table(policy.name, fingerprint(**facts))


def run(corpus: Corpus, policy: Policy, table: Table) -> int:
    """Write a verdict on every sample, in one part; returns how many.

    Raises:
        JuZhouError: a rule's expression is not SQL, or names a column that is not there.
    """
    if corpus.parts(table.path):
        return 0
    with corpus.connect() as connection:
        rows = judge(connection, corpus, policy)
    corpus.append(table, rows)
    return rows.num_rows


def judge(connection: duckdb.DuckDBPyConnection, corpus: Corpus, policy: Policy) -> pa.Table:
    """The verdicts of a policy, in the order of sample_id; nothing is written.

    Before all rules stands one that no policy names: `out-of-recipe`, which what no source of the recipe found fails.
    """
    source = joined(connection, corpus.tables, corpus.variants)
    for rule in policy.rules:
        _check(connection, source, rule)
    values = ", ".join(f"({rule.value})::DOUBLE AS value_{index}" for index, rule in enumerate(policy.rules))
    failures = [
        f"{{'rule': {literal(rule.name)}, 'value': value_{index}, 'threshold': {rule.limit}::DOUBLE, "
        f"'failed': NOT coalesce({_passes(rule, f'value_{index}')}, false)}}"
        for index, rule in enumerate(policy.rules)
    ]
    left_out = "{'rule': 'out-of-recipe', 'value': 0::DOUBLE, 'threshold': 1::DOUBLE, 'failed': NOT in_recipe}"
    failures = [left_out, *failures] if corpus.hidden else failures
    query = f"""
        WITH valued AS (SELECT sample_id, in_recipe, {values} FROM {source}),
        judged AS (SELECT sample_id, list_filter([{", ".join(failures)}], lambda x: x.failed) AS failures FROM valued)
        SELECT sample_id, len(failures) = 0 AS kept, 'rules' AS by, failures[1].rule AS rule, failures[1].value AS value,
            failures[1].threshold AS threshold, list_transform(failures, lambda x: x.rule) AS failed
        FROM judged ORDER BY sample_id
    """
    return connection.sql(query).to_arrow_table().cast(VERDICTS)


def _passes(rule: Rule, value: str) -> str:
    return f"{value} >= {rule.min}" if rule.min is not None else f"{value} <= {rule.max}"


def _check(connection: duckdb.DuckDBPyConnection, source: str, rule: Rule) -> None:
    try:
        [(_, kind, *_)] = connection.execute(f"DESCRIBE SELECT {rule.value} AS value FROM {source}").fetchall()
        connection.execute(f"SELECT ({rule.value})::DOUBLE FROM {source} LIMIT 0")
    except duckdb.Error as error:
        columns = _columns(connection)
        words = [word for word in re.findall(r"[a-z_][a-z0-9_.]*", rule.value, re.IGNORECASE) if word not in columns]
        near = [nearest[0] for word in words if (nearest := difflib.get_close_matches(word, columns, 1))]
        hint = f"; did you mean '{near[0]}'?" if near else ""
        raise JuZhouError(f"rule '{rule.name}': {str(error).splitlines()[0]}{hint}") from error
    if kind.startswith(("VARCHAR", "BLOB", "STRUCT")) or kind.endswith("]"):
        raise JuZhouError(f"rule '{rule.name}': a number or a truth value is wanted, and {rule.value} is {kind}")


def _columns(connection: duckdb.DuckDBPyConnection) -> list[str]:
    """Every name that a rule may use."""
    names: list[str] = []
    for name, kind, *_ in connection.execute("DESCRIBE corpus").fetchall():
        fields = re.findall(r"[(,] ?\"?(\w+)\"? ", kind) if kind.startswith("STRUCT") else []
        names += [f"{name}.{field}" for field in fields] or [name]
    return names
