"""Words and their parts of speech exactly as jieba's tagger gives them, from its dictionary and model, compiled."""

import pickle
from functools import lru_cache
from math import log
from typing import Any, NamedTuple

import numpy as np
from numba import njit

from filters.trie import Trie, step, trie
from filters.weights import packaged

FIRST_HAN, LAST_HAN = 0x4E00, 0x9FD5
"""What jieba takes for Chinese characters."""

HAN, LETTER, DIGIT, DOT, SIGN, SPACE, OTHER = range(7)
"""Kinds of a character in jieba's regular expressions; `SIGN`: + # & _."""

BEGIN, MIDDLE, END, SINGLE = range(4)
"""Where a character stands in a word."""

IMPOSSIBLE, UNSEEN = -np.inf, -3.14e100
"""Log-probabilities of a transition and of an emission that the model does not have."""


class Model(NamedTuple):
    """jieba's dictionary and its hidden Markov model of words that are not in it. A tag is a position in `tags()`."""

    dictionary: Trie
    word_costs: np.ndarray
    """float64 [words]: log of the frequency."""
    word_tags: np.ndarray
    """int32 [words]."""
    total: float
    """Log of the sum of all frequencies, which is the cost of a word that is not in the dictionary."""
    state_places: np.ndarray
    """int32 [states]: BEGIN to SINGLE. States are in the order of jieba's, by which ties are broken."""
    state_tags: np.ndarray
    """int32 [states]."""
    starts: np.ndarray
    """float64 [states]: log-probability to begin."""
    source_bounds: np.ndarray
    """int32 [states + 1]: where the states that may stand before a state begin in `sources`."""
    sources: np.ndarray
    """int32."""
    transitions: np.ndarray
    """float64: log-probabilities, beside `sources`."""
    state_bounds: np.ndarray
    """int32 [characters + 1]: where the states of a character begin in `states_of`."""
    states_of: np.ndarray
    """int32: the states that jieba considers for a character."""
    emission_bounds: np.ndarray
    """int32 [characters + 1]: where the emissions of a character begin."""
    emission_states: np.ndarray
    """int32."""
    emissions: np.ndarray
    """float64: log-probabilities, beside `emission_states`."""
    number: int
    """Tag of a number outside the dictionary; `latin` of letters; `unknown` of what is nothing else."""
    latin: int
    unknown: int


@lru_cache(maxsize=1)
def tags() -> tuple[str, ...]:
    """All tags of jieba: n…, v…, a…; m, eng and x for numbers, Latin letters and what is unknown."""
    return tuple(sorted({tag for _, _, tag in _entries()} | {tag for _, tag in _hmm("start")} | {"m", "eng", "x"}))


@lru_cache(maxsize=1)
def _entries() -> tuple[tuple[str, int, str], ...]:
    lines = packaged("jieba", "dict.txt").read_text(encoding="utf-8").splitlines()
    return tuple((word, int(frequency), tag) for word, frequency, tag in (line.split(" ") for line in lines))


@lru_cache(maxsize=1)
def frequencies() -> dict[str, tuple[int, str]]:
    """jieba's dictionary: a word's frequency and tag."""
    return {word: (frequency, tag) for word, frequency, tag in _entries()}


def _hmm(part: str) -> dict[Any, Any]:
    name = "char_state_tab" if part == "states" else f"prob_{part}"
    with packaged("jieba", f"posseg/{name}.p").open("rb") as file:
        content: dict[Any, Any] = pickle.load(file)
    return content


