"""The losses of the stages, by hand."""

import math

import pytest
import torch

from training.align import contrastive_loss
from training.autoencoder import kl_loss, psnr, reconstruction_loss
from training.dmd2 import critic_gan_loss, distribution_matching_loss, generator_gan_loss
from training.flow import follow
from training.stage import learning_rate


def test_distribution_matching_moves_from_fake_to_real() -> None:
    x = torch.tensor([[1.0, 3.0]], requires_grad=True)
    real, fake = torch.tensor([[0.0, 2.0]]), torch.tensor([[2.0, 2.0]])
    loss = distribution_matching_loss(x, real, fake)
    loss.backward()
    assert loss.item() == 0.5 * (2.0**2 + 0) / 2
    assert x.grad is not None and x.grad.tolist() == [[1.0, 0.0]]


def test_gan_losses_are_softplus() -> None:
    assert generator_gan_loss(torch.zeros(3, 1)).item() == pytest.approx(math.log(2))
    assert critic_gan_loss(torch.tensor([[20.0]]), torch.tensor([[-20.0]])).item() == pytest.approx(0, abs=1e-6)


def test_contrast_counts_every_right_answer() -> None:
    apart = torch.eye(2)
    assert contrastive_loss(apart, apart, torch.tensor(50.0), torch.eye(2) > 0).item() == pytest.approx(0, abs=1e-6)
    alike = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    same = torch.ones(2, 2, dtype=torch.bool)
    assert contrastive_loss(alike, alike, torch.tensor(50.0), same).item() == pytest.approx(math.log(2))


def test_reconstruction_of_a_flat_error() -> None:
    pictures = torch.zeros(1, 3, 8, 8)
    assert reconstruction_loss(pictures + 0.5, pictures).item() == pytest.approx(0.5 + 0.25)
    assert psnr(pictures + 0.2, pictures) == pytest.approx(20.0, abs=1e-3)
    assert kl_loss(torch.full((1, 16, 2, 2), 2.0)).item() == 2.0


def test_the_rate_rises_and_falls_and_the_average_follows() -> None:
    rates = [learning_rate(step, 100, 1.0) for step in range(100)]
    assert rates[0] == 0.2 and max(rates) <= 1 and rates[-1] < 0.01
    model, average = torch.nn.Linear(1, 1), torch.nn.Linear(1, 1)
    follow(average, model, step=0, decay=0.0)
    assert torch.equal(average.weight, model.weight)
