"""What Unicode and OpenCC say of each character, and a batch of captions as code points."""

import re
import sys
import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numba import njit

from filters.weights import packaged

HAN, TRADITIONAL, SIMPLIFIED, DECIMAL, NUMERAL, PUNCTUATION, LATIN, ALNUM, SPACE = (1 << bit for bit in range(9))
"""Classes of a character. `TRADITIONAL` and `SIMPLIFIED`: only texts of that script use it. `LATIN`: a–z, A–Z, 0–9."""

NUMERALS = {
    "零〇○": "0",
    "一幺壹": "1",
    "二贰貳": "2",
    "三叁參": "3",
    "四肆": "4",
    "五伍": "5",
    "六陆陸": "6",
    "七柒": "7",
    "八捌": "8",
    "九玖": "9",
}
"""Chinese signs for digits."""

ASSIGNED = [*range(0x40000), *range(0xE0000, 0xE0200)]
"""Where Unicode has characters; the other planes are empty or private."""


def _ranges(categories: set[str]) -> str:
    """A class of a regular expression: all characters of some Unicode categories."""
    signs = [code for code in ASSIGNED if unicodedata.category(chr(code)) in categories]
    starts = [code for index, code in enumerate(signs) if not index or signs[index - 1] != code - 1]
    ends = [code for index, code in enumerate(signs) if index + 1 == len(signs) or signs[index + 1] != code + 1]
    return "[" + "".join(f"\\U{start:08x}-\\U{end:08x}" for start, end in zip(starts, ends, strict=True)) + "]"


HIDDEN = re.compile(_ranges({"Cf", "Mn", "Me"}))
"""Invisible and combining signs."""

PLAIN = re.compile(r"[ -~\u3001-\u3020\u4e00-\u9fff]*")
"""What most captions are after NFKC. Nothing in it is hidden; to ask this first is eight times as fast."""


def normalised(caption: str) -> str:
    """NFKC (full-width and circled digits become plain), without invisible and combining signs, blanks trimmed."""
    text = unicodedata.normalize("NFKC", caption)
    return (text if PLAIN.fullmatch(text) else HIDDEN.sub("", text)).strip()


def is_han(character: str) -> bool:
    """Whether a character is a Chinese one: the unified ideographs with their extensions."""
    return (
        "\u3400" <= character <= "\u4dbf"
        or "\u4e00" <= character <= "\u9fff"
        or "\U00020000" <= character <= "\U0003ffff"
    )


class Texts(NamedTuple):
    """A batch of captions after `normalised`, also as one array: text i is `codes[bounds[i]:bounds[i + 1] - 1]`."""

    strings: list[str]
    codes: np.ndarray
    """uint32 code points, a line feed after each text."""
    bounds: np.ndarray
    """int64, one more than there are texts."""


def texts(captions: Sequence[str]) -> Texts:
    """Normalise a batch."""
    strings = [normalised(caption) for caption in captions]
    joined = "".join([string + "\n" for string in strings])
    codes = np.frombuffer(joined.encode("utf-32-le", "surrogatepass"), np.uint32).copy()  # writable, as all arrays here
    bounds = np.zeros(len(strings) + 1, np.int64)
    np.cumsum([len(string) + 1 for string in strings], out=bounds[1:])
    return Texts(strings, codes, bounds)


@lru_cache(maxsize=1)
def classes() -> np.ndarray:
    """The classes of every code point, as bits: uint16 [1114112]."""
    table = np.zeros(sys.maxunicode + 1, np.uint16)
    for code in ASSIGNED:
        sign = chr(code)
        table[code] = (
            HAN * is_han(sign)
            | DECIMAL * sign.isdecimal()
            | PUNCTUATION * (unicodedata.category(sign)[0] == "P")
            | LATIN * (sign.isascii() and sign.isalnum())
            | ALNUM * sign.isalnum()
            | SPACE * sign.isspace()
        )
    traditional, simplified = _script("TSCharacters.txt"), _script("STCharacters.txt")
    for own, other, bit in ((traditional, simplified, TRADITIONAL), (simplified, traditional, SIMPLIFIED)):
        for sign, counterparts in own.items():
            if sign not in counterparts and sign not in other:
                table[ord(sign)] |= bit
    for sign in "".join(NUMERALS):
        table[ord(sign)] |= NUMERAL
    return table


@lru_cache(maxsize=1)
def folds() -> np.ndarray:
    """What each code point is compared as: lower case, Simplified (OpenCC's first choice), uint32 [1114112]."""
    table = np.arange(sys.maxunicode + 1, dtype=np.uint32)
    for code in ASSIGNED:
        lower = chr(code).lower()
        if len(lower) == 1:
            table[code] = ord(lower)
    for sign, counterparts in _script("TSCharacters.txt").items():
        if len(counterparts[0]) == 1:
            table[ord(sign)] = ord(counterparts[0])
    return table


def _script(name: str) -> dict[str, list[str]]:
    """A table of OpenCC: a character, what it may become in the other script."""
    lines = packaged("opencc", f"dictionary/{name}").read_text(encoding="utf-8").splitlines()
    return {sign: values.split() for sign, _, values in (line.partition("\t") for line in lines)}


@njit(cache=True, nogil=True)
def class_counts(codes: np.ndarray, bounds: np.ndarray, table: np.ndarray, bits: np.ndarray) -> np.ndarray:
    """How many characters of each text are of each class: int64 [texts, bits]."""
    counts = np.zeros((len(bounds) - 1, len(bits)), np.int64)
    for text in range(len(bounds) - 1):
        for at in range(bounds[text], bounds[text + 1] - 1):
            kinds = table[codes[at]]
            for index in range(len(bits)):
                if kinds & bits[index]:
                    counts[text, index] += 1
    return counts
