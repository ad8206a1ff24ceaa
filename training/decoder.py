"""Distils the light decoder: the encoder is frozen, and pictures come back from its latents as real ones look.

The report publishes neither losses nor data. This is the field's recipe: L1 on real pictures, a distance of features,
and a critic that enters late (VQGAN, arXiv 2012.09841). The features are VGG-16's where its weights are given; without
them they are the critic's own, which know less of what people see.
"""

from pathlib import Path
from typing import Any

import torch
from diffusers.configuration_utils import FrozenDict
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from model import device
from model.autoencoder import JuZhouAutoencoder, to_images
from model.pipeline import STRICT_LOADING
from training.autoencoder import DEVIATION, LATENTS, psnr, reconstruction_loss
from training.critic import PatchCritic, Perceptual, balance, feature_matching, hinge_loss
from training.loader import HELD
from training.stage import Job, Metrics, Stage, bare, descend, learning_rate, optimizer, sheet


class DecoderStage(Stage):
    """Product: `autoencoder`, the one before with the distilled decoder; `reconstructions.png`, before and after."""

    name = "decoder"

    def __init__(self, job: Job) -> None:
        """Start from the decoder that there is, trained or not, with a fresh critic."""
        super().__init__(job)
        settings = self.recipe.stages.decoder
        assert settings
        self.settings = settings
        self.steps = settings.steps
        before = job.folders["autoencoder"]
        self.pictures = self.release.pictures(self.recipe.size)
        self.latents = load_file(before / LATENTS.format(self.recipe.size))["latents"]
        self.autoencoder = JuZhouAutoencoder.from_pretrained(before / "autoencoder", **STRICT_LOADING)
        self.before = self._shown(self.autoencoder.decoder.to(self.device))
        self.decoder = job.wrap(self.autoencoder.decoder)
        self.critic = job.wrap(PatchCritic())
        self.perceptual = Perceptual(Path(settings.features)).to(self.device) if settings.features else None
        self.optimizer = optimizer(self.decoder.parameters())
        self.critic_optimizer = optimizer(self.critic.parameters())

    def state(self) -> dict[str, Any]:
        """Decoder, critic and their optimizers."""
        return {
            "decoder": bare(self.decoder),
            "critic": bare(self.critic),
            "optimizer": self.optimizer,
            "critic_optimizer": self.critic_optimizer,
        }

    def _pixels(self, images: Tensor | slice) -> Tensor:
        """Some pictures in −1 … 1, on the device."""
        pixels = self.pictures[images].to(self.device).float() / 127.5 - 1
        return pixels.contiguous(memory_format=torch.channels_last)

    def step(self, step: int) -> Metrics:
        """Decode a batch; then let the critic see what came out."""
        batch = self.release.batch(self.settings.batch, self.recipe.seed, step, self.recipe.captions)
        images = self.job.slice(batch.images)
        pictures, latents = self._pixels(images), self.latents[images]
        noise = torch.randn(len(batch.images), *latents.shape[1:], generator=self.draws(step))
        config: FrozenDict = self.autoencoder.config
        tolerated = DEVIATION / config["scaling_factor"] * self.job.slice(noise)
        rate = learning_rate(step, self.steps, self.settings.learning_rate)
        critic: PatchCritic = bare(self.critic).requires_grad_(False)
        with device.autocast(self.device):
            decoded = self.decoder((latents + tolerated).to(self.device)).float()
            logits, ours = critic(decoded)
            _, theirs = critic(pictures)
        reconstruction = reconstruction_loss(decoded, pictures)
        seen = self.perceptual(decoded, pictures) if self.perceptual else feature_matching(ours, theirs)
        loss = reconstruction + self.settings.feature_weight * seen
        adversarial = -logits.float().mean()
        weight = torch.zeros(())
        if step >= self.settings.critic_from:
            weight = balance(loss, adversarial, bare(self.decoder).conv_out.weight) * self.settings.critic_weight
            loss = loss + weight * adversarial
        norm = descend(loss, self.optimizer, rate)
        critic.requires_grad_(True)
        with device.autocast(self.device):
            both, _ = self.critic(torch.cat([pictures, decoded.detach()]))
        real, fake = both.float().chunk(2)
        told = hinge_loss(real, fake)
        descend(told, self.critic_optimizer, rate)
        return {
            "loss": reconstruction.item(),
            "features": seen.item(),
            "critic": told.item(),
            "critic_weight": weight.item(),
            "psnr": psnr(decoded.detach(), pictures),
            "grad_norm": norm,
            "samples": len(pictures),
        }

    @torch.no_grad()
    def _shown(self, decoder: Any) -> Tensor:
        """The held pictures as a decoder gives them, in −1 … 1."""
        return decoder(self.latents[:HELD].to(self.device)).float()

    def samples(self) -> Image.Image:
        """The held pictures, what the decoder before made of them, and what this one does."""
        rows = [self._pixels(slice(0, HELD)), self.before, self._shown(bare(self.decoder))]
        return sheet([to_images(row) for row in rows])

    def finish(self, folder: Path) -> Metrics:
        """Keep the autoencoder with its new decoder, and show the held pictures before and after."""
        self.autoencoder.save_pretrained(folder / "autoencoder")
        self.samples().save(folder / "reconstructions.png")
        held = self._pixels(slice(0, HELD))
        return {
            "held_psnr_before": psnr(self.before, held),
            "held_psnr": psnr(self._shown(bare(self.decoder)), held),
        }
