"""Rectified flow: the loss and the samplers side by side, as plain functions that share one table of noise levels.

Time t runs from 0 (picture) to 1 (noise): z_t = (1 − t) · x0 + t · ε, and the network predicts dz/dt = ε − x0
(arXiv 2209.03003; logit-normal times and the shift: arXiv 2403.03206).
"""

import math
from collections.abc import Callable

import torch
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
from torch import Tensor, nn

from model.text import TextStates
from model.unet import TIMESTEPS

Callback = Callable[[int, int], None]
"""Called after each sampling step with how many are done and how many there are."""


def shifted(t: Tensor, shift: float) -> Tensor:
    """Times moved towards noise: s·t / (1 + (s − 1)·t), equation 23 of arXiv 2403.03206."""
    return shift * t / (1 + (shift - 1) * t)


def resolution_shift(shift: float, pixels: int, trained: int) -> float:
    """The shift for pictures of another size: s · √(pixels / trained), by which the same share of a picture is lost to
    noise at the same time (section 5.3.2 of arXiv 2403.03206)."""
    return shift * math.sqrt(pixels / trained)


def noise_levels(steps: int, shift: float) -> Tensor:
    """The one table of times, (steps,), falling from 1: evenly spaced down to 1 / steps, then shifted."""
    return shifted(torch.linspace(1.0, 1.0 / steps, steps), shift)


def training_times(count: int, shift: float, generator: torch.Generator) -> Tensor:
    """Logit-normal times in (0, 1), shifted as the sampler's are: (count,)."""
    return shifted(torch.randn(count, generator=generator).sigmoid(), shift)


def interpolate(x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """z_t = (1 − t) · x0 + t · ε; t is (batch,) or (), the others (batch, …)."""
    t = t.view(-1, *[1] * (x0.ndim - 1))
    return (1 - t) * x0 + t * noise


def velocity(unet: nn.Module, z: Tensor, t: Tensor, text: TextStates) -> Tensor:
    """What the network predicts of ε − x0 at z_t; t is (batch,) or ()."""
    return unet(z, t.expand(len(z)) * TIMESTEPS, text.hidden, text.mask).sample


def clean(z: Tensor, t: Tensor, speed: Tensor) -> Tensor:
    """x0 = z_t − t · (ε − x0), from a predicted velocity."""
    return z - t.view(-1, *[1] * (z.ndim - 1)) * speed


def loss(unet: nn.Module, x0: Tensor, noise: Tensor, t: Tensor, text: TextStates) -> Tensor:
    """Mean squared error of the velocity: ‖v(z_t, t) − (ε − x0)‖², a scalar."""
    return (velocity(unet, interpolate(x0, noise, t), t, text) - (noise - x0)).square().mean()


def guided_velocity(
    unet: nn.Module, z: Tensor, t: Tensor, text: TextStates, negative: TextStates, guidance: float
) -> Tensor:
    """Classifier-free guidance (arXiv 2207.12598): v⁻ + guidance · (v − v⁻); guidance 1 is the plain velocity."""
    if guidance == 1.0:
        return velocity(unet, z, t, text)
    both = TextStates(torch.cat([text.hidden, negative.hidden]), torch.cat([text.mask, negative.mask]))
    conditional, unconditional = velocity(unet, torch.cat([z, z]), torch.cat([t.expand(len(z))] * 2), both).chunk(2)
    return unconditional + guidance * (conditional - unconditional)


@torch.no_grad()
def sample(
    unet: nn.Module,
    scheduler: FlowMatchEulerDiscreteScheduler,
    noise: Tensor,
    text: TextStates,
    negative: TextStates,
    steps: int,
    guidance: float,
    shift: float,
    callback: Callback | None = None,
) -> Tensor:
    """Euler steps along the guided velocity from noise (batch, channels, h, w) to x0 of the same shape."""
    scheduler.set_shift(shift)
    scheduler.set_timesteps(sigmas=torch.linspace(1.0, 1.0 / steps, steps).tolist(), device=noise.device)
    z = noise
    for done, timestep in enumerate(scheduler.timesteps, start=1):
        speed = guided_velocity(unet, z, timestep / TIMESTEPS, text, negative, guidance)
        z = scheduler.step(speed, timestep, z, return_dict=False)[0]  # type: ignore[arg-type]
        if callback:
            callback(done, steps)
    return z


def sample_distilled(
    unet: nn.Module, noises: Tensor, text: TextStates, levels: Tensor, callback: Callback | None = None
) -> Tensor:
    """A distilled student's steps: predict x0, add fresh noise down to the next level, again (DMD2, arXiv 2405.14867).

    Args:
        noises: (steps, batch, channels, h, w); the first is where it starts, as the first level is 1.
        levels: the noise level of each step, `noise_levels(steps, shift)` or its beginning.
    """
    x0 = noises.new_zeros(noises.shape[1:])
    for done, (noise, level) in enumerate(zip(noises, levels, strict=True), start=1):
        z = interpolate(x0, noise, level)
        x0 = clean(z, level, velocity(unet, z, level, text))
        if callback:
            callback(done, len(levels))
    return x0
