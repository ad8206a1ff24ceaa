"""Every pair of 256-bit hashes within a Hamming radius, exactly, at the scale of a corpus.

A hash is a ring of 16 chunks of 16 bits. If two hashes differ in at most r bits, there is a chunk from which on,
around the ring, the first l chunks together differ in at most l·r/16 bits, for every l (the pigeonring principle: Qin
and Xiao, VLDB 2018). So for each chunk the hashes are sorted by its value; those whose values differ in at most r/16
bits are compared in the 64 bits that begin there, side by side in memory, and the few that pass (4·r/16) as a whole.
Multi-index hashing (Norouzi, Punjani and Fleet, CVPR 2012) is the same without the second step, which makes this fast.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import combinations
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core.typing.templates import Signature
from numba.extending import intrinsic

from pipelines.leaders import Found

BYTES = 32
WORDS = 4
CHUNKS = 16
CHUNK_BITS = 16
BUCKETS = 1 << CHUNK_BITS
WINDOW = 4
"""Chunks of the 64 bits that are compared first."""
FOUND_AT_ONCE = 1 << 20

Spread = Callable[[Callable[[Any, int], list[Found]], Any, Iterable[int]], Iterator[list[Found]]]
"""Calls a function of something shared and an item for many items, and gives the answers in any order."""


def threads(function: Callable[[Any, int], list[Found]], shared: Any, items: Iterable[int]) -> Iterator[list[Found]]:
    """The answers for each item, by as many threads as this process has cores."""
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        yield from pool.map(lambda item: function(shared, item), items)


def matches(
    hashes: np.ndarray, rows: np.ndarray, heads: np.ndarray, radius: int, spread: Spread = threads
) -> Iterator[Found]:
    """All pairs of a row and a head before it that differ in at most `radius` bits, each once, in no order.

    Args:
        hashes: uint64, n × 4; where a hash stands is its rank.
        rows: ascending positions in `hashes`.
        heads: ascending positions in `hashes`; the same array as `rows` for all pairs among them.
        radius: bits, 0–255; the time grows steeply from 64 on.
        spread: how the 16 chunks are shared out; in memory at a time are two sorted copies of 12 bytes a hash for each.
    """
    if len(rows) and len(heads):
        for found in spread(_of_chunk, (hashes, rows, None if heads is rows else heads, radius), range(CHUNKS)):
            yield from found


def _of_chunk(shared: tuple[np.ndarray, np.ndarray, np.ndarray | None, int], chunk: int) -> list[Found]:
    """The pairs that are found by one chunk, and by none before it."""
    hashes, rows, heads, radius = shared
    left = _sorted(hashes, rows, chunk)
    right = left if heads is None else _sorted(hashes, heads, chunk)
    masks = _masks(radius // CHUNKS)
    found, size, bucket = [], FOUND_AT_ONCE, 0
    while bucket < BUCKETS:
        row, head, bits = np.empty(size, np.int64), np.empty(size, np.int64), np.empty(size, np.int64)
        before = bucket
        bucket, count = _join(hashes, *left, *right, heads is None, masks, chunk, radius, bucket, row, head, bits)
        if count:
            found.append((row[:count].copy(), head[:count].copy(), bits[:count].copy()))
        size = size * 4 if bucket == before else FOUND_AT_ONCE
    return found


def _masks(bits: int) -> np.ndarray:
    """All values of a chunk with at most so many bits set."""
    places = [place for count in range(min(bits, CHUNK_BITS) + 1) for place in combinations(range(CHUNK_BITS), count)]
    return np.array([sum(1 << bit for bit in place) for place in places], np.int64)


def _ctpop(_context: Any, _word: Any) -> tuple[Signature, Any]:
    """The bits set in a word, by the machine's own instruction, which numba has no name for."""

    def generate(_context: Any, builder: ir.IRBuilder, _signature: Any, arguments: Any) -> Any:
        return builder.ctpop(arguments[0])

    return types.uint64(types.uint64), generate


