"""What a network costs, counted on the meta device: parameters, and the multiply-adds of one pass."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Cost:
    """Counts of one pass of a network over given inputs."""

    parameters: int
    multiply_adds: int
    """Of convolutions and linear maps, as common counters count; the products of attention are left out."""
    attention: int
    """Multiply-adds of the products of attention: queries with keys, and weights with values."""


def cost(module: nn.Module, *inputs: Tensor, **named: Tensor) -> Cost:
    """Count a pass of `module` over the inputs. With both on the meta device nothing is computed."""
    weighted = attention = 0

    def count(layer: nn.Module, given: Any, out: Tensor) -> None:
        nonlocal weighted
        assert isinstance(layer, nn.Conv2d | nn.Linear)
        positions = out.numel() // (out.shape[1] if isinstance(layer, nn.Conv2d) else out.shape[-1])
        weighted += positions * layer.weight.numel()

    class Attentions(torch.overrides.TorchFunctionMode):
        """Sees the calls of scaled dot-product attention."""

        def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            nonlocal attention
            if function is nn.functional.scaled_dot_product_attention:
                query, key, value = args[:3]
                weights = query.numel() // query.shape[-1] * key.shape[-2]
                attention += weights * (query.shape[-1] + value.shape[-1])
            return function(*args, **(kwargs or {}))

    layers = [layer for layer in module.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    try:
        with torch.no_grad(), Attentions():
            module(*inputs, **named)
    finally:
        for hook in hooks:
            hook.remove()
    return Cost(sum(parameter.numel() for parameter in module.parameters()), weighted, attention)
