"""How near pictures are to words, all of one to all of the other: by a Chinese-CLIP, or by the stand-in `lite`."""

from collections.abc import Sequence

import numpy as np

from filters.alignment import LiteAlignment
from filters.chinese_clip import ChineseClip
from filters.embedding import LiteEmbedding
from filters.picture import Picture


class LitePairing:
    """By EfficientNet-lite0 and e5: a STAND-IN for a CLIP, which knows kinds of things and no scene."""

    name = "lite, a stand-in: EfficientNet-lite0 and e5"

    def __init__(self) -> None:
        self._embedding, self._alignment = LiteEmbedding(), LiteAlignment()

    def vectors(self, pictures: Sequence[np.ndarray]) -> np.ndarray:
        """A vector a picture, uint8 (height, width, 3) each: (pictures, 1280)."""
        seen = self._embedding([Picture(pixels, 0.0) for pixels in pictures])
        return np.array(seen["vector"], np.float32)

    def cosines(self, vectors: np.ndarray, words: Sequence[str]) -> np.ndarray:
        """How near each picture is to each text: (pictures, words)."""
        rows = [self._alignment(words, {"lite_embedding.vector": [vector] * len(words)})["score"] for vector in vectors]
        return np.array(rows, np.float32)


class ClipPairing:
    """By a Chinese-CLIP from a folder or hub id."""

    def __init__(self, model: str) -> None:
        self.name = f"Chinese-CLIP {model}"
        self._clip = ChineseClip(model=model)

    def vectors(self, pictures: Sequence[np.ndarray]) -> np.ndarray:
        """A unit vector a picture, uint8 (height, width, 3) each: (pictures, width)."""
        seen = self._clip([Picture(pixels, 0.0) for pixels in pictures])
        return np.array(seen["vector"], np.float32)

    def cosines(self, vectors: np.ndarray, words: Sequence[str]) -> np.ndarray:
        """How near each picture is to each text: (pictures, words)."""
        return vectors @ self._clip.read(words).T
