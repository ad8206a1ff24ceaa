"""The tokenizer knows Chinese, and real Chinese-CLIP towers load by the same code."""

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
from transformers import (
    ChineseCLIPConfig,
    ChineseCLIPModel,
    ChineseCLIPTextConfig,
    ChineseCLIPVisionConfig,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
)

from model import text
from model.autoencoder import JuZhouAutoencoder
from model.pipeline import JuZhouPipeline
from model.unet import JuZhouUNet
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
    with pytest.raises(JuZhouError, match="neither a Chinese-CLIP text encoder nor") as caught:
        text.load(str(tmp_path))
    assert "\n" not in str(caught.value)


ENGLISH = ["a photo of a cat", "a cat " * 60, ""]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny random CLIP-L and CLIP-G in the layout of SDXL, with a tokenizer of letters."""
    folder = tmp_path_factory.mktemp("sdxl")
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    pieces = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    CLIPTokenizer(vocab={piece: number for number, piece in enumerate(pieces)}, merges=[]).save_pretrained(
        folder / "tokenizer"
    )
    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "vocab_size": len(pieces),
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "bos_token_id": len(pieces) - 2,
        "eos_token_id": len(pieces) - 1,
    }
    CLIPTextModel(CLIPTextConfig(hidden_size=32, **sizes)).save_pretrained(folder / "text_encoder")
    CLIPTextModelWithProjection(CLIPTextConfig(hidden_size=48, hidden_act="gelu", **sizes)).save_pretrained(
        folder / "text_encoder_2"
    )
    return folder


def test_the_english_pair_stands_side_by_side_before_its_last_layers(pair: Path) -> None:
    encoder, tokenizer = text.load(str(pair))
    with torch.no_grad():
        hidden, mask = text.encode(encoder, tokenizer, ENGLISH)
    assert hidden.shape == (3, text.ENGLISH_TOKENS, 32 + 48)
    assert mask.sum(dim=1).tolist() == [2 + 12, text.ENGLISH_TOKENS, 2]
    tokens, mask = text.tokenize(tokenizer, ENGLISH)
    large = CLIPTextModel.from_pretrained(pair / "text_encoder").eval()
    giant = CLIPTextModelWithProjection.from_pretrained(pair / "text_encoder_2").eval()
    with torch.no_grad():
        for tower, part in ((large, hidden[..., :32]), (giant, hidden[..., 32:])):
            seen = tower(input_ids=tokens, attention_mask=mask, output_hidden_states=True)
            torch.testing.assert_close(part, seen.hidden_states[-2])


def test_a_pipeline_with_the_english_pair_survives_the_disk(pair: Path, tmp_path: Path) -> None:
    encoder, tokenizer = text.load(str(pair))
    torch.manual_seed(0)
    unet = JuZhouUNet.preset("nano", channels=(32, 32, 64), context_size=32 + 48)
    torch.nn.init.normal_(unet.conv_out.weight, std=0.1)
    scheduler = FlowMatchEulerDiscreteScheduler(shift=1.5)
    pipeline = JuZhouPipeline(unet, JuZhouAutoencoder.preset("nano").eval(), encoder, tokenizer, scheduler)
    pipeline.save_pretrained(tmp_path)
    loaded = JuZhouPipeline.from_pretrained(tmp_path)
    one, other, another = (
        drawn[0].tobytes()
        for drawn in (
            pipeline("a cat", num_inference_steps=2),
            loaded("a cat", num_inference_steps=2),
            loaded("a dog", num_inference_steps=2),
        )
    )
    assert one == other != another
