"""What the networks cost beside their relatives of diffusers, and a picture in 4 steps beside one in 28.

    python benchmarks/model.py           a step at 32² and 64² latents, decoders at 256 and 512 pixels; about 15 minutes
    python benchmarks/model.py --quick   the smaller sizes alone, without SDXL's network and variants of ours

All networks have random weights, run on one thread of this CPU in float32, batch 1, and in a process of their own,
whose peak memory beyond that before the network was made is told; times are the best of several passes. SD 1.5 and SDXL
are built from their published configurations. Multiply-adds are of convolutions and linear maps. The training step is
of the nano model, batch 32, in bfloat16 where the CPU computes it; `as it was` computes attention in bfloat16 too, as
torch does under autocast. Variants of our network show what each choice gives: `channels first` has torch's own
layout, `attention written out` two products and a softmax in place of the fused kernel, `compiled` is torch.compile's,
which needs a C++ compiler.
"""

import argparse
import json
import multiprocessing
import resource
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1]))

from diffusers import AutoencoderKL, AutoencoderTiny, UNet2DConditionModel
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler

from model import device, flow, text
from model.autoencoder import Decoder, JuZhouAutoencoder
from model.cost import cost
from model.pipeline import JuZhouPipeline
from model.unet import JuZhouUNet

SD15: dict[str, Any] = {"sample_size": 64, "cross_attention_dim": 768}
SDXL: dict[str, Any] = {
    "sample_size": 128,
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 10),
    "attention_head_dim": (5, 10, 20),
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
}
SD_DECODER: dict[str, Any] = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "latent_channels": 16,
}


VARIANTS = ("channels first", "attention written out", "compiled")


class Row(NamedTuple):
    """One network at one size."""

    what: str
    seconds: float
    mebibytes: float
    parameters: int
    multiply_adds: int


def best(pass_: Callable[[], object], passes: int) -> float:
    """The quickest of several passes, after one to warm up."""
    pass_()
    times = []
    for _ in range(passes):
        started = time.perf_counter()
        pass_()
        times.append(time.perf_counter() - started)
    return min(times)


def peak() -> float:
    """The most memory that this process has held, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def network(
    what: str,
    make: Callable[[], nn.Module],
    inputs: Callable[[], tuple[Tensor, ...]],
    passes: int,
    prepare: Callable[[nn.Module], Any] = nn.Module.eval,
) -> Row:
    """Time a network's forward pass, once it is prepared for that."""
    before = peak()
    with torch.device("meta"):
        counted = cost(make(), *inputs())
    made = prepare(make())
    given = inputs()
    with torch.no_grad():
        seconds = best(lambda: made(*given), passes)
    return Row(what, seconds, peak() - before, counted.parameters, counted.multiply_adds)


def latents(side: int, channels: int, tokens: int, context: int) -> tuple[Tensor, ...]:
    """What a U-Net is given: latents, a timestep, hidden states."""
    return torch.zeros(1, channels, side, side), torch.full((1,), 500.0), torch.zeros(1, tokens, context)


def ours(side: int, variant: str = "") -> Row:
    """A step of the full network, or of one that lacks or adds something."""
    if variant == "channels first":
        torch.channels_last = torch.contiguous_format
    elif variant == "attention written out":
        device.attention = written_out
    what = f"U-Net {side}²: ours" + (f", {variant}" if variant else "")
    prepare = compiled if variant == "compiled" else nn.Module.eval
    return network(what, partial(JuZhouUNet.preset, "full"), lambda: latents(side, 16, text.TOKENS, 1024), 3, prepare)


