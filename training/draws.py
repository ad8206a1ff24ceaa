"""Random numbers that depend on a key alone, (seed, stage, step) say, so that nothing changes with who draws them."""

import json
from collections.abc import Sequence

import torch
from torch import Tensor

from schemas.identity import digest


def generator(*key: str | int) -> torch.Generator:
    """A CPU generator of its own for each key."""
    return torch.Generator().manual_seed(_seed(*key))


def normal(places: Sequence[int], shape: Sequence[int], *key: str | int) -> Tensor:
    """Standard normal numbers, (places, *shape): those of a place in the batch are the same whoever else is drawn."""
    first, source = _seed(*key), torch.Generator()
    drawn = torch.empty(len(places), *shape)
    for row, place in zip(drawn, places, strict=True):
        row.normal_(generator=source.manual_seed((first + place) % 2**64))
    return drawn


def _seed(*key: str | int) -> int:
    return int.from_bytes(digest(json.dumps(key).encode())[:8], "big")
