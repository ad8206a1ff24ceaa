"""Where a stage's metrics and pictures go: a file of JSON rows always, and the trackers that the recipe names."""

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image

from schemas.training import Training
from training.order import METRICS

EVENTS = "tensorboard"


class Tracker(Protocol):
    """What a tracker can do; each step is written once, whatever was interrupted."""

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Metrics of a step."""

    def picture(self, step: int, name: str, picture: Image.Image) -> None:
        """A sheet of samples, drawn after a step."""

    def close(self) -> None:
        """Hand everything to where it goes."""


class TensorBoard:
    """Event files beside the metrics: tensorboard --logdir CHECKPOINTS."""

    def __init__(self, folder: Path, done: int) -> None:
        from tensorboardX import SummaryWriter

        self._writer = SummaryWriter(str(folder / EVENTS), purge_step=done or None)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """As `Tracker`."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def picture(self, step: int, name: str, picture: Image.Image) -> None:
        """As `Tracker`."""
        self._writer.add_image(name, np.asarray(picture), step, dataformats="HWC")

    def close(self) -> None:
        """As `Tracker`."""
        self._writer.close()


class Wandb:
    """A run of Weights & Biases, named after the stage's folder; its own environment variables say where it goes."""

    def __init__(self, folder: Path, done: int) -> None:
        import wandb

        name = folder.name.strip(".").removesuffix(".part")
        self._run = wandb.init(project="juzhou", id=name, name=name, dir=str(folder), resume="allow")
        self._picture = wandb.Image

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """As `Tracker`."""
        self._run.log(dict(values), step=step)

    def picture(self, step: int, name: str, picture: Image.Image) -> None:
        """As `Tracker`."""
        self._run.log({name: self._picture(picture)}, step=step)

    def close(self) -> None:
        """As `Tracker`."""
        self._run.finish()


TRACKERS: dict[str, Callable[[Path, int], Tracker]] = {"tensorboard": TensorBoard, "wandb": Wandb}


class Log:
    """A stage's metrics as rows of `metrics.jsonl`, and the same to the recipe's trackers."""

    def __init__(self, folder: Path, recipe: Training, done: int) -> None:
        """Go on after `done` steps: rows of later ones, from a run that was interrupted, are dropped."""
        self._path = folder / METRICS
        temporary = self._path.with_name(METRICS + ".tmp")
        temporary.write_text("".join(_lines(self._path)[:done]), encoding="utf-8")
        os.replace(temporary, self._path)
        self._trackers: list[Tracker] = [TRACKERS[name](folder, done) for name in recipe.trackers]

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Write the metrics of a step."""
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")
        for tracker in self._trackers:
            tracker.scalars(step, values)

    def picture(self, step: int, name: str, picture: Image.Image) -> None:
        """Show a sheet of samples."""
        for tracker in self._trackers:
            tracker.picture(step, name, picture)

    def close(self) -> None:
        """Hand everything to where it goes."""
        for tracker in self._trackers:
            tracker.close()


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