def written_out(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    """Attention by its formula."""
    weights = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
    if mask is not None:
        weights = weights.masked_fill(~mask, float("-inf"))
    return weights.softmax(-1) @ value


def compiled(module: nn.Module) -> Any:
    """The network through torch.compile."""
    return torch.compile(module.eval())


def sd15(side: int) -> Row:
    """A step of SD 1.5's."""
    return network(f"U-Net {side}²: SD 1.5", lambda: UNet2DConditionModel(**SD15), lambda: latents(side, 4, 77, 768), 2)


def sdxl(side: int) -> Row:
    """A step of SDXL's, without the sizes that it is told beside the text."""
    return network(f"U-Net {side}²: SDXL", lambda: UNet2DConditionModel(**SDXL), lambda: latents(side, 4, 77, 2048), 1)


def light_decoder(size: int) -> Row:
    """The report's light decoder."""
    return network(f"decoder {size}: ours", Decoder, lambda: (torch.zeros(1, 16, size // 8, size // 8),), 3)


class Decodes(nn.Module):
    """A decoder of diffusers, without the half that encodes."""

    def __init__(self, autoencoder: Any) -> None:
        super().__init__()
        self.decoder = autoencoder.decoder

    def forward(self, z: Tensor) -> Tensor:
        """Latents → pictures."""
        return self.decoder(z)


def sd_decoder(size: int) -> Row:
    """The decoder of SD3's autoencoder, which is SD's with 16 channels."""

    def make() -> nn.Module:
        return Decodes(AutoencoderKL(**SD_DECODER))

    return network(f"decoder {size}: SD3", make, lambda: (torch.zeros(1, 16, size // 8, size // 8),), 2)


def tiny_decoder(size: int) -> Row:
    """TAESD's decoder, for 16 channels."""

    def make() -> nn.Module:
        return Decodes(AutoencoderTiny(latent_channels=16))

    return network(f"decoder {size}: TAESD", make, lambda: (torch.zeros(1, 16, size // 8, size // 8),), 3)


def training_step(as_it_was: bool) -> Row:
    """A step of the nano model's training."""
    if as_it_was:
        device.attention = lambda query, key, value, mask: F.scaled_dot_product_attention(
            query.bfloat16(), key.bfloat16(), value.bfloat16(), attn_mask=mask
        )
    before = peak()
    unet = JuZhouUNet.preset("nano").to(memory_format=torch.channels_last)
    channels, side = unet.config["latent_channels"], unet.config["sample_size"]
    x0, noise = torch.randn(2, 32, channels, side, side)
    states = text.TextStates(torch.randn(32, 24, unet.config["context_size"]), torch.ones(32, 24, dtype=torch.bool))
    optimizer = torch.optim.AdamW(unet.parameters(), fused=True)

    def step() -> None:
        with device.autocast(torch.device("cpu")):
            loss = flow.loss(unet, x0, noise, torch.rand(32), states)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    seconds = best(step, 4)
    what = "training step, nano" + (", as it was" if as_it_was else "")
    return Row(what, seconds, peak() - before, sum(p.numel() for p in unet.parameters()), 0)


def picture(steps: int) -> Row:
    """A picture of the nano model from a text, distilled or not."""
    before = peak()
    tokenizer = text.nano_tokenizer()
    pipeline = JuZhouPipeline(
        JuZhouUNet.preset("nano"),
        JuZhouAutoencoder.preset("nano"),
        text.nano_encoder(tokenizer),
        tokenizer,
        FlowMatchEulerDiscreteScheduler(shift=1.5),
        steps if steps < 28 else None,
    )
    seconds = best(lambda: pipeline("红苹果在猫的左边"), 3)
    parts = [pipeline.unet, pipeline.autoencoder, pipeline.text_encoder]
    return Row(f"picture, nano, {steps} steps", seconds, peak() - before, sum(p.num_parameters() for p in parts), 0)


def alone(case: Callable[[], Row]) -> Row:
    """Run a case in a process of its own, so that its peak of memory is its own."""
    with multiprocessing.get_context("fork").Pool(1, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        return pool.apply(case)


def main() -> None:
    """Run the cases one after another and print them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    sides, sizes = ((32,), (256,)) if quick else ((32, 64), (256, 512))
    cases: list[Callable[[], Row]] = [
        *(partial(case, side) for side in sides for case in ((ours, sd15) if quick else (ours, sd15, sdxl))),
        *(partial(ours, side, variant) for side in sides for variant in (() if quick else VARIANTS)),
        *(partial(case, size) for size in sizes for case in (light_decoder, sd_decoder, tiny_decoder)),
        *(partial(training_step, as_it_was) for as_it_was in (False, True)),
        *(partial(picture, steps) for steps in (4, 28)),
    ]
    rows = {}
    print(f"{'':30}{'ms':>10}{'peak MiB':>10}{'M parameters':>14}{'G multiply-adds':>17}", flush=True)
    for case in cases:
        row = alone(case)
        rows[row.what] = row
        adds = f"{row.multiply_adds / 1e9:17,.2f}" if row.multiply_adds else ""
        print(
            f"{row.what:30}{1e3 * row.seconds:10,.1f}{row.mebibytes:10,.0f}{row.parameters / 1e6:14,.2f}{adds}",
            flush=True,
        )
    figures = {
        what: {"seconds": round(row.seconds, 5), "mebibytes": round(row.mebibytes)} for what, row in rows.items()
    }
    ratios = {
        f"{what} over ours": round(row.seconds / rows[f"{what.partition(':')[0]}: ours"].seconds, 3)
        for what, row in rows.items()
        if ":" in what and not what.endswith("ours")
    }
    now, was = rows["training step, nano"], rows["training step, nano, as it was"]
    ratios["training step as it was over now"] = round(was.seconds / now.seconds, 3)
    few, many = rows["picture, nano, 4 steps"], rows["picture, nano, 28 steps"]
    ratios["28 steps over 4"] = round(many.seconds / few.seconds, 3)
    for what, ratio in ratios.items():
        print(f"{what}: {ratio}")
    print(json.dumps({"rows": figures, "ratios": ratios}))


if __name__ == "__main__":
    main()
