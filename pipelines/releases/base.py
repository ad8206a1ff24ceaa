"""The release that another adds to: where it has samples as they are, and what of it is gone."""

import re
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from pipelines.corpus import Corpus
from pipelines.releases import paged
from pipelines.releases.shards import CONTENT
from pipelines.views import literal
from schemas.errors import JuZhouError
from schemas.release import Manifest, folders
from schemas.tables import SCHEMA_VERSION

NAME = r"[A-Za-z0-9][A-Za-z0-9._-]*"
"""What a release may be called."""
SAMPLES, GONE = "samples.parquet", "gone.parquet"
NOWHERE = pa.table(
    {"release": pa.nulls(1, pa.string()), "shard": pa.nulls(1, pa.string()), "offset": pa.nulls(1, pa.int64())}
)

REASON = """
    CASE WHEN NOT verdicts.kept THEN coalesce(verdicts.rule, verdicts.by)
        WHEN image_id IN (SELECT image_id FROM forgotten) THEN 'forgotten' ELSE 'absent' END
"""
"""Why a sample of an earlier release, a row of `lost`, is not kept now: the rule that rejects it, or that it was taken
down (each picture that was has a tombstone of its own), or that the corpus does not have it."""


def manifest_of(corpus: Corpus, base: str) -> Manifest:
    """The manifest of the release that is added to, once it is known to be whole."""
    folder = corpus.releases / base
    if not re.fullmatch(NAME, base) or not folder.is_dir():
        there = ", ".join(sorted(path.name for path in corpus.releases.iterdir() if re.fullmatch(NAME, path.name)))
        raise JuZhouError(f"there is no release {base} to add to; there are: {there or 'none'}")
    folders(folder)
    manifest = Manifest.load(folder)
    if manifest.schema_version != SCHEMA_VERSION:
        raise JuZhouError(f"{base} has schema version {manifest.schema_version}, and {SCHEMA_VERSION} cannot add to it")
    return manifest


def places(corpus: Corpus, manifest: Manifest, rows: Path) -> Iterator[pa.Table]:
    """For the rows of a new release, group by group, the release, shard and offset where its base has them as they are;
    nulls where it does not."""
    same = " AND ".join(f"rows.{column} IS NOT DISTINCT FROM base.{column}" for column in ("split", *CONTENT))
    query = f"""
        SELECT base.release, base.shard, base."offset" FROM read_parquet({literal(rows)}) AS rows
        LEFT JOIN {_rows(corpus, manifest)} AS base ON base.sample_id = rows.sample_id AND {same}
        ORDER BY rows.sample_id
    """
    with corpus.connect() as connection:
        yield from paged.groups(connection.sql(query).to_arrow_reader(paged.ROW_GROUP))


def write_gone(corpus: Corpus, manifest: Manifest, rows: Path, path: Path) -> None:
    """Write which samples of the base a new release does not have, and why."""
    lost = f"FROM {_rows(corpus, manifest)} AS base ANTI JOIN read_parquet({literal(rows)}) AS rows USING (sample_id)"
    query = f"""
        WITH lost AS ({lost})
        SELECT sample_id, {REASON} AS rule FROM lost LEFT JOIN verdicts USING (sample_id) ORDER BY sample_id
    """
    with corpus.connect() as connection:
        paged.write(connection, query, path)


def _rows(corpus: Corpus, manifest: Manifest) -> str:
    """The rows of the base as a relation."""
    assert manifest.base
    return f"read_parquet({literal(corpus.releases / manifest.base.name / SAMPLES)})"
