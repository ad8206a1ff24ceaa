"""Look-alikes: pictures that show the same, though none is a copy, by cosine within clusters."""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa

from pipelines import cluster
from pipelines.corpus import Corpus
from pipelines.dedupe import AESTHETICS, ON_RAY, rank_of
from pipelines.leaders import Found, leaders
from pipelines.stage import Progress
from schemas.identity import fingerprint
from schemas.recipe import Semantic
from schemas.tables import ID, Table, measure_table

COLUMNS = pa.schema(
    {
        "cluster": pa.int32(),
        "leader": ID,
        "similarity": pa.float32(),
        "leads": pa.bool_(),
        "place": pa.int32(),
    }
)
POINTS = 256
"""Pictures a cluster that its centre is learnt from at most; below 40 faiss warns, so a small corpus has fewer."""
LEAST_POINTS = 40
ITERATIONS = 20
VECTORS_AT_ONCE = 200_000
"""Vectors in memory at a time, of whole clusters."""
ROWS_AT_ONCE = 2048
DOUBT = 1e-4
"""Cosines so near the threshold are computed again in double precision: the order of sums must not decide."""


def centres_of(semantic: Semantic, embedding: Table) -> Table:
    """The table of cluster centres: unit vectors, learnt once from the first pictures, so that places stay."""
    facts = {"embedding": embedding.path, "clusters": semantic.clusters}
    schema = pa.schema({"cluster": pa.int32(), "vector": pa.list_(pa.float32())})
    return Table(f"centres/{semantic.embedding}@{fingerprint(version=1, **facts)}", ("cluster",), schema)


def table_of(semantic: Semantic, centres: Table, copies: Table) -> Table:
    """The table of look-alikes, which reads like a measure's: `semantic.place` is a column for policies.

    `leads` is false where another picture looks the same, the `leader`. `place` counts the leaders of a cluster in the
    order of their rank; the others have none. A copy has what its representative has.
    """
    facts = {"centres": centres.path, "similarity": semantic.similarity, "copies": copies.path}
    return measure_table("semantic", fingerprint(version=1, **facts), "image_id", COLUMNS)


def run(
    corpus: Corpus,
    semantic: Semantic,
    centres: Table,
    table: Table,
    measures: Sequence[str],
    progress: Progress,
) -> int:
    """Say for each new picture that is no copy what it looks like; returns how many were new.

    In each cluster, down the ranks, a picture whose cosine to one or more leaders reaches the threshold belongs to the
    nearest of them; any other leads. Pictures of earlier builds keep their place. Pictures on two sides of a cluster's
    border are not compared. A picture without a vector gets no row.
    """
    here = corpus.rows_of(table)
    there = bool(corpus.parts(table.path))
    embedding = semantic.embedding
    joins = " ".join(f"LEFT JOIN {name} USING (image_id)" for name in AESTHETICS if name in measures)
    with corpus.connect() as connection:
        new = connection.sql(f"""
            SELECT images.image_id FROM duplicates JOIN images USING (image_id) JOIN {embedding} USING (image_id)
            {joins} {f"ANTI JOIN {here} AS done USING (image_id)" if there else ""}
            WHERE representative = image_id AND vector IS NOT NULL ORDER BY {rank_of(corpus, measures)}
        """).to_arrow_table()
        known = f"SELECT image_id, cluster, place FROM {here} WHERE leader = image_id ORDER BY cluster, place"
        old = connection.sql(known).to_arrow_table() if there else None
    if new.num_rows:
        progress("semantic", 0, new.num_rows)
        centre = _centres(corpus, semantic, centres, new)
        rows = pa.table({"image_id": new.column("image_id"), "cluster": _nearest(corpus, embedding, new, centre)})
        rows = rows.append_column("place", pa.nulls(new.num_rows, pa.int32()))
        rows = pa.concat_tables([old, rows] if old else [rows]).append_column(
            "rank", pa.array(np.arange((old.num_rows if old else 0) + new.num_rows))
        )
        parts = _parts(rows.column("cluster").to_numpy(), len(centre))
        shared = (corpus.path, semantic, rows)
        on_ray = rows.num_rows >= ON_RAY
        some = cluster.spread(_look_alikes, shared, parts) if on_ray else (_look_alikes(shared, part) for part in parts)
        found = pa.concat_tables(some).sort_by("image_id")
        corpus.append(table, found.append_column("error", pa.nulls(found.num_rows, pa.string())))
        progress("semantic", new.num_rows, new.num_rows)
    if new.num_rows or there:
        corpus.append(table, _of_copies(corpus, here))
    return new.num_rows


def _of_copies(corpus: Corpus, here: str) -> pa.Table:
    """The rows of copies that have none: those of the pictures that represent them."""
    columns = ", ".join(f"done.{name}" for name in COLUMNS.names)
    return corpus.sql(f"""
        SELECT copies.image_id, {columns}, NULL::VARCHAR AS error
        FROM duplicates AS copies JOIN {here} AS done ON copies.representative = done.image_id
        WHERE copies.image_id NOT IN (SELECT image_id FROM {here}) ORDER BY copies.image_id
    """)


