"""Which poems come near what a picture shows: one vector a poem, found by faiss, and its lines weighed one by one.

A poem's vector is the mean of its keywords', each weighted by its rarity: first as an embedding reads them, then as a
random projection of the things' names, so that one inner product is closeness in meaning and overlap of keywords.
"""

import os
from collections.abc import Sequence
from fcntl import LOCK_EX, flock
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numba import njit

from filters.alignment import unit
from filters.characters import is_han, texts
from pipelines.corpus import UNFINISHED
from pipelines.poetry.imagery import colourless, keywords, lexicon, named
from schemas.identity import digest

SKETCH = 256
"""Numbers of the projection of a poem's words: cosines of it are true to about 0.06."""
FLAT = 20_000
"""Up to so many poems all are looked at; more are sorted into clusters, …"""
LISTS = 2048
"""… so many, …"""
PROBED = 48
"""… of which so many are looked at."""
LEARNT_FROM = 81_920
"""Poems from which the clusters are learnt."""
STRANGERS = 512
"""Poems drawn once, by which it is known how near a poem is to a picture by chance."""
CODES = 0x30000
"""Code points that may be Chinese; above them are pairs of neighbouring characters, by a hash of so many values."""
PAIRS = 1 << 20
CONTENT = ("n", "v", "a", "i", "l", "t", "s")
"""jieba's tags, by their first letter, of words that say something; of one character only nouns do."""


class Lines(NamedTuple):
    """The lines of poems, flat, and what is in each."""

    poems: np.ndarray
    """Bounds of each poem's lines: (poems + 1,)."""
    texts: pa.Array
    things: np.ndarray
    """Keywords of all lines by number, …"""
    thing_bounds: np.ndarray
    """… and where each line's begin: (lines + 1,)."""
    signs: np.ndarray
    """Its Chinese characters and pairs of them, likewise, each once."""
    sign_bounds: np.ndarray
    thing_rarity: np.ndarray
    """log(lines / lines that have it), by the number of the keyword, …"""
    sign_rarity: np.ndarray
    """… and by the character or pair."""


class Weighed(NamedTuple):
    """The best line of a poem for a picture, (pictures, poems) each."""

    line: np.ndarray
    overlap: np.ndarray
    """Cosine of the rarity-weighted keywords of line and caption."""
    shared: np.ndarray
    """The share of the caption's content words that stand in the line, weighted by their rarity."""


def poem_vectors(poems: Sequence[Sequence[str]], meanings: dict[str, np.ndarray]) -> np.ndarray:
    """A unit vector a poem given by its keywords: (poems, width + SKETCH), float32; zero where it has none.

    Args:
        meanings: what an embedding reads in each keyword; (width,) each.
    """
    known = {word: number for number, word in enumerate(meanings)}
    things = [*map(colourless, known)]
    thing = np.unique(things, return_inverse=True)[1]
    owner = np.repeat(np.arange(len(poems)), [len(words) for words in poems])
    word = np.array([known[word] for words in poems for word in words], np.int64)
    rarity = np.log(max(len(poems), 2) / np.maximum(np.bincount(thing[word], minlength=len(known)), 1))[thing] + 0.1
    vectors = np.stack([*meanings.values()]).astype(np.float32)
    vectors -= vectors.mean(axis=0)
    both = (vectors, sketches(things))
    parts = [_sums(owner, word, rarity.astype(np.float32), part, len(poems)) for part in both]
    return joined(*parts)


def joined(meaning: np.ndarray, words: np.ndarray) -> np.ndarray:
    """Both halves of vectors, weighing the same: (count, width + SKETCH)."""
    return np.concatenate([unit(meaning), unit(words)], axis=1) * np.float32(np.sqrt(0.5))


def sketches(words: Sequence[str]) -> np.ndarray:
    """A vector of ±1 a word, drawn by its digest: (words, SKETCH), float32."""
    drawn = b"".join(digest(word.encode()) + digest(word.encode() + b"2") for word in words)
    return np.unpackbits(np.frombuffer(drawn, np.uint8)).reshape(len(words), SKETCH).astype(np.float32) * 2 - 1


@njit(cache=True, nogil=True)
def _sums(owner: np.ndarray, word: np.ndarray, weight: np.ndarray, vectors: np.ndarray, count: int) -> np.ndarray:
    found = np.zeros((count, vectors.shape[1]), np.float32)
    for at in range(len(owner)):
        for axis in range(vectors.shape[1]):
            found[owner[at], axis] += weight[word[at]] * vectors[word[at], axis]
    return found


