"""What the characters and words of a caption tell: script, contacts, offers, repetition, whether it describes."""

import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from importlib.metadata import version
from typing import Any

import numpy as np
import pyarrow as pa

from filters import contacts, sales
from filters.characters import (
    ALNUM,
    DECIMAL,
    HAN,
    LATIN,
    NUMERAL,
    PUNCTUATION,
    SIMPLIFIED,
    TRADITIONAL,
    Texts,
    class_counts,
    classes,
    folds,
    texts,
)
from filters.measure import Columns
from filters.repetition import repeated
from filters.segmentation import tags, words
from filters.suffix import tail
from filters.trie import Trie, found, trie
from schemas import identity

FILE_NAME = re.compile(
    r"[^\n/\\]+\.(?:jpe?g|png|gif|webp|bmp|tiff?|heic|avif|svg|psd|raw|cr2|nef|mp4|pdf)"
    r"|(?:img|image|dscn?|dscf|dcim|pict?|photo|mmexport|screenshot|wx|微信图片|图片|照片|截图|未命名|untitled)[\s_-]*\d[\d_-]*"
    r"|\d{8}[_-]\d{4,}|(?=[a-z-]*\d)[0-9a-f-]{16,}"
)

COUNTED = np.array([HAN, TRADITIONAL, SIMPLIFIED, DECIMAL, DECIMAL | NUMERAL, PUNCTUATION, LATIN], np.uint16)


@lru_cache(maxsize=1)
def _sales_words() -> Trie:
    return trie(sales.WORDS)


@lru_cache(maxsize=1)
def _content_tags() -> np.ndarray:
    return np.array([tag[0] in "nvail" for tag in tags()])


def content_word_shares(batch: Texts) -> np.ndarray:
    """Nouns, verbs and adjectives (jieba's n…, v…, a… and the idioms i, l) over all words; 0 where there is no word.

    A word has a letter, a digit or a Chinese character.
    """
    starts, ends, kinds = words(batch.codes)
    letters = np.concatenate(([0], np.cumsum((classes()[batch.codes] & ALNUM) != 0)))
    real = letters[ends] > letters[starts]
    place = np.searchsorted(batch.bounds, starts, side="right") - 1
    count = len(batch.strings)
    total = np.bincount(place[real], minlength=count)
    content = np.bincount(place[real & _content_tags()[kinds]], minlength=count)
    return content / np.maximum(total, 1)


def sales_words(batch: Texts, folded: np.ndarray) -> np.ndarray:
    """How many different words of `sales.WORDS` each text has."""
    place, _, word = found(folded, batch.bounds, _sales_words(), classes())
    pairs = np.unique(place * len(sales.WORDS) + word)
    return np.bincount(pairs // len(sales.WORDS), minlength=len(batch.strings))


class Text:
    """Length in characters; shares, 0–1, of characters (traditional: of the Han ones; content words: of words); flags.

    All of it after `normalised`. `traditional` says that more characters are Traditional only than Simplified only;
    `repeated_3grams` and `repeated_5grams` are shares as `repetition.repeated` has them; `contact` says that a WeChat
    or QQ id is given; `sales_words` counts different words of `sales.WORDS`; `filename` says that the whole caption is
    the name of a file; `tail` is what stands after the last separator, null where there is none.
    """

    name = "text"
    columns = pa.schema(
        {
            "length": pa.int32(),
            "han_share": pa.float32(),
            "traditional": pa.bool_(),
            "traditional_share": pa.float32(),
            "digit_share": pa.float32(),
            "punctuation_share": pa.float32(),
            "content_word_share": pa.float32(),
            "repeated_3grams": pa.float32(),
            "repeated_5grams": pa.float32(),
            "phone": pa.bool_(),
            "url": pa.bool_(),
            "email": pa.bool_(),
            "contact": pa.bool_(),
            "price": pa.bool_(),
            "sales_words": pa.int32(),
            "filename": pa.bool_(),
            "tail": pa.string(),
        }
    )
    wants: tuple[str, ...] = ()

    def fingerprint(self) -> str:
        return identity.fingerprint(
            name=self.name,
            version=2,
            unicode=unicodedata.unidata_version,
            jieba=version("jieba"),
            opencc=version("opencc-python-reimplemented"),
        )

    def __call__(self, captions: Sequence[str], wanted: dict[str, Sequence[Any]]) -> Columns:
        batch = texts(captions)
        folded = folds()[batch.codes]
        counts = class_counts(batch.codes, batch.bounds, classes(), COUNTED)
        han, traditional, simplified, digits, numerals, punctuation, latin = counts.T
        lengths = np.diff(batch.bounds) - 1
        length = np.maximum(lengths, 1)
        lower = [string.lower() for string in batch.strings]
        all_digits, all_latin = numerals.tolist(), latin.tolist()
        return {
            "length": lengths.tolist(),
            "han_share": (han / length).tolist(),
            "traditional": (traditional > simplified).tolist(),
            "traditional_share": (traditional / np.maximum(han, 1)).tolist(),
            "digit_share": (digits / length).tolist(),
            "punctuation_share": (punctuation / length).tolist(),
            "content_word_share": content_word_shares(batch).tolist(),
            "repeated_3grams": repeated(folded, batch.bounds, classes(), 3).tolist(),
            "repeated_5grams": repeated(folded, batch.bounds, classes(), 5).tolist(),
            "phone": list(map(contacts.phone, lower, all_digits)),
            "url": list(map(contacts.url, lower)),
            "email": list(map(contacts.email, lower)),
            "contact": list(map(contacts.contact, lower, all_latin)),
            "price": list(map(sales.price, lower, all_digits)),
            "sales_words": sales_words(batch, folded).tolist(),
            "filename": [FILE_NAME.fullmatch(string) is not None for string in lower],
            "tail": list(map(tail, batch.strings)),
        }
