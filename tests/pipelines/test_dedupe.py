"""Near-duplicates: exact within the radius, and the same whatever the order in which pictures come."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines import dedupe
from pipelines.dedupe import leaders

RADIUS = 31


def hashes(count: int, seed: int) -> np.ndarray:
    """Random 256-bit hashes, half of them at most 40 bits from an earlier one."""
    random = np.random.default_rng(seed)
    bits = random.integers(0, 2, (count, 256), dtype=np.uint8)
    for row in range(1, count):
        if random.random() < 0.5:
            bits[row] = bits[random.integers(row)]
            bits[row, random.choice(256, random.integers(0, 40), replace=False)] ^= 1
    return np.packbits(bits, axis=1).view(np.uint64)


def by_hand(old: np.ndarray, new: np.ndarray, radius: int) -> list[tuple[int, int]]:
    """The definition, a pair at a time."""
    both = np.concatenate([old, new])
    heads = list(range(len(old)))
    found = []
    for row in range(len(old), len(both)):
        distances = [int(np.bitwise_count(both[row] ^ both[head]).sum()) for head in heads]
        nearest = min(range(len(heads)), key=lambda head: (distances[head], head), default=None)
        if nearest is not None and distances[nearest] <= radius:
            found.append((heads[nearest], distances[nearest]))
        else:
            heads.append(row)
            found.append((row, 0))
    return found


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10_000), st.integers(0, 20), st.integers(0, 60), st.sampled_from([1, 7, 4096]))
def test_every_pair_within_the_radius_counts(seed: int, old: int, new: int, block: int) -> None:
    all_hashes = hashes(old + new + 1, seed)
    before = dedupe.BLOCK
    dedupe.BLOCK = block
    try:
        found = leaders(all_hashes[:old], all_hashes[old:], RADIUS)
    finally:
        dedupe.BLOCK = before
    assert found == by_hand(all_hashes[:old], all_hashes[old:], RADIUS)


@pytest.mark.parametrize(("bits", "same"), [(0, True), (31, True), (32, False)])
def test_the_radius_is_inclusive(bits: int, same: bool) -> None:
    pair = np.zeros((2, 256), np.uint8)
    pair[1, :bits] = 1
    [_, (leader, distance)] = leaders(np.zeros((0, 4), np.uint64), np.packbits(pair, axis=1).view(np.uint64), RADIUS)
    assert (leader, distance) == ((0, bits) if same else (1, 0))


def test_no_chains() -> None:
    chain = np.zeros((3, 256), np.uint8)
    chain[1, :25] = 1
    chain[2, :50] = 1
    found = leaders(np.zeros((0, 4), np.uint64), np.packbits(chain, axis=1).view(np.uint64), RADIUS)
    assert found == [(0, 0), (0, 25), (2, 0)]
