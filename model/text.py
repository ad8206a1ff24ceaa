"""Chinese text to hidden states: Chinese-CLIP's text tower and a tokenizer of single characters, of any size.

The report's encoder is Chinese-CLIP ViT-H/14's text tower (1024 wide, frozen). A real one loads by the same code;
`nano` is a fresh one that the alignment stage trains.
"""

import string
from collections.abc import Sequence
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
)

from schemas.errors import JuZhouError

TOKENS = 52
"""Tokens of a text, [CLS] and [SEP] included: Chinese-CLIP's length."""

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


def load(source: str) -> tuple[ChineseCLIPTextModel, BertTokenizer]:
    """A text tower and its tokenizer from a folder or a hub id: a whole Chinese-CLIP checkpoint, or a tower alone.

    Raises:
        JuZhouError: nothing there that transformers can load.
    """
    try:
        tokenizer = BertTokenizer.from_pretrained(source, model_max_length=TOKENS)
        if AutoConfig.from_pretrained(source).model_type == ChineseCLIPConfig.model_type:
            return ChineseCLIPModel.from_pretrained(source).text_model, tokenizer
        return ChineseCLIPTextModel.from_pretrained(source), tokenizer
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise JuZhouError(f"{source}: no Chinese-CLIP text encoder to load there ({reason})") from error


def tokenize(tokenizer: BertTokenizer, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Token numbers and mask of some texts, cut or padded to 52: (batch, 52) each."""
    tokens = tokenizer(list(texts), padding="max_length", truncation=True, max_length=TOKENS, return_tensors="pt")
    return tokens["input_ids"], tokens["attention_mask"].to(torch.bool)


def encode(encoder: ChineseCLIPTextModel, tokenizer: BertTokenizer, texts: Sequence[str]) -> TextStates:
    """The hidden states of some texts, cut or padded to 52 tokens."""
    tokens, mask = (part.to(encoder.device) for part in tokenize(tokenizer, texts))
    return TextStates(encoder(input_ids=tokens, attention_mask=mask).last_hidden_state, mask)
