"""Many words looked up at once: a trie in flat arrays, for jieba's dictionary and lists of words."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numba import njit

from filters.characters import LATIN


class Trie(NamedTuple):
    """A hash table from (node, code point) to node, and the word that ends at a node; the root is node 0."""

    keys: np.ndarray
    """int64, a power of two of them: node × 2²¹ + code point, −1 where a slot is free."""
    nodes: np.ndarray
    """int32, beside `keys`."""
    words: np.ndarray
    """int32 [nodes]: the position of the word in the list, −1 where none ends."""


def trie(words: Sequence[str]) -> Trie:
    """A trie of some words; of a word that stands there twice the last counts. Empty words are never found."""
    codes = np.frombuffer("".join(words).encode("utf-32-le", "surrogatepass"), np.uint32)
    bounds = np.zeros(len(words) + 1, np.int64)
    np.cumsum([len(word) for word in words], out=bounds[1:])
    return Trie(*_planted(codes, bounds))


@njit(cache=True, nogil=True)
def _slot(keys: np.ndarray, key: Any) -> Any:
    """Where a key stands in the table, or the free slot where it would."""
    mixed = np.uint64(key) * np.uint64(0x9E3779B97F4A7C15)
    slot = np.int64((mixed ^ (mixed >> np.uint64(32))) & np.uint64(len(keys) - 1))
    while keys[slot] != key and keys[slot] != -1:
        slot = (slot + 1) & (len(keys) - 1)
    return slot


@njit(cache=True, nogil=True)
def _planted(codes: np.ndarray, bounds: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    size = 16
    keys, nodes = np.full(size, -1, np.int64), np.zeros(size, np.int32)
    words = np.full(len(codes) + 1, -1, np.int32)
    grown = 1
    for word in range(len(bounds) - 1):
        node = 0
        for at in range(bounds[word], bounds[word + 1]):
            key = (np.int64(node) << 21) | np.int64(codes[at])
            slot = _slot(keys, key)
            if keys[slot] == -1:
                keys[slot], nodes[slot] = key, grown
                grown += 1
                if grown * 2 > size:
                    size *= 2
                    larger, beside = np.full(size, -1, np.int64), np.zeros(size, np.int32)
                    for old in range(len(keys)):
                        if keys[old] != -1:
                            new = _slot(larger, keys[old])
                            larger[new], beside[new] = keys[old], nodes[old]
                    keys, nodes = larger, beside
                    slot = _slot(keys, key)
            node = nodes[slot]
        if node:
            words[node] = word
    return keys, nodes, words[:grown].copy()


@njit(cache=True, nogil=True)
def step(trie: Trie, node: int, code: int) -> int:
    """The node that a code point leads to, −1 where no word goes on so."""
    key = (np.int64(node) << 21) | np.int64(code)
    slot = _slot(trie.keys, key)
    return trie.nodes[slot] if trie.keys[slot] == key else -1


@njit(cache=True, nogil=True)
def _inside(codes: np.ndarray, at: int, first: int, table: np.ndarray) -> bool:
    """Whether a run of Latin letters and digits goes on from the character before."""
    return at > first and (table[codes[at]] & table[codes[at - 1]] & LATIN) != 0


@njit(cache=True, nogil=True)
def found(
    codes: np.ndarray, bounds: np.ndarray, trie: Trie, table: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The words of a trie in a batch of texts, from the left, the longest first, none overlapping.

    A word that begins or ends with a Latin letter or a digit is not found inside a longer run of them: no cat in
    category.

    Args:
        codes, bounds: as in `Texts`, folded where the words are.
        table: `classes()`.

    Returns:
        the text, the first character in `codes`, and the word of each match, in order: int64 each.
    """
    out = np.empty((3, len(codes)), np.int64)
    matches = 0
    for text in range(len(bounds) - 1):
        first, last = bounds[text], bounds[text + 1] - 1
        at = first
        while at < last:
            node, end, stop, word = 0, at, at, -1
            while end < last and not _inside(codes, at, first, table):
                node = step(trie, node, codes[end])
                if node < 0:
                    break
                end += 1
                if trie.words[node] >= 0 and (end == last or not _inside(codes, end, first, table)):
                    word, stop = trie.words[node], end
            if word >= 0:
                out[0, matches], out[1, matches], out[2, matches] = text, at, word
                matches += 1
                at = stop
            else:
                at += 1
    return out[0, :matches].copy(), out[1, :matches].copy(), out[2, :matches].copy()
