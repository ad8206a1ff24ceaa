"""A picture of its own caption: a poster that says what stands beside it teaches a model to write, not to paint."""

import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from filters.measure import Columns
from schemas import identity

if TYPE_CHECKING:
    from opencc import OpenCC

RUN = 2


def folded(text: str) -> str:
    """Letters and digits alone, by NFKC, in lower case and Simplified: what counts when two texts are compared."""
    plain = unicodedata.normalize("NFKC", text).lower()
    return "".join(sign for sign in _simplifier().convert(plain) if sign.isalnum())


@lru_cache(maxsize=1)
def _simplifier() -> "OpenCC":
    from opencc import OpenCC

    return OpenCC("t2s")


def overlap(caption: str, text: str) -> float:
    """The share of the caption's letters and digits that also stand in the text in runs of at least RUN, 0–1.

    Both texts are `folded` first. A character counts where it belongs to a run of the caption that stands anywhere in
    the text: the runs may stand there in another order, and one that is said twice and stands there once counts twice.
    A caption without a letter or digit, or of fewer than RUN, has 0.
    """
    said, seen = folded(caption), folded(text)
    runs = {seen[at : at + RUN] for at in range(len(seen) - RUN + 1)}
    covered = [False] * len(said)
    for at in range(len(said) - RUN + 1):
        if said[at : at + RUN] in runs:
            covered[at : at + RUN] = [True] * RUN
    return sum(covered) / max(1, len(said))


class OcrOverlap:
    """`share` of the caption that stands in its picture, 0–1: the `overlap` of the caption with what `ocr` read."""

    name = "ocr_overlap"
    columns = pa.schema({"share": pa.float32()})
    wants: tuple[str, ...] = ("ocr.text",)

    def fingerprint(self) -> str:
        return identity.fingerprint(
            name=self.name,
            version=1,
            run=RUN,
            unicode=unicodedata.unidata_version,
            opencc=version("opencc-python-reimplemented"),
        )

    def __call__(self, captions: Sequence[str], wanted: dict[str, Sequence[Any]]) -> Columns:
        pairs = zip(captions, wanted["ocr.text"], strict=True)
        return {"share": [overlap(caption, text) for caption, text in pairs]}
