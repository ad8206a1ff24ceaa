"""Distils the light decoder: the encoder is frozen, and pictures come back from its latents as real ones look.

The report publishes neither losses nor data. This is the field's recipe: L1 on real pictures, a distance of features,
and a critic that enters late (VQGAN, arXiv 2012.09841). The features are VGG-16's where its weights are given; without
them they are the critic's own, which know less of what people see.
"""

from pathlib import Path
from typing import Any, NamedTuple

import torch
from diffusers.configuration_utils import FrozenDict
from PIL import Image
from torch import Tensor

from model import device
from model.autoencoder import SCALE, to_images
from schemas.training import DecoderSettings
from training.autoencoder import DEVIATION, psnr, reconstruction_loss
from training.batches import Batches
from training.critic import PatchCritic, Perceptual, balance, feature_matching, hinge_loss
from training.features import Latents, pixels
from training.release import HELD
from training.stage import Job, Metrics, Stage, bare, descend, learning_rate, mean, optimizer, sheet


class DecoderBatch(NamedTuple):
    """What a step is given, (share, …) each."""

    pictures: Tensor
    """Bytes, (share, 3, height, width)."""
    latents: Tensor
    """As `Latents` loads them."""
    noise: Tensor


class DecoderStage(Stage):
    """Product: `autoencoder`, the one before with the distilled decoder; `reconstructions.png`, before and after."""

    name = "decoder"

    def __init__(self, job: Job) -> None:
        """Start from the decoder that there is, trained or not, with a fresh critic."""
        super().__init__(job)
        settings = self.recipe.stages.decoder
        assert settings
        self.settings: DecoderSettings = settings
        self.steps = settings.steps
        self.batches = Batches(self.release, self.recipe.seed, self.recipe.size, settings.batch)
        self.latents = Latents(self.release, self.recipe, job.folders, self.recipe.size)
        self.autoencoder = self.latents.autoencoder
        self.held = self.release.read(range(HELD), (self.recipe.size, self.recipe.size))
        self.held_latents = self.latents.encode(pixels(self.held, self.device)).float()
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

    def _raw(self, latents: Tensor) -> Tensor:
        """Latents as the decoder takes them."""
        config: FrozenDict = self.autoencoder.config
        return latents / config["scaling_factor"] + config["shift_factor"]

    def load(self, step: int) -> DecoderBatch:
        """Pictures, their latents and noise."""
        images, _, shape = self.batch(self.batches, step)
        noise = self.noise(step, self.latents.channels, shape[0] // SCALE, shape[1] // SCALE)
        return DecoderBatch(self.release.read(images, shape), self.latents.load(images, shape), noise)

    def step(self, step: int, batch: DecoderBatch) -> Metrics:
        """Decode a batch; then let the critic see what came out."""
        rate = learning_rate(step, self.steps, self.settings.learning_rate)
        pieces = self.pieces(batch)
        told, shown = [], []
        critic: PatchCritic = bare(self.critic).requires_grad_(False)
        for piece in self.in_turn(pieces, self.decoder):
            pictures = pixels(piece.pictures, self.device)
            tolerated = self._raw(self.latents(piece.latents) + DEVIATION * piece.noise.to(self.device))
            with device.autocast(self.device):
                decoded = self.decoder(tolerated).float()
                logits, ours = critic(decoded)
                _, theirs = critic(pictures)
            reconstruction = reconstruction_loss(decoded, pictures)
            seen = self.perceptual(decoded, pictures) if self.perceptual else feature_matching(ours, theirs)
            loss = reconstruction + self.settings.feature_weight * seen
            adversarial = -logits.float().mean()
            weight = torch.zeros(())
            if step >= self.settings.critic_from:
                balanced = balance(loss, adversarial, bare(self.decoder).conv_out.weight)
                weight = balanced * self.settings.critic_weight
                loss = loss + weight * adversarial
            self.backward(loss)
            shown.append(decoded.detach())
            told.append(
                {
                    "loss": reconstruction.item(),
                    "features": seen.item(),
                    "critic_weight": weight.item(),
                    "psnr": psnr(decoded.detach(), pictures),
                }
            )
        norm = descend(self.optimizer, rate)
        critic.requires_grad_(True)
        losses = []
        for decoded, piece in self.in_turn(list(zip(shown, pieces, strict=True)), self.critic):
            with device.autocast(self.device):
                both, _ = self.critic(torch.cat([pixels(piece.pictures, self.device), decoded]))
            hinge = hinge_loss(*both.float().chunk(2))
            self.backward(hinge)
            losses.append({"critic": hinge.item()})
        descend(self.critic_optimizer, rate)
        return mean(told) | mean(losses) | {"grad_norm": norm}

    @torch.no_grad()
    def _shown(self, decoder: Any) -> Tensor:
        """The held pictures as a decoder gives them, in −1 … 1."""
        return decoder(self.held_latents).float()

    def samples(self) -> Image.Image:
        """The held pictures, what the decoder before made of them, and what this one does."""
        rows = [pixels(self.held, self.device), self.before, self._shown(bare(self.decoder))]
        return sheet([to_images(row) for row in rows])

    def finish(self, folder: Path) -> Metrics:
        """Keep the autoencoder with its new decoder, and show the held pictures before and after."""
        self.autoencoder.save_pretrained(folder / "autoencoder")
        self.samples().save(folder / "reconstructions.png")
        held = pixels(self.held, self.device)
        return {
            "held_psnr_before": psnr(self.before, held),
            "held_psnr": psnr(self._shown(bare(self.decoder)), held),
        }
