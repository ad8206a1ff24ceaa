"""Runs the stages of a recipe on Ray Train, each at most once: what is on disk is what is done."""

import os
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

import ray.train
from ray.train.torch import TorchConfig, TorchTrainer
from ray.train.v2.api.exceptions import TrainingFailedError, WorkerGroupError

from model import device
from schemas.errors import JuZhouError
from schemas.identity import fingerprint
from schemas.training import Training
from training.align import AlignStage
from training.autoencoder import AutoencoderStage
from training.dmd2 import DMD2Stage
from training.flow import FlowStage
from training.loader import Release
from training.stage import METRICS, Stage
from training.worker import work

STAGES: tuple[type[Stage], ...] = (AutoencoderStage, AlignStage, FlowStage, DMD2Stage)
POLL_SECONDS = 1.0
REPORT_SECONDS = 5.0

PATIENT_THREADS = {"OMP_WAIT_POLICY": "PASSIVE"}
"""Waiting OpenMP threads that spin slow a shared machine down by an order of magnitude."""


def train(release: Path, out: Path, recipe: Training, progress: Callable[[str], None]) -> Path:
    """Bring every stage of a recipe to its end; finished ones are left alone. Ray must have been started.

    Each stage becomes `out/<stage>-<fingerprint>`, whole or not at all. An interrupted one goes on from its last saved
    state when it is called again.

    Returns:
        The distilled checkpoint, a folder that `JuZhouPipeline.from_pretrained` loads.

    Raises:
        JuZhouError: no usable release, or settings that do not fit each other.
    """
    places = folders(release, out, recipe)
    finished: dict[str, Path] = {}
    for stage in STAGES:
        folder = places[stage.name]
        if not folder.exists():
            progress(f"{stage.name}: training")
            _fit(stage, release, recipe, finished, folder, progress)
        progress(f"{stage.name}: {folder}")
        finished[stage.name] = folder
    return places[STAGES[-1].name] / "checkpoint"


def pending(release: Path, out: Path, recipe: Training) -> list[str]:
    """The names of the stages that `train` would run.

    Raises:
        JuZhouError: as `train`.
    """
    return [name for name, folder in folders(release, out, recipe).items() if not folder.exists()]


def folders(release: Path, out: Path, recipe: Training) -> dict[str, Path]:
    """Where each stage's product belongs: its name has a digest of all it depends on, stages before it included."""
    above = Release(release).digest
    places = {}
    for stage in STAGES:
        settings = getattr(recipe.stages, stage.name)
        if settings.batch % recipe.workers:
            raise JuZhouError(
                f"stages.{stage.name}.batch: {settings.batch} cannot be shared by {recipe.workers} workers"
            )
        above = fingerprint(
            above=above,
            stage=stage.name,
            version=stage.version,
            settings=settings.model_dump(),
            common=recipe.model_dump(include={"preset", "seed", "size", "captions"}),
        )
        places[stage.name] = out.resolve() / f"{stage.name}-{above}"
    return places


def _fit(
    stage: type[Stage],
    release: Path,
    recipe: Training,
    finished: dict[str, Path],
    folder: Path,
    progress: Callable[[str], None],
) -> None:
    """Train one stage on Ray into a hidden folder beside its place, then rename it there."""
    part = folder.with_name(f".{folder.name}.part")
    storage = folder.with_name(f".{folder.name}.ray")
    part.mkdir(parents=True, exist_ok=True)
    trainer = TorchTrainer(
        work,
        train_loop_config={
            "stage": stage.name,
            "release": str(release.resolve()),
            "recipe": recipe.model_dump(),
            "finished": {name: str(path) for name, path in finished.items()},
            "part": str(part),
        },
        scaling_config=ray.train.ScalingConfig(
            num_workers=recipe.workers,
            use_gpu=device.pick().type != "cpu",
            resources_per_worker={"CPU": recipe.threads},
        ),
        torch_config=TorchConfig(backend=device.backend(device.pick())),
        run_config=ray.train.RunConfig(  # type: ignore[call-arg]
            name=folder.name,
            storage_path=str(storage),
            worker_runtime_env={"env_vars": PATIENT_THREADS},
            logging_config=ray.train.LoggingConfig(log_level="WARNING"),
        ),
    )
    stop = threading.Event()
    watcher = threading.Thread(target=_watch, args=(part / METRICS, stage.name, stop, progress), daemon=True)
    watcher.start()
    try:
        trainer.fit()
    except TrainingFailedError as error:
        for failure in error.worker_failures.values() if isinstance(error, WorkerGroupError) else ():
            if isinstance(failure, JuZhouError):
                raise failure from error
        raise
    finally:
        stop.set()
        watcher.join()
        shutil.rmtree(storage, ignore_errors=True)
    os.replace(part, folder)


def _watch(log: Path, name: str, stop: threading.Event, progress: Callable[[str], None]) -> None:
    """Tell `progress` the last line of a growing metrics file every few seconds."""
    told, last = time.monotonic(), b""
    while not stop.wait(POLL_SECONDS):
        if time.monotonic() - told < REPORT_SECONDS or not log.exists():
            continue
        lines = log.read_bytes().splitlines()
        if lines and lines[-1] != last:
            told, last = time.monotonic(), lines[-1]
            progress(f"{name}: {last.decode()}")
