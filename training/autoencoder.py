"""Trains encoder and light decoder on the release's pictures.

With a teacher autoencoder, as the report has one, its encoder gives the latents and nothing is trained here. Without
one we train both sides from nothing: no perceptual and no adversarial loss, so fine texture stays soft.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from model import device
from model.autoencoder import SCALE, JuZhouAutoencoder, to_images
from schemas.training import AutoencoderSettings
from training.batches import Batches
from training.features import AT_ONCE, load_teacher, pixels
from training.release import HELD
from training.stage import Job, Metrics, Stage, bare, descend, learning_rate, mean, optimizer, sheet

DEVIATION = 0.1
"""The posterior's fixed standard deviation: how much noise the decoder must tolerate in a latent."""

KL_WEIGHT = 1e-3
EDGE_WEIGHT = 0.5
MEASURED = 4096
"""Pictures from whose latents shift and scale are measured."""


def reconstruction_loss(decoded: Tensor, pictures: Tensor) -> Tensor:
    """L1 and squared error of the pixels plus, weighted, L1 of their differences along rows and columns.

    The squares hold colours, the differences edges: that one is the gradient difference loss of arXiv 1511.05440.
    Both pictures are (batch, 3, h, w); a scalar comes back.
    """
    edges = sum(F.l1_loss(decoded.diff(dim=axis), pictures.diff(dim=axis)) for axis in (-1, -2))
    return F.l1_loss(decoded, pictures) + F.mse_loss(decoded, pictures) + EDGE_WEIGHT * edges


def kl_loss(latents: Tensor) -> Tensor:
    """½ · mean μ²: the divergence of N(μ, σ²) from N(0, 1) up to a constant, as σ is fixed (arXiv 1312.6114)."""
    return 0.5 * latents.square().mean()


def psnr(decoded: Tensor, pictures: Tensor) -> float:
    """Peak signal-to-noise ratio in dB of pictures in −1 … 1."""
    return (10 * torch.log10(4 / F.mse_loss(decoded.clamp(-1, 1), pictures))).item()


class AutoencoderBatch(NamedTuple):
    """What a step is given."""

    pictures: Tensor
    """Bytes, (share, 3, height, width)."""
    noise: Tensor
    """(share, latent_channels, h, w)."""


class AutoencoderStage(Stage):
    """Product: `autoencoder`, which knows the latents' shift and scale; `reconstructions.png`."""

    name = "autoencoder"

    def __init__(self, job: Job) -> None:
        """Start a fresh autoencoder; or load the teacher, from which there is nothing to learn here."""
        super().__init__(job)
        self.settings: AutoencoderSettings = self.recipe.stages.autoencoder
        self.teacher: Any = load_teacher(self.settings.teacher) if self.settings.teacher else None
        if self.teacher:
            self.steps = 0
            return
        self.steps = self.settings.steps
        self.batches = Batches(self.release, self.recipe.seed, self.recipe.size, self.settings.batch)
        self.model = job.wrap(JuZhouAutoencoder.preset(self.recipe.preset))
        self.channels = bare(self.model).config["latent_channels"]
        self.optimizer = optimizer(self.model.parameters())

    def state(self) -> dict[str, Any]:
        """The autoencoder and its optimizer; nothing, where a teacher's is taken."""
        if self.teacher:
            return {}
        return {"model": bare(self.model), "optimizer": self.optimizer}

    def load(self, step: int) -> AutoencoderBatch:
        """Pictures, and noise for their latents."""
        images, _, (height, width) = self.batch(self.batches, step)
        noise = self.noise(step, self.channels, height // SCALE, width // SCALE)
        return AutoencoderBatch(self.release.read(images, (height, width)), noise)

    def step(self, step: int, batch: AutoencoderBatch) -> Metrics:
        """Reconstruct a batch through noisy latents."""
        told = []
        for piece in self.in_turn(self.pieces(batch), self.model):
            pictures = pixels(piece.pictures, self.device)
            with device.autocast(self.device):
                decoded, latents = self.model(pictures, DEVIATION * piece.noise.to(self.device))
            reconstruction, kl = reconstruction_loss(decoded.float(), pictures), kl_loss(latents.float())
            loss = reconstruction + KL_WEIGHT * kl
            self.backward(loss)
            told.append(
                {
                    "loss": loss.item(),
                    "reconstruction": reconstruction.item(),
                    "kl": kl.item(),
                    "psnr": psnr(decoded.detach().float(), pictures),
                }
            )
        norm = descend(self.optimizer, learning_rate(step, self.steps, self.settings.learning_rate))
        return mean(told) | {"grad_norm": norm}

    def _some(self, numbers: range) -> Iterator[Tensor]:
        """Pictures cut square, a few at a time, on the device."""
        for first in numbers[::AT_ONCE]:
            some = range(first, min(first + AT_ONCE, numbers.stop))
            yield pixels(self.release.read(some, (self.recipe.size, self.recipe.size)), self.device)

    @torch.no_grad()
    def samples(self) -> Image.Image:
        """The held pictures above their reconstructions."""
        model: JuZhouAutoencoder = bare(self.model)
        [held] = self._some(range(HELD))
        return sheet([to_images(held), to_images(model.decode(model.encode(held).latent).sample)])

    @torch.no_grad()
    def finish(self, folder: Path) -> Metrics:
        """Measure the latents' shift and scale, and show the held pictures.

        A teacher has its own shift and scale; the decoder beside its latents knows nothing yet.
        """
        if self.teacher:
            config = self.teacher.config
            settings = {name: config[name] or 0.0 for name in ("scaling_factor", "shift_factor")}
            fresh = JuZhouAutoencoder.preset(
                self.recipe.preset, latent_channels=config["latent_channels"], encoder_channels=None, **settings
            )
            fresh.save_pretrained(folder / "autoencoder")
            return {}
        model: JuZhouAutoencoder = bare(self.model).eval()
        measured = range(HELD, min(HELD + MEASURED, len(self.release.pictures.shard)))
        latents = torch.cat([model.encode(pictures).latent.flatten().cpu() for pictures in self._some(measured)])
        shift, deviation = latents.mean().item(), latents.std().item()
        model.register_to_config(shift_factor=shift, scaling_factor=1 / deviation)
        model.save_pretrained(folder / "autoencoder")
        [held] = self._some(range(HELD))
        decoded = model.decode(model.encode(held).latent).sample.float()
        self.samples().save(folder / "reconstructions.png")
        return {"held_psnr": psnr(decoded, held), "latent_mean": shift, "latent_std": deviation}