@lru_cache(maxsize=1)
def model() -> Model:
    """jieba's numbers as arrays; a second and 100 MB, once a process."""
    entries = _entries()
    tag_of = {tag: position for position, tag in enumerate(tags())}
    start, transitions, emissions = (_hmm(part) for part in ("start", "trans", "emit"))
    states = sorted(start)
    state_of = {state: position for position, state in enumerate(states)}
    sources: list[list[tuple[int, float]]] = [[] for _ in states]
    for before in states:
        for state, value in transitions[before].items():
            sources[state_of[state]].append((state_of[before], value))
    considered: list[list[int]] = [[] for _ in range(FIRST_HAN, LAST_HAN + 1)]
    for character, of_it in _hmm("states").items():
        if FIRST_HAN <= ord(character) <= LAST_HAN:
            considered[ord(character) - FIRST_HAN] = sorted(state_of[state] for state in of_it)
    emitted: list[list[tuple[int, float]]] = [[] for _ in range(FIRST_HAN, LAST_HAN + 1)]
    for state, of_it in emissions.items():
        for character, value in of_it.items():
            if FIRST_HAN <= ord(character) <= LAST_HAN:
                emitted[ord(character) - FIRST_HAN].append((state_of[state], value))
    return Model(
        dictionary=trie([word for word, _, _ in entries]),
        word_costs=np.array([log(frequency) for _, frequency, _ in entries]),
        word_tags=np.array([tag_of[tag] for _, _, tag in entries], np.int32),
        total=log(sum(frequency for _, frequency, _ in entries)),
        state_places=np.array(["BMES".index(place) for place, _ in states], np.int32),
        state_tags=np.array([tag_of[tag] for _, tag in states], np.int32),
        starts=np.array([start[state] for state in states]),
        source_bounds=_bounds(sources),
        sources=np.array([state for of_it in sources for state, _ in of_it], np.int32),
        transitions=np.array([value for of_it in sources for _, value in of_it]),
        state_bounds=_bounds(considered),
        states_of=np.array([state for of_it in considered for state in of_it], np.int32),
        emission_bounds=_bounds(emitted),
        emission_states=np.array([state for of_it in emitted for state, _ in of_it], np.int32),
        emissions=np.array([value for of_it in emitted for _, value in of_it]),
        number=tag_of["m"],
        latin=tag_of["eng"],
        unknown=tag_of["x"],
    )


def _bounds(lists: list[Any]) -> np.ndarray:
    return np.concatenate(([0], np.cumsum([len(of_it) for of_it in lists]))).astype(np.int32)


