"""Distils the guided teacher's trajectories into a student of few steps, by regression: where DMD2 may start.

From noise, or from what the student itself has drawn so far and noised again, the teacher follows its guided flow to
the end in a few Euler steps; wherever that passes one of the student's levels, the student learns to say in one step
where it ends. It is the regression with which few-step students are made ready for distribution matching (section 4.1
of CausVid, arXiv 2412.07772); that the teacher goes on from where the student errs is DAgger's (arXiv 1011.0686). Of
the release it needs the captions alone.
"""

import copy
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from model import device, flow
from model.autoencoder import SCALE
from model.text import TextStates
from training.distillation import Distillation
from training.flow import follow
from training.stage import Job, Metrics, bare, descend, learning_rate, mean, optimizer


def depths(steps: int) -> list[int]:
    """At which of the student's steps trajectories begin, each as often: half at noise, the others further down."""
    return [0] * max(1, steps - 1) + [*range(1, steps)]


class TrajectoryBatch(NamedTuple):
    """What a step is given, (share, …) each; `Texts` knows the first two."""

    texts: Tensor
    mask: Tensor
    noises: Tensor
    """(share, sampling_steps, channels, h, w)."""


class TrajectoryStage(Distillation):
    """The student that is kept is the running average of the weights."""

    name = "trajectory"

    def __init__(self, job: Job) -> None:
        """Start the student from the teacher."""
        super().__init__(job)
        self.teacher = self.pipeline.unet
        self.kept = copy.deepcopy(self.teacher)
        self.student = job.wrap(copy.deepcopy(self.teacher).train().requires_grad_(True))
        self.optimizer = optimizer(self.student.parameters())

    def state(self) -> dict[str, Any]:
        """The student, its average and its optimizer."""
        return {"student": bare(self.student), "kept": self.kept, "optimizer": self.optimizer}

    def load(self, step: int) -> TrajectoryBatch:
        """Texts and noises."""
        _, texts, shape = self.batch(self.batches, step)
        channels = self.teacher.config["latent_channels"]
        noises = self.noise(step, self.sampling_steps, channels, shape[0] // SCALE, shape[1] // SCALE)
        return TrajectoryBatch(*self.texts.load(texts), noises)

    def step(self, step: int, batch: TrajectoryBatch) -> Metrics:
        """Say where the teacher ends, from each of the student's levels that it passes."""
        places = depths(self.sampling_steps)
        depth = places[int(torch.randint(len(places), (), generator=self.draws("depth", step)))]
        losses = []
        for piece in self.in_turn(self.pieces(batch), self.student):
            noises, text = piece.noises.to(self.device).transpose(0, 1), self.texts(piece.texts, piece.mask)
            with device.autocast(self.device):
                z = self.simulate(bare(self.student), noises, depth, text)
                *passed, end = self.follow_teacher(self.teacher, z, depth, text)
                x0 = self._ends(torch.cat(passed), self.levels[depth:].repeat_interleave(len(z)), text, len(passed))
            loss = F.mse_loss(x0.float(), end.repeat(len(passed), 1, 1, 1)) * len(passed) / self.sampling_steps
            self.backward(loss)
            losses.append({"loss": loss.item()})
        norm = descend(self.optimizer, learning_rate(step, self.steps, self.settings.learning_rate))
        follow(self.kept, bare(self.student), step, self.settings.ema)
        return mean(losses) | {"grad_norm": norm}

    def _ends(self, z: Tensor, levels: Tensor, text: TextStates, count: int) -> Tensor:
        """The student's x0 from z at several levels, `count` of them for each text."""
        texts = TextStates(text.hidden.repeat(count, 1, 1), text.mask.repeat(count, 1))
        return flow.clean(z, levels, flow.velocity(self.student, z, levels, texts))
