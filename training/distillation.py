"""What a student of few steps is distilled with: its teacher, its noise levels, and what is drawn when it is done."""

import itertools
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from model import flow
from model.pipeline import JuZhouPipeline
from model.text import TextStates
from schemas.training import TrajectorySettings
from training.batches import Batches
from training.features import Latents, Texts
from training.flow import drawn, held_prompts, keep
from training.sharding import gathered
from training.stage import Job, Metrics, Stage


class Distillation(Stage):
    """Product: `checkpoint`, the pipeline of the student that is kept, and `samples-4.png` of the held prompts."""

    kept: nn.Module
    """The student that would be the product now."""

    def __init__(self, job: Job) -> None:
        """Open the flow's checkpoint, whose network is the frozen teacher, and what that was trained on."""
        super().__init__(job)
        stages = self.recipe.stages
        self.settings: Any = getattr(stages, self.name)
        self.steps = self.settings.steps
        self.shift = stages.flow.shift
        self.sampling_steps = stages.dmd2.sampling_steps
        self.levels = flow.noise_levels(self.sampling_steps, self.shift).to(self.device)
        self.substeps = (stages.trajectory or TrajectorySettings()).substeps
        fine = flow.noise_levels(self.sampling_steps * self.substeps, self.shift)
        self.grid = torch.cat([fine, torch.zeros(1)]).to(self.device)
        self.latents = Latents(self.release, self.recipe, job.folders, self.recipe.size)
        tuned = stages.flow.tunes_text(len(stages.flow.phases) + 1)
        base = job.folders["flow"] / "checkpoint"
        self.texts = Texts(self.release, base, None if tuned else job.folders.get("texts"))
        self.batches = Batches(self.release, self.recipe.seed, self.recipe.size, self.settings.batch)
        self.pipeline = JuZhouPipeline.from_pretrained(base).to(self.device)
        self.pipeline.unet.eval().requires_grad_(False)

    @torch.no_grad()
    def follow_teacher(self, teacher: nn.Module, z: Tensor, depth: int, text: TextStates, guidance: float) -> Tensor:
        """Where Euler steps along the teacher's guided velocity end, from z at the student's level `depth`."""
        empty = self.texts.empty(text)
        for now, then in itertools.pairwise(self.grid[depth * self.substeps :]):
            z = z + (then - now) * flow.guided_velocity(teacher, z, now, text, empty, guidance)
        return z

    def samples(self) -> Image.Image:
        """The held pictures' captions, drawn by the student that is kept."""
        return drawn(self._distilled(), held_prompts(self.release))

    def gather(self) -> None:
        """The student that is kept, whole."""
        self._shown = gathered(self.kept, like=self.pipeline.unet)

    def finish(self, folder: Path) -> Metrics:
        """Put the student's checkpoint together and draw the held prompts with it."""
        student = self._distilled()
        student.save_pretrained(folder / "checkpoint")
        keep(folder / f"samples-{self.sampling_steps}.png", student, held_prompts(self.release))
        return {}

    def _distilled(self) -> JuZhouPipeline:
        parts = {**self.pipeline.components, "unet": self._shown}
        return JuZhouPipeline(**parts, distilled_steps=self.sampling_steps)
