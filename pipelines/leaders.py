"""Who stands for whom: leader clustering in the order of a rank, exact, whatever the measure of nearness."""

from collections.abc import Callable, Iterable, Iterator

import numpy as np

Found = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Rows, a row of higher rank that each is near to, and how far."""
Near = Callable[[np.ndarray, np.ndarray], Iterator[Found]]
"""All pairs of a row of the first and one before it of the second that are near; the same array twice: among it."""

AT_ONCE = 4096
"""Rows whose pairs are held together: a set of pictures that are all alike must not fill the memory."""


def leaders(old: int, count: int, near: Near, telling: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Down the ranks, a row that is near to one or more leaders belongs to the nearest of them, the higher on a tie;
    any other is a leader itself. The distance is to the leader, never along a chain.

    Args:
        old: rows that are leaders already and keep their place; they have the highest ranks.
        count: all rows, in the order of their rank.
        near: finds pairs; is called with few rows again and again, and with all of them once or twice.
        telling: rows after the old that may be near to any; all of them when None. The others lead themselves.

    Returns:
        For each row after the old its leader, and the distance to it, 0 for a leader.
    """
    rows = np.arange(old, count) if telling is None else telling
    leader, distance = np.arange(old, count), np.zeros(count - old)
    found = [*near(rows, np.arange(old))]
    covered = _covered(count, found)
    standing = independent(rows[~covered[rows]], near)
    covered[rows] = True
    covered[standing] = False
    found += near(rows[covered[rows]], standing)
    row, head, bits = _joined(found)
    order = np.lexsort((head, bits, row))
    nearest = order[np.unique(row[order], return_index=True)[1]]
    leader[row[nearest] - old] = head[nearest]
    distance[row[nearest] - old] = bits[nearest]
    return leader, distance


def independent(rows: np.ndarray, near: Near) -> np.ndarray:
    """The rows that no leader before them is near to: the first maximal independent set in the order of the ranks.

    Halves are done one after the other, so that most pairs that are looked for are of a row and a leader.
    """
    if len(rows) <= AT_ONCE:
        return _greedy(rows, near)
    half = len(rows) // 2
    first = independent(rows[:half], near)
    second = rows[half:]
    covered = _covered(int(rows[-1]) + 1, near(second, first))
    return np.concatenate([first, independent(second[~covered[second]], near)])


def _greedy(rows: np.ndarray, near: Near) -> np.ndarray:
    row, head, _ = _joined(near(rows, rows))
    order = np.argsort(row, kind="stable")
    follows: set[int] = set()
    for one, other in zip(row[order].tolist(), head[order].tolist(), strict=True):
        if other not in follows:
            follows.add(one)
    return rows[~np.isin(rows, np.fromiter(follows, np.int64, len(follows)))]


def _covered(count: int, found: Iterable[Found]) -> np.ndarray:
    """Which of `count` rows are near to something."""
    covered = np.zeros(count, bool)
    for row, _, _ in found:
        covered[row] = True
    return covered


def _joined(found: Iterable[Found]) -> Found:
    parts = [*found] or [(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.int64))]
    row, head, distance = (np.concatenate(column) for column in zip(*parts, strict=True))
    return row, head, distance