def search(vectors: np.ndarray) -> Any:
    """A faiss index by inner product; its clusters are learnt by one thread, and so the same anywhere."""
    import faiss

    width, many = vectors.shape[1], len(vectors) > FLAT
    index: Any = faiss.index_factory(width, f"IVF{LISTS},SQfp16" if many else "Flat", faiss.METRIC_INNER_PRODUCT)
    if many:
        threads = faiss.omp_get_max_threads()
        faiss.omp_set_num_threads(1)
        drawn = np.random.default_rng(0).permutation(len(vectors))[:LEARNT_FROM]
        index.train(vectors[np.sort(drawn)])
        index.nprobe = PROBED
        faiss.omp_set_num_threads(threads)
    index.add(vectors)
    return index


def strangers(vectors: np.ndarray) -> np.ndarray:
    """The vectors of some poems, drawn once: (STRANGERS, width)."""
    return vectors[np.random.default_rng(0).permutation(len(vectors))[:STRANGERS]]


def nearness(near: np.ndarray, queries: np.ndarray, some: np.ndarray) -> np.ndarray:
    """How much nearer poems are to pictures than strangers are, in the strangers' standard deviations.

    Args:
        near: the inner products, (pictures, poems).
        queries: of the pictures, (pictures, width).
        some: the strangers.
    """
    by_chance = queries @ some.T
    return (near - by_chance.mean(axis=1, keepdims=True)) / (by_chance.std(axis=1, keepdims=True) + 1e-6)


def kept(path: Path, vectors: np.ndarray) -> Any:
    """The index of some vectors from a file, which processes share; the first that wants it makes it, in place of
    whatever index lay there."""
    import faiss

    path.parent.mkdir(exist_ok=True)
    with (path.parent / ".lock").open("w") as lock:
        flock(lock, LOCK_EX)
        if not path.exists():
            for old in path.parent.glob("*.faiss"):
                old.unlink()
            temporary = path.with_name(UNFINISHED + path.name)
            faiss.write_index(search(vectors), str(temporary))
            os.replace(temporary, path)
    return faiss.read_index(str(path), faiss.IO_FLAG_MMAP | faiss.IO_FLAG_READ_ONLY)


def lines_of(poems: Sequence[Sequence[str]]) -> Lines:
    """What is in the lines of poems."""
    flat = [line for lines in poems for line in lines]
    bounds = np.concatenate([[0], np.cumsum([len(lines) for lines in poems])]).astype(np.int64)
    number = lexicon().numbers
    shown = [[number[colourless(word)] for word in words] for words in keywords([[line] for line in flat])]
    things = np.array([word for words in shown for word in words], np.int32)
    thing_bounds = np.concatenate([[0], np.cumsum([len(words) for words in shown])]).astype(np.int64)
    batch = texts(flat)
    signs, sign_bounds = _signs(batch.codes.astype(np.int64), batch.bounds)
    return Lines(
        bounds,
        pa.array(flat, pa.string()),
        things,
        thing_bounds,
        signs,
        sign_bounds,
        _rarity(things, len(number), len(flat)),
        _rarity(signs, CODES + PAIRS, len(flat)),
    )


def weigh(lines: Lines, captions: Sequence[Sequence[tuple[str, str]]], poems: np.ndarray) -> Weighed:
    """The best line of each of some poems for each caption, by shared keywords and characters together.

    Args:
        captions: in Simplified script, as `imagery.cut` cuts them.
        poems: (captions, some) numbers of poems; −1 where there are no more.
    """
    number = lexicon().numbers
    shown = [[number[word] for word in words] for words in named(captions)]
    bounds = np.concatenate([[0], np.cumsum([len(words) for words in shown])]).astype(np.int64)
    said = [_content(some) for some in captions]
    signs = np.array([sign for some in said for sign in some], np.int64)
    sign_bounds = np.concatenate([[0], np.cumsum([len(some) for some in said])]).astype(np.int64)
    things = np.array([word for words in shown for word in words], np.int32)
    return Weighed(
        *_weigh(
            poems.astype(np.int64),
            lines.poems,
            (things, bounds, lines.things, lines.thing_bounds, lines.thing_rarity),
            (signs, sign_bounds, lines.signs, lines.sign_bounds, lines.sign_rarity),
        )
    )


