"""Distils the guided teacher's trajectories into a student of few steps, by regression: where DMD2 may start.

From a picture noised to one of the student's levels the teacher follows its guided flow to the end in a few Euler
steps; the student learns to say in one where that ends. It is the regression with which few-step students are made
ready for distribution matching (section 4.1 of CausVid, arXiv 2412.07772), with pictures of the release in place of
trajectories computed beforehand. What it cannot know it averages: DMD2 has to make that sharp again.
"""

import copy
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from model import device, flow
from model.autoencoder import SCALE
from training.distillation import Distillation
from training.flow import follow
from training.stage import Job, Metrics, bare, descend, learning_rate, mean, optimizer


class TrajectoryBatch(NamedTuple):
    """What a step is given, (share, …) each; `Latents` and `Texts` know the first three."""

    latents: Tensor
    texts: Tensor
    mask: Tensor
    noise: Tensor


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
        """Latents, texts and noise."""
        images, texts, shape = self.batch(self.batches, step)
        noise = self.noise(step, self.latents.channels, shape[0] // SCALE, shape[1] // SCALE)
        return TrajectoryBatch(self.latents.load(images, shape), *self.texts.load(texts), noise)

    def step(self, step: int, batch: TrajectoryBatch) -> Metrics:
        """Say where the teacher ends, from one of the student's levels."""
        depth = int(torch.randint(self.sampling_steps, (), generator=self.draws("depth", step)))
        losses = []
        for piece in self.in_turn(self.pieces(batch), self.student):
            real, text = self.latents(piece.latents), self.texts(piece.texts, piece.mask)
            level = self.levels[depth]
            z = flow.interpolate(real, piece.noise.to(self.device), level)
            with device.autocast(self.device):
                end = self.follow_teacher(self.teacher, z, depth, text, self.settings.guidance)
                x0 = flow.clean(z, level, flow.velocity(self.student, z, level, text))
            loss = F.mse_loss(x0.float(), end)
            self.backward(loss)
            losses.append({"loss": loss.item()})
        norm = descend(self.optimizer, learning_rate(step, self.steps, self.settings.learning_rate))
        follow(self.kept, bare(self.student), step, self.settings.ema)
        return mean(losses) | {"grad_norm": norm}
