"""A release: what was kept, frozen into tars, a Parquet of every caption and score, a manifest and a data-set card."""

import hashlib
import re
import secrets
import shutil
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import yaml

from pipelines import cluster
from pipelines.corpus import UNFINISHED, Corpus, flush
from pipelines.releases import base, card, croissant, selection, shards, verses
from pipelines.releases.base import GONE, NAME, SAMPLES
from pipelines.releases.shards import Piece
from pipelines.views import literal
from schemas.errors import JuZhouError
from schemas.policy import Policy
from schemas.recipe import Recipe
from schemas.release import POEMS, Base, Manifest, Shard
from schemas.tables import SCHEMA_VERSION

SHARD_BYTES = 256_000_000
ROWS, PLACES, ASSIGNED = (f".{name}.parquet" for name in ("rows", "places", "assigned"))
"""Files that a release is made by and does not keep."""
ASSIGNMENT = pa.schema(
    {
        "release": pa.string(),
        "shard": pa.string(),
        "offset": pa.int64(),
        "piece": pa.string(),
        "length": pa.int64(),
        "tar": pa.string(),
        "tar_offset": pa.int64(),
    }
)
"""Where a picture lies in the release; `piece` is the shard that is yet to be written, in which it has no offset."""


def latest(corpus: Corpus, name: str) -> tuple[int, Path | None]:
    """The number and the folder of the newest release of a name; 0 and None where there is none."""
    numbers = [
        int(found[1])
        for folder in corpus.releases.iterdir()
        if (found := re.fullmatch(re.escape(name) + r"-(\d+)", folder.name))
    ]
    return (max(numbers), corpus.releases / f"{name}-{max(numbers)}") if numbers else (0, None)


