"""Fully sharded data parallelism: weights, gradients and moments shared out over the workers rather than copied.

States on disk are whole tensors, so that a training can go on with another number of workers, or without sharding.
"""

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.utils._pytree import tree_map

from model.unet import Unit


def share_out(module: nn.Module) -> nn.Module:
    """The module, each worker holding its part; a unit of the U-Net is whole only while it computes."""
    for part in module.modules():
        if isinstance(part, Unit):
            fully_shard(part)
    fully_shard(module)
    return module


def whole(state: Any) -> Any:
    """A state dict with its shared tensors brought together, on the CPU. Every worker must ask at once."""
    return tree_map(lambda value: value.full_tensor().cpu() if isinstance(value, DTensor) else value, state)


def load(part: nn.Module | torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Give a module or an optimizer a whole state; of shared tensors each worker takes its part."""
    if isinstance(part, nn.Module):
        owned = part.state_dict()
        part.load_state_dict({name: _like(owned.get(name), value) for name, value in state.items()})
        return
    parameters = [parameter for group in part.param_groups for parameter in group["params"]]
    moments = {
        number: {name: _like(parameters[number], value) for name, value in values.items()}
        for number, values in state["state"].items()
    }
    part.load_state_dict({**state, "state": moments})


def gathered(module: nn.Module, like: nn.Module) -> nn.Module:
    """A copy of `like` with the weights of a module of the same kind. Every worker must ask at once."""
    copied = copy.deepcopy(like)
    copied.load_state_dict(whole(module.state_dict()))
    return copied


def _like(owned: Any, value: Any) -> Any:
    if isinstance(owned, DTensor) and isinstance(value, Tensor) and value.shape == owned.shape:
        return distribute_tensor(value.to(owned.device), owned.device_mesh, owned.placements)
    return value