def words(codes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cut texts into words.

    Args:
        codes: uint32 code points, a writable array; many texts may be joined by line feeds, which end a word.

    Returns:
        where each word starts, where it ends (exclusive), and its tag as a position in `tags()`: int64, in order.
    """
    return _words(codes, model())


@njit(cache=True, nogil=True)
def _kind(code: int) -> int:
    if FIRST_HAN <= code <= LAST_HAN:
        return HAN
    if 97 <= code <= 122 or 65 <= code <= 90:
        return LETTER
    if 48 <= code <= 57:
        return DIGIT
    if code == 46:
        return DOT
    return SIGN if code in (35, 38, 43, 95) else OTHER


@njit(cache=True, nogil=True)
def _words(codes: np.ndarray, model: Model) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    out = np.empty((3, len(codes)), np.int64)
    written = 0
    at = 0
    while at < len(codes):
        end = at
        while end < len(codes) and _kind(codes[end]) != OTHER:
            end += 1
        if end > at:
            written = _cut(codes, at, end, model, out, written)
            at = end
        else:  # a character outside of jieba's alphabet is a word by itself
            out[0, written], out[1, written], out[2, written] = at, at + 1, model.unknown
            written += 1
            at += 1
    return out[0, :written].copy(), out[1, :written].copy(), out[2, :written].copy()


@njit(cache=True, nogil=True)
def _cut(codes: np.ndarray, first: int, last: int, model: Model, out: np.ndarray, written: int) -> int:
    """The likeliest path through the dictionary; what remains in single characters goes to the Markov model."""
    best = np.zeros(last - first + 1)
    ends = np.zeros(last - first, np.int64)
    tags = np.zeros(last - first, np.int64)
    for at in range(last - 1, first - 1, -1):
        node, end, some = 0, at, False
        single = model.unknown
        while end < last:
            node = step(model.dictionary, node, codes[end])
            if node < 0:
                break
            end += 1
            word = model.dictionary.words[node]
            if word >= 0:
                cost = model.word_costs[word] - model.total + best[end - first]
                if not some or cost >= best[at - first]:  # of two alike, jieba takes the longer
                    best[at - first], ends[at - first], tags[at - first] = cost, end, model.word_tags[word]
                some = True
        if not some:
            best[at - first], ends[at - first], tags[at - first] = best[at + 1 - first] - model.total, at + 1, single
    at = alone = first
    while at < last:
        end = ends[at - first]
        if end - at > 1:
            written = _rest(codes, alone, at, first, tags, model, out, written)
            out[0, written], out[1, written], out[2, written] = at, end, tags[at - first]
            written += 1
            alone = end
        at = end
    return _rest(codes, alone, last, first, tags, model, out, written)


@njit(cache=True, nogil=True)
def _rest(
    codes: np.ndarray,
    at: int,
    last: int,
    first: int,
    tags: np.ndarray,
    model: Model,
    out: np.ndarray,
    written: int,
) -> int:
    """A run of single characters between words of the dictionary."""
    if last - at == 1 or (last > at and _is_word(codes, at, last, model)):
        for single in range(at, last):
            out[0, written], out[1, written], out[2, written] = single, single + 1, tags[single - first]
            written += 1
        return written
    while at < last:
        end = at + 1
        kind = _kind(codes[at])
        tag = model.unknown
        if kind == HAN:
            while end < last and _kind(codes[end]) == HAN:
                end += 1
            written = _guessed(codes, at, end, model, out, written)
            at = end
            continue
        if kind in (DIGIT, DOT):
            tag = model.number
            while end < last and _kind(codes[end]) in (DIGIT, DOT):
                end += 1
        elif kind == LETTER:
            tag = model.latin
            while end < last and _kind(codes[end]) in (LETTER, DIGIT):
                end += 1
        else:
            while end < last and _kind(codes[end]) == SIGN:
                end += 1
        out[0, written], out[1, written], out[2, written] = at, end, tag
        written += 1
        at = end
    return written


@njit(cache=True, nogil=True)
def _is_word(codes: np.ndarray, at: int, last: int, model: Model) -> bool:
    node = 0
    for code in codes[at:last]:
        node = step(model.dictionary, node, code)
        if node < 0:
            return False
    return model.dictionary.words[node] >= 0


@njit(cache=True, nogil=True)
def _guessed(codes: np.ndarray, first: int, last: int, model: Model, out: np.ndarray, written: int) -> int:
    """Viterbi over the Markov model. Where jieba finds no state at all and fails, every state is tried anew."""
    count = len(model.starts)
    before, now = np.full(count, IMPOSSIBLE), np.full(count, IMPOSSIBLE)
    came_from = np.empty((last - first, count), np.int16)
    emission = np.empty(count)
    for at in range(first, last):
        place = np.int64(codes[at]) - FIRST_HAN
        emission[:] = UNSEEN
        for index in range(model.emission_bounds[place], model.emission_bounds[place + 1]):
            emission[model.emission_states[index]] = model.emissions[index]
        own = model.states_of[model.state_bounds[place] : model.state_bounds[place + 1]]
        now[:] = IMPOSSIBLE
        some = False
        for attempt in range(2):  # first the states of the character, then any
            if some or (attempt == 0 and len(own) == 0):
                continue
            for index in range(count if attempt else len(own)):
                state = index if attempt else own[index]
                if at == first:
                    now[state] = model.starts[state] + emission[state]
                    some = True
                    continue
                for link in range(model.source_bounds[state], model.source_bounds[state + 1]):
                    source = model.sources[link]
                    if before[source] == IMPOSSIBLE:
                        continue
                    value = before[source] + model.transitions[link] + emission[state]
                    if value >= now[state]:  # of two alike, jieba takes the later
                        now[state], came_from[at - first, state] = value, source
                        some = True
        if not some:
            source = _likeliest(before)
            for state in range(count):
                now[state], came_from[at - first, state] = before[source] + emission[state], source
        before, now = now, before
    state = _likeliest(before)
    path = np.empty(last - first, np.int64)
    for at in range(last - first - 1, -1, -1):
        path[at] = state
        state = came_from[at, state]
    begin = following = 0
    for at in range(last - first):
        place = model.state_places[path[at]]
        if place == BEGIN:
            begin = at
        elif place in (END, SINGLE):
            start = begin if place == END else at
            out[0, written], out[1, written] = first + start, first + at + 1
            out[2, written] = model.state_tags[path[at]]
            written += 1
            following = at + 1
    if following < last - first:
        out[0, written], out[1, written] = first + following, last
        out[2, written] = model.state_tags[path[following]]
        written += 1
    return written


@njit(cache=True, nogil=True)
def _likeliest(values: np.ndarray) -> int:
    """The last of the greatest."""
    best = 0
    for index in range(1, len(values)):
        if values[index] >= values[best]:
            best = index
    return best
