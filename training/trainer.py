"""Runs the stages of a recipe on Ray Train, each at most once: what is on disk is what is done."""

import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from schemas.errors import JuZhouError
from schemas.identity import fingerprint
from schemas.training import Training
from training.order import ASIDE, FEATURES, METRICS, PHASE, VERSIONS
from training.worker import part, work

POLL_SECONDS = 1.0
REPORT_SECONDS = 20.0

PATIENT_THREADS = {"OMP_WAIT_POLICY": "PASSIVE"}
"""Waiting OpenMP threads that spin slow a shared machine down by an order of magnitude."""


def train(release: Path, out: Path, recipe: Training, progress: Callable[[str], None]) -> Path:
    """Bring every stage of a recipe to its end; finished ones are left alone. Ray must have been started.

    Each stage becomes `out/<stage>-<fingerprint>`, whole or not at all. An interrupted one goes on from its last saved
    state when it is called again. The stages that are left share one start of Ray Train's workers, which costs more
    than some of them.

    Returns:
        The distilled checkpoint, a folder that `JuZhouPipeline.from_pretrained` loads.

    Raises:
        JuZhouError: no usable release, or settings that do not fit each other.
    """
    places = folders(release, out, recipe)
    left = {name: folder for name, folder in places.items() if not folder.exists()}
    if left:
        _fit(release, out.resolve(), recipe, places, left, progress)
    return places["dmd2"] / "checkpoint"


def pending(release: Path, out: Path, recipe: Training) -> list[str]:
    """The names of the stages that `train` would run.

    Raises:
        JuZhouError: as `train`.
    """
    return [name for name, folder in folders(release, out, recipe).items() if not folder.exists()]


def folders(release: Path, out: Path, recipe: Training) -> dict[str, Path]:
    """Where each stage's product belongs: its name has a digest of all it depends on, stages before it included."""
    above = _digest(release)
    places = {}
    for stage, kind, settings in _stages(recipe):
        if settings and settings.batch % (recipe.workers * settings.accumulate):
            raise JuZhouError(
                f"stages.{stage}.batch: {settings.batch} cannot be shared by {recipe.workers} workers "
                f"in {settings.accumulate} pieces each"
            )
        digest = fingerprint(
            above=above,
            stage=stage,
            version=VERSIONS[kind],
            settings=settings and settings.model_dump(exclude={"accumulate", "sharded"}),
            common=recipe.model_dump(include={"preset", "seed", "size", "captions"}) | {"sizes": recipe.sizes},
            # The regression asks DMD2's settings how many steps its student has.
            **({"sampling_steps": recipe.stages.dmd2.sampling_steps} if kind == "trajectory" else {}),
        )
        places[stage] = out.resolve() / f"{stage}-{digest}"
        if kind not in ASIDE:
            above = digest
    return places


def _stages(recipe: Training) -> Iterator[tuple[str, str, Any]]:
    """The stages of a recipe in their order: name, kind and settings. The flow's phases are stages of their own."""
    for kind in VERSIONS:
        if kind in FEATURES:
            if kind in recipe.cached:
                yield kind, kind, None
            continue
        settings = getattr(recipe.stages, kind)
        if kind == "flow":
            for number, phase in enumerate(settings.phases, start=1):
                yield PHASE.format(number), kind, phase
        if settings:
            yield kind, kind, settings


def _digest(release: Path) -> str:
    """The digest that a release's manifest states."""
    try:
        return str(json.loads((release / "manifest.json").read_text(encoding="utf-8"))["digest"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise JuZhouError(
            f"{release}: no release here (no manifest.json with a digest); `juzhou build` makes one"
        ) from error


def _fit(
    release: Path,
    out: Path,
    recipe: Training,
    places: dict[str, Path],
    left: dict[str, Path],
    progress: Callable[[str], None],
) -> None:
    """Train the stages that are left on Ray."""
    # They load torch, which a run that finds all stages done has no use for.
    import ray.train
    from ray.train.torch import TorchConfig, TorchTrainer
    from ray.train.v2.api.exceptions import TrainingFailedError, WorkerGroupError

    from model import device

    for folder in left.values():
        part(folder).mkdir(parents=True, exist_ok=True)
    storage = out / ".ray"
    shutil.rmtree(storage, ignore_errors=True)
    trainer = TorchTrainer(
        work,
        train_loop_config={
            "release": str(release.resolve()),
            "recipe": recipe.model_dump(),
            "folders": {name: str(folder) for name, folder in places.items()},
            "pending": list(left),
        },
        scaling_config=ray.train.ScalingConfig(
            num_workers=recipe.workers,
            use_gpu=device.pick().type != "cpu",
            resources_per_worker={"CPU": recipe.threads},
        ),
        torch_config=TorchConfig(backend=device.backend(device.pick())),
        run_config=ray.train.RunConfig(  # type: ignore[call-arg]
            name="run",
            storage_path=str(storage),
            worker_runtime_env={"env_vars": PATIENT_THREADS},
            logging_config=ray.train.LoggingConfig(log_level="WARNING"),
        ),
    )
    stop = threading.Event()
    watcher = threading.Thread(target=_watch, args=(left, stop, progress), daemon=True)
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


def _watch(left: dict[str, Path], stop: threading.Event, progress: Callable[[str], None]) -> None:
    """Tell `progress` which stage runs, the last line of its metrics every few seconds, and where it ends up."""
    for name, folder in left.items():
        progress(f"{name}: {'computing' if name in FEATURES else 'training'}")
        told = time.monotonic()
        log = part(folder) / METRICS
        while not folder.exists() and not stop.wait(POLL_SECONDS):
            if time.monotonic() - told >= REPORT_SECONDS and log.exists():
                told = time.monotonic()
                progress(f"{name}: {_last_line(log)}")
        if not folder.exists():
            return
        progress(f"{name}: {folder}")


def _last_line(log: Path) -> str:
    """The newest row of a metrics file as `key value` pairs; `starting` before the first."""
    try:
        row = json.loads(log.read_bytes().splitlines()[-1])
    except (OSError, IndexError, ValueError):
        return "starting"
    return ", ".join(f"{key} {value:.4g}" for key, value in row.items())
