"""A checkpoint draws the same picture for the same seed, from memory or from disk."""

import json
from pathlib import Path

import pytest
import torch
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler

from model import text
from model.autoencoder import JuZhouAutoencoder
from model.pipeline import JuZhouPipeline
from model.unet import JuZhouUNet
from schemas.errors import JuZhouError


def build(distilled_steps: int | None = None) -> JuZhouPipeline:
    torch.manual_seed(0)
    unet = JuZhouUNet.preset("nano", channels=(32, 32, 64), depths=(1, 1, 1))
    torch.nn.init.normal_(unet.conv_out.weight, std=0.1)
    tokenizer = text.nano_tokenizer()
    return JuZhouPipeline(
        unet,
        JuZhouAutoencoder.preset("nano"),
        text.nano_encoder(tokenizer),
        tokenizer,
        FlowMatchEulerDiscreteScheduler(shift=1.5),
        distilled_steps,
    )


def test_equal_seeds_are_equal_pictures_after_a_round_trip(tmp_path: Path) -> None:
    pipeline = build()
    pipeline.save_pretrained(tmp_path)
    index = json.loads((tmp_path / "model_index.json").read_text())
    assert {"unet", "autoencoder", "text_encoder", "tokenizer", "scheduler"} <= set(index)
    assert not [path for path in tmp_path.rglob("*") if path.suffix in {".bin", ".pt", ".pkl"}]
    first = pipeline(["一只猫", "山水"], num_inference_steps=2, seed=5)
    again = JuZhouPipeline.from_pretrained(tmp_path)(["一只猫", "山水"], num_inference_steps=2, seed=5)
    assert [picture.tobytes() for picture in first] == [picture.tobytes() for picture in again]
    assert pipeline("一只猫", num_inference_steps=2, seed=6)[0].tobytes() != first[0].tobytes()
    assert first[0].size == (64, 64)


def test_a_distilled_checkpoint_knows_its_steps(tmp_path: Path) -> None:
    build(distilled_steps=4).save_pretrained(tmp_path)
    pipeline = JuZhouPipeline.from_pretrained(tmp_path)
    told: list[tuple[int, int]] = []
    picture = pipeline("一只猫", height=32, width=64, callback=lambda done, steps: told.append((done, steps)))[0]
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert picture.size == (64, 32)
    for wrong in ({"num_inference_steps": 28}, {"guidance_scale": 3.0}, {"negative_prompt": "狗"}):
        with pytest.raises(JuZhouError, match="distilled"):
            pipeline("一只猫", **wrong)


def test_bad_input_is_said_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(JuZhouError, match=r"no model_index\.json"):
        JuZhouPipeline.from_pretrained(tmp_path)
    with pytest.raises(JuZhouError, match=r"no model_index\.json"):
        JuZhouPipeline.from_pretrained(tmp_path / "missing")
    (tmp_path / "model_index.json").write_text("{}")
    with pytest.raises(JuZhouError, match="cannot be loaded") as caught:
        JuZhouPipeline.from_pretrained(tmp_path)
    assert "\n" not in str(caught.value)
    with pytest.raises(JuZhouError, match="multiples of 32"):
        build()("一只猫", height=50)


def test_negative_prompts_are_for_all_or_for_each() -> None:
    pipeline = build()
    prompts, steps = ["一只猫", "山水"], {"num_inference_steps": 2}
    plain, same, apart = (
        [picture.tobytes() for picture in pipeline(prompts, negative, **steps)]
        for negative in ("狗", ["狗", "狗"], ["狗", "鱼"])
    )
    assert plain == same and plain[0] == apart[0] and plain[1] != apart[1]
    with pytest.raises(JuZhouError, match="3 negative prompts for 2 prompts"):
        pipeline(prompts, ["狗"] * 3)


def test_half_the_bits_on_disk_are_whole_numbers_again_in_memory(tmp_path: Path) -> None:
    pipeline = build()
    whole = pipeline("一只猫", num_inference_steps=2)[0]
    pipeline.save_pretrained(tmp_path / "whole")
    pipeline.to(torch.float16).save_pretrained(tmp_path / "half")
    sizes = [
        sum(path.stat().st_size for path in (tmp_path / name).rglob("*.safetensors")) for name in ("whole", "half")
    ]
    assert sizes[1] == pytest.approx(sizes[0] / 2, rel=0.05)
    loaded = JuZhouPipeline.from_pretrained(tmp_path / "half")
    assert {loaded.unet.dtype, loaded.autoencoder.dtype, loaded.text_encoder.dtype} == {torch.float32}
    again = loaded("一只猫", num_inference_steps=2)[0]
    difference = torch.tensor(list(whole.tobytes())).float() - torch.tensor(list(again.tobytes())).float()
    assert 0 < difference.abs().mean() < 3
