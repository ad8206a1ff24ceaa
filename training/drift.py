"""Watches whether a student's samples drift from the real ones: the first sign of a distillation that goes too far."""

import math

import torch
from torch import Tensor, nn

from model.autoencoder import JuZhouAutoencoder
from training.stage import mean_over_workers

MEMORY = 50
"""Samples are averaged over about so many looks, so that one batch of blue pictures is no drift."""
DECODED = 8
"""Pictures of a look that are decoded for their saturation."""


class Drift(nn.Module):
    """Running statistics of the student's latents and of real ones, and of the saturation of both as pictures.

    DMD2 has no loss that holds them together (arXiv 2405.14867 leaves it to the GAN), and guidance in the real score
    pushes the student to strong colours: over-saturation after some thousand steps is what users report.
    """

    looks: Tensor
    averages: Tensor

    def __init__(self, autoencoder: JuZhouAutoencoder) -> None:
        super().__init__()
        self._autoencoder = [autoencoder]  # in a list, so that its weights are no part of the state
        self.register_buffer("looks", torch.zeros(()))
        self.register_buffer("averages", torch.zeros(2, 3))

    @torch.no_grad()
    def look(self, student: Tensor, real: Tensor) -> None:
        """Take a batch of each, (batch, channels, h, w), as the denoiser has them, of all workers into the averages."""
        self.looks += 1
        seen = mean_over_workers(torch.stack([self._statistics(latents.float()) for latents in (student, real)]))
        self.averages.lerp_(seen.to(self.averages), 1 / min(MEMORY, self.looks.item()))

    def _statistics(self, latents: Tensor) -> Tensor:
        """Mean, mean square, saturation."""
        settings = self._autoencoder[0].config
        raw = latents[:DECODED] / settings["scaling_factor"] + settings["shift_factor"]
        pictures = self._autoencoder[0].decode(raw.to(self._autoencoder[0].dtype)).sample.float().clamp(-1, 1)
        saturation = (pictures.amax(dim=1) - pictures.amin(dim=1)).mean() / 2
        return torch.stack([latents.mean(), latents.square().mean(), saturation])

    def measures(self) -> dict[str, float]:
        """How far apart they are: of the means, in real deviations; of deviation and saturation, the logarithm of the
        student's over the real one's."""
        (mean, square, saturation), (real_mean, real_square, real_saturation) = self.averages.tolist()
        real_deviation = max(real_square - real_mean**2, 1e-12) ** 0.5
        deviation = max(square - mean**2, 1e-12) ** 0.5
        return {
            "drift_mean": (mean - real_mean) / real_deviation,
            "drift_std": math.log(deviation / real_deviation),
            "drift_saturation": math.log(max(saturation, 1e-6) / max(real_saturation, 1e-6)),
        }

    def within(self, tolerance: float) -> bool:
        """Whether none of them is larger than the tolerance."""
        return all(abs(value) <= tolerance for value in self.measures().values())
