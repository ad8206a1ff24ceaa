"""Distils the guided teacher's trajectories into a student of few steps, by regression: where DMD2 may start.

From a picture noised to one of the student's levels the teacher follows its guided flow to the end in a few Euler
steps; the student learns to say in one where that ends. It is the regression with which few-step students are made
ready for distribution matching (section 4.1 of CausVid, arXiv 2412.07772). A trajectory costs several steps of the
student, so that its end may be kept and learnt from again. What the student cannot know it averages: DMD2 has to make
that sharp again.
"""

import copy
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from safetensors import safe_open
from torch import Tensor

from model import device, flow
from model.autoencoder import SCALE
from model.text import TextStates
from schemas.training import Training, TrajectorySettings
from training.distillation import Distillation
from training.features import Compute
from training.flow import follow
from training.release import Release
from training.stage import Job, Metrics, bare, descend, learning_rate, mean, optimizer

ROLLOUTS = 16
"""Batches of a file of ends."""


class TrajectoryBatch(NamedTuple):
    """What a step is given, (share, …) each; `Latents` and `Texts` know the first three."""

    latents: Tensor
    texts: Tensor
    mask: Tensor
    noise: Tensor
    ends: Tensor
    """(share, 0) where they are not kept."""


class TrajectoryStage(Distillation):
    """The student that is kept is the running average of the weights."""

    name = "trajectory"
    settings: TrajectorySettings

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
        """Latents, texts and noise of the rollout that is this step's, and where it ends if that is known."""
        rollout = self._rollout(step)
        loaded = self._start(rollout)
        if not self.settings.rollouts:
            return loaded
        with safe_open(self.job.folders["ends"] / _file(rollout // ROLLOUTS), "pt") as file:
            return loaded._replace(ends=self.job.slice(file.get_tensor(str(rollout))))

    def step(self, step: int, batch: TrajectoryBatch) -> Metrics:
        """Say where the teacher ends, from one of the student's levels."""
        depth = self._depth(self._rollout(step))
        level, losses = self.levels[depth], []
        for piece in self.in_turn(self.pieces(batch), self.student):
            z, text = self._noised(piece, depth), self.texts(piece.texts, piece.mask)
            with device.autocast(self.device):
                end = piece.ends.to(self.device).float() if self.settings.rollouts else self._end(z, depth, text)
                x0 = flow.clean(z, level, flow.velocity(self.student, z, level, text))
            loss = F.mse_loss(x0.float(), end)
            self.backward(loss)
            losses.append({"loss": loss.item()})
        norm = descend(self.optimizer, learning_rate(step, self.steps, self.settings.learning_rate))
        follow(self.kept, bare(self.student), step, self.settings.ema)
        return mean(losses) | {"grad_norm": norm}

    def ends(self, rollout: int) -> Tensor:
        """Where the teacher's trajectories of a rollout end, (batch, channels, h, w) in half precision."""
        batch, depth = self._start(rollout), self._depth(rollout)
        z, text = self._noised(batch, depth), self.texts(batch.texts, batch.mask)
        with device.autocast(self.device):
            end = self._end(z, depth, text)
        return end.half().cpu()

    def _rollout(self, step: int) -> int:
        """The rollout that a step learns from: each once before any comes again."""
        if not (rollouts := self.settings.rollouts):
            return step
        seen, place = divmod(step, rollouts)
        return int(torch.randperm(rollouts, generator=self.draws("order", seen))[place])

    def _depth(self, rollout: int) -> int:
        """The student's level, counted from noise, at which a rollout starts."""
        return int(torch.randint(self.sampling_steps, (), generator=self.draws("depth", rollout)))

    def _start(self, rollout: int) -> TrajectoryBatch:
        images, texts, shape = self.batch(self.batches, rollout)
        noise = self.noise(rollout, self.latents.channels, shape[0] // SCALE, shape[1] // SCALE)
        return TrajectoryBatch(
            self.latents.load(images, shape), *self.texts.load(texts), noise, torch.empty(len(noise), 0)
        )

    def _noised(self, batch: TrajectoryBatch, depth: int) -> Tensor:
        return flow.interpolate(self.latents(batch.latents), batch.noise.to(self.device), self.levels[depth])

    def _end(self, z: Tensor, depth: int, text: TextStates) -> Tensor:
        return self.follow_teacher(self.teacher, z, depth, text, self.settings.guidance)


def end_files(release: Release, recipe: Training, folders: dict[str, Path]) -> Iterator[tuple[str, Compute]]:
    """Where the teacher's trajectories end, of every rollout."""
    stage = TrajectoryStage(Job(release, recipe, folders))
    rollouts = range(stage.settings.rollouts or 0)

    def ends(some: range) -> dict[str, Tensor]:
        return {str(rollout): stage.ends(rollout) for rollout in some}

    for first in rollouts[::ROLLOUTS]:
        yield _file(first // ROLLOUTS), partial(ends, rollouts[first : first + ROLLOUTS])


def _file(number: int) -> str:
    return f"{number:05}.safetensors"
