"""Words that a user looks for in captions: brands, slurs, topics to keep or to leave out."""

import unicodedata
from collections.abc import Sequence
from functools import cached_property
from importlib.metadata import version
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
from pydantic import FilePath

from filters.characters import classes, folds, normalised, texts
from filters.measure import Columns
from filters.trie import Trie, found, trie
from filters.weights import sha256
from schemas import identity
from schemas.strict import Strict


class Words(Strict):
    """The first word of a list that a caption has, as the list writes it, and how many: from the left, longest first.

    Both are compared after `normalised`, in lower case, in Simplified script character by character. A Latin word is
    not found inside another. The list is UTF-8, a word a line; a line that begins with # is a comment.
    """

    list: FilePath

    name: ClassVar[str] = "words"
    columns: ClassVar[pa.Schema] = pa.schema({"word": pa.string(), "count": pa.int32()})
    wants: ClassVar[tuple[str, ...]] = ()

    def fingerprint(self) -> str:
        return identity.fingerprint(
            name=self.name,
            version=1,
            words=sha256(self.list),
            unicode=unicodedata.unidata_version,
            opencc=version("opencc-python-reimplemented"),
        )

    @cached_property
    def _words(self) -> tuple[Sequence[str], Trie]:
        lines = [line.strip() for line in self.list.read_text(encoding="utf-8-sig").splitlines()]
        listed = [line for line in lines if normalised(line) and not line.startswith("#")][::-1]
        folded = folds()[texts(listed).codes].tobytes().decode("utf-32-le")
        return listed, trie(folded.split("\n")[:-1])  # of two that are the same folded, the first of the file counts

    def __call__(self, captions: Sequence[str], wanted: dict[str, Sequence[Any]]) -> Columns:
        listed, tree = self._words
        batch = texts(captions)
        place, _, word = found(folds()[batch.codes], batch.bounds, tree, classes())
        first: dict[int, str] = {}
        for caption, position in zip(place.tolist(), word.tolist(), strict=True):
            first.setdefault(caption, listed[position])
        return {
            "word": [first.get(caption) for caption in range(len(captions))],
            "count": np.bincount(place, minlength=len(captions)).tolist(),
        }
