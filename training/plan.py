"""What a training will cost, told before it starts: samples, operations, memory of a device, and days."""

from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import torch

from model.autoencoder import PRESETS, SCALE, Decoder
from model.cost import Cost, cost
from model.text import ENGLISH_TOKENS, TOKENS
from model.unet import JuZhouUNet
from schemas.training import StageSettings, Training, TrajectorySettings
from training.order import PHASE

BACKWARD = 2
"""Forward passes that a backward pass costs: one for the inputs' gradients, one for the weights'."""
BYTES_OF_STATE = 16
"""Bytes of a trained parameter: weight, gradient and AdamW's two moments, in float32."""
BYTES_OF_AVERAGE, BYTES_FROZEN = 4, 4
BYTES_OF_A_COPY = 2
"""Of a trained parameter, while a pass computes in bfloat16."""
BYTES_KEPT = 2
"""Of a number that is kept for the backward pass, in bfloat16."""


@dataclass(frozen=True)
class Device:
    """What an accelerator gives. The default is the report's, Sugon's K100-AI, at a utilisation that is a guess."""

    teraflops: float = 196.0
    """Dense operations a second in bfloat16, in 10¹²."""
    utilisation: float = 0.35
    """The share of them that a training gets."""


@dataclass(frozen=True)
class Row:
    """A stage of a training."""

    stage: str
    steps: int
    batch: int
    size: int
    operations: float
    """Of all its steps; a multiply-add is two. Attention's products are among them."""
    gibibytes: float
    """Of weights, gradients, moments and averages on each device under DDP."""
    activations: float
    """GiB kept on each device for the backward pass of a piece, its share of a batch over `accumulate`, and the trained
    weights' copies in bfloat16. Where both are too much, `accumulate` lessens this and `sharded` the state."""
    days: float
    """On all devices of the recipe."""

    @property
    def samples(self) -> int:
        """How many pictures are seen, some again."""
        return self.steps * self.batch


class Work(NamedTuple):
    """What a stage does with a network."""

    stage: str
    settings: StageSettings
    size: int
    network: Cost
    passes: float
    """Forward passes that a sample costs."""
    state: int
    """Bytes held for a parameter."""
    kept: int
    """Forward passes whose activations are kept at one time."""


def plan(recipe: Training, where: Device | None = None) -> list[Row]:
    """A row for each stage that trains a network of the recipe's preset on latents or pictures.

    Passes counted for a sample: of the flow, one forward and one backward; of the decoder likewise, without its critic.
    A step of the regression follows the teacher with guidance, in `substeps` Euler steps for each of the student's that
    are left, (n + 1) / 2 of n, and trains the student. A step of DMD2 simulates the student down to a step of its own
    by chance, (n + 1) / 2 forward passes of n, and trains the critic on two samples; the student's, which comes every
    few steps, adds two of the teacher, a forward and a backward of the critic and a backward of the student, and where
    it is held by regression the teacher's guided steps.

    Kept for a backward pass is one forward pass of a sample, and two in DMD2, where the student's gradient comes
    through the critic and the critic sees two samples.
    """
    where = where or Device()
    stages, size = recipe.stages, recipe.size
    flow, ready, dmd2, unet = stages.flow, stages.trajectory, stages.dmd2, _unet(recipe.preset, size)
    plain, averaged = 1 + BACKWARD, BYTES_OF_STATE + BYTES_OF_AVERAGE
    followed = 2 * (ready or TrajectorySettings()).substeps * (dmd2.sampling_steps + 1) / 2
    critic = (dmd2.sampling_steps + 1) / 2 + 2 * (1 + BACKWARD)
    student = 2 + (1 + BACKWARD) + BACKWARD + (followed if dmd2.regression else 0)
    work = []
    if stages.decoder:
        work.append(Work("decoder", stages.decoder, size, _decoder(recipe.preset, size), plain, BYTES_OF_STATE, 1))
    for n, phase in enumerate(flow.phases, start=1):
        work.append(Work(PHASE.format(n), phase, phase.size, _unet(recipe.preset, phase.size), plain, averaged, 1))
    work.append(Work("flow", flow, size, unet, plain, averaged, 1))
    if ready:
        work.append(Work("trajectory", ready, size, unet, followed + plain, averaged + BYTES_FROZEN, 1))
    work.append(Work("dmd2", dmd2, size, unet, critic + student / dmd2.student_every, 2 * averaged + BYTES_FROZEN, 2))
    return [_row(one, recipe.workers, where) for one in work]


def _row(work: Work, workers: int, where: Device) -> Row:
    settings, network = work.settings, work.network
    operations = 2 * (network.multiply_adds + network.attention) * work.passes * settings.steps * settings.batch
    days = operations / (workers * where.teraflops * 1e12 * where.utilisation) / 86_400
    piece = settings.batch / workers / settings.accumulate
    activations = work.kept * (network.parameters * BYTES_OF_A_COPY + piece * network.kept * BYTES_KEPT)
    state = network.parameters * work.state
    return Row(
        work.stage, settings.steps, settings.batch, work.size, operations, state / 2**30, activations / 2**30, days
    )


@cache
def _unet(preset: str, size: int) -> Cost:
    side = size // SCALE
    with torch.device("meta"):
        unet = JuZhouUNet.preset(preset, sample_size=side)
        channels, context = unet.config["latent_channels"], unet.config["context_size"]
        tokens = ENGLISH_TOKENS if preset == "english" else TOKENS
        return cost(unet, torch.empty(1, channels, side, side), torch.empty(1), torch.empty(1, tokens, context))


def _decoder(preset: str, size: int) -> Cost:
    settings = PRESETS[preset]
    names = {"latent_channels": "latent_channels", "decoder_channels": "channels", "decoder_blocks": "blocks"}
    changed = {name: settings[key] for key, name in names.items() if key in settings}
    with torch.device("meta"):
        decoder = Decoder(**changed, groups=settings.get("groups", 32))
        channels = decoder.config["latent_channels"]
        return cost(decoder, torch.empty(1, channels, size // SCALE, size // SCALE))
