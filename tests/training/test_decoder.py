"""The light decoder is distilled behind a frozen encoder, our own or a teacher's, and enters the checkpoint."""

import json
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL
from safetensors.torch import save_file
from torch import nn
from torchvision.models import vgg16

from model.autoencoder import JuZhouAutoencoder
from model.pipeline import STRICT_LOADING, JuZhouPipeline
from schemas.errors import JuZhouError
from schemas.training import AutoencoderSettings, DecoderSettings, Stages, Training
from tests.training.conftest import RECIPE
from training.align import AlignStage
from training.autoencoder import AutoencoderStage
from training.critic import PatchCritic, Perceptual, balance, feature_matching, hinge_loss
from training.decoder import DecoderStage
from training.flow import FlowStage
from training.release import Release
from training.stage import Job, run
from training.trainer import folders


def recipe(**stages: object) -> Training:
    settings = DecoderSettings(steps=24, batch=8, learning_rate=2e-3, critic_from=12)
    return RECIPE.model_copy(update={"stages": RECIPE.stages.model_copy(update={"decoder": settings} | stages)})


def rows(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_losses_by_hand() -> None:
    real, fake = torch.tensor([2.0, 0.5]), torch.tensor([-2.0, 0.0])
    assert hinge_loss(real, fake).item() == 0.5 * (0.25 + 0.5)
    ours, theirs = [torch.zeros(2), torch.zeros(3)], [torch.ones(2), 3 * torch.ones(3)]
    assert feature_matching(ours, theirs).item() == 2.0
    last = nn.Parameter(torch.tensor([1.0, 1.0]))
    assert balance(3 * last.sum(), 6 * last.sum(), last).item() == pytest.approx(0.5)


def test_the_critic_judges_patches() -> None:
    logits, features = PatchCritic()(torch.zeros(2, 3, 64, 32))
    assert logits.shape == (2, 1, 8, 4) and len(features) == 3


def test_a_decoder_gets_better_and_enters_the_checkpoint(
    release: Path, trained: dict[str, Path], tmp_path: Path
) -> None:
    places = {name: trained[name] for name in ("autoencoder", "align")} | {"decoder": tmp_path / "decoder"}
    (tmp_path / "decoder").mkdir()
    run(DecoderStage(Job(Release(release), recipe(), places)), tmp_path / "decoder")
    told = rows(tmp_path / "decoder")
    assert told[-1]["held_psnr"] > told[-1]["held_psnr_before"]
    assert all(row["critic_weight"] == 0 for row in told[:12]) and all(row["critic_weight"] > 0 for row in told[12:-1])
    before, after = (
        JuZhouAutoencoder.from_pretrained(places[name] / "autoencoder", **STRICT_LOADING)
        for name in ("autoencoder", "decoder")
    )
    assert before.encoder and after.encoder
    for one, other in zip(before.encoder.parameters(), after.encoder.parameters(), strict=True):
        assert torch.equal(one, other)
    (tmp_path / "flow").mkdir()
    run(FlowStage(Job(Release(release), recipe(), places)), tmp_path / "flow")
    drawn_by = JuZhouPipeline.from_pretrained(tmp_path / "flow" / "checkpoint").autoencoder
    assert torch.equal(drawn_by.decoder.conv_out.weight, after.decoder.conv_out.weight)


def test_a_teachers_latents_are_decoded_by_the_light_decoder(release: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    teacher = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8, 8, 8, 8),
        norm_num_groups=4,
        latent_channels=16,
        scaling_factor=1.5305,
        shift_factor=0.0609,
    )
    teacher.save_pretrained(tmp_path / "teacher")
    settings = AutoencoderSettings(teacher=str(tmp_path / "teacher"))
    places = {name: tmp_path / name for name in ("autoencoder", "decoder", "align", "flow")}
    for stage in (AutoencoderStage, DecoderStage, AlignStage, FlowStage):
        places[stage.name].mkdir()
        run(stage(Job(Release(release), recipe(autoencoder=settings), places)), places[stage.name])
    pipeline = JuZhouPipeline.from_pretrained(places["flow"] / "checkpoint")
    assert pipeline.autoencoder.config["scaling_factor"] == 1.5305
    assert pipeline("红色的圆", num_inference_steps=1)[0].size == (32, 32)
    with pytest.raises(JuZhouError, match="only decodes"):
        pipeline.autoencoder.encode(torch.zeros(1, 3, 32, 32))
    told = rows(places["decoder"])
    assert told[-1]["held_psnr"] > told[-1]["held_psnr_before"]


def test_vggs_features_tell_pictures_apart(tmp_path: Path) -> None:
    torch.manual_seed(0)
    save_file(vgg16().state_dict(), tmp_path / "vgg16.safetensors")
    distance = Perceptual(tmp_path / "vgg16.safetensors")
    pictures = torch.rand(2, 3, 32, 32) * 2 - 1
    assert distance(pictures, pictures).item() == 0
    near, far = (distance(pictures + step * torch.randn(2, 3, 32, 32), pictures).item() for step in (0.05, 0.5))
    assert 0 < near < far
    save_file({"wrong": torch.zeros(1)}, tmp_path / "wrong.safetensors")
    with pytest.raises(JuZhouError, match="no weights of torchvision's VGG-16"):
        Perceptual(tmp_path / "wrong.safetensors")


def test_a_recipe_without_the_stage_leaves_it_out(release: Path, tmp_path: Path) -> None:
    assert "decoder" not in folders(release, tmp_path, RECIPE)
    assert [*folders(release, tmp_path, recipe())][:4] == ["autoencoder", "latents", "decoder", "align"]
    with pytest.raises(ValueError, match="wants the stage `decoder`"):
        Stages(autoencoder=AutoencoderSettings(teacher="somewhere"))
