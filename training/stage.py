"""What the four stages share: their job, their draws, and the loop that steps, logs, saves and resumes."""

import math
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from PIL import Image
from torch import Tensor, nn

from model import device
from schemas.training import Training
from training.loader import Release, generator
from training.log import Log

STATE = "state.pt"
WARM_UP = 0.05
"""The share of a stage's steps in which the learning rate rises."""

Metrics = dict[str, float]


@dataclass(frozen=True)
class Job:
    """What a stage is given: the release, the recipe, the folders of the stages, and its place among the workers."""

    release: Path
    recipe: Training
    folders: dict[str, Path] = field(default_factory=dict)
    """Where each stage's product is or will be, by the stage's name."""
    rank: int = 0
    world: int = 1
    phase: int = 0
    """Of a flow in phases, which one, counted from 1; 0 is the last."""

    def wrap(self, module: nn.Module) -> nn.Module:
        """The module on its device, averaging its gradients over the workers where there are several."""
        if self.world == 1:
            return module.to(device.pick())
        from ray.train.torch import prepare_model

        return prepare_model(module)

    def slice(self, batch: Tensor, dim: int = 0) -> Tensor:
        """This worker's share of a global batch."""
        return batch.chunk(self.world, dim)[self.rank]


class Stage(ABC):
    """One training stage. Its constructor builds everything from the job; `step` s depends on s and `state` alone."""

    name: str
    steps: int
    """How many steps the stage has."""

    def __init__(self, job: Job) -> None:
        """Open the release and fix the initial weights' seed."""
        self.job = job
        self.recipe = job.recipe
        self.release = Release(job.release)
        self.device = device.pick()
        torch.manual_seed(self.draws("initial weights").initial_seed())

    @abstractmethod
    def step(self, step: int) -> Metrics:
        """Train on the batch of this step."""

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """What changes from step to step: modules and optimizers, by name."""

    @abstractmethod
    def finish(self, folder: Path) -> Metrics:
        """Write the stage's product into `folder`; what is returned ends the metrics. Only rank 0 is asked."""

    def samples(self) -> Image.Image | None:
        """What the stage can show of itself while it trains; it changes nothing that is trained."""
        return None

    def draws(self, *key: str | int) -> torch.Generator:
        """The generator of everything random under a key, a step's number say, in this stage of this recipe."""
        return generator(self.recipe.seed, self.name, *key)


def run(stage: Stage, folder: Path) -> None:
    """Train a stage in `folder` from where it was interrupted to its product; only rank 0 writes."""
    done = _resume(stage, folder)
    log = Log(folder, stage.recipe, done) if stage.job.rank == 0 else None
    for step in range(done, stage.steps):
        started = time.perf_counter()
        metrics = _mean_over_workers(stage.step(step))
        metrics["samples_per_second"] = metrics.pop("samples") * stage.job.world / (time.perf_counter() - started)
        if not all(math.isfinite(value) for value in metrics.values()):
            raise FloatingPointError(f"{stage.name}: step {step}: a metric is not finite: {metrics}")
        if log:
            log.scalars(step, metrics)
            if (step + 1) % stage.recipe.save_every == 0:
                _save(stage, step + 1, folder)
            if (step + 1) % stage.recipe.show_every == 0 and (sheet := stage.samples()):
                log.picture(step, "samples", sheet)
    if log:
        log.scalars(stage.steps, stage.finish(folder))
        log.close()
        (folder / STATE).unlink(missing_ok=True)


def learning_rate(step: int, steps: int, peak: float) -> float:
    """A linear warm-up, then half a cosine to zero; the report publishes no schedule."""
    warm = max(1, round(WARM_UP * steps))
    return peak * min((step + 1) / warm, 0.5 * (1 + math.cos(math.pi * step / steps)))


def optimizer(parameters: Iterable[nn.Parameter]) -> torch.optim.AdamW:
    """AdamW, as in the report; its rate is set before each step by `descend`."""
    return torch.optim.AdamW(parameters, lr=0.0, betas=(0.9, 0.99), weight_decay=0.01, fused=True)


def descend(loss: Tensor, optimizer: torch.optim.Optimizer, rate: float, clip: float = 1.0) -> float:
    """One optimizer step along the loss, its gradient clipped to the norm `clip`; returns the norm before that."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    optimizer.zero_grad()
    loss.backward()
    norm = nn.utils.clip_grad_norm_(parameters, clip)
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.step()
    return norm.item()


def bare(module: nn.Module) -> Any:
    """The module itself, without the wrapper that averages its gradients."""
    return getattr(module, "module", module)


def sheet(rows: Sequence[Sequence[Image.Image]]) -> Image.Image:
    """Pictures of one size as one picture, row by row."""
    width, height = rows[0][0].size
    page = Image.new("RGB", (width * len(rows[0]), height * len(rows)))
    for y, row in enumerate(rows):
        for x, picture in enumerate(row):
            page.paste(picture, (x * width, y * height))
    return page


def _mean_over_workers(metrics: Metrics) -> Metrics:
    """The same metrics, averaged over all workers."""
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return metrics
    values = torch.tensor(list(metrics.values()), device=device.pick())
    dist.all_reduce(values)
    return dict(zip(metrics, (values / dist.get_world_size()).tolist(), strict=True))


def _save(stage: Stage, done: int, folder: Path) -> None:
    """Keep the state after `done` steps: whole or not at all."""
    states = {name: part.state_dict() for name, part in stage.state().items()}
    temporary = folder / f"{STATE}.tmp"
    torch.save({"done": done, "states": states}, temporary)
    os.replace(temporary, folder / STATE)


def _resume(stage: Stage, folder: Path) -> int:
    """Restore the last saved state; returns how many steps are done."""
    if not (folder / STATE).exists():
        return 0
    saved = torch.load(folder / STATE, map_location=stage.device, weights_only=True)
    for name, part in stage.state().items():
        part.load_state_dict(saved["states"][name])
    return int(saved["done"])
