"""What the stages share: their job, their draws, and the loop that reads ahead, steps, logs, saves and resumes."""

import math
import os
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from PIL import Image
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule

from model import device
from schemas.training import StageSettings, Training
from training.batches import Batch, Batches
from training.draws import generator, normal
from training.log import Log
from training.release import Release
from training.sharding import load, share_out, whole

STATE = "state.pt"
WARM_UP = 0.05
"""The share of a stage's steps in which the learning rate rises."""

Metrics = dict[str, float]
Piece = TypeVar("Piece")


@dataclass(frozen=True)
class Job:
    """What a stage is given: the release, the recipe, the folders of the stages, and its place among the workers."""

    release: Release
    recipe: Training
    folders: dict[str, Path] = field(default_factory=dict)
    """Where each stage's product is or will be, by the stage's name."""
    rank: int = 0
    world: int = 1
    phase: int = 0
    """Of a flow in phases, which one, counted from 1; 0 is the last."""

    def wrap(self, module: nn.Module, sharded: bool = False) -> nn.Module:
        """The module on its device, averaging its gradients over the workers where there are several."""
        if self.world == 1:
            return module.to(device.pick())
        if sharded:
            return share_out(module.to(device.pick()))
        from ray.train.torch import prepare_model

        return prepare_model(module)

    def averaging(self, module: nn.Module, now: bool) -> AbstractContextManager[None]:
        """Within it a backward pass averages the gradients of a wrapped module over the workers, or does not yet."""
        if isinstance(module, FSDPModule):
            module.set_requires_gradient_sync(now)
            return nullcontext()
        return nullcontext() if now or self.world == 1 else module.no_sync()  # type: ignore[operator]

    def slice(self, batch: Tensor) -> Tensor:
        """This worker's share of a global batch."""
        return batch.chunk(self.world)[self.rank]


class Stage(ABC):
    """One training stage. Its constructor builds everything from the job; `step` s depends on s and `state` alone."""

    name: str
    settings: StageSettings
    steps: int
    """How many steps the stage has."""

    def __init__(self, job: Job) -> None:
        """Fix the initial weights' seed."""
        self.job = job
        self.recipe = job.recipe
        self.release = job.release
        self.device = device.pick()
        torch.manual_seed(self.draws("initial weights").initial_seed())

    @abstractmethod
    def load(self, step: int) -> Any:
        """This worker's share of a step's batch: a named tuple of tensors, (share, …) each, on the CPU.

        It is called ahead of the step and in another thread, so it must not look at what is trained.
        """

    @abstractmethod
    def step(self, step: int, batch: Any) -> Metrics:
        """Train on what was loaded for this step."""

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """What changes from step to step: modules and optimizers, by name."""

    def gather(self) -> None:
        """Bring together what `samples` and `finish` need and the workers share out; all of them are asked."""
        return None

    @abstractmethod
    def finish(self, folder: Path) -> Metrics:
        """Write the stage's product into `folder`; what is returned ends the metrics. Only rank 0 is asked."""

    def samples(self) -> Image.Image | None:
        """What the stage can show of itself while it trains; it changes nothing that is trained."""
        return None

    def draws(self, *key: str | int) -> torch.Generator:
        """The generator of everything random under a key, a step's number say, in this stage of this recipe."""
        return generator(self.recipe.seed, self.name, *key)

    def noise(self, step: int, *shape: int) -> Tensor:
        """Standard normal numbers for this worker's share of a step's batch: (share, *shape)."""
        share = self.settings.batch // self.job.world
        places = range(self.job.rank * share, (self.job.rank + 1) * share)
        return normal(places, shape, self.recipe.seed, self.name, "noise", step)

    def batch(self, batches: Batches, step: int, drop: float = 0.0) -> Batch:
        """This worker's share of which pictures and texts a step sees."""
        images, texts, shape = batches.batch(step, self.recipe.captions, drop)
        return Batch(self.job.slice(images), self.job.slice(texts), shape)

    def pieces(self, batch: Any) -> list[Any]:
        """What was loaded, in as many pieces as gradients are accumulated over."""
        parts = [part.chunk(self.settings.accumulate) for part in batch]
        return [type(batch)(*piece) for piece in zip(*parts, strict=True)]

    def in_turn(self, pieces: Sequence[Piece], module: nn.Module) -> Iterator[Piece]:
        """One piece after another; a module's gradients are averaged over the workers in the last one."""
        for number, piece in enumerate(pieces, start=1):
            with self.job.averaging(module, number == len(pieces)):
                yield piece

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of a piece's loss to those of the batch's, which is the mean of its pieces'."""
        (loss / self.settings.accumulate).backward()


