"""What the CLIPs share: pictures and captions in one space, whose cosine says how well they belong together."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pyarrow as pa
from PIL import Image

from filters.measure import Columns
from filters.picture import Picture
from filters.weights import folder, model_digest
from schemas import identity
from schemas.errors import JuZhouError, in_words
from schemas.strict import Strict

if TYPE_CHECKING:  # loading torch takes seconds, and a corpus is often opened without measuring
    import torch

    Tower = Callable[[torch.Tensor], torch.Tensor]

VERSION = 1
MAX_ASPECT = 16
"""Of a longer picture the middle is taken: the models' own preprocessing would blow 1 × 5000 up to 224 × 1,120,000."""
WEIGHT_FILES = {".safetensors", ".bin", ".pth", ".pt"}


@dataclass(frozen=True)
class Towers:
    """A loaded model: what prepares a picture (3 × height × width) and captions (N × context), and what reads both."""

    prepare: "Callable[[Image.Image], torch.Tensor]"
    tokenize: "Callable[[list[str]], torch.Tensor]"
    picture: "Tower"
    caption: "Tower"
    device: "torch.device"
    precision: "torch.dtype"


class Clip(Strict, ABC):
    """`vector`: what a CLIP saw of a picture, at unit length, half precision; as many numbers as the model gives.

    `model` is a folder, or the id of what the hub has. Preprocessing is the model's own, as its files tell.

    Weights are held in half precision where the device computes it, so that between kinds of devices the third digit of
    a number may differ. An accelerator takes a batch whole. A CPU takes a picture at a time, which is as fast, and the
    bits are the same however the pictures are split.
    """

    model: str

    name: ClassVar[str]
    preprocessing: ClassVar[str]

    @property
    def columns(self) -> pa.Schema:
        return pa.schema({"vector": pa.list_(pa.float16(), self.width)})

    @property
    def weight(self) -> int:
        """Bytes of the weights in the model's files."""
        files = [path for path in folder(self.model).iterdir() if path.suffix in WEIGHT_FILES]
        safe = [path for path in files if path.suffix == ".safetensors"]
        return sum(path.stat().st_size for path in safe or files)

    @property
    @abstractmethod
    def width(self) -> int:
        """How many numbers a vector has, by the model's configuration."""

    @abstractmethod
    def _load(self) -> Towers:
        """The model on this process's device; may raise whatever its library raises."""

    def fingerprint(self) -> str:
        facts = {"preprocessing": f"{self.preprocessing}; aspect at most {MAX_ASPECT}", "scale": "unit length"}
        return identity.fingerprint(name=self.name, version=VERSION, model=model_digest(self.model), **facts)

    def __call__(self, pictures: Sequence[Picture]) -> Columns:
        import torch

        towers = self._towers
        prepared = torch.stack([towers.prepare(middle(picture)) for picture in pictures])
        return {"vector": list(self._vectors(towers.picture, prepared.to(towers.precision)).astype(np.float16))}

    def read(self, captions: Sequence[str]) -> np.ndarray:
        """One unit vector a caption: N × width, float32."""
        return self._vectors(self._towers.caption, self._towers.tokenize(list(captions)))

    def unloadable(self, error: Exception) -> JuZhouError:
        """What to tell of a model whose files make no model, in one line."""
        return JuZhouError(f"{self.model}: no model for {self.name}: {in_words(error)}")

    @cached_property
    def _towers(self) -> Towers:
        try:
            return self._load()
        except JuZhouError:
            raise
        except Exception as error:  # of the model's library, and of whatever its files hold
            raise self.unloadable(error) from error

    def _vectors(self, tower: "Tower", inputs: "torch.Tensor") -> np.ndarray:
        import torch

        device = self._towers.device
        with torch.inference_mode():
            parts = [
                tower(part.to(device)).float() for part in inputs.split(1 if device.type == "cpu" else len(inputs))
            ]
            vectors = torch.nn.functional.normalize(torch.cat(parts), dim=-1).cpu().numpy()
        if not np.isfinite(vectors).all():
            raise ValueError("the model gave what is no number")
        return vectors


class Alignment(Strict):
    """`score`: the cosine of a caption's and its picture's vector by one CLIP, −1 to 1 (not times 100).

    Captions are cut and padded to the length that the model was trained on. Cosines of two models cannot be compared.
    """

    clip: Clip

    name: ClassVar[str]
    columns: ClassVar[pa.Schema] = pa.schema({"score": pa.float32()})
    wants: ClassVar[tuple[str, ...]]

    @property
    def weight(self) -> int:
        """Bytes of the weights in the model's files."""
        return self.clip.weight

    def fingerprint(self) -> str:
        facts = {"context": "the model's own", "scale": "cosine"}
        return identity.fingerprint(name=self.name, version=VERSION, clip=self.clip.fingerprint(), **facts)

    def __call__(self, captions: Sequence[str], wanted: dict[str, Sequence[Any]]) -> Columns:
        if not captions:
            return {"score": []}
        [column] = self.wants
        pictures = np.asarray(list(wanted[column]), dtype=np.float32)
        return {"score": (pictures * self.clip.read(captions)).sum(axis=1)}


def middle(picture: Picture) -> Image.Image:
    """The picture; of one longer than MAX_ASPECT times its short side, so much of the middle."""
    image = Image.fromarray(picture.pixels)
    longest = MAX_ASPECT * min(image.size)
    width, height = min(image.width, longest), min(image.height, longest)
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))