def _centres(corpus: Corpus, semantic: Semantic, table: Table, new: pa.Table) -> np.ndarray:
    """The centres of the clusters, unit rows; learnt from the new pictures, where there are none yet."""
    if corpus.parts(table.path):
        rows = corpus.sql(f"SELECT vector FROM {corpus.rows_of(table)} ORDER BY cluster").column("vector")
        return np.stack(rows.to_numpy(zero_copy_only=False)).astype(np.float32)
    import faiss

    clusters = min(semantic.clusters, max(1, new.num_rows // LEAST_POINTS))
    some = new.sort_by("image_id").slice(0, POINTS * clusters)
    vectors = np.concatenate([unit for _, unit in _vectors(corpus, semantic.embedding, some)])
    faiss.omp_set_num_threads(1)  # the order of sums is part of the result
    learnt = faiss.Kmeans(vectors.shape[1], clusters, niter=ITERATIONS, spherical=True, seed=0)
    learnt.train(vectors)
    centre = np.ascontiguousarray(learnt.centroids)
    rows = {"cluster": np.arange(len(centre)), "vector": list(centre)}
    corpus.append(table, pa.table(rows).cast(table.schema))
    return centre


def _nearest(corpus: Corpus, embedding: str, new: pa.Table, centre: np.ndarray) -> np.ndarray:
    """The number of the centre that is nearest to each picture, in the order of `new`."""
    clusters = np.zeros(new.num_rows, np.int32)
    for at, unit in _vectors(corpus, embedding, new):
        close = unit @ centre.T
        first = close.argmax(axis=1)
        for row in np.flatnonzero((close >= close.max(axis=1, keepdims=True) - DOUBT).sum(axis=1) > 1):
            first[row] = (centre.astype(np.float64) * unit[row]).sum(axis=1).argmax()
        clusters[at] = first
    return clusters


def _vectors(corpus: Corpus, embedding: str, rows: pa.Table) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Vectors of some pictures by and by, at unit length: which rows they belong to, and float32, rows × dimensions."""
    with corpus.connect() as connection:
        connection.register("wanted", rows.select(["image_id"]).append_column("row", pa.array(range(rows.num_rows))))
        query = f"SELECT row, vector FROM wanted JOIN {embedding} USING (image_id) ORDER BY row"
        for batch in connection.sql(query).to_arrow_reader(ROWS_AT_ONCE):
            vectors = np.stack(batch.column("vector").to_numpy(zero_copy_only=False)).astype(np.float32)
            yield batch.column("row").to_numpy(), vectors / np.linalg.norm(vectors, axis=1, keepdims=True).clip(1e-9)


def _parts(clusters: np.ndarray, count: int) -> list[tuple[int, int]]:
    """First and last cluster of each part: whole clusters, about VECTORS_AT_ONCE vectors together."""
    sizes = np.bincount(clusters, minlength=count)
    group = np.cumsum(sizes) // VECTORS_AT_ONCE
    return [(int(some[0]), int(some[-1])) for some in np.split(np.arange(count), np.flatnonzero(np.diff(group)) + 1)]


def _look_alikes(shared: tuple[Path, Semantic, pa.Table], part: tuple[int, int]) -> pa.Table:
    """The rows of the new pictures in some clusters of a corpus; old ones have a place."""
    path, semantic, pictures = shared
    corpus = Corpus(path)
    numbers = pictures.column("cluster").to_numpy()
    mine = pictures.take(pa.array(np.flatnonzero((numbers >= part[0]) & (numbers <= part[1]))))
    mine = mine.sort_by([("cluster", "ascending"), ("rank", "ascending")])
    vectors = [unit for _, unit in _vectors(corpus, semantic.embedding, mine)]
    unit = np.concatenate(vectors) if vectors else np.empty((0, 0), np.float32)
    clusters, places = mine.column("cluster").to_numpy(), mine.column("place").to_pylist()
    ids = mine.column("image_id").to_pylist()
    rows = []
    for some in np.split(np.arange(len(clusters)), np.flatnonzero(np.diff(clusters)) + 1):
        old = sum(places[row] is not None for row in some)
        leader, distance = leaders(old, len(some), partial(_within, unit[some], semantic.similarity))
        place = max((places[row] for row in some[:old]), default=0)
        for row, head, apart in zip(range(old, len(some)), leader.tolist(), distance.tolist(), strict=True):
            place += head == row
            about = {"image_id": ids[some[row]], "cluster": clusters[some[row]], "leader": ids[some[head]]}
            about |= {"similarity": 1 - apart, "leads": head == row}
            rows.append(about | {"place": place if head == row else None})
    return pa.Table.from_pylist(rows, pa.schema([("image_id", ID), *COLUMNS]))


def _within(unit: np.ndarray, similarity: float, rows: np.ndarray, heads: np.ndarray) -> Iterator[Found]:
    """Pairs of a row and a head before it whose cosine reaches the similarity; the distance is 1 less the cosine."""
    for start in range(0, len(rows), ROWS_AT_ONCE):
        some = rows[start : start + ROWS_AT_ONCE]
        near = np.argwhere(unit[some] @ unit[heads].T >= similarity - DOUBT)
        row, head = some[near[:, 0]], heads[near[:, 1]]
        row, head = row[head < row], head[head < row]
        cosine = (unit[row].astype(np.float64) * unit[head]).sum(axis=1)
        yield row[cosine >= similarity], head[cosine >= similarity], 1 - cosine[cosine >= similarity]