_popcount: Any = intrinsic(_ctpop)


@njit(nogil=True, cache=True)
def _window(hashes: np.ndarray, row: np.int64, chunk: int) -> np.uint64:
    """The 64 bits that begin with a chunk."""
    word, shift = chunk // 4, np.uint64(chunk % 4 * CHUNK_BITS)
    window = hashes[row, word] >> shift
    if shift:
        window |= hashes[row, (word + 1) % WORDS] << (np.uint64(64) - shift)
    return window


@njit(nogil=True, cache=True)
def _sorted(hashes: np.ndarray, rows: np.ndarray, chunk: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where each value of the chunk begins, and the windows and rows in the order of that value (a counting sort)."""
    begins = np.zeros(BUCKETS + 1, np.int64)
    value = np.uint64(BUCKETS - 1)
    for row in rows:
        begins[(_window(hashes, row, chunk) & value) + np.uint64(1)] += 1
    begins = np.cumsum(begins)
    windows, order = np.empty(len(rows), np.uint64), np.empty(len(rows), np.uint32)
    ends = begins.copy()
    for row in rows:
        window = _window(hashes, row, chunk)
        place = ends[window & value]
        ends[window & value] += 1
        windows[place] = window
        order[place] = row
    return begins, windows, order


@njit(nogil=True, cache=True)
def _join(
    hashes: np.ndarray,
    left_begins: np.ndarray,
    left_windows: np.ndarray,
    left_order: np.ndarray,
    right_begins: np.ndarray,
    right_windows: np.ndarray,
    right_order: np.ndarray,
    same: bool,
    masks: np.ndarray,
    chunk: int,
    radius: int,
    bucket: int,
    row: np.ndarray,
    head: np.ndarray,
    bits: np.ndarray,
) -> tuple[int, int]:
    """Fill the outputs from `bucket` on; gives the first bucket whose pairs had no room, and the pairs before it."""
    count = 0
    most = np.uint64(radius * WINDOW // CHUNKS)
    while bucket < BUCKETS:
        whole = count
        begin, end = left_begins[bucket], left_begins[bucket + 1]
        if begin == end:
            bucket += 1
            continue
        for mask in masks:
            other = bucket ^ mask
            if same and other < bucket:
                continue
            first, last = np.uint64(right_begins[other]), np.uint64(right_begins[other + 1])
            for at in range(begin, end):
                window = left_windows[at]
                if same and mask == 0:
                    first = np.uint64(at + 1)
                hits = np.uint64(0)
                for index in range(first, last):  # unsigned and without a branch, so that it is done by vectors
                    hits += np.uint64(_popcount(window ^ right_windows[index]) <= most)
                if not hits:
                    continue
                for index in range(first, last):
                    if _popcount(window ^ right_windows[index]) > most:
                        continue
                    one, two = np.int64(left_order[at]), np.int64(right_order[index])
                    if same and one < two:
                        one, two = two, one
                    if two >= one:
                        continue
                    distance = _distance(hashes, one, two, chunk, radius)
                    if distance <= radius:
                        if count == len(row):
                            return bucket, whole
                        row[count], head[count], bits[count] = one, two, distance
                        count += 1
        bucket += 1
    return bucket, count


@njit(nogil=True, cache=True)
def _distance(hashes: np.ndarray, one: np.int64, two: np.int64, chunk: int, radius: int) -> int:
    """The bits in which two hashes differ; more than any radius, where a chunk before this one finds the pair too."""
    distance = 0
    for word in range(WORDS):
        distance += _popcount(hashes[one, word] ^ hashes[two, word])
    if distance > radius:
        return distance
    value = np.uint64(BUCKETS - 1)
    for before in range(chunk):
        window = _window(hashes, one, before) ^ _window(hashes, two, before)
        if _popcount(window & value) <= radius // CHUNKS and _popcount(window) <= radius * WINDOW // CHUNKS:
            return 8 * BYTES + 1
    return distance
