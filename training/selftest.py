"""Asks a device for the model's operators, forward and backward, and holds them against float64 on the CPU.

Accelerators whose torch lags behind have been seen to compute some operators' backward passes wrongly or not at all. A
training that runs on such a one fails slowly and for no visible reason; this fails at once and names the operator.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from model import device
from model.unet import FeedForward

TOLERANCES = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}
"""The largest error that is allowed, as a share of the largest value, by what the operator computes in."""

Operator = Callable[[list[Tensor]], Tensor]


@dataclass(frozen=True)
class Row:
    """What became of an operator in a precision."""

    operator: str
    precision: str
    forward: float
    """The largest error over the largest value; infinite where there is no number."""
    backward: float
    """The same for the worst of the gradients."""
    error: str | None = None
    """What the device said where it could not."""

    @property
    def passed(self) -> bool:
        """Whether both errors are within the tolerance of the precision."""
        tolerance = TOLERANCES[getattr(torch, self.precision)]
        return self.error is None and self.forward <= tolerance and self.backward <= tolerance


def run(where: torch.device | None = None) -> list[Row]:
    """Test every operator in float32 and in the precision in which the device trains."""
    where = where or device.pick()
    with device.autocast(where):
        trains = torch.get_autocast_dtype(where.type) if torch.is_autocast_enabled(where.type) else torch.float32
    precisions = dict.fromkeys((torch.float32, trains))
    return [
        _tried(name, operator, shapes, where, precision)
        for name, (operator, shapes) in OPERATORS.items()
        for precision in precisions
    ]


def _convolution(**settings: int) -> Operator:
    return lambda given: F.conv2d(given[0], given[1], given[2], **settings)


def _attention(given: list[Tensor]) -> Tensor:
    query, key, value = given
    mask = torch.arange(key.shape[-2], device=key.device) < key.shape[-2] - 3
    return device.attention(query, key, value, mask.expand(len(key), 1, 1, -1))


def _exact_attention(given: list[Tensor]) -> Tensor:
    query, key, value = given
    weights = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
    weights = weights[..., :-3].softmax(dim=-1)
    return weights @ value[..., :-3, :]


def _gated(given: list[Tensor]) -> Tensor:
    x, up, up_bias, down, down_bias = given
    feed = FeedForward(x.shape[-1], 3)
    weights = {"up.weight": up, "up.bias": up_bias, "down.weight": down, "down.bias": down_bias}
    return torch.func.functional_call(feed, weights, (x,))


OPERATORS: dict[str, tuple[Operator, list[tuple[int, ...]]]] = {
    "depthwise conv": (_convolution(padding=1, groups=32), [(2, 32, 16, 16), (32, 1, 3, 3), (32,)]),
    "strided conv": (_convolution(stride=2, padding=1), [(2, 16, 16, 16), (32, 16, 3, 3), (32,)]),
    "pointwise conv": (_convolution(), [(2, 32, 16, 16), (64, 32, 1, 1), (64,)]),
    "GroupNorm": (lambda given: F.group_norm(given[0], 8, given[1], given[2]), [(2, 32, 16, 16), (32,), (32,)]),
    "LayerNorm": (lambda given: F.layer_norm(given[0], (64,), given[1], given[2]), [(2, 52, 64), (64,), (64,)]),
    "Hardswish": (lambda given: F.hardswish(4 * given[0]), [(2, 32, 16, 16)]),
    "GEGLU": (_gated, [(2, 52, 64), (384, 64), (384,), (64, 192), (64,)]),
    "nearest upsampling": (lambda given: F.interpolate(given[0], scale_factor=2.0), [(2, 32, 8, 8)]),
    "pixel shuffle": (lambda given: F.pixel_shuffle(given[0], 2), [(2, 32, 8, 8)]),
    "attention": (_attention, [(2, 1, 128, 64), (2, 1, 52, 64), (2, 1, 52, 64)]),
}
"""What is computed of tensors of these shapes. Attention is many queries on one key and value head, as in the model."""

EXACT: dict[str, Operator] = {"attention": _exact_attention}
"""How it is computed in float64, where not in the same way."""


def _tried(
    name: str, operator: Operator, shapes: list[tuple[int, ...]], where: torch.device, precision: torch.dtype
) -> Row:
    """One operator on the device against itself in float64 on the CPU, of the same numbers.

    What flows through the network is in the precision itself, the first tensor; weights are in float32.
    """
    draws = torch.Generator().manual_seed(0)
    given = [torch.randn(shape, generator=draws).to(precision).double() for shape in shapes]
    named = str(precision).removeprefix("torch.")
    expected, gradients = _passes(EXACT.get(name, operator), [tensor.clone() for tensor in given])
    try:
        with torch.autocast(where.type, precision, enabled=precision is not torch.float32):
            kinds = [precision, *[torch.float32] * (len(given) - 1)]
            inputs = [tensor.to(where, kind) for tensor, kind in zip(given, kinds, strict=True)]
            found, found_gradients = _passes(operator, inputs)
    except RuntimeError as error:
        return Row(name, named, float("inf"), float("inf"), str(error).splitlines()[0])
    backward = max(_error(one, other) for one, other in zip(found_gradients, gradients, strict=True))
    return Row(name, named, _error(found, expected), backward)


def _passes(operator: Operator, given: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """What comes out, and the gradients of its sum of squares."""
    leaves = [tensor.requires_grad_() for tensor in given]
    out = operator(leaves)
    out.double().square().sum().backward()
    return out.detach(), [leaf.grad if leaf.grad is not None else torch.full_like(leaf, torch.nan) for leaf in leaves]


def _error(found: Tensor, expected: Tensor) -> float:
    """The largest difference over the largest expected value; infinite where something is no number."""
    difference = (found.detach().double().cpu() - expected).abs().max() / expected.abs().max()
    return difference.item() if torch.isfinite(difference) else float("inf")
