"""Text to hidden states: Chinese-CLIP's text tower of any size, or CLIP-L and CLIP-G for English.

The report's encoder is Chinese-CLIP ViT-H/14's text tower (1024 wide, frozen), and for its English variant the pair.
Real ones load from a folder or the hub by the same code; `nano` is a fresh one that the alignment stage trains.
"""

import json
import string
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import (
    AutoConfig,
    BertTokenizer,
    ChineseCLIPConfig,
    ChineseCLIPModel,
    ChineseCLIPTextConfig,
    ChineseCLIPTextModel,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
)

from model.english import CLIPPair
from schemas.errors import JuZhouError

TOKENS, ENGLISH_TOKENS = 52, 77
"""Tokens of a text, those that begin and end it included: Chinese-CLIP's length, and CLIP's."""

Encoder = ChineseCLIPTextModel | CLIPPair
Tokenizer = BertTokenizer | CLIPTokenizer

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


class TextStates(NamedTuple):
    """What a text is to the denoiser."""

    hidden: Tensor
    """(batch, tokens, width)."""
    mask: Tensor
    """(batch, tokens), true where a token counts."""


def vocabulary() -> dict[str, int]:
    """Special tokens, printable ASCII, and the punctuation and 6,763 hanzi of GB 2312: a token to its number."""
    rows = [*range(0xA1, 0xA4), *range(0xB0, 0xF8)]
    chinese = (bytes((row, cell)).decode("gb2312", errors="ignore") for row in rows for cell in range(0xA1, 0xFF))
    characters = [*string.digits, *string.ascii_lowercase, *string.punctuation, *chinese]
    pieces = [f"##{character}" for character in string.digits + string.ascii_lowercase]
    tokens = dict.fromkeys([*SPECIAL, *filter(str.strip, characters), *pieces])
    return {token: number for number, token in enumerate(tokens)}


def nano_tokenizer() -> BertTokenizer:
    """A tokenizer of single characters (ASCII words fall into letters), saved and loaded as any BertTokenizer."""
    return BertTokenizer(vocabulary(), model_max_length=TOKENS)


def nano_encoder(tokenizer: BertTokenizer) -> ChineseCLIPTextModel:
    """A fresh text tower of about 1.5M parameters, 128 wide, for the characters of `tokenizer`."""
    config = ChineseCLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=512,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=TOKENS,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    return ChineseCLIPTextModel(config)


def load(source: str) -> tuple[Encoder, Tokenizer]:
    """A text encoder and its tokenizer, from a folder or a hub id.

    That is a whole Chinese-CLIP checkpoint, or its text tower alone; or a pipeline with CLIP-L and CLIP-G in SDXL's
    layout (`text_encoder`, `text_encoder_2`, `tokenizer`).

    Raises:
        JuZhouError: nothing there that transformers can load.
    """
    try:
        try:
            kind = AutoConfig.from_pretrained(source).model_type
        except (OSError, ValueError):
            return _load_pair(source)
        tokenizer = BertTokenizer.from_pretrained(source, model_max_length=TOKENS)
        if kind == ChineseCLIPConfig.model_type:
            return ChineseCLIPModel.from_pretrained(source).text_model, tokenizer
        return ChineseCLIPTextModel.from_pretrained(source), tokenizer
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise JuZhouError(
            f"{source}: neither a Chinese-CLIP text encoder nor the pair of CLIP-L and CLIP-G to load there ({reason})"
        ) from error


def _load_pair(source: str) -> tuple[CLIPPair, CLIPTokenizer]:
    large = CLIPTextModel.from_pretrained(source, subfolder="text_encoder")
    giant = CLIPTextModelWithProjection.from_pretrained(source, subfolder="text_encoder_2")
    tokenizer = CLIPTokenizer.from_pretrained(source, subfolder="tokenizer", model_max_length=ENGLISH_TOKENS)
    return CLIPPair.of(large, giant), tokenizer


def load_parts(folder: Path) -> tuple[Encoder, Tokenizer]:
    """What stands in `text_encoder` and `tokenizer` of a folder of ours."""
    encoder, tokenizer = folder / "text_encoder", folder / "tokenizer"
    if json.loads((encoder / "config.json").read_text()).get("_class_name") == CLIPPair.__name__:
        pair = CLIPPair.from_pretrained(encoder, use_safetensors=True, low_cpu_mem_usage=False)
        return pair, CLIPTokenizer.from_pretrained(tokenizer)
    return ChineseCLIPTextModel.from_pretrained(encoder), BertTokenizer.from_pretrained(tokenizer)


def learner(encoder: Encoder) -> ChineseCLIPTextModel:
    """A text encoder whose weights can be trained.

    Raises:
        JuZhouError: it is not one of Chinese-CLIP's kind.
    """
    if not isinstance(encoder, ChineseCLIPTextModel):
        raise JuZhouError("only a text tower of Chinese-CLIP's kind can be trained; take it as it is")
    # A CPU's fused attention has a slow backward pass in bfloat16.
    encoder.set_attn_implementation("eager")
    return encoder.requires_grad_(True)


def tokenize(tokenizer: Tokenizer, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Token numbers and mask of some texts, cut or padded to the tokenizer's length: (batch, tokens) each."""
    length = min(tokenizer.model_max_length, ENGLISH_TOKENS if isinstance(tokenizer, CLIPTokenizer) else TOKENS)
    tokens = tokenizer(list(texts), padding="max_length", truncation=True, max_length=length, return_tensors="pt")
    return tokens["input_ids"], tokens["attention_mask"].to(torch.bool)


def encode(encoder: Encoder, tokenizer: Tokenizer, texts: Sequence[str]) -> TextStates:
    """The hidden states of some texts, cut or padded to the tokenizer's length."""
    tokens, mask = (part.to(encoder.device) for part in tokenize(tokenizer, texts))
    states = encoder(input_ids=tokens, attention_mask=mask).last_hidden_state
    assert states is not None
    return TextStates(states, mask)
