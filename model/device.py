"""The one place that knows which accelerator there is: the rest of the code asks for a device and gets one."""

import torch
import torch.nn.functional as F
from torch import Tensor


def pick() -> torch.device:
    """The accelerator of this process if there is one, else the CPU. CUDA and ROCm look alike to torch."""
    return torch.device("cuda") if torch.cuda.is_available() else torch.device("cpu")


def backend(device: torch.device) -> str:
    """The name of torch.distributed's backend for `device`: nccl (on ROCm that is RCCL), gloo for the CPU."""
    return "nccl" if device.type == "cuda" else "gloo"


def autocast(device: torch.device) -> torch.autocast:
    """A context in which matrix products run in bfloat16 where the device computes it, and in float32 elsewhere."""
    return torch.autocast(device.type, torch.bfloat16, enabled=_computes_bfloat16(device))


def attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    """Scaled dot-product attention, (batch, heads, positions, size) each; `mask` is true where a key counts.

    On a CPU in float32 whatever came in: the backward pass of its bfloat16 kernel is five to ten times slower.
    """
    if query.device.type != "cpu":
        return F.scaled_dot_product_attention(query, key.to(query.dtype), value.to(query.dtype), attn_mask=mask)
    with torch.autocast("cpu", enabled=False):
        return F.scaled_dot_product_attention(query.float(), key.float(), value.float(), attn_mask=mask)


def set_threads(count: int) -> None:
    """Let torch use `count` CPU threads in this process; two busy processes must never both take every core."""
    torch.set_num_threads(count)


def precision(device: torch.device) -> torch.dtype:
    """What weights are held in: half the bits on an accelerator, bfloat16 where it computes that; float32 elsewhere."""
    if device.type == "cpu":
        return torch.float32
    return torch.bfloat16 if _computes_bfloat16(device) else torch.float16


def scoring_precision(device: torch.device) -> torch.dtype:
    """The same for a model that scores: also a CPU that computes bfloat16 does so, twice as fast as float32.

    What is drawn or said step after step keeps float32 there: its rounding differs with the number of threads.
    """
    return torch.bfloat16 if _computes_bfloat16(device) else precision(device)


def _computes_bfloat16(device: torch.device) -> bool:
    if device.type == "cpu":
        return torch.cpu._is_avx512_bf16_supported()
    return torch.cuda.is_bf16_supported()
