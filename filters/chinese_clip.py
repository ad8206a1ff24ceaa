"""Chinese-CLIP (OFA-Sys, arXiv:2211.01335) through transformers: picture vectors, and how well Chinese captions fit."""

import json
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, ClassVar

from PIL import Image

from filters.clip import Alignment, Clip, Towers
from filters.weights import folder
from schemas.errors import JuZhouError

if TYPE_CHECKING:
    import torch
    from transformers import ChineseCLIPModel

CONTEXT = 52
"""Tokens that the captions had in training, the two at the ends included."""


class ChineseClip(Clip):
    """`vector`: a Chinese-CLIP's picture features at unit length. `model`: a folder or hub id in transformers' layout.

    Preprocessing is that of transformers' image processor for the model, through Pillow, as the models were trained.
    """

    name: ClassVar[str] = "chinese_clip"
    preprocessing: ClassVar[str] = f"transformers' image processor, Pillow; {CONTEXT} tokens"

    @cached_property
    def width(self) -> int:
        try:
            config = json.loads((folder(self.model) / "config.json").read_text(encoding="utf-8"))
            if config["model_type"] != "chinese_clip":
                raise ValueError(f"it is of the type {config['model_type']}")
            return int(config.get("projection_dim", 512))  # what transformers takes where it is not said
        except (OSError, LookupError, TypeError, ValueError) as error:
            raise self.unloadable(error) from error

    def _load(self) -> Towers:
        from transformers import AutoImageProcessor, AutoTokenizer, ChineseCLIPModel

        from model.device import pick, scoring_precision

        path, device = folder(self.model), pick()
        loaded: Any = ChineseCLIPModel.from_pretrained(path, dtype=scoring_precision(device), output_loading_info=True)
        model, found = loaded
        if missing := sorted(found["missing_keys"]):  # transformers would draw them by lot
            raise JuZhouError(f"{self.model}: lacks {len(missing)} weights of a Chinese-CLIP, {missing[0]} for one")
        model = model.to(device).eval()
        processor = AutoImageProcessor.from_pretrained(path, backend="pil")
        tokenizer = AutoTokenizer.from_pretrained(path)

        def prepare(image: Image.Image) -> "torch.Tensor":
            prepared: torch.Tensor = processor(image, return_tensors="pt")["pixel_values"][0]
            return prepared

        def tokenize(captions: list[str]) -> "torch.Tensor":
            tokens: torch.Tensor = tokenizer(
                captions, padding="max_length", truncation=True, max_length=CONTEXT, return_tensors="pt"
            )["input_ids"]
            return tokens

        return Towers(
            prepare=prepare,
            tokenize=tokenize,
            picture=partial(_see, model),
            caption=partial(_read, model, tokenizer.pad_token_id),
            device=device,
            precision=model.dtype,
        )


class ChineseClipAlignment(Alignment):
    """`score`: the cosine of caption and picture by the recipe's `chinese_clip`, −1 to 1; 52 tokens of a caption."""

    clip: ChineseClip

    name: ClassVar[str] = "chinese_clip_alignment"
    wants: ClassVar[tuple[str, ...]] = ("chinese_clip.vector",)


def _see(model: "ChineseCLIPModel", pixels: "torch.Tensor") -> "torch.Tensor":
    return model.get_image_features(pixel_values=pixels).pooler_output


def _read(model: "ChineseCLIPModel", padding: int, tokens: "torch.Tensor") -> "torch.Tensor":
    """The features of captions; what pads the longest is left out, which no other token attends to."""
    tokens = tokens[:, : int((tokens != padding).sum(dim=1).max())]
    return model.get_text_features(input_ids=tokens, attention_mask=(tokens != padding).long()).pooler_output