def run(
    corpus: Corpus,
    recipe: Recipe,
    policy: Policy,
    name: str | None = None,
    onto: str | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> Path:
    """Freeze what the current verdicts keep; captions must have been made.

    A release is written beside its place and appears there whole, by one rename. Samples stand in the order of their
    ids, and nothing in it depends on time, place, or the number of workers.

    Args:
        name: of the release; without one, the newest of the recipe's name if it holds the same, or the next number.
        onto: the name of the release that this one adds to: what lies there as it is gets no second place.
        shard_bytes: the size of a tar, about.

    Raises:
        JuZhouError: there is nothing to release, another release has the name, or the base cannot be used.
    """
    if name is not None and not re.fullmatch(NAME, name):
        raise JuZhouError(f"'{name}' is no name for a release; letters, digits, '.', '_' and '-' are")
    if not corpus.sql("SELECT 1 FROM verdicts WHERE kept LIMIT 1").num_rows:
        raise JuZhouError("the policy keeps no sample, so there is nothing to release; `juzhou decide` shows why")
    found = base.manifest_of(corpus, onto) if onto else None
    # A name of its own, so that a stray worker of a killed process writes to none of ours.
    folder = corpus.releases / f"{UNFINISHED}{secrets.token_hex(8)}"
    folder.mkdir()
    try:
        selection.write(corpus, recipe, policy, folder / ROWS, folder / PLACES)
        if recipe.poetry:
            verses.write(corpus, recipe.splits, folder / POEMS)
        manifest = _begun(corpus, recipe, policy, folder, name, found)
        place = corpus.releases / manifest.name
        if place.exists():
            if name and Manifest.load(place).made_by != manifest.made_by:
                raise JuZhouError(f"there is another release {name} already, and releases never change; choose a name")
            return place
        if manifest.base:
            base.write_gone(corpus, manifest, folder / ROWS, folder / GONE)
        pieces = _assign(corpus, folder, manifest, shard_bytes)
        located = _write_shards(corpus, folder, pieces, shard_bytes)
        _write_samples(folder, {shard.name: offsets for shard, offsets in located})
        for leftover in (ROWS, PLACES, ASSIGNED):
            (folder / leftover).unlink()
        _describe(corpus, folder, policy, manifest, [shard for shard, _ in located])
        for path in folder.iterdir():
            path.chmod(0o444)
            flush(path)
        flush(folder)
        folder.rename(place)
        flush(corpus.releases)
        return place
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _begun(
    corpus: Corpus, recipe: Recipe, policy: Policy, folder: Path, name: str | None, onto: Manifest | None
) -> Manifest:
    """The manifest as far as it is known before a shard is written, which is all that decides what they hold."""
    digest = _sha256(folder / ROWS)
    poems = folder / POEMS
    of_poems = {"poems": pq.read_metadata(poems).num_rows, "poems_sha256": _sha256(poems)} if poems.exists() else {}
    if name is None:
        number, newest = latest(corpus, recipe.release)
        there = Manifest.load(newest) if newest else None
        same = there and (there.selection, there.poems_sha256) == (digest, of_poems.get("poems_sha256"))
        name = newest.name if newest and same else f"{recipe.release}-{number + 1}"
    variants = [path.partition("@") for path in corpus.variants if not path.startswith("verdicts/")]
    return Manifest(
        name=name,
        schema_version=SCHEMA_VERSION,
        selection=digest,
        recipe=recipe.digest,
        policy=policy.digest,
        variants={family: variant for family, _, variant in variants},
        base=Base(name=onto.name, digest=onto.digest) if onto else None,
        samples=pq.read_metadata(folder / ROWS).num_rows,
        images=0,
        splits={},
        samples_sha256="",
        shards=(),
        **of_poems,
    )


def _assign(corpus: Corpus, folder: Path, manifest: Manifest, shard_bytes: int) -> list[Piece]:
    """Write which shard each sample belongs to, row by row as in `ROWS`: the base's that has it as it is, or one of
    ours, which fill up in the order of the ids. Gives those that are to be written."""
    filling = shards.Filling(shard_bytes)
    with (
        pq.ParquetFile(folder / ROWS) as rows,
        pq.ParquetFile(folder / PLACES) as places,
        pq.ParquetWriter(folder / ASSIGNED, ASSIGNMENT, compression="zstd") as writer,
    ):
        known = base.places(corpus, manifest, folder / ROWS) if manifest.base else None
        for group in range(rows.num_row_groups):
            split = rows.read_row_group(group, columns=["split"]).column("split").to_pylist()
            place = places.read_row_group(group)
            there = next(known) if known else base.NOWHERE.take([0] * len(split))
            new = there.column("release").is_null().to_numpy(zero_copy_only=False)
            piece = pa.array(filling.names(split, place.column("length").to_numpy(), new), pa.string())
            columns = {
                "release": pc.fill_null(there.column("release"), manifest.name),
                "shard": pc.coalesce(there.column("shard"), piece),
                "offset": there.column("offset"),
                "piece": piece,
            }
            columns |= {name: place.column(name) for name in ("length", "tar", "tar_offset")}
            writer.write_table(pa.table(columns).cast(ASSIGNMENT).combine_chunks())
    return filling.pieces


def _write_shards(
    corpus: Corpus, folder: Path, pieces: list[Piece], shard_bytes: int
) -> list[tuple[Shard, np.ndarray]]:
    """Write the tars, one task each; also where in each its pictures begin. In the order of their names.

    What would fit one tar is written here, for a cluster takes longer to start.
    """
    shared = (corpus, folder)
    on_ray = sum(piece.bytes for piece in pieces) > shard_bytes
    written = cluster.spread(_write_shard, shared, pieces) if on_ray else (_write_shard(shared, one) for one in pieces)
    return sorted(written, key=lambda one: one[0].name)


def _write_shard(shared: tuple[Corpus, Path], piece: Piece) -> tuple[Shard, np.ndarray]:
    corpus, folder = shared
    return shards.write(corpus, folder, piece, folder / ROWS, folder / ASSIGNED)


def _write_samples(folder: Path, offsets: dict[str, np.ndarray]) -> None:
    """Write the rows with the release, shard, offset and length of each sample's picture."""
    used = dict.fromkeys(offsets, 0)
    with pq.ParquetFile(folder / ROWS) as rows, pq.ParquetFile(folder / ASSIGNED) as assigned:
        writer = None
        for group in range(rows.num_row_groups):
            place = assigned.read_row_group(group, columns=["release", "shard", "offset", "length", "piece"])
            where = pc.fill_null(place.column("offset"), 0).to_numpy().copy()
            for piece in pc.unique(place.column("piece").drop_null()).to_pylist():
                mine = np.flatnonzero(pc.fill_null(pc.equal(place.column("piece"), piece), False))
                where[mine] = offsets[piece][used[piece] : used[piece] + len(mine)]
                used[piece] += len(mine)
            place = place.set_column(2, "offset", pa.array(where)).drop_columns(["piece"])
            whole = rows.read_row_group(group)
            for column in place.column_names:
                whole = whole.append_column(column, place.column(column))
            writer = writer or pq.ParquetWriter(folder / SAMPLES, whole.schema, compression="zstd")
            writer.write_table(whole)
        assert writer
        writer.close()


def _describe(corpus: Corpus, folder: Path, policy: Policy, manifest: Manifest, written: list[Shard]) -> None:
    """Write the manifest, the policy, the data-set card and the Croissant metadata."""
    counts = "SELECT split, count(*), count(DISTINCT image_id) FROM read_parquet({}) GROUP BY split ORDER BY split"
    with duckdb.connect() as connection:
        splits = connection.execute(counts.format(literal(folder / SAMPLES))).fetchall()
    gone = pq.read_metadata(folder / GONE).num_rows if manifest.base else 0
    manifest = manifest.model_copy(
        update={
            "images": sum(images for _, _, images in splits),
            "splits": {split: samples for split, samples, _ in splits},
            "gone": gone,
            "samples_sha256": _sha256(folder / SAMPLES),
            "shards": tuple(written),
        }
    )
    _write_policy(policy, folder)
    texts = {
        "manifest.json": manifest.text(),
        "README.md": card.text(corpus, folder / SAMPLES, manifest, policy),
        "croissant.json": croissant.text(folder, manifest),
    }
    for name, content in texts.items():
        (folder / name).write_text(content, encoding="utf-8")


def _write_policy(policy: Policy, folder: Path) -> None:
    """Write the policy as YAML, with its lists beside it, so that `Policy.load` gives the same digest."""
    content = policy.model_dump(mode="json", exclude_defaults=True)
    for entry, written in zip(policy.lists, content.get("lists", ()), strict=True):
        file = f"list-{entry.name}.txt"
        (folder / file).write_text("".join(f"{line}\n" for line in entry.entries()), encoding="utf-8")
        written["allow" if entry.allow else "deny"] = file
    text = yaml.safe_dump(content, allow_unicode=True, sort_keys=False, width=1000)
    (folder / "policy.yaml").write_text(text, encoding="utf-8")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