def _rarity(found: np.ndarray, count: int, lines: int) -> np.ndarray:
    return np.log(max(lines, 2) / np.maximum(np.bincount(found, minlength=count), 1)).astype(np.float32)


def _content(said: Sequence[tuple[str, str]]) -> list[int]:
    """The characters and pairs of a caption's content words, each once."""
    found: dict[int, None] = {}
    for word, tag in said:
        if tag[0] in CONTENT and all(map(is_han, word)):
            codes = [*map(ord, word)]
            if len(codes) > 1:
                found |= dict.fromkeys(CODES + (one * 31 + other) % PAIRS for one, other in pairwise(codes))
            elif tag[0] == "n":
                found[codes[0]] = None
    return list(found)


@njit(cache=True, nogil=True)
def _signs(codes: np.ndarray, bounds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The Chinese characters of texts and the pairs of neighbours, each once."""
    signs, ends = np.empty(2 * len(codes), np.int64), np.zeros(len(bounds), np.int64)
    seen = np.full(CODES + PAIRS, -1, np.int64)
    count = 0
    for text in range(len(bounds) - 1):
        before = 0
        for at in range(bounds[text], bounds[text + 1]):
            code = codes[at]
            if not 0x3400 <= code < CODES or 0xA000 <= code < 0x20000:
                before = 0
                continue
            for sign in (code, CODES + (before * 31 + code) % PAIRS if before else code):
                if seen[sign] != text:
                    seen[sign] = text
                    signs[count] = sign
                    count += 1
            before = code
        ends[text + 1] = count
    return signs[:count], ends


@njit(cache=True, nogil=True)
def _alike(mine: np.ndarray, wanted: np.ndarray, rarity: np.ndarray, norm: float) -> float:
    """Cosine of two rarity-weighted sets, one as a list and one as marks."""
    common, length = 0.0, 0.0
    for one in mine:
        weight = rarity[one] * rarity[one]
        length += weight
        if wanted[one]:
            common += weight
    return common / np.sqrt(length * norm) if common > 0 else 0.0


@njit(cache=True, nogil=True)
def _covered(mine: np.ndarray, wanted: np.ndarray, rarity: np.ndarray, whole: float) -> float:
    """The share of a rarity-weighted set, given as marks, that is in a list."""
    common = 0.0
    for one in mine:
        if wanted[one]:
            common += rarity[one]
    return common / whole if common > 0 else 0.0


@njit(cache=True, nogil=True)
def _weigh(poems: np.ndarray, bounds: np.ndarray, things: Any, signs: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    line = np.full(poems.shape, -1, np.int64)
    overlap, shared = np.zeros(poems.shape, np.float32), np.zeros(poems.shape, np.float32)
    my_things, my_thing_bounds, line_things, line_thing_bounds, thing_rarity = things
    my_signs, my_sign_bounds, line_signs, line_sign_bounds, sign_rarity = signs
    is_thing, is_sign = np.zeros(len(thing_rarity), np.bool_), np.zeros(len(sign_rarity), np.bool_)
    for row in range(len(poems)):
        these = my_things[my_thing_bounds[row] : my_thing_bounds[row + 1]]
        those = my_signs[my_sign_bounds[row] : my_sign_bounds[row + 1]]
        thing_norm, sign_norm = 0.0, 0.0
        for one in these:
            is_thing[one] = True
            thing_norm += thing_rarity[one] * thing_rarity[one]
        for one in those:
            is_sign[one] = True
            sign_norm += sign_rarity[one]
        for place in range(poems.shape[1]):
            poem = poems[row, place]
            if poem < 0:
                continue
            best = -1.0
            for at in range(bounds[poem], bounds[poem + 1]):
                mine = line_things[line_thing_bounds[at] : line_thing_bounds[at + 1]]
                ours = line_signs[line_sign_bounds[at] : line_sign_bounds[at + 1]]
                by_things = _alike(mine, is_thing, thing_rarity, thing_norm)
                by_signs = _covered(ours, is_sign, sign_rarity, sign_norm)
                if by_things + by_signs > best:
                    best = by_things + by_signs
                    line[row, place], overlap[row, place], shared[row, place] = at, by_things, by_signs
        for one in these:
            is_thing[one] = False
        for one in those:
            is_sign[one] = False
    return line, overlap, shared
