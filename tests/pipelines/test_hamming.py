"""Every pair within the radius is found, once, however the hashes lie: compared with a brute-force search."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipelines import cluster, hamming


def alike(count: int, seed: int) -> np.ndarray:
    """Hashes of 256 bits, most of them a few bits from an earlier one, some equal to it."""
    random = np.random.default_rng(seed)
    bits = random.integers(0, 2, (count, 256), dtype=np.uint8)
    for row in range(1, count):
        if random.random() < 0.7:
            bits[row] = bits[random.integers(row)]
            bits[row, random.choice(256, random.integers(0, 70), replace=False)] ^= 1
    return np.packbits(bits, axis=1).view(np.uint64)


def found(hashes: np.ndarray, rows: np.ndarray, heads: np.ndarray, radius: int) -> list[tuple[int, int, int]]:
    parts = list(hamming.matches(hashes, rows, heads, radius))
    return sorted(tuple(map(int, triple)) for part in parts for triple in zip(*part, strict=True))


def by_hand(hashes: np.ndarray, rows: np.ndarray, heads: np.ndarray, radius: int) -> list[tuple[int, int, int]]:
    distances = np.bitwise_count(hashes[rows][:, None] ^ hashes[heads][None]).sum(axis=2)
    near = np.argwhere(distances <= radius)
    return sorted((int(rows[i]), int(heads[j]), int(distances[i, j])) for i, j in near if heads[j] < rows[i])


@settings(deadline=None, max_examples=25)
@example(seed=0, count=90, radius=0)
@example(seed=1, count=90, radius=31)
@given(seed=st.integers(0, 10**6), count=st.integers(1, 90), radius=st.integers(0, 70))
def test_all_pairs_are_those_of_a_brute_force_search(seed: int, count: int, radius: int) -> None:
    hashes = alike(count, seed)
    everything = np.arange(count)
    assert found(hashes, everything, everything, radius) == by_hand(hashes, everything, everything, radius)


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 10**6), share=st.floats(0, 1), radius=st.sampled_from([0, 15, 16, 31, 32, 48]))
def test_pairs_of_two_sets_are_of_a_row_and_a_head_before_it(seed: int, share: float, radius: int) -> None:
    hashes = alike(120, seed)
    chosen = np.random.default_rng(seed).random(120) < share
    rows, heads = np.flatnonzero(chosen), np.flatnonzero(~chosen)
    assert found(hashes, rows, heads, radius) == by_hand(hashes, rows, heads, radius)


@pytest.mark.parametrize("distance", range(32))
def test_neighbours_planted_in_a_crowd_are_found_at_every_distance(distance: int) -> None:
    random = np.random.default_rng(distance)
    hashes = random.integers(0, 2**64, (3000, 4), dtype=np.uint64)
    flips = np.zeros((1000, 256), np.uint8)
    for row in flips:
        row[random.choice(256, distance, replace=False)] = 1
    hashes[2000:] = hashes[:1000] ^ np.packbits(flips, axis=1).view(np.uint64)
    everything = np.arange(3000)
    assert found(hashes, everything, everything, 31) == [(2000 + row, row, distance) for row in range(1000)]


def test_more_pairs_than_fit_an_answer_are_all_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hamming, "FOUND_AT_ONCE", 64)
    hashes = np.zeros((300, 4), np.uint64)
    everything = np.arange(300)
    assert found(hashes, everything, everything, 31) == [(row, head, 0) for row in range(300) for head in range(row)]


@pytest.mark.usefixtures("ray_cluster")
def test_partitions_over_ray_give_the_same_pairs() -> None:
    hashes = alike(400, 5)
    everything = np.arange(400)
    parts = list(hamming.matches(hashes, everything, everything, 31, cluster.spread))
    pairs = sorted(tuple(map(int, triple)) for part in parts for triple in zip(*part, strict=True))
    assert pairs == by_hand(hashes, everything, everything, 31)
