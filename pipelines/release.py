"""A release: what was kept, frozen into tars, a Parquet of every caption and score, a manifest and a data-set card."""

import hashlib
import io
import json
import re
import tarfile
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import ray

from filters.suffix import without
from pipelines import cluster
from pipelines.blob import TAR_BLOCK
from pipelines.caption import simplified
from pipelines.corpus import UNFINISHED, Corpus, write_whole
from pipelines.views import PAGE_HOST
from schemas.identity import fingerprint
from schemas.policy import Policy
from schemas.recipe import Recipe
from schemas.release import Manifest, Shard

SHARD_BYTES = 256_000_000

SELECTION = """
    SELECT corpus.* EXCLUDE (caption, representative, distance, stands_for_itself, in_recipe, verdict),
        simplified.text AS caption, corpus.caption AS original_caption,
        coalesce(poem_lines, []) AS poem_lines, coalesce(poems, []) AS poems
    FROM corpus
    LEFT JOIN (SELECT sample_id, text FROM captions WHERE kind = 'simplified') AS simplified USING (sample_id)
    LEFT JOIN (
        SELECT sample_id, list(text ORDER BY rank) AS poem_lines,
            list({'line': text, 'title': title, 'author': author, 'score': score} ORDER BY rank) AS poems
        FROM captions WHERE kind = 'poem' AND text IS NOT NULL GROUP BY sample_id
    ) AS lines USING (sample_id)
    WHERE verdict.kept ORDER BY sample_id
"""


SUFFIXED = f"""
    SELECT sample_id, suffixes.tail FROM shown JOIN text USING (sample_id)
    JOIN suffixes ON suffixes.tail = text.tail AND suffixes.host = {PAGE_HOST}
"""


def latest(corpus: Corpus, name: str) -> tuple[int, Path | None]:
    """The number and the folder of the newest release of a name; 0 and None where there is none."""
    numbers = [
        int(found[1])
        for folder in corpus.releases.iterdir()
        if (found := re.fullmatch(re.escape(name) + r"-(\d+)", folder.name))
    ]
    return (max(numbers), corpus.releases / f"{name}-{max(numbers)}") if numbers else (0, None)


def run(corpus: Corpus, recipe: Recipe, policy: Policy, shard_bytes: int = SHARD_BYTES) -> Path:
    """The release of what is kept now: the newest one if it holds the same, otherwise a new one with the next number.

    A release is written beside its place and appears there whole, by one rename. Samples stand in the order of their
    ids, and nothing in it depends on time, place, or the number of workers.

    Args:
        shard_bytes: a tar is closed once the pictures in it exceed this.
    """
    rows = selection(corpus, recipe)
    places = rows.select(["tar", "offset", "length"]).to_pylist()
    rows = rows.drop_columns(["tar", "offset", "length"])
    digest = _sha256(_parquet(rows))
    number, newest = latest(corpus, recipe.release)
    if newest is not None and Manifest.load(newest).selection == digest:
        return newest
    name = f"{recipe.release}-{number + 1}"
    folder = corpus.releases / (UNFINISHED + name)
    folder.mkdir()
    shards, located = _write_shards(corpus, folder, rows, places, shard_bytes)
    samples = _parquet(
        rows.append_column("shard", located[0]).append_column("offset", located[1]).append_column("length", located[2])
    )
    (folder / "samples.parquet").write_bytes(samples)
    manifest = Manifest(
        name=name,
        digest=fingerprint(samples=_sha256(samples), shards=[shard.sha256 for shard in shards]),
        selection=digest,
        recipe=recipe.digest,
        policy=policy.digest,
        variants={
            path.partition("@")[0]: path.partition("@")[2]
            for path in corpus.variants
            if not path.startswith("verdicts/")
        },
        samples=rows.num_rows,
        images=len(set(rows.column("image_id").to_pylist())),
        samples_sha256=_sha256(samples),
        shards=tuple(shards),
    )
    write_whole(folder / "manifest.json", (manifest.model_dump_json(indent=1) + "\n").encode())
    write_whole(folder / "README.md", card(manifest, rows, policy).encode())
    folder.rename(corpus.releases / name)
    return corpus.releases / name


def selection(corpus: Corpus, recipe: Recipe) -> pa.Table:
    """What is kept, a row a sample, in the order of the ids; with the places of the pictures' bytes."""
    rows = corpus.sql(SELECTION)
    if recipe.captions.cut_suffixes and "text" in recipe.measures:
        return _without_suffixes(rows, corpus.sql(SUFFIXED))
    return rows


def _without_suffixes(rows: pa.Table, suffixed: pa.Table) -> pa.Table:
    """The rows, their captions less what the sites end them with; one that would be left without words stays whole."""
    tails = dict(zip(suffixed.column("sample_id").to_pylist(), suffixed.column("tail").to_pylist(), strict=True))
    captions = rows.column("caption").to_pylist()
    for row, sample_id in enumerate(rows.column("sample_id").to_pylist()):
        if sample_id in tails:
            captions[row] = without(captions[row], simplified(tails[sample_id])) or captions[row]
    return rows.set_column(rows.column_names.index("caption"), "caption", pa.array(captions, pa.string()))


