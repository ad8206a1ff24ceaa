"""The light decoder has the report's size, and pictures come back at the size that went in."""

from pathlib import Path

import torch

from model.autoencoder import Decoder, DecoderBlock, JuZhouAutoencoder


def test_full_decoder_has_the_reports_parameters_and_blocks() -> None:
    with torch.device("meta"):
        decoder = Decoder()
    assert abs(sum(p.numel() for p in decoder.parameters()) / 1.901e6 - 1) < 0.005
    widths = [block.body[-1].out_channels for block in decoder.stages if isinstance(block, DecoderBlock)]
    assert widths == [256] * 3 + [256] * 3 + [128] * 2 + [64]


def test_latents_are_eight_times_smaller_and_survive_the_disk(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = JuZhouAutoencoder.preset("nano").eval()
    model.register_to_config(scaling_factor=1.5, shift_factor=-0.25)
    model.save_pretrained(tmp_path)
    loaded = JuZhouAutoencoder.from_pretrained(tmp_path, low_cpu_mem_usage=False).eval()
    pictures = torch.rand(2, 3, 64, 96) * 2 - 1
    with torch.no_grad():
        latents = model.encode(pictures).latent
        decoded = model.decode(latents).sample
        assert latents.shape == (2, 32, 8, 12)
        assert decoded.shape == pictures.shape
        assert torch.equal(loaded.decode(loaded.encode(pictures).latent).sample, decoded)
    assert (loaded.config["scaling_factor"], loaded.config["shift_factor"]) == (1.5, -0.25)
