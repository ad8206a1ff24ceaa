"""Rectified flow's sums, by hand."""

import math

import pytest
import torch
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
from torch import Tensor, nn

from model import flow
from model.text import TextStates
from model.unet import Denoised

TEXT = TextStates(torch.zeros(1, 2, 4), torch.ones(1, 2, dtype=torch.bool))


class Constant(nn.Module):
    """Predicts one velocity everywhere, plus the mean of the context."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = value
        self.times: list[float] = []

    def forward(self, z: Tensor, timestep: Tensor, context: Tensor, mask: Tensor | None) -> Denoised:
        self.times.append(timestep[0].item())
        return Denoised(torch.full_like(z, self.value) + context.mean(dim=(1, 2)).view(-1, 1, 1, 1), z)


def test_loss_of_a_hand_computed_case() -> None:
    x0, noise = torch.full((1, 1, 1, 1), 2.0), torch.full((1, 1, 1, 1), 5.0)
    net = Constant(1.0)
    assert flow.interpolate(x0, noise, torch.tensor([0.25])).item() == 2.75
    assert flow.loss(net, x0, noise, torch.tensor([0.25]), TEXT).item() == (1 - 3) ** 2
    assert net.times == [250.0]


def test_the_table_is_the_schedulers_and_the_shift_is_sd3s() -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    scheduler.set_timesteps(sigmas=torch.linspace(1, 1 / 28, 28).tolist())
    assert torch.allclose(scheduler.sigmas[:-1], flow.noise_levels(28, 3.0))
    assert flow.noise_levels(4, 1.0).tolist() == [1.0, 0.75, 0.5, 0.25]
    assert flow.shifted(torch.tensor(0.5), 3.0).item() == 0.75


def test_training_times_are_logit_normal_and_shifted() -> None:
    times = flow.training_times(20_000, 3.0, torch.Generator().manual_seed(0))
    assert times.min() > 0 and times.max() < 1
    assert times.median().item() == pytest.approx(0.75, abs=0.01)
    unshifted = times / (3 - 2 * times)
    assert unshifted.logit().std().item() == pytest.approx(1, abs=0.02)


def test_euler_steps_of_a_constant_velocity_arrive_exactly() -> None:
    noise = torch.randn(2, 1, 2, 2)
    sampled = flow.sample(Constant(0.5), FlowMatchEulerDiscreteScheduler(shift=1.5), noise, TEXT, TEXT, 7, 1.0, 1.5)
    assert torch.allclose(sampled, noise - 0.5, atol=1e-5)


def test_guidance_extrapolates_from_the_negative_text() -> None:
    one = TextStates(TEXT.hidden + 1, TEXT.mask)
    speed = flow.guided_velocity(Constant(0.0), torch.zeros(1, 1, 1, 1), torch.tensor(0.5), one, TEXT, 3.0)
    assert speed.item() == 3.0


def test_a_students_step_predicts_x0_and_noises_it_again() -> None:
    noises = torch.tensor([4.0, 10.0]).view(2, 1, 1, 1, 1)
    levels = torch.tensor([1.0, 0.25])
    first = 4.0 - 1.0 * 2.0
    second = 0.75 * first + 0.25 * 10.0
    sampled = flow.sample_distilled(Constant(2.0), noises, TEXT, levels)
    assert math.isclose(sampled.item(), second - 0.25 * 2.0)


def test_four_times_the_pixels_double_the_shift() -> None:
    assert flow.resolution_shift(1.5, 4 * 256**2, 256**2) == 3.0
    scheduler = FlowMatchEulerDiscreteScheduler(shift=1.5)
    noise = torch.zeros(1, 1, 2, 2)
    net = Constant(0.0)
    flow.sample(net, scheduler, noise, TEXT, TEXT, 4, 1.0, 3.0)
    assert net.times == pytest.approx((1000 * flow.noise_levels(4, 3.0)).tolist())
