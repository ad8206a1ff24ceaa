"""LAION's aesthetic score: what people gave pictures on a scale of 1 to 10, guessed from OpenAI's CLIP ViT-L/14."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pyarrow as pa

from filters.measure import Columns
from filters.open_clip import OpenClip
from filters.weights import sha256
from schemas import identity
from schemas.errors import JuZhouError, in_words
from schemas.strict import Strict

if TYPE_CHECKING:
    import torch

WIDTH = 768
VISION = {"image_size": 224, "layers": 24, "width": 1024, "patch_size": 14}
MLP = ("layers.0", "layers.2", "layers.4", "layers.6", "layers.7")
"""The linear layers of improved-aesthetic-predictor; between them there is dropout alone, in training."""
LINEAR = ("",)


class LaionAesthetic(Strict):
    """`score`, about 1 to 10, as the head gives it: never divided by 10, not cut at the ends.

    `weights` is a head's published file: of improved-aesthetic-predictor (`sac+logos+ava1-l14-linearMSE.pth`), or the
    older one of LAION-5B (`sa_0_4_vit_l_14_linear.pth`); as safetensors too. It wants the vectors of OpenAI's ViT-L/14
    and refuses any other architecture. Other weights of the same architecture (MetaCLIP's, DFN's) look alike in their
    configuration and would give numbers without meaning.

    Both heads are linear, so that each is folded into 768 weights and a bias.
    """

    weights: Path
    clip: OpenClip

    name: ClassVar[str] = "laion_aesthetic"
    columns: ClassVar[pa.Schema] = pa.schema({"score": pa.float32()})
    wants: ClassVar[tuple[str, ...]] = ("open_clip.vector",)

    def fingerprint(self) -> str:
        """See `Measure`.

        Raises:
            JuZhouError: the weights cannot be read, or the recipe's `open_clip` is no ViT-L/14 of OpenAI's kind.
        """
        self._check_model()
        try:
            head = sha256(self.weights)
        except OSError as error:
            raise JuZhouError(f"{self.weights}: cannot be read ({error.strerror}); check the path") from error
        clip = self.clip.fingerprint()
        return identity.fingerprint(name=self.name, version=1, scale="1-10", weights=head, clip=clip)

    def __call__(self, wanted: dict[str, Sequence[Any]]) -> Columns:
        weight, bias = self._head
        vectors = np.asarray(list(wanted["open_clip.vector"]), dtype=np.float64).reshape(-1, WIDTH)
        return {"score": (vectors * weight).sum(axis=1) + bias}

    def _check_model(self) -> None:
        config = self.clip.config
        vision = {key: config["vision_cfg"].get(key) for key in VISION}
        if config["embed_dim"] != WIDTH or vision != VISION:
            raise JuZhouError(f"{self.clip.model}: laion_aesthetic wants OpenAI's ViT-L/14 at 224 as open_clip")
        if not config.get("quick_gelu"):
            raise JuZhouError(
                f"{self.clip.model}: laion_aesthetic wants OpenAI's ViT-L/14, whose configuration says quick_gelu: true"
            )

    @cached_property
    def _head(self) -> tuple[np.ndarray, float]:
        """The head as 768 weights and a bias."""
        try:
            tensors = _load(self.weights)
            names = MLP if MLP[0] + ".weight" in tensors else LINEAR
            weight, bias = np.eye(WIDTH), np.zeros(WIDTH)
            for name in names:
                layer = {part: tensors[f"{name}.{part}".lstrip(".")].double().numpy() for part in ("weight", "bias")}
                weight, bias = layer["weight"] @ weight, layer["weight"] @ bias + layer["bias"]
            [only], [offset] = weight, bias
        except Exception as error:  # of torch, of safetensors, and of whatever the file holds
            raise JuZhouError(f"{self.weights}: no head of LAION's aesthetic score: {in_words(error)}") from error
        return only, float(offset)


def _load(path: Path) -> "dict[str, torch.Tensor]":
    import torch
    from safetensors.torch import load_file

    if path.suffix == ".safetensors":
        return load_file(path)
    tensors: dict[str, torch.Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    return tensors
