"""Near-duplicates: one picture stands for all within its PDQ radius, whatever the order of arrival."""

import numpy as np
import pyarrow as pa

from pipelines.corpus import Corpus
from pipelines.stage import Progress
from schemas.identity import fingerprint
from schemas.recipe import Dedupe
from schemas.tables import DUPLICATES, Table, duplicates_table

BLOCK = 4096
HASH_BYTES = 32


def table_of(dedupe: Dedupe, pdq: Table) -> Table:
    """The table of a radius and a minimal quality over the hashes of one PDQ measure."""
    return duplicates_table(
        "pdq", fingerprint(version=1, radius=dedupe.radius, min_quality=dedupe.min_quality, hashes=pdq.path)
    )


def run(corpus: Corpus, dedupe: Dedupe, table: Table, progress: Progress) -> int:
    """Say for each new picture which one stands for it; returns how many were new.

    Pictures of one build are ranked by pixels, then by image_id, once all hashes are in. Down the ranks, a picture
    within the radius of one or more representatives belongs to the nearest of them (the higher rank on a tie); any
    other stands for itself. The distance is to the representative, never along a chain. Pictures of earlier builds
    keep their place, so that what a release holds stays what it was.

    A picture without a hash, or with one of too little quality, stands for itself: equal bytes are one picture already.
    """
    with corpus.connect() as connection:
        new = connection.sql("""
            SELECT images.image_id, coalesce(hash, ''::BLOB) AS hash, coalesce(quality, 0) AS quality
            FROM images LEFT JOIN pdq USING (image_id) ANTI JOIN duplicates USING (image_id)
            ORDER BY images.width::BIGINT * images.height DESC, images.image_id
        """).to_arrow_table()
        old = connection.sql(f"""
            SELECT image_id, hash FROM duplicates JOIN pdq USING (image_id)
            WHERE representative = image_id AND quality >= {dedupe.min_quality} ORDER BY image_id
        """).to_arrow_table()
    if not new.num_rows:
        return 0
    progress("dedupe", 0, new.num_rows)
    ids = new.column("image_id").to_pylist()
    telling = [row for row, quality in enumerate(new.column("quality").to_pylist()) if quality >= dedupe.min_quality]
    known = old.column("image_id").to_pylist()
    representative, distance = list(ids), [0.0 if quality else None for quality in new.column("quality").to_pylist()]
    hashes = new.column("hash").take(pa.array(telling, pa.int64()))
    for row, (leader, bits) in zip(
        telling, leaders(_bits(old.column("hash")), _bits(hashes), dedupe.radius), strict=True
    ):
        representative[row] = known[leader] if leader < len(known) else ids[telling[leader - len(known)]]
        distance[row] = float(bits)
    rows = pa.table({"image_id": ids, "representative": representative, "distance": distance}, schema=DUPLICATES)
    corpus.append(table, rows)
    progress("dedupe", new.num_rows, new.num_rows)
    return new.num_rows


def leaders(old: np.ndarray, new: np.ndarray, radius: int) -> list[tuple[int, int]]:
    """Leader clustering in rank order, exact: every pair of hashes that could matter is compared.

    Args:
        old: hashes of representatives that keep their place, uint64, rows × 4.
        new: hashes in the order of their rank, uint64, rows × 4.
        radius: Hamming distance up to which a hash belongs to a representative.

    Returns:
        For each new hash the row of its representative in `old` followed by `new`, and the distance to it in bits.
    """
    hashes = np.concatenate([old, new])
    heads = np.arange(len(old))
    result: list[tuple[int, int]] = []
    for start in range(0, len(new), BLOCK):
        block = new[start : start + BLOCK]
        to_heads = _hamming(block, hashes[heads])
        within = _hamming(block, block)
        chosen: list[int] = []
        for row in range(len(block)):
            rivals = np.concatenate([to_heads[row], within[row, chosen]])
            nearest = int(rivals.argmin()) if len(rivals) else -1
            if nearest >= 0 and rivals[nearest] <= radius:
                leader = (
                    int(heads[nearest]) if nearest < len(heads) else len(old) + start + chosen[nearest - len(heads)]
                )
                result.append((leader, int(rivals[nearest])))
            else:
                chosen.append(row)
                result.append((len(old) + start + row, 0))
        heads = np.concatenate([heads, np.array(chosen, dtype=heads.dtype) + len(old) + start])
    return result


def _hamming(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Distances in bits of every row of `left` to every row of `right`, uint16."""
    distances = np.zeros((len(left), len(right)), np.uint16)
    for word in range(HASH_BYTES // 8):
        distances += np.bitwise_count(left[:, None, word] ^ right[None, :, word])
    return distances


def _bits(hashes: pa.ChunkedArray) -> np.ndarray:
    """Hashes of 32 bytes as uint64, rows × 4."""
    return np.frombuffer(b"".join(hashes.to_pylist()), np.uint64).reshape(-1, HASH_BYTES // 8)