def run(stage: Stage, folder: Path) -> None:
    """Train a stage in `folder` from where it was interrupted to its product; only rank 0 writes."""
    done = _resume(stage, folder)
    log = Log(folder, stage.recipe, done) if stage.job.rank == 0 else None
    started = time.perf_counter()
    for step, batch in _ahead(stage.load, range(done, stage.steps), stage.recipe.readers):
        loaded = time.perf_counter()
        metrics = _mean_over_workers(stage.step(step, batch) | {"waited": loaded - started})
        ended = time.perf_counter()
        metrics["samples_per_second"] = stage.settings.batch / (ended - started)
        started = ended
        if not all(math.isfinite(value) for value in metrics.values()):
            raise FloatingPointError(f"{stage.name}: step {step}: a metric is not finite: {metrics}")
        if log:
            log.scalars(step, metrics)
        if (step + 1) % stage.recipe.save_every == 0:
            _save(stage, step + 1, folder)
        if (step + 1) % stage.recipe.show_every == 0:
            stage.gather()
            if log and (sheet := stage.samples()):
                log.picture(step, "samples", sheet)
    stage.gather()
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


def descend(optimizer: torch.optim.Optimizer, rate: float, clip: float = 1.0) -> float:
    """One optimizer step along the gradients that there are, clipped to the norm `clip`; returns the norm before that.

    The gradients are spent.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    norm = nn.utils.clip_grad_norm_(parameters, clip)
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.step()
    optimizer.zero_grad()
    return whole(norm).item()


def mean(metrics: Sequence[Metrics]) -> Metrics:
    """The metrics of a batch, from those of its pieces."""
    return {name: sum(piece[name] for piece in metrics) / len(metrics) for name in metrics[0]}


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


def mean_over_workers(values: Tensor) -> Tensor:
    """The same numbers, averaged over all workers."""
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return values
    dist.all_reduce(values)
    return values / dist.get_world_size()


def _mean_over_workers(metrics: Metrics) -> Metrics:
    values = torch.tensor(list(metrics.values()), dtype=torch.float64, device=device.pick())
    return dict(zip(metrics, mean_over_workers(values).tolist(), strict=True))


def _ahead(load: Callable[[int], Any], steps: range, threads: int) -> Iterator[tuple[int, Any]]:
    """Each step with what was loaded for it while those before it were trained."""
    with ThreadPoolExecutor(threads, "loader") as pool:
        waiting: deque[Any] = deque()
        try:
            for step in steps:
                while len(waiting) <= threads and step + len(waiting) < steps.stop:
                    waiting.append(pool.submit(load, step + len(waiting)))
                yield step, waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


def _save(stage: Stage, done: int, folder: Path) -> None:
    """Keep the state after `done` steps: whole or not at all. Only rank 0 writes what all bring together."""
    states = {name: whole(part.state_dict()) for name, part in stage.state().items()}
    if stage.job.rank:
        return
    temporary = folder / f"{STATE}.tmp"
    torch.save({"done": done, "states": states}, temporary)
    os.replace(temporary, folder / STATE)


def _resume(stage: Stage, folder: Path) -> int:
    """Restore the last saved state; returns how many steps are done."""
    if not (folder / STATE).exists():
        return 0
    saved = torch.load(folder / STATE, map_location=stage.device, weights_only=True)
    for name, part in stage.state().items():
        load(part, saved["states"][name])
    return int(saved["done"])
