"""Leader clustering does what its definition says, a pair at a time, and the same when pictures come by and by."""

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines import hamming
from pipelines import leaders as module
from pipelines.leaders import Found, Near, leaders
from tests.pipelines.test_hamming import alike

RADIUS = 31


def by_bits(hashes: np.ndarray) -> Near:
    def near(rows: np.ndarray, heads: np.ndarray) -> Iterator[Found]:
        return hamming.matches(hashes, rows, heads, RADIUS)

    return near


def by_hand(hashes: np.ndarray, old: int) -> list[tuple[int, int]]:
    """The definition, a pair at a time."""
    heads = list(range(old))
    found = []
    for row in range(old, len(hashes)):
        distances = [int(np.bitwise_count(hashes[row] ^ hashes[head]).sum()) for head in heads]
        nearest = min(range(len(heads)), key=lambda head: (distances[head], head), default=None)
        if nearest is not None and distances[nearest] <= RADIUS:
            found.append((heads[nearest], distances[nearest]))
        else:
            heads.append(row)
            found.append((row, 0))
    return found


def answer(hashes: np.ndarray, old: int = 0) -> list[tuple[int, int]]:
    leader, distance = leaders(old, len(hashes), by_bits(hashes))
    return list(zip(leader.tolist(), map(int, distance), strict=True))


@pytest.mark.parametrize("at_once", [1, 7, 4096])
@settings(deadline=None, max_examples=12)
@given(seed=st.integers(0, 10**6), old=st.integers(0, 20), new=st.integers(1, 60))
def test_it_is_what_the_definition_says(at_once: int, seed: int, old: int, new: int) -> None:
    hashes = alike(old + new, seed)
    before, module.AT_ONCE = module.AT_ONCE, at_once
    try:
        assert answer(hashes, old) == by_hand(hashes, old)
    finally:
        module.AT_ONCE = before


@settings(deadline=None, max_examples=12)
@given(seed=st.integers(0, 10**6), cuts=st.sets(st.integers(1, 79), max_size=4))
def test_what_comes_by_and_by_is_as_if_it_came_at_once_in_that_order(seed: int, cuts: set[int]) -> None:
    hashes = alike(80, seed)
    ends = [*sorted(cuts), 80]
    place: list[int] = []
    heads: list[int] = []
    for begin, end in zip([0, *ends], ends, strict=False):
        known = [*heads, *range(begin, end)]
        for row, (leader, _) in enumerate(answer(hashes[known], len(heads)), len(heads)):
            place.append(known[leader])
            if leader == row:
                heads.append(known[row])
    assert place == [leader for leader, _ in by_hand(hashes, 0)]


def test_no_chains() -> None:
    chain = np.zeros((3, 256), np.uint8)
    chain[1, :25] = 1
    chain[2, :50] = 1
    assert answer(np.packbits(chain, axis=1).view(np.uint64)) == [(0, 0), (0, 25), (2, 0)]


@pytest.mark.parametrize(("bits", "same"), [(0, True), (31, True), (32, False)])
def test_the_radius_is_inclusive(bits: int, same: bool) -> None:
    pair = np.zeros((2, 256), np.uint8)
    pair[1, :bits] = 1
    assert answer(np.packbits(pair, axis=1).view(np.uint64))[1] == ((0, bits) if same else (1, 0))


def test_a_crowd_that_is_all_alike_holds_no_more_than_a_few_pairs_at_a_time() -> None:
    most = 0

    def near(rows: np.ndarray, heads: np.ndarray) -> Iterator[Found]:
        nonlocal most
        for found in hamming.matches(crowd, rows, heads, RADIUS):
            most = max(most, len(found[0]))
            yield found

    crowd = np.zeros((20_000, 4), np.uint64)
    leader, _ = leaders(0, len(crowd), near)
    assert not leader.any()
    assert most <= module.AT_ONCE**2 // 2
