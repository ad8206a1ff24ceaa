"""What a network costs, counted on the meta device: parameters, the multiply-adds of a pass, and what it keeps."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks


@dataclass(frozen=True)
class Cost:
    """Counts of one pass of a network over given inputs."""

    parameters: int
    multiply_adds: int
    """Of convolutions and linear maps, as common counters count; the products of attention are left out."""
    attention: int
    """Multiply-adds of the products of attention: queries with keys, and weights with values."""
    kept: int
    """Numbers that a pass keeps for its backward pass, beside the parameters. Of attention queries, keys, values and
    result, as fused kernels do."""


def cost(module: nn.Module, *inputs: Tensor, **named: Tensor) -> Cost:
    """Count a pass of `module` over the inputs. With both on the meta device nothing is computed."""
    weighted = attention = 0
    own = {_place(weight) for weight in [*module.parameters(), *module.buffers()]}
    kept: dict[int, Tensor] = {}

    def count(layer: nn.Module, given: Any, out: Tensor) -> None:
        nonlocal weighted
        assert isinstance(layer, nn.Conv2d | nn.Linear)
        positions = out.numel() // (out.shape[1] if isinstance(layer, nn.Conv2d) else out.shape[-1])
        weighted += positions * layer.weight.numel()

    def keep(tensor: Tensor) -> Tensor:
        if _place(tensor) not in own:
            kept[_place(tensor)] = tensor
        return tensor

    class Attentions(torch.overrides.TorchFunctionMode):
        """Sees the calls of scaled dot-product attention, and keeps of them what a fused kernel keeps."""

        def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            nonlocal attention
            if function is not nn.functional.scaled_dot_product_attention:
                return function(*args, **(kwargs or {}))
            query, key, value = args[:3]
            weights = query.numel() // query.shape[-1] * key.shape[-2]
            attention += weights * (query.shape[-1] + value.shape[-1])
            with saved_tensors_hooks(_as_it_is, _as_it_is):
                out = function(*args, **(kwargs or {}))
            for tensor in (query, key, value, out):
                keep(tensor)
            return out

    layers = [layer for layer in module.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    try:
        with torch.enable_grad(), saved_tensors_hooks(keep, _as_it_is), Attentions():
            module(*inputs, **named)
    finally:
        for hook in hooks:
            hook.remove()
    parameters = sum(parameter.numel() for parameter in module.parameters())
    numbers = sum(tensor.untyped_storage().nbytes() // tensor.element_size() for tensor in kept.values())
    return Cost(parameters, weighted, attention, numbers)


def _place(tensor: Tensor) -> int:
    """Which storage a tensor lies in; views of one share it. It is its address for as long as it lives."""
    return tensor.untyped_storage()._cdata


def _as_it_is(tensor: Tensor) -> Tensor:
    return tensor
