"""Trains the denoiser by rectified flow on cached latents and hidden states: the base model of 28 steps."""

import copy
import json
from pathlib import Path
from typing import Any

import torch
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
from PIL import Image
from torch import Tensor, nn

from model import device, flow, text
from model.autoencoder import SCALE, JuZhouAutoencoder
from model.pipeline import STRICT_LOADING, JuZhouPipeline
from model.text import TextStates
from model.unet import JuZhouUNet
from schemas.training import FlowSettings, Phase
from training.align import load_latents, load_texts
from training.loader import Release
from training.order import PHASE
from training.stage import Job, Metrics, Stage, bare, descend, learning_rate, optimizer, sheet


def follow(average: nn.Module, model: nn.Module, step: int, decay: float) -> None:
    """Move a running average of weights towards the model; the decay grows to its value over the first steps."""
    weight = 1 - min(decay, (1 + step) / (10 + step))
    with torch.no_grad():
        torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), weight)


class CachedTexts:
    """Every text's hidden states in memory, on the CPU, as far as the longest goes; a batch goes to the device."""

    def __init__(self, states: TextStates, where: torch.device) -> None:
        longest = int(states.mask.sum(dim=1).max())
        self.states = TextStates(states.hidden[:, :longest], states.mask[:, :longest])
        self.device = where

    def __getitem__(self, texts: Tensor) -> TextStates:
        """The hidden states, in float32, and masks of texts given by number, (batch,)."""
        return TextStates(self.states.hidden[texts].to(self.device).float(), self.states.mask[texts].to(self.device))

    def empty(self, count: int) -> TextStates:
        """The empty text's states, `count` times."""
        return self[torch.zeros(count, dtype=torch.long)]


class FlowStage(Stage):
    """Product: `checkpoint`, a JuZhouPipeline with the averaged weights, and `samples-28.png` of the held prompts."""

    name = "flow"

    def __init__(self, job: Job) -> None:
        """Load what the stages before have cached and start a fresh U-Net, or go on from the phase before."""
        if job.phase:
            self.name = PHASE.format(job.phase)
        super().__init__(job)
        wanted = self.recipe.stages.flow
        self.settings: Phase | FlowSettings = wanted.phases[job.phase - 1] if job.phase else wanted
        self.steps = self.settings.steps
        size = self.settings.size if isinstance(self.settings, Phase) else self.recipe.size
        self.latents = load_latents(job.folders["autoencoder"], size)
        self.texts = CachedTexts(load_texts(job.folders["align"]), self.device)
        unet = self._start(size // SCALE, job.phase or len(wanted.phases) + 1)
        unet.to(self.device)  # type: ignore[arg-type]
        self.average = copy.deepcopy(unet).requires_grad_(False)
        self.unet = job.wrap(unet)
        self.optimizer = optimizer(self.unet.parameters())

    def _start(self, side: int, phase: int) -> JuZhouUNet:
        """A fresh U-Net in the first phase; later the average of the phase before, on the grid of positions that the
        first one had (position interpolation, arXiv 2306.15595)."""
        if phase > 1:
            before = self.job.folders[PHASE.format(phase - 1)] / "checkpoint" / "unet"
            unet = JuZhouUNet.from_pretrained(before, **STRICT_LOADING)
            unet.register_to_config(sample_size=side)
            return unet
        return JuZhouUNet.preset(
            self.recipe.preset,
            sample_size=side,
            reference_size=side,
            latent_channels=self.latents.shape[1],
            context_size=self.texts.states.hidden.shape[-1],
        )

    def state(self) -> dict[str, Any]:
        """The U-Net, its average and its optimizer."""
        return {"unet": bare(self.unet), "average": self.average, "optimizer": self.optimizer}

    def step(self, step: int) -> Metrics:
        """One batch at logit-normal times."""
        size = self.settings.batch
        batch = self.release.batch(size, self.recipe.seed, step, self.recipe.captions, self.settings.drop_captions)
        draws = self.draws(step)
        t = self.job.slice(flow.training_times(size, self.settings.shift, draws)).to(self.device)
        noise = self.job.slice(torch.randn(size, *self.latents.shape[1:], generator=draws)).to(self.device)
        latents = self.latents[self.job.slice(batch.images)].to(self.device)
        with device.autocast(self.device):
            loss = flow.loss(self.unet, latents, noise, t, self.texts[self.job.slice(batch.texts)])
        norm = descend(loss, self.optimizer, learning_rate(step, self.steps, self.settings.learning_rate))
        follow(self.average, bare(self.unet), step, self.settings.ema)
        return {"loss": loss.item(), "grad_norm": norm, "samples": len(latents)}

    def pipeline(self) -> JuZhouPipeline:
        """The averaged weights with all that they need."""
        folders = self.job.folders
        return JuZhouPipeline(
            self.average,
            JuZhouAutoencoder.from_pretrained(
                folders.get("decoder", folders["autoencoder"]) / "autoencoder", **STRICT_LOADING
            ),
            *text.load_parts(folders["align"]),
            FlowMatchEulerDiscreteScheduler(shift=self.settings.shift),
        ).to(self.device)

    def samples(self) -> Image.Image:
        """The held pictures' captions, drawn."""
        return drawn(self.pipeline(), held_prompts(self.release))

    def finish(self, folder: Path) -> Metrics:
        """Put the checkpoint together and draw the held prompts."""
        pipeline = self.pipeline()
        pipeline.save_pretrained(folder / "checkpoint")
        keep(folder / "samples-28.png", pipeline, held_prompts(self.release))
        return {}


def held_prompts(release: Release) -> list[str]:
    """The captions of the held pictures."""
    return [release.texts[sample.simplified] for sample in release.held]


def drawn(pipeline: JuZhouPipeline, prompts: list[str], steps: int | None = None) -> Image.Image:
    """The prompts drawn side by side, with the seeds 0, 1, 2, …"""
    return sheet([pipeline(prompts, num_inference_steps=steps)])


def keep(path: Path, pipeline: JuZhouPipeline, prompts: list[str], steps: int | None = None) -> None:
    """Save what is drawn, and note the prompts and seeds in `samples.json` beside it."""
    drawn(pipeline, prompts, steps).save(path)
    note = {"prompts": prompts, "seeds": list(range(len(prompts)))}
    (path.parent / "samples.json").write_text(json.dumps(note, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
