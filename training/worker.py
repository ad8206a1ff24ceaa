"""What a Ray Train worker does; light and apart, because Ray's controller, which trains nothing, imports it too."""

from pathlib import Path
from typing import Any

import ray.train


def work(config: dict[str, Any]) -> None:
    """Train this worker's share of a stage.

    Args:
        config: plain data: the stage's name, the recipe as a mapping, and the paths `release`, `part` and `finished`.
    """
    from model import device
    from model.pipeline import quiet
    from schemas.training import Training
    from training.stage import Job, run
    from training.trainer import STAGES

    recipe = Training.model_validate(config["recipe"])
    device.set_threads(recipe.threads)
    quiet()
    finished = {name: Path(folder) for name, folder in config["finished"].items()}
    context = ray.train.get_context()
    job = Job(Path(config["release"]), recipe, finished, context.get_world_rank(), context.get_world_size())
    stage = next(stage for stage in STAGES if stage.name == config["stage"])
    run(stage(job), Path(config["part"]))