def _write_shards(
    corpus: Corpus, folder: Path, rows: pa.Table, places: list[dict[str, Any]], shard_bytes: int
) -> tuple[list[Shard], tuple[pa.Array, pa.Array, pa.Array]]:
    """Write the tars, one task each; also each sample's tar, offset and length, in the order of the rows."""
    bounds, size = [0], 0
    for index, place in enumerate(places):
        size += place["length"]
        if size > shard_bytes or index == len(places) - 1:
            bounds.append(index + 1)
            size = 0
    cluster.start()
    about = rows.select(["sample_id", "image_id", "format", "caption", "original_caption", "poem_lines"]).append_column(
        "from", pa.array(rows.select(["source", "url", "page_url", "licence"]).to_pylist())
    )
    write = ray.remote(num_cpus=1)(_write_shard)
    tasks = [
        write.remote(
            corpus, folder / f"train-{number:05d}.tar", about.slice(start, end - start).to_pylist(), places[start:end]
        )
        for number, (start, end) in enumerate(pairwise(bounds))
    ]
    written = cluster.get(tasks)
    located = [place for _, shard_places in written for place in shard_places]
    shards = [shard for shard, _ in written]
    return shards, (
        pa.array([place[0] for place in located], pa.string()),
        pa.array([place[1] for place in located], pa.int64()),
        pa.array([place[2] for place in located], pa.int64()),
    )


def _write_shard(
    corpus: Corpus, path: Path, rows: list[dict[str, Any]], places: list[dict[str, Any]]
) -> tuple[Shard, list[tuple[str, int, int]]]:
    """One tar in WebDataset layout: a sample's picture as fetched, its caption as .txt, all its words as .json."""
    located = []
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for row, place in zip(rows, places, strict=True):
            name = row["sample_id"].hex()
            picture = corpus.read(**place)
            words = {
                "sample_id": name,
                "image_id": row["image_id"].hex(),
                "caption": row["caption"],
                "original_caption": row["original_caption"],
                "poem_lines": row["poem_lines"],
            } | row["from"]
            located.append((path.name, tar.offset + TAR_BLOCK, len(picture)))
            for suffix, content in (
                (row["format"].replace("jpeg", "jpg"), picture),
                ("txt", row["caption"].encode()),
                ("json", json.dumps(words, ensure_ascii=False, sort_keys=True).encode()),
            ):
                member = tarfile.TarInfo(f"{name}.{suffix}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    content = path.read_bytes()
    return Shard(name=path.name, sha256=_sha256(content), bytes=len(content), samples=len(rows)), located


def card(manifest: Manifest, rows: pa.Table, policy: Policy) -> str:
    """The data-set card, with YAML front matter as model hubs read it."""
    sources = Counter(rows.column("source").to_pylist())
    licences = Counter(licence or "not stated" for licence in rows.column("licence").to_pylist())
    rules = [
        f"| {rule.name} | `{rule.value}` | {rule.criterion} | {rule.why} |"
        for rule in policy.rules
    ]
    variants = ", ".join(f"`{name}@{variant}`" for name, variant in sorted(manifest.variants.items()))
    return f"""---
language: [zh]
pretty_name: {manifest.name}
task_categories: [text-to-image]
size_categories: [{_size_category(manifest.samples)}]
license: other
---

# {manifest.name}

{manifest.samples:,} samples of {manifest.images:,} pictures, with Chinese captions and lines of Tang poems, as a
JuZhou corpus kept them. Digest `{manifest.digest}`.

`train-*.tar` hold for each sample the original bytes of its picture, its caption (`.txt`) and all its words
(`.json`), in WebDataset layout. `samples.parquet` has a row a sample with every caption and score, and where in which
tar its picture lies.

## Sources

| source | samples |
|---|---|
{_rows(sources)}

## Licences, as the pages state them

Each picture stays under the licence of its page. Whoever uses this release answers for that use.

| licence | samples |
|---|---|
{_rows(licences)}

## How it was filtered

Policy `{policy.name}`, digest `{manifest.policy}`. A sample is here because it passed every rule:

| rule | value | threshold | why |
|---|---|---|---|
{chr(10).join(rules)}

Made from (name and fingerprint): {variants}.

## Known limits

The scorers named `lite` stand in for Chinese-CLIP and the LAION aesthetic head: their numbers order pictures
roughly and are comparable to no published ones. Poem lines were found by the caption's words and vectors; nobody has
read them all.
"""


def _rows(counts: Counter[str]) -> str:
    return "\n".join(
        f"| {name} | {count:,} |" for name, count in sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    )


def _size_category(samples: int) -> str:
    """The hub's name for a size."""
    bounds = [
        (1_000, "n<1K"),
        (10_000, "1K<n<10K"),
        (100_000, "10K<n<100K"),
        (1_000_000, "100K<n<1M"),
        (10_000_000, "1M<n<10M"),
    ]
    return next((name for bound, name in bounds if samples < bound), "10M<n<100M")


def _parquet(rows: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(rows, sink, compression="zstd")
    return sink.getvalue().to_pybytes()


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
