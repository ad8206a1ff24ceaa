"""The one place that knows which accelerator there is: the rest of the code asks for a device and gets one."""

import torch


def pick() -> torch.device:
    """The accelerator of this process if there is one, else the CPU. CUDA and ROCm look alike to torch."""
    return torch.device("cuda") if torch.cuda.is_available() else torch.device("cpu")


def backend(device: torch.device) -> str:
    """The name of torch.distributed's backend for `device`: nccl (on ROCm that is RCCL), gloo for the CPU."""
    return "nccl" if device.type == "cuda" else "gloo"


def autocast(device: torch.device) -> torch.autocast:
    """A context in which matrix products run in bfloat16 on accelerators that compute it, and in float32 elsewhere.

    The CPU stays in float32: the backward pass of bfloat16 attention is five to ten times slower there, which costs
    more than the matrix products of a small model gain.
    """
    supported = device.type == "cuda" and torch.cuda.is_bf16_supported()
    return torch.autocast(device.type, torch.bfloat16, enabled=supported)


def set_threads(count: int) -> None:
    """Let torch use `count` CPU threads in this process; two busy processes must never both take every core."""
    torch.set_num_threads(count)


def precision(device: torch.device) -> torch.dtype:
    """What weights are held in: half the bits on an accelerator, bfloat16 where it computes that; float32 elsewhere."""
    if device.type == "cpu":
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16


def scoring_precision(device: torch.device) -> torch.dtype:
    """The same for a model that scores: also a CPU that computes bfloat16 does so, twice as fast as float32.

    What is drawn or said step after step keeps float32 there: its rounding differs with the number of threads.
    """
    computes = device.type == "cpu" and torch.cpu._is_avx512_bf16_supported()
    return torch.bfloat16 if computes else precision(device)
