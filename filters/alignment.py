"""A stand-in for CLIP's alignment score: does the caption say what EfficientNet-lite0 saw?"""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from safetensors.numpy import load_file

from filters import e5
from filters.embedding import LiteEmbedding, class_weights
from filters.measure import Columns
from filters.weights import sha256
from schemas import identity

WEIGHTS = Path(__file__).parent / "weights" / "lite_alignment.safetensors"
TEMPERATURE = 3.0


def evidence(vectors: np.ndarray) -> np.ndarray:
    """What is known of a picture: N × 1280 pooled features in, N × 2280 out.

    The square roots of the features, at unit length (Hellinger: it tames the few large ones), beside the probabilities
    of the 1000 ImageNet classes at TEMPERATURE. A row has the same bits, whatever the batch.
    """
    roots = np.sqrt(vectors)
    weight, bias = class_weights()
    logits = (np.matmul(vectors[:, None, :], weight.T)[:, 0] + bias) / TEMPERATURE
    exponents = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.concatenate([unit(roots), exponents / exponents.sum(axis=1, keepdims=True)], axis=1)


def unit(rows: np.ndarray) -> np.ndarray:
    """The rows at unit length; a row of zeros stays."""
    return rows / np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), 1e-9)


class LiteAlignment:
    """`score`, the cosine of caption and picture, −1 to 1, to four decimals. A STAND-IN, not comparable to CLIP's.

    A linear map of rank 96 takes the picture's `evidence` to where multilingual-e5-small puts words; the caption's e5
    vector loses the mean of common Chinese nouns. `benchmarks/alignment.py --fit` fits the map on openclipart, and the
    names of the ImageNet classes. It knows kinds of things; it knows nothing of number, position, style or names.
    """

    name = "lite_alignment"
    columns = pa.schema({"score": pa.float32()})
    wants: tuple[str, ...] = ("lite_embedding.vector",)

    def fingerprint(self) -> str:
        return identity.fingerprint(
            name=self.name,
            version=1,
            temperature=TEMPERATURE,
            weights=sha256(WEIGHTS),
            picture=LiteEmbedding().fingerprint(),
            text=e5.fingerprint(),
        )

    def __call__(self, captions: Sequence[str], wanted: dict[str, Sequence[Any]]) -> Columns:
        if not captions:
            return {"score": []}
        fitted = self._fitted
        seen = evidence(np.asarray(list(wanted["lite_embedding.vector"]), dtype=np.float32))
        pictures = np.matmul(seen[:, None, :], fitted["projection"])[:, 0] - fitted["picture_mean"]
        said = unit(e5.vectors(captions) - fitted["caption_mean"])
        words = np.matmul(said[:, None, :], fitted["basis"].T)[:, 0]
        return {"score": np.round((unit(pictures) * words).sum(axis=1), 4)}

    @cached_property
    def _fitted(self) -> dict[str, np.ndarray]:
        """projection 2280 × 96, picture_mean 96, basis 96 × 384 with orthonormal rows, caption_mean 384."""
        return {name: tensor.astype(np.float32) for name, tensor in load_file(WEIGHTS).items()}
