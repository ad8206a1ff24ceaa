"""Trains the denoiser by rectified flow on latents and hidden states: the base model of 28 steps."""

import copy
import json
from pathlib import Path
from typing import Any, NamedTuple

import torch
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
from PIL import Image
from torch import Tensor, nn
from transformers import ChineseCLIPTextModel

from model import device, flow, text
from model.autoencoder import SCALE, JuZhouAutoencoder
from model.pipeline import STRICT_LOADING, JuZhouPipeline
from model.text import TextStates
from model.unet import JuZhouUNet
from schemas.training import FlowSettings, Phase
from training.batches import Batches
from training.features import Latents, Texts
from training.order import PHASE
from training.release import Release
from training.stage import Job, Metrics, Stage, bare, descend, learning_rate, mean, optimizer, sheet


def follow(average: nn.Module, model: nn.Module, step: int, decay: float) -> None:
    """Move a running average of weights towards the model; the decay grows to its value over the first steps."""
    weight = 1 - min(decay, (1 + step) / (10 + step))
    with torch.no_grad():
        torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), weight)


class FlowBatch(NamedTuple):
    """What a step is given, (share, …) each; `Latents` and `Texts` know the first three."""

    latents: Tensor
    texts: Tensor
    mask: Tensor
    noise: Tensor
    times: Tensor


class Denoiser(nn.Module):
    """The U-Net, with the text tower where that learns along, and their loss."""

    def __init__(self, unet: JuZhouUNet, encoder: ChineseCLIPTextModel | None) -> None:
        super().__init__()
        self.unet, self.encoder = unet, encoder

    def forward(self, latents: Tensor, noise: Tensor, t: Tensor, texts: Tensor, mask: Tensor) -> Tensor:
        """`flow.loss`; texts are tokens where the tower learns along, hidden states elsewhere."""
        if self.encoder:
            texts = self.encoder(input_ids=texts, attention_mask=mask).last_hidden_state
        return flow.loss(self.unet, latents, noise, t, TextStates(texts.float(), mask))


class FlowStage(Stage):
    """Product: `checkpoint`, a JuZhouPipeline with the averaged weights, and `samples-28.png` of the held prompts."""

    name = "flow"

    def __init__(self, job: Job) -> None:
        """Open what the stages before have made and start a fresh U-Net, or go on from the phase before."""
        if job.phase:
            self.name = PHASE.format(job.phase)
        super().__init__(job)
        wanted = self.recipe.stages.flow
        self.settings: Phase | FlowSettings = wanted.phases[job.phase - 1] if job.phase else wanted
        self.steps = self.settings.steps
        size = self.settings.size if isinstance(self.settings, Phase) else self.recipe.size
        phase = job.phase or len(wanted.phases) + 1
        before = job.folders[PHASE.format(phase - 1)] / "checkpoint" if phase > 1 else None
        self.latents = Latents(self.release, self.recipe, job.folders, size)
        kept = None if wanted.tunes_text(phase) else job.folders.get("texts")
        self.texts = Texts(self.release, before or job.folders["align"], kept)
        self.batches = Batches(self.release, self.recipe.seed, size, self.settings.batch)
        denoiser = Denoiser(self._start(size // SCALE, before), self._learner()).to(self.device)
        self.average = copy.deepcopy(denoiser).requires_grad_(False)
        self.denoiser = job.wrap(denoiser)
        self.optimizer = optimizer(self.denoiser.parameters())

    def _start(self, side: int, before: Path | None) -> JuZhouUNet:
        """A fresh U-Net in the first phase; later the average of the phase before, on the grid of positions that the
        first one had (position interpolation, arXiv 2306.15595)."""
        if before:
            unet = JuZhouUNet.from_pretrained(before / "unet", **STRICT_LOADING)
            unet.register_to_config(sample_size=side)
            return unet
        return JuZhouUNet.preset(
            self.recipe.preset,
            sample_size=side,
            reference_size=side,
            latent_channels=self.latents.channels,
            context_size=self.texts.width,
        )

    def _learner(self) -> ChineseCLIPTextModel | None:
        """The text tower, where it learns along; but for its pooler, which the denoiser does not look at."""
        if not self.settings.tune_text:
            return None
        encoder = text.learner(self.texts.encoder).train()
        encoder.pooler.requires_grad_(False)
        return encoder

    def state(self) -> dict[str, Any]:
        """What is trained, its average and its optimizer."""
        return {"denoiser": bare(self.denoiser), "average": self.average, "optimizer": self.optimizer}

    def load(self, step: int) -> FlowBatch:
        """Latents, texts, noise and logit-normal times."""
        images, texts, shape = self.batch(self.batches, step, self.settings.drop_captions)
        noise = self.noise(step, self.latents.channels, shape[0] // SCALE, shape[1] // SCALE)
        times = flow.training_times(self.settings.batch, self.settings.shift, self.draws("times", step))
        return FlowBatch(self.latents.load(images, shape), *self.texts.load(texts), noise, self.job.slice(times))

    def step(self, step: int, batch: FlowBatch) -> Metrics:
        """Say the velocity between pictures and noise."""
        losses = []
        for piece in self.in_turn(self.pieces(batch), self.denoiser):
            latents, mask = self.latents(piece.latents), piece.mask.to(self.device)
            texts = piece.texts.to(self.device)
            if not self.settings.tune_text:
                texts = self.texts(texts, mask).hidden
            with device.autocast(self.device):
                loss = self.denoiser(latents, piece.noise.to(self.device), piece.times.to(self.device), texts, mask)
            self.backward(loss)
            losses.append({"loss": loss.item()})
        norm = descend(self.optimizer, learning_rate(step, self.steps, self.settings.learning_rate))
        follow(self.average, bare(self.denoiser), step, self.settings.ema)
        return mean(losses) | {"grad_norm": norm}

    def pipeline(self) -> JuZhouPipeline:
        """The averaged weights with all that they need."""
        folders = self.job.folders
        return JuZhouPipeline(
            self.average.unet,
            JuZhouAutoencoder.from_pretrained(
                folders.get("decoder", folders["autoencoder"]) / "autoencoder", **STRICT_LOADING
            ),
            self.average.encoder or self.texts.encoder,
            self.texts.tokenizer,
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
    return release.captions(release.held)


def drawn(pipeline: JuZhouPipeline, prompts: list[str], steps: int | None = None) -> Image.Image:
    """The prompts drawn side by side, with the seeds 0, 1, 2, …"""
    return sheet([pipeline(prompts, num_inference_steps=steps)])


def keep(path: Path, pipeline: JuZhouPipeline, prompts: list[str], steps: int | None = None) -> None:
    """Save what is drawn, and note the prompts and seeds in `samples.json` beside it."""
    drawn(pipeline, prompts, steps).save(path)
    note = {"prompts": prompts, "seeds": list(range(len(prompts)))}
    (path.parent / "samples.json").write_text(json.dumps(note, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
