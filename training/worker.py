"""What a Ray Train worker does; light and apart, because Ray's controller, which trains nothing, imports it too."""

import os
from pathlib import Path
from typing import Any

import ray.train


def part(folder: Path) -> Path:
    """Where a stage is trained until it is whole: a hidden folder beside its place."""
    return folder.with_name(f".{folder.name}.part")


def work(config: dict[str, Any]) -> None:
    """Train this worker's share of the stages that are not done, in their order, and move each into its place.

    Args:
        config: plain data: `release`, a path; `recipe`, a mapping; `folders`, each stage's place; `pending`, names.
    """
    import torch.distributed as dist

    from model import device
    from model.pipeline import quiet
    from schemas.training import Training
    from training.align import AlignStage
    from training.autoencoder import AutoencoderStage
    from training.decoder import DecoderStage
    from training.dmd2 import DMD2Stage
    from training.features import keep
    from training.flow import FlowStage
    from training.order import FEATURES
    from training.refiner import RefinerStage
    from training.release import Release
    from training.stage import Job, run
    from training.trajectory import TrajectoryStage

    recipe = Training.model_validate(config["recipe"])
    device.set_threads(recipe.threads)
    quiet()
    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    folders = {name: Path(folder) for name, folder in config["folders"].items()}
    stages = (RefinerStage, AutoencoderStage, DecoderStage, AlignStage, FlowStage, TrajectoryStage, DMD2Stage)
    kinds = {kind.name: kind for kind in stages}
    release = Release(Path(config["release"]), recipe.captions.keys())
    for name in config["pending"]:
        folder = folders[name]
        if name in FEATURES:
            keep(name, release, recipe, folders, part(folder), slice(rank, None, world))
        else:
            kind = name.rstrip("0123456789") if name not in kinds else name
            phase = int(name.removeprefix(kind) or 0)
            run(kinds[kind](Job(release, recipe, folders, rank, world, phase)), part(folder))
        if world > 1:
            dist.barrier()
        if rank == 0:
            os.replace(part(folder), folder)
        if world > 1:
            dist.barrier()
