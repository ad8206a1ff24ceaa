"""How much of a text says again what the text has said: repeated n-grams of characters."""

import numpy as np
from numba import njit

from filters.characters import ALNUM


@njit(cache=True, nogil=True)
def repeated(codes: np.ndarray, bounds: np.ndarray, table: np.ndarray, length: int) -> np.ndarray:
    """The share of each text that is covered by n-grams which stood in it before.

    The rule is that of Gopher (Rae et al. 2021, A1.1), fraction of characters in duplicate n-grams, with characters in
    the place of words: from the left, an n-gram that stood before counts with its n characters and is stepped over; one
    that did not is remembered. Letters, digits and Chinese characters alone are looked at: rows of dots are none, and
    an n-gram may reach across a comma.

    Args:
        codes, bounds: as in `Texts`, folded.
        table: `classes()`.
        length: n.

    Returns:
        float64 [texts], 0–1 of the letters, digits and Chinese characters; 0 for fewer than n + 1 of them.
    """
    shares = np.zeros(len(bounds) - 1)
    for text in range(len(bounds) - 1):
        signs = np.empty(bounds[text + 1] - bounds[text], np.uint32)
        count = 0
        for at in range(bounds[text], bounds[text + 1] - 1):
            if table[codes[at]] & ALNUM:
                signs[count] = codes[at]
                count += 1
        if count <= length:
            continue
        size = 16
        while size < 2 * count:
            size *= 2
        seen = np.full(size, -1, np.int64)
        covered = at = 0
        while at + length <= count:
            mixed = np.uint64(0)
            for sign in signs[at : at + length]:
                mixed = (mixed ^ np.uint64(sign)) * np.uint64(0x9E3779B97F4A7C15)
                mixed ^= mixed >> np.uint64(29)
            slot = np.int64(mixed & np.uint64(size - 1))
            while seen[slot] >= 0 and not _same(signs, seen[slot], at, length):
                slot = (slot + 1) & (size - 1)
            if seen[slot] >= 0:
                covered += length
                at += length
            else:
                seen[slot] = at
                at += 1
        shares[text] = covered / count
    return shares


@njit(cache=True, nogil=True)
def _same(signs: np.ndarray, one: int, other: int, length: int) -> bool:
    for offset in range(length):  # noqa: SIM110
        if signs[one + offset] != signs[other + offset]:
            return False
    return True
