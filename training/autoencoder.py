"""Trains encoder and light decoder on the release's pictures, then computes every picture's latent once.

With a teacher autoencoder, as the report has one, its encoder gives the latents and nothing is trained here. Without
one we train both sides from nothing: no perceptual and no adversarial loss, so fine texture stays soft.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from model import device
from model.autoencoder import SCALE, JuZhouAutoencoder, to_images
from schemas.errors import JuZhouError
from training.loader import HELD
from training.stage import Job, Metrics, Stage, bare, descend, learning_rate, optimizer, sheet

DEVIATION = 0.1
"""The posterior's fixed standard deviation: how much noise the decoder must tolerate in a latent."""

KL_WEIGHT = 1e-3
EDGE_WEIGHT = 0.5
ENCODED_AT_ONCE = 64
LATENTS = "latents-{}.safetensors"
"""The file of every picture's latents at a size."""


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


def load_teacher(source: str) -> Any:
    """The AutoencoderKL of a folder or a hub id.

    Raises:
        JuZhouError: there is none.
    """
    try:
        return AutoencoderKL.from_pretrained(source, use_safetensors=True).eval().requires_grad_(False)
    except (OSError, ValueError) as error:
        raise JuZhouError(f"{source}: no AutoencoderKL to load there ({str(error).splitlines()[0]})") from error


class AutoencoderStage(Stage):
    """Product: the autoencoder, every picture's latents, raw, at each size of the recipe, `reconstructions.png`."""

    name = "autoencoder"

    def __init__(self, job: Job) -> None:
        """Decode the release's pictures into memory and start a fresh autoencoder."""
        super().__init__(job)
        self.settings = self.recipe.stages.autoencoder
        self.pictures = self.release.pictures(self.recipe.size)
        self.teacher: Any = load_teacher(self.settings.teacher) if self.settings.teacher else None
        if self.teacher:
            self.steps = 0
            self.teacher.to(self.device)
            return
        self.steps = self.settings.steps
        self.model = job.wrap(JuZhouAutoencoder.preset(self.recipe.preset))
        self.optimizer = optimizer(self.model.parameters())

    def state(self) -> dict[str, Any]:
        """The autoencoder and its optimizer; nothing, where a teacher's is taken."""
        if self.teacher:
            return {}
        return {"model": bare(self.model), "optimizer": self.optimizer}

    def _pixels(self, pictures: Tensor) -> Tensor:
        """Pictures of bytes in −1 … 1, on the device."""
        pixels = pictures.to(self.device).float() / 127.5 - 1
        return pixels.contiguous(memory_format=torch.channels_last)

    def step(self, step: int) -> Metrics:
        """Reconstruct a batch through noisy latents."""
        size = self.settings.batch
        batch = self.release.batch(size, self.recipe.seed, step, self.recipe.captions)
        pictures = self._pixels(self.pictures[self.job.slice(batch.images)])
        side = self.recipe.size // SCALE
        noise = torch.randn(size, bare(self.model).config["latent_channels"], side, side, generator=self.draws(step))
        with device.autocast(self.device):
            decoded, latents = self.model(pictures, DEVIATION * self.job.slice(noise).to(self.device))
        reconstruction, kl = reconstruction_loss(decoded.float(), pictures), kl_loss(latents.float())
        loss = reconstruction + KL_WEIGHT * kl
        norm = descend(loss, self.optimizer, learning_rate(step, self.steps, self.settings.learning_rate))
        return {
            "loss": loss.item(),
            "reconstruction": reconstruction.item(),
            "kl": kl.item(),
            "psnr": psnr(decoded.detach().float(), pictures),
            "grad_norm": norm,
            "samples": len(pictures),
        }

    def _keep(self, folder: Path, encode: Callable[[Tensor], Tensor]) -> Tensor:
        """Write every picture's latents at each size; those at the recipe's own come back."""
        found = []
        for size in self.recipe.sizes:
            pictures = self.pictures if size == self.recipe.size else self.release.pictures(size)
            starts = range(0, len(pictures), ENCODED_AT_ONCE)
            parts = [encode(self._pixels(pictures[start : start + ENCODED_AT_ONCE])).float().cpu() for start in starts]
            found.append(torch.cat(parts).contiguous())
            save_file({"latents": found[-1]}, folder / LATENTS.format(size))
        return found[0]

    @torch.no_grad()
    def samples(self) -> Image.Image:
        """The held pictures above their reconstructions."""
        model: JuZhouAutoencoder = bare(self.model)
        held = self._pixels(self.pictures[:HELD])
        return sheet([to_images(held), to_images(model.decode(model.encode(held).latent).sample)])

    @torch.no_grad()
    def finish(self, folder: Path) -> Metrics:
        """Encode every picture, measure the latents' shift and scale, and show the held pictures.

        A teacher has its own shift and scale; the decoder beside its latents knows nothing yet.
        """
        if self.teacher:
            latents = self._keep(folder, lambda pictures: self.teacher.encode(pictures).latent_dist.mean)
            settings = {name: self.teacher.config[name] or 0.0 for name in ("scaling_factor", "shift_factor")}
            channels = latents.shape[1]
            fresh = JuZhouAutoencoder.preset(
                self.recipe.preset, latent_channels=channels, encoder_channels=None, **settings
            )
            fresh.save_pretrained(folder / "autoencoder")
            return {"latent_mean": latents.mean().item(), "latent_std": latents.std().item()}
        model: JuZhouAutoencoder = bare(self.model).eval()
        latents = self._keep(folder, lambda pictures: model.encode(pictures).latent)
        shift, deviation = latents[HELD:].mean().item(), latents[HELD:].std().item()
        model.register_to_config(shift_factor=shift, scaling_factor=1 / deviation)
        model.save_pretrained(folder / "autoencoder")
        held = self._pixels(self.pictures[:HELD])
        decoded = model.decode(latents[:HELD].to(self.device)).sample.float()
        self.samples().save(folder / "reconstructions.png")
        return {"held_psnr": psnr(decoded, held), "latent_mean": shift, "latent_std": deviation}
