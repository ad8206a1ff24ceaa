"""The wide row of a sample: what each table has of it, joined as far as a question names it."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import duckdb

from schemas.identity import HOST

HEAVY = ("BLOB", "[]", "[")
"""Marks of the types that no one reads by eye: hashes and vectors."""
FIRST = (
    "sample_id", "image_id", "caption", "source", "host", "url", "page_url", "caption_from", "licence", "in_recipe",
    "tar", "offset", "length", "format", "orientation",
    "representative", "distance", "stands_for_itself", "repeats",
)  # fmt: skip
"""Columns in the order in which people read them; measures, verdict and release follow."""

PAGE_HOST = HOST.replace("url", "coalesce({0}.page_url, {0}.url)")
"""The host of the page that shows a picture; of the picture, where the page is not known; to be given a relation."""

VERDICT = {field: f'verdicts."{field}"' for field in ("kept", "by", "rule", "value", "threshold", "failed")}


@dataclass(frozen=True)
class Named:
    """What a question names, in lower case: every word by which it could mean a column, and what it names whole."""

    words: frozenset[str]
    whole: frozenset[str]
    """Last words of its references: `blur` in a question for blur, and not in one for blur.sharpness."""


@dataclass(frozen=True)
class Source:
    """A relation with at most one row a sample."""

    name: str
    key: str
    """The column that it shares with the first: sample_id, image_id or candidate_id."""
    columns: Mapping[str, str | Mapping[str, str]]
    """What it adds to the wide row: a column's name → its expression, or the fields of a struct with theirs."""
    relation: str | None = None
    """A query in its place, where it is no view."""


@dataclass(frozen=True)
class Wide:
    """All that there is of a sample; the first source has a row for each."""

    sources: tuple[Source, ...]

    def query(self, named: Named | None = None, only: Mapping[str, str] | None = None) -> str:
        """A SELECT with one row a sample, over no more sources and columns than are named; all when left out.

        Args:
            only: key column → SQL literal, where the row of one sample is wanted: each source is asked by its key.
        """
        columns: dict[str, str] = {}
        clauses = [_relation(self.sources[0], only)]
        for source in self.sources:
            wanted = {
                name: _expression(name, expression, named)
                for name, expression in source.columns.items()
                if named is None or name in named.words
            }
            columns |= wanted
            if wanted and source is not self.sources[0]:
                clauses.append(f"LEFT JOIN {_relation(source, only)} USING ({source.key})")
        order = [*(name for name in FIRST if name in columns), *(name for name in columns if name not in FIRST)]
        selected = ", ".join(f'{columns[name]} AS "{name}"' for name in order) or "1 AS sample"
        return f"SELECT {selected} FROM {' '.join(clauses)}"


def _expression(name: str, expression: str | Mapping[str, str], named: Named | None) -> str:
    """A column; of a struct the fields that are named, for DuckDB reads those that it packs."""
    if isinstance(expression, str):
        return expression
    some = named is not None and name not in named.whole
    fields = {field: value for field, value in expression.items() if not some or (named and field in named.words)}
    return "{" + ", ".join(f"'{field}': {value}" for field, value in (fields or expression).items()) + "}"


def _relation(source: Source, only: Mapping[str, str] | None) -> str:
    relation = f"({source.relation})" if source.relation else source.name
    if only and source.key in only:
        return f"(SELECT * FROM {relation} AS all_rows WHERE {source.key} = {only[source.key]}) AS {source.name}"
    return f"{relation} AS {source.name}" if source.relation else relation


def measure_source(connection: duckdb.DuckDBPyConnection, name: str) -> Source:
    """A measure as a struct of its numbers and texts."""
    columns = {row[0]: str(row[1]) for row in connection.execute(f"DESCRIBE {name}").fetchall()}
    key = "sample_id" if "sample_id" in columns else "image_id"
    shown = [column for column, kind in columns.items() if column != key and not any(mark in kind for mark in HEAVY)]
    return Source(name, key, {name: {column: f"{name}.{column}" for column in shown}})


@lru_cache(maxsize=1024)
def named(query: str) -> Named | None:
    """What a question names; None where it may want every column there is.

    By it a question about two columns of nine million samples joins two tables and not twenty.
    """
    with duckdb.connect() as connection:
        [[text]] = connection.execute("SELECT json_serialize_sql(?::VARCHAR)", [query]).fetchall()
    tree = json.loads(text)
    if tree["error"]:
        return None
    words: set[str] = set()
    whole: set[str] = set()
    relations: set[str] = set()
    for node in _nodes(tree):
        if node.get("class") == "STAR" or node.get("ref_type") == "NATURAL":
            return None
        if node.get("type") == "BASE_TABLE":
            relations |= {node["table_name"].lower(), node["alias"].lower()}
        reference = [*node.get("column_names", ())] or [*(node.get("using_columns") or ())]
        names = [name.lower() for name in reference]
        words.update(names)
        whole.update(names[-1:])
    return None if whole & relations else Named(frozenset(words), frozenset(whole))


def _nodes(tree: Any) -> Iterable[dict[str, Any]]:
    """Every mapping of a JSON tree."""
    if isinstance(tree, dict):
        yield tree
        tree = list(tree.values())
    if isinstance(tree, list):
        for branch in tree:
            yield from _nodes(branch)
