"""DMD2 with its networks shared out over two workers learns what one worker alone does, and goes on where it was."""

import json
import socket
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from schemas.training import DMD2Settings
from tests.training.conftest import RECIPE
from training.dmd2 import DMD2Stage
from training.release import Release
from training.stage import Job, run

SHARDED = RECIPE.model_copy(
    update={
        "stages": RECIPE.stages.model_copy(
            update={"dmd2": DMD2Settings(steps=4, batch=4, accumulate=2, student_every=2, sharded=True)}
        )
    }
)


class Killed(Exception):
    """In place of a kill."""


def losses(folder: Path) -> list[float]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [row["loss"] for row in rows if "loss" in row]


def work(rank: int, port: int, release: Path, trained: dict[str, Path], folders: list[Path]) -> None:
    """A worker: the whole training in one folder, one that is interrupted in its last step in the other."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    job = Job(Release(release), SHARDED, trained, rank=rank, world=2)
    run(DMD2Stage(job), folders[0])
    stage = DMD2Stage(job)
    held = sum(part.to_local().numel() for part in stage.student.parameters())
    assert held < 0.6 * sum(part.numel() for part in stage.student.parameters()), "each holds about half"
    whole_step = stage.step

    def dies(step: int, batch: object) -> dict[str, float]:
        if step == 3:
            raise Killed
        return whole_step(step, batch)

    stage.step = dies  # type: ignore[method-assign]
    with pytest.raises(Killed):
        run(stage, folders[1])
    dist.barrier()
    run(DMD2Stage(job), folders[1])
    dist.destroy_process_group()


def test_shared_out_interrupted_and_resumed(release: Path, trained: dict[str, Path], tmp_path: Path) -> None:
    whole, resumed, alone = (tmp_path / name for name in ("whole", "resumed", "alone"))
    for folder in (whole, resumed, alone):
        folder.mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(work, (port, release, trained, [whole, resumed]), nprocs=2)
    assert losses(resumed) == losses(whole) and len(losses(whole)) == 4
    run(DMD2Stage(Job(Release(release), SHARDED, trained)), alone)
    assert losses(alone) == pytest.approx(losses(whole), rel=0.02)
    assert (whole / "samples-4.png").exists() and (whole / "checkpoint" / "unet").is_dir()
