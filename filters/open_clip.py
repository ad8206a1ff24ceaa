"""Any model of open_clip: picture vectors, and how well captions fit; with XLM-R for a tower, Chinese ones too."""

import json
from functools import cached_property
from typing import Any, ClassVar

from filters.clip import Alignment, Clip, Towers
from filters.weights import folder

CONFIG = "open_clip_config.json"


class OpenClip(Clip):
    """`vector`: the picture features of a model of open_clip, at unit length.

    `model` is a folder or hub id in open_clip's layout: `open_clip_config.json` beside the weights, as safetensors or
    as a torch file of plain tensors. The configuration tells activation, preprocessing and context; a built-in name
    beside a path would not: OpenAI's weights under `ViT-L-14` lack their QuickGELU, and SigLIP's would get OpenAI's
    preprocessing.

    Where the captions' tower is one of transformers (`hf_model_name`), its configuration lies in the folder under that
    name (`xlm-roberta-base/config.json`), or comes from the hub.
    """

    name: ClassVar[str] = "open_clip"
    preprocessing: ClassVar[str] = "open_clip's inference transform"

    @cached_property
    def config(self) -> dict[str, Any]:
        """What the model's file says of its architecture: `embed_dim`, `vision_cfg`, `text_cfg` and more."""
        try:
            config: dict[str, Any] = json.loads((folder(self.model) / CONFIG).read_text(encoding="utf-8"))["model_cfg"]
            if not {"embed_dim", "vision_cfg", "text_cfg"} <= config.keys():
                raise ValueError(f"{CONFIG} describes no model with a picture's and a caption's tower")
            return config
        except (OSError, LookupError, TypeError, ValueError, AttributeError) as error:
            raise self.unloadable(error) from error

    @property
    def width(self) -> int:
        return int(self.config["embed_dim"])

    def _load(self) -> Towers:
        import open_clip

        from model.device import pick, scoring_precision

        path, device = folder(self.model), pick()
        text = self.config["text_cfg"]
        tower = path / str(text.get("hf_model_name"))
        own = {"text_cfg": text | {"hf_model_name": str(tower), "hf_model_pretrained": False}} if tower.is_dir() else {}
        model, prepare = open_clip.create_model_from_pretrained(f"local-dir:{path}", **own)
        model = model.to(device, scoring_precision(device)).eval()
        return Towers(
            prepare=prepare,
            tokenize=open_clip.get_tokenizer(f"local-dir:{path}"),
            picture=model.encode_image,
            caption=model.encode_text,
            device=device,
            precision=scoring_precision(device),
        )


class OpenClipAlignment(Alignment):
    """`score`: the cosine of caption and picture by the recipe's `open_clip`, −1 to 1; the model's own context."""

    clip: OpenClip

    name: ClassVar[str] = "open_clip_alignment"
    wants: ClassVar[tuple[str, ...]] = ("open_clip.vector",)
