"""Costs of small networks, by hand."""

import torch
from torch import Tensor, nn

from model.autoencoder import Decoder
from model.cost import cost


class Looks(nn.Module):
    """One attention and nothing else."""

    def forward(self, query: Tensor, context: Tensor) -> Tensor:
        return nn.functional.scaled_dot_product_attention(query, context, context)


def test_a_convolution_and_a_linear_map() -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1, groups=1), nn.Flatten(2), nn.Linear(16, 5))
    counted = cost(network, torch.zeros(2, 3, 8, 8))
    assert counted.parameters == 3 * 8 * 9 + 8 + 16 * 5 + 5
    assert counted.multiply_adds == 2 * 16 * (8 * 3 * 9) + 2 * 8 * (16 * 5)
    assert counted.attention == 0


def test_depthwise_convolutions_cost_one_channel_each() -> None:
    assert cost(nn.Conv2d(6, 6, 3, padding=1, groups=6), torch.zeros(1, 6, 4, 4)).multiply_adds == 16 * 6 * 9


def test_attention_is_counted_apart() -> None:
    counted = cost(Looks(), torch.zeros(2, 3, 10, 4), torch.zeros(2, 3, 7, 4))
    assert (counted.multiply_adds, counted.attention) == (0, 2 * 3 * 10 * 7 * (4 + 4))


def test_what_a_pass_keeps_is_counted_once_and_without_weights() -> None:
    network = nn.Sequential(nn.Linear(5, 7), nn.Hardswish(), nn.Linear(7, 3), nn.Hardswish())
    given, between, out = 2 * 5, 2 * 7, 2 * 3
    assert cost(network, torch.zeros(2, 5)).kept == given + 2 * between + out
    query, context = torch.zeros(2, 3, 10, 4, requires_grad=True), torch.zeros(2, 3, 7, 4, requires_grad=True)
    assert cost(Looks(), query, context).kept == 2 * query.numel() + context.numel(), "query, context and result"


def test_what_is_counted_on_meta_is_what_is_computed() -> None:
    real = Decoder()
    with torch.device("meta"):
        unreal = Decoder()
        counted = cost(unreal, torch.empty(1, 16, 8, 8))
    assert counted == cost(real, torch.zeros(1, 16, 8, 8))
