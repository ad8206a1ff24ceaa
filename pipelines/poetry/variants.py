"""Variants of one poem: near-duplicate texts, of which one stands for all.

Two poems are compared when they share a phrase that few others have. They are variants when most of their pairs of
neighbouring characters are the same (Dice's coefficient), or nearly all those of the shorter one stand in the longer.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
from numba import njit

from filters.characters import texts
from pipelines.corpus import Corpus
from pipelines.leaders import Found, leaders
from pipelines.poetry.poems import phrases
from schemas.identity import fingerprint
from schemas.tables import POEM_VARIANTS, Table, poem_variants_table

ALIKE = 0.6
"""Dice's coefficient of the pairs of characters from which on two texts are variants."""
INSIDE, INSIDE_LEAST = 0.9, 18
"""Or this share of the pairs of the shorter one, if it has so many."""
COMMON = 30
"""A phrase of more poems than this is a saying, and tells nothing."""
WORDS = 4
"""Characters of a phrase that can tell something."""

ANONYMOUS = ("", "佚名", "无名氏", "不详", "未知")


STANDING = """
    SELECT poems.* FROM poems LEFT JOIN poem_variants USING (poem_id)
    WHERE reason IS NULL AND coalesce(representative = poem_id, true)
"""
"""The poems that can be used and stand for themselves, as SQL."""


def table() -> Table:
    """The table of variants by these numbers."""
    facts = fingerprint(version=1, alike=ALIKE, inside=(INSIDE, INSIDE_LEAST), common=COMMON, words=WORDS)
    return poem_variants_table("text", facts)


def run(corpus: Corpus) -> int:
    """Say for each new poem which one stands for it; returns how many were new.

    Poems of one build are ranked: first those that an anthology has (by their tags), then those whose author is known,
    then the longest, then by poem_id. Poems of earlier builds come first and keep their places.
    """
    usable = "(SELECT * FROM poems WHERE reason IS NULL) LEFT JOIN poem_variants USING (poem_id)"
    new = corpus.sql(f"""
        SELECT poem_id, lines FROM {usable} WHERE representative IS NULL
        ORDER BY len(tags) = 0, author IN {ANONYMOUS}, -len(array_to_string(lines, '')), poem_id
    """)
    if not new.num_rows:
        return 0
    old = corpus.sql(f"SELECT poem_id, lines FROM {usable} WHERE representative = poem_id ORDER BY poem_id")
    rows = pa.concat_tables([old, new])
    heads, distance = standing([phrases(lines) for lines in rows.column("lines").to_pylist()], old.num_rows)
    ids = rows.column("poem_id").combine_chunks()
    found = {"poem_id": new.column("poem_id"), "representative": ids.take(pa.array(heads)), "similarity": 1 - distance}
    corpus.append(table(), pa.table(found).cast(POEM_VARIANTS))
    return new.num_rows


def standing(poems: Sequence[Sequence[str]], old: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """For poems given by their phrases, the best first, after the `old` ones that stand for themselves already: the
    number of the one that stands for each, and 1 − their likeness."""
    marks = texts(["".join(phrases) for phrases in poems])
    head, row, likeness = _alike(marks.codes.astype(np.int64), marks.bounds, _pairs(poems))

    def near(rows: np.ndarray, heads: np.ndarray) -> Iterator[Found]:
        wanted, standing = np.zeros(len(poems), bool), np.zeros(len(poems), bool)
        wanted[rows], standing[heads] = True, True
        both = wanted[row] & standing[head]
        yield row[both], head[both], 1 - likeness[both]

    return leaders(old, len(poems), near)


def _pairs(poems: Sequence[Sequence[str]]) -> np.ndarray:
    """The pairs of poems that share a phrase, (pairs, 2), the better one first, each once."""
    owner = np.repeat(np.arange(len(poems)), [len(phrases) for phrases in poems])
    words = pa.array([phrase for phrases in poems for phrase in phrases], pa.string())
    long = np.array([len(phrase) >= WORDS for phrases in poems for phrase in phrases], bool)
    codes = words.dictionary_encode().indices.to_numpy()[long] if len(words) else np.empty(0, np.int64)
    owned = np.unique(np.stack([codes, owner[long]], axis=1), axis=0) if len(codes) else np.empty((0, 2), np.int64)
    counts = np.bincount(owned[:, 0]) if len(owned) else np.empty(0, np.int64)
    told = owned[(counts[owned[:, 0]] > 1) & (counts[owned[:, 0]] <= COMMON)] if len(owned) else owned
    found = _within(told.astype(np.int64))
    return np.unique(found, axis=0)


@njit(cache=True, nogil=True)
def _within(told: np.ndarray) -> np.ndarray:
    """All pairs of the second column among rows of the same first column; rows are sorted."""
    count, start = 0, 0
    for row in range(1, len(told) + 1):
        if row == len(told) or told[row, 0] != told[start, 0]:
            count += (row - start) * (row - start - 1) // 2
            start = row
    pairs = np.empty((count, 2), np.int64)
    at, start = 0, 0
    for row in range(1, len(told) + 1):
        if row == len(told) or told[row, 0] != told[start, 0]:
            for one in range(start, row):
                for other in range(one + 1, row):
                    pairs[at, 0], pairs[at, 1] = told[one, 1], told[other, 1]
                    at += 1
            start = row
    return pairs


@njit(cache=True, nogil=True)
def _alike(codes: np.ndarray, bounds: np.ndarray, pairs: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of pairs of texts those that are variants, and the larger of the two measures of likeness."""
    bigrams = np.empty(len(codes), np.int64)
    for text in range(len(bounds) - 1):
        start, end = bounds[text], max(bounds[text], bounds[text + 1] - 2)
        for at in range(start, end):
            bigrams[at] = (codes[at] << 21) | codes[at + 1]
        bigrams[start:end].sort()
    first, second = np.empty(len(pairs), np.int64), np.empty(len(pairs), np.int64)
    likeness = np.empty(len(pairs), np.float32)
    kept = 0
    for pair in range(len(pairs)):
        a, b = pairs[pair, 0], pairs[pair, 1]
        i, j = bounds[a], bounds[b]
        end_i, end_j = max(i, bounds[a + 1] - 2), max(j, bounds[b + 1] - 2)
        size_i, size_j = end_i - i, end_j - j
        shared = 0
        while i < end_i and j < end_j:
            if bigrams[i] == bigrams[j]:
                shared, i, j = shared + 1, i + 1, j + 1
            elif bigrams[i] < bigrams[j]:
                i += 1
            else:
                j += 1
        shorter = min(size_i, size_j)
        dice = 2 * shared / max(1, size_i + size_j)
        inside = shared / max(1, shorter)
        if dice >= ALIKE or (inside >= INSIDE and shorter >= INSIDE_LEAST):
            first[kept], second[kept], likeness[kept] = a, b, max(dice, inside if shorter >= INSIDE_LEAST else dice)
            kept += 1
    return first[:kept], second[:kept], likeness[:kept]
