"""The English variant's text encoder: CLIP-L and CLIP-G side by side, as SDXL has them (arXiv 2307.01952)."""

from typing import Any, Self

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection
from transformers.modeling_outputs import BaseModelOutput


class CLIPPair(ModelMixin, ConfigMixin):  # type: ignore[misc]
    """Two text towers of CLIP that read the same tokens: called as one of them is, 768 + 1280 = 2048 wide.

    Of each, the hidden states before its last layer. Towers of other sizes do as well.
    """

    @register_to_config
    def __init__(self, large: dict[str, Any], giant: dict[str, Any]) -> None:
        super().__init__()
        self.towers = nn.ModuleList(
            (CLIPTextModel(CLIPTextConfig(**large)), CLIPTextModelWithProjection(CLIPTextConfig(**giant)))
        )

    @classmethod
    def of(cls, large: CLIPTextModel, giant: CLIPTextModelWithProjection) -> Self:
        """The pair of two towers that are there."""
        pair = cls(large.config.to_diff_dict(), giant.config.to_diff_dict())
        for tower, given in zip(pair.towers, (large, giant), strict=True):
            tower.load_state_dict(given.state_dict())
        return pair.eval()

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> BaseModelOutput:
        """Token numbers and mask, (batch, tokens) each → `last_hidden_state`, (batch, tokens, both widths)."""
        states = [
            tower(input_ids=input_ids, attention_mask=attention_mask, output_hidden_states=True).hidden_states[-2]
            for tower in self.towers
        ]
        return BaseModelOutput(last_hidden_state=torch.cat(states, dim=-1))
