"""A stand-in for an aesthetic score: technical quality, learnt from pictures and what was done to spoil them."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from safetensors.numpy import load_file

from filters.embedding import DIMENSIONS, LiteEmbedding
from filters.measure import Columns
from filters.weights import sha256
from schemas import identity

WEIGHTS = Path(__file__).parent / "weights" / "lite_aesthetic.safetensors"


def roots(vectors: np.ndarray) -> np.ndarray:
    """The square roots of the features of `lite_embedding`, at unit length: N × 1280. A row of zeros stays."""
    rooted = np.sqrt(vectors.reshape(-1, DIMENSIONS).astype(np.float64))
    lengths = np.sqrt((rooted**2).sum(axis=1, keepdims=True))
    return rooted / np.maximum(lengths, 1e-9)


class LiteAesthetic:
    """`score`, 0–10: how little a picture looks spoilt. A STAND-IN that judges technical quality, not beauty.

    A linear map of what EfficientNet-lite0 saw, fitted to prefer a picture to its own copy that was compressed,
    blurred, noisy, wrongly exposed, pale, grey, stretched or of a wrong colour. Through a sigmoid: the median of the
    unspoilt pictures of the fit has 5, one standard deviation of theirs more 7.3, one less 2.7.
    `benchmarks/aesthetic.py --fit` fits it on openclipart, emoji and wallpapers.

    It compares copies of a picture far better than two different pictures, sees them at 224 pixels, and cannot be
    compared with LAION's score (about 1–10, learnt from what people like).
    """

    name = "lite_aesthetic"
    columns = pa.schema({"score": pa.float32()})
    wants: tuple[str, ...] = ("lite_embedding.vector",)

    def fingerprint(self) -> str:
        picture = LiteEmbedding().fingerprint()
        return identity.fingerprint(name=self.name, version=2, scale="0-10", weights=sha256(WEIGHTS), picture=picture)

    def __call__(self, wanted: dict[str, Sequence[Any]]) -> Columns:
        seen = roots(np.asarray(list(wanted["lite_embedding.vector"]), dtype=np.float32))
        logits = (seen * self._fitted["weight"]).sum(axis=1) + self._fitted["bias"]
        return {"score": 10 / (1 + np.exp(-logits))}

    @cached_property
    def _fitted(self) -> dict[str, np.ndarray]:
        """weight 1280, bias 1."""
        return {name: tensor.astype(np.float64) for name, tensor in load_file(WEIGHTS).items()}
