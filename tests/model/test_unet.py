"""The U-Net has the report's size, layout and skips, and survives a round trip to disk."""

from pathlib import Path

import pytest
import torch
from torch import nn

from model.cost import cost
from model.unet import JuZhouUNet, Unit, rotary_angles, rotate

BLOCKS = ("down0", "down1", "down2", "mid", "up0", "up1", "up2")


def full_on_meta() -> JuZhouUNet:
    with torch.device("meta"):
        return JuZhouUNet.preset("full")


def nano() -> JuZhouUNet:
    torch.manual_seed(0)
    unet = JuZhouUNet.preset("nano").eval()
    nn.init.normal_(unet.conv_out.weight, std=0.1)
    return unet


def units(unet: JuZhouUNet, block: str) -> list[Unit]:
    part = getattr(unet, block)
    return [part] if isinstance(part, Unit) else list(part)


@pytest.mark.parametrize(("preset", "context"), [("full", 1024), ("english", 2048)])
def test_full_has_the_reports_parameters_and_multiply_adds(preset: str, context: int) -> None:
    with torch.device("meta"):
        unet = JuZhouUNet.preset(preset)
        counted = cost(unet, torch.empty(1, 16, 128, 128), torch.empty(1), torch.empty(1, 52, context))
    # The wider context of the English variant adds 5M parameters, in the keys and values of cross-attention.
    assert abs(counted.parameters / 0.385e9 - 1) < (0.005 if preset == "full" else 0.015)
    assert abs(counted.multiply_adds / 579.65e9 - 1) < 0.03


def test_blocks_have_the_reports_units_and_self_attention() -> None:
    unet = full_on_meta()
    layout: dict[str, list[tuple[int, list[bool]]]] = {
        block: [
            (len(unit.transformers), [b.self_attention is not None for b in unit.transformers])
            for unit in units(unet, block)
        ]
        for block in BLOCKS
    }
    cross, both = (2, [False] * 2), (4, [True] * 4)
    assert layout == {
        "down0": [cross] * 2,
        "down1": [cross] * 2,
        "down2": [both] * 2,
        "mid": [both],
        "up0": [both] * 3,
        "up1": [cross] * 3,
        "up2": [(0, [])] * 3,
    }


def test_skips_are_concatenated_and_none_enters_up0() -> None:
    unet = full_on_meta()
    low, middle, high = unet.config["channels"]
    inputs = {
        block: [unit.resnet.norm_in.num_channels for unit in units(unet, block)] for block in ("up0", "up1", "up2")
    }
    assert inputs == {
        "up0": [high] * 3,
        "up1": [high + middle, middle + low, middle],
        "up2": [middle + low, low + low, low],
    }
    assert unet.upsample0[0].in_channels == high + middle
    assert unet.upsample1[0].in_channels == middle + low


def test_any_size_goes_in_and_the_bottleneck_comes_out() -> None:
    unet = nano()
    with torch.no_grad():
        sample, bottleneck = unet(torch.randn(2, 32, 8, 12), torch.tensor([0.0, 1000.0]), torch.randn(2, 52, 128))
    assert sample.shape == (2, 32, 8, 12)
    assert bottleneck.shape == (2, unet.config["channels"][-1], 2, 3)


def test_masked_tokens_do_not_count() -> None:
    unet = nano()
    z, t, context = torch.randn(1, 32, 8, 8), torch.tensor([500.0]), torch.randn(1, 52, 128)
    mask = torch.arange(52)[None] < 10
    changed = torch.where(mask[..., None], context, torch.randn(1, 52, 128))
    with torch.no_grad():
        assert torch.allclose(unet(z, t, context, mask).sample, unet(z, t, changed, mask).sample, atol=1e-5)
        assert not torch.allclose(unet(z, t, context).sample, unet(z, t, changed).sample, atol=1e-5)


def test_rope_keeps_lengths_and_depends_on_the_distance_alone() -> None:
    angles = rotary_angles(4, 4, 32, reference=4, where=torch.device("cpu"))
    query, key = torch.randn(32), torch.randn(32)
    turned_query, turned_key = rotate(query.expand(16, 32), angles), rotate(key.expand(16, 32), angles)
    assert torch.allclose(turned_query.norm(dim=-1), query.norm().expand(16), atol=1e-5)
    products = (turned_query @ turned_key.T).view(4, 4, 4, 4)
    assert torch.allclose(products[0, 0, 1, 2], products[2, 1, 3, 3], atol=1e-4)
    assert not torch.allclose(products[0, 0, 1, 2], products[0, 0, 2, 1], atol=1e-4)


def test_rope_covers_the_same_range_at_another_resolution() -> None:
    coarse, fine = (rotary_angles(n, n, 32, reference=4, where=torch.device("cpu")) for n in (4, 8))
    assert torch.allclose(fine.view(4, 2, 4, 2, 16).mean(dim=(1, 3)).view(16, 16), coarse, atol=1e-5)


def test_saved_and_loaded_is_the_same(tmp_path: Path) -> None:
    unet = nano()
    unet.save_pretrained(tmp_path)
    assert [path.suffix for path in tmp_path.iterdir() if path.name != "config.json"] == [".safetensors"]
    loaded = JuZhouUNet.from_pretrained(tmp_path, low_cpu_mem_usage=False).eval()
    z, t, context = torch.randn(1, 32, 8, 8), torch.tensor([300.0]), torch.randn(1, 52, 128)
    with torch.no_grad():
        torch.testing.assert_close(unet(z, t, context).sample, loaded(z, t, context).sample)
