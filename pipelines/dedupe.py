"""Copies: one picture stands for all that have its pixels, or a PDQ hash within a radius, however they arrive."""

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa

from pipelines import cluster, hamming
from pipelines.corpus import Corpus
from pipelines.leaders import Found, leaders
from pipelines.stage import Progress
from pipelines.views import literal
from schemas.identity import DIGEST_BYTES, fingerprint
from schemas.recipe import Dedupe
from schemas.tables import DUPLICATES, Table, duplicates_table

ON_RAY = 1_000_000
"""Hashes from which on a search is shared out over the cluster; fewer are done sooner by this process."""

AESTHETICS = ("laion_aesthetic", "lite_aesthetic")
"""Measures whose score ranks pictures of equal size; the first that the recipe has does."""


def table_of(dedupe: Dedupe, measures: dict[str, Table]) -> Table:
    """The table of copies by what a recipe's measures see of pictures; `pdq` must be among them."""
    read = [measures[name].path for name in ("pdq", "pixels") if name in measures]
    rank = [name for name in AESTHETICS if name in measures][:1]
    facts = {"radius": dedupe.radius, "min_quality": dedupe.min_quality, "read": read, "rank": rank}
    return duplicates_table("copies", fingerprint(version=2, **facts))


def rank_of(corpus: Corpus, measures: Sequence[str]) -> str:
    """The order of pictures as SQL over `images` and the measures: pixels, then the aesthetic score, then image_id.

    What a release holds comes first: it keeps its place when all is compared anew, as with another radius.
    """
    held = f"SELECT image_id FROM read_parquet({literal(corpus.releases / '*' / 'samples.parquet')})"
    released = [f"images.image_id NOT IN ({held})"] if any(corpus.releases.glob("*/samples.parquet")) else []
    scores = [f"coalesce({name}.score, '-inf'::FLOAT) DESC" for name in AESTHETICS if name in measures][:1]
    return ", ".join([*released, "images.width::BIGINT * images.height DESC", *scores, "images.image_id"])


def run(corpus: Corpus, dedupe: Dedupe, table: Table, measures: Sequence[str], progress: Progress) -> int:
    """Say for each new picture which one stands for it; returns how many were new.

    Pictures of one build are ranked by `rank_of`, once all hashes are in. Down the ranks, a picture with the pixels of
    a representative, or within the radius of one or more, belongs to the nearest of them (the higher rank on a tie);
    any other stands for itself. Pictures of earlier builds come first and keep their places.

    A picture without a hash, or with one of too little quality, is a copy by its pixels alone.

    Args:
        measures: the names of the recipe's measures.
    """
    pixels = "pixels.digest" if "pixels" in measures else "NULL::BLOB"
    read = [name for name in ("pdq", "pixels", *AESTHETICS) if name in measures]
    joins = " ".join(f"LEFT JOIN {name} USING (image_id)" for name in read)
    columns = f"images.image_id, coalesce(hash, ''::BLOB) AS hash, coalesce(quality, 0) AS quality, {pixels} AS digest"
    with corpus.connect() as connection:
        new = connection.sql(
            f"SELECT {columns} FROM images {joins} ANTI JOIN duplicates USING (image_id) "
            f"ORDER BY {rank_of(corpus, measures)}"
        ).to_arrow_table()
        if not new.num_rows:
            return 0
        old = connection.sql(
            f"SELECT {columns} FROM duplicates JOIN images USING (image_id) {joins} "
            "WHERE representative = duplicates.image_id ORDER BY images.image_id"
        ).to_arrow_table()
    progress("dedupe", 0, new.num_rows)
    representative, distance, method = _copies(pa.concat_tables([old, new]), old.num_rows, dedupe)
    ids = pa.concat_tables([old, new]).column("image_id")
    rows = {"image_id": new.column("image_id"), "representative": ids.take(pa.array(representative))}
    rows |= {"distance": distance, "method": method}
    corpus.append(table, pa.table(rows).cast(DUPLICATES))
    progress("dedupe", new.num_rows, new.num_rows)
    return new.num_rows


def _copies(pictures: pa.Table, old: int, dedupe: Dedupe) -> tuple[np.ndarray, pa.Array, pa.Array]:
    """For each picture after the `old` representatives the row of its own, the distance, and how it was found."""
    count = pictures.num_rows
    usable = pictures.column("quality").to_numpy() >= dedupe.min_quality
    hashes = np.zeros((count, hamming.WORDS), np.uint64)
    hashes[usable] = _fixed(pictures.column("hash").filter(pa.array(usable)), hamming.BYTES).view(np.uint64)
    twin = _first_of_pixels(pictures.column("digest"))

    def near(rows: np.ndarray, heads: np.ndarray) -> Iterator[Found]:
        told = rows if heads is rows else heads[usable[heads]]
        spread = cluster.spread if len(rows) + len(told) >= ON_RAY else hamming.threads
        return hamming.matches(hashes, rows, told, dedupe.radius, spread)

    rows = np.arange(old, count)
    single = twin[rows] == rows
    leader, distance = leaders(old, count, near, rows[single & usable[rows]])
    known = np.concatenate([np.arange(old), leader])
    bits = np.concatenate([np.zeros(old), distance])
    leader, distance = known[twin[rows]], bits[twin[rows]]
    itself = leader == rows
    by = pa.array(np.where(leader == twin[rows], "pixels", "pdq"), mask=itself)
    return leader, pa.array(distance, mask=itself & ~usable[rows]), by


def _first_of_pixels(digests: pa.ChunkedArray) -> np.ndarray:
    """For each picture the first that has its pixels; itself, where they are not known."""
    first = np.arange(len(digests))
    known = np.flatnonzero(digests.is_valid().to_numpy())
    if len(known):
        _, at, group = np.unique(
            _fixed(digests.drop_null(), DIGEST_BYTES).view(f"V{DIGEST_BYTES}"), return_index=True, return_inverse=True
        )
        first[known] = known[at[group.ravel()]]
    return first


def _fixed(column: pa.ChunkedArray, width: int) -> np.ndarray:
    """Values of one width as bytes, rows × width."""
    values = column.cast(pa.binary(width)).combine_chunks()
    content = np.frombuffer(values.buffers()[1], np.uint8) if len(values) else np.empty(0, np.uint8)
    return content[values.offset * width : (values.offset + len(values)) * width].reshape(-1, width)
