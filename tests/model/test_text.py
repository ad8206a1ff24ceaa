"""The tokenizer knows Chinese, and real Chinese-CLIP towers load by the same code."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import ChineseCLIPConfig, ChineseCLIPModel, ChineseCLIPTextConfig, ChineseCLIPVisionConfig

from model import text
from schemas.errors import JuZhouError

POEM = "床前明月光，疑是地上霜。"


def test_characters_of_a_poem_are_known_and_come_back(tmp_path: Path) -> None:
    tokenizer = text.nano_tokenizer()
    tokenizer.save_pretrained(tmp_path)
    for tokens in (tokenizer, type(tokenizer).from_pretrained(tmp_path)):
        numbers = tokens(POEM)["input_ids"]
        assert tokens.unk_token_id not in numbers
        assert str(tokens.decode(numbers, skip_special_tokens=True)).replace(" ", "") == POEM


def test_the_vocabulary_has_all_of_gb2312() -> None:
    assert sum("\u4e00" <= token <= "\u9fff" for token in text.vocabulary()) == 6763


def test_a_long_text_is_cut_and_a_short_one_masked() -> None:
    tokenizer = text.nano_tokenizer()
    hidden, mask = text.encode(text.nano_encoder(tokenizer), tokenizer, ["山" * 100, "山", ""])
    assert hidden.shape == (3, text.TOKENS, 128)
    assert mask.sum(dim=1).tolist() == [text.TOKENS, 3, 2]


def test_the_text_tower_of_a_whole_chinese_clip_loads(tmp_path: Path) -> None:
    tokenizer = text.nano_tokenizer()
    tokenizer.save_pretrained(tmp_path)
    sizes: dict[str, Any] = {
        "hidden_size": 64,
        "intermediate_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    config = ChineseCLIPConfig(
        text_config=ChineseCLIPTextConfig(vocab_size=len(tokenizer), **sizes).to_dict(),
        vision_config=ChineseCLIPVisionConfig(**sizes).to_dict(),
    )
    whole = ChineseCLIPModel(config).eval()
    whole.save_pretrained(tmp_path)
    encoder, loaded_tokenizer = text.load(str(tmp_path))
    tokens, mask = text.tokenize(loaded_tokenizer, [POEM])
    with torch.no_grad():
        expected = whole.text_model(input_ids=tokens, attention_mask=mask).last_hidden_state
        assert torch.equal(text.encode(encoder.eval(), loaded_tokenizer, [POEM]).hidden, expected)


def test_nothing_to_load_is_said_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(JuZhouError, match="no Chinese-CLIP text encoder") as caught:
        text.load(str(tmp_path))
    assert "\n" not in str(caught.value)
