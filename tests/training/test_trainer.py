"""A recipe runs on Ray Train from a release to two checkpoints; what is done is not done twice, nor lost by a kill."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from model.pipeline import JuZhouPipeline
from schemas.errors import JuZhouError
from schemas.training import (
    AlignSettings,
    AutoencoderSettings,
    DMD2Settings,
    FlowSettings,
    Phase,
    Stages,
    StageSettings,
    Training,
    TrajectorySettings,
)
from training.trainer import folders, pending, train

STAGES = ["autoencoder", "latents", "align", "texts", "flow1", "flow", "trajectory", "dmd2"]
RECIPE = Training(
    size=32,
    workers=2,
    threads=1,
    stages=Stages(
        autoencoder=AutoencoderSettings(steps=3, batch=4),
        align=AlignSettings(steps=2, batch=4),
        flow=FlowSettings(steps=3, batch=4, phases=(Phase(size=32, steps=2, batch=4, learning_rate=1e-3),)),
        trajectory=TrajectorySettings(steps=2, batch=4),
        dmd2=DMD2Settings(steps=2, batch=4),
    ),
)


KILLED = RECIPE.model_copy(
    update={
        "save_every": 2,
        "stages": Stages(
            autoencoder=AutoencoderSettings(steps=4, batch=8),
            align=AlignSettings(steps=4, batch=8),
            flow=FlowSettings(steps=8, batch=8, accumulate=2, tune_text=True),
            dmd2=DMD2Settings(steps=4, batch=8, accumulate=2),
        ),
    }
)


@pytest.mark.usefixtures("ray_cluster")
def test_from_a_release_to_a_distilled_checkpoint(release: Path, tmp_path: Path) -> None:
    assert pending(release, tmp_path, RECIPE) == STAGES
    told: list[str] = []
    checkpoint = train(release, tmp_path, RECIPE, told.append)
    assert JuZhouPipeline.from_pretrained(checkpoint)("红色的圆")[0].size == (32, 32)
    assert len(list(tmp_path.iterdir())) == len(STAGES)
    assert pending(release, tmp_path, RECIPE) == []
    told.clear()
    assert train(release, tmp_path, RECIPE, told.append) == checkpoint
    assert told == []


def test_a_change_reruns_only_what_depends_on_it(release: Path, tmp_path: Path) -> None:
    before = folders(release, tmp_path, RECIPE)

    def rerun(**changes: StageSettings) -> list[str]:
        changed = RECIPE.model_copy(update={"stages": RECIPE.stages.model_copy(update=changes)})
        after = folders(release, tmp_path, changed)
        return [name for name in before if before[name] != after[name]]

    ready = RECIPE.stages.trajectory or TrajectorySettings()
    assert rerun(dmd2=DMD2Settings(steps=9)) == ["dmd2"]
    assert rerun(dmd2=DMD2Settings(steps=2, batch=4, sampling_steps=2)) == ["trajectory", "dmd2"]
    assert rerun(trajectory=ready.model_copy(update={"guidance": 2.0})) == ["trajectory", "dmd2"]
    reseeded = folders(release, tmp_path, RECIPE.model_copy(update={"seed": 1}))
    assert not set(before.values()) & set(reseeded.values())
    assert before == folders(release, tmp_path, RECIPE.model_copy(update={"threads": 2, "name": "other"}))


def test_a_batch_that_workers_cannot_share_is_refused(release: Path, tmp_path: Path) -> None:
    with pytest.raises(JuZhouError, match="cannot be shared by 3 workers"):
        pending(release, tmp_path, RECIPE.model_copy(update={"workers": 3}))


def juzhou_train(release: Path, out: Path) -> subprocess.Popen[bytes]:
    """The same on two workers, as a user starts it, in a session of its own."""
    path = out.parent / "recipe.yaml"
    path.write_text(yaml.safe_dump(KILLED.model_dump(mode="json")), encoding="utf-8")
    command = [sys.executable, "-c", "from juzhou.cli import main; main()", "train", release, path, "-o", out]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True)


def curves(out: Path) -> dict[str, list[dict[str, float]]]:
    """Each stage's metrics but for its times."""
    told = {}
    for log in sorted(out.glob("*/metrics.jsonl")):
        rows = [json.loads(line) for line in log.read_text().splitlines()]
        told[log.parent.name] = [
            {name: row[name] for name in row.keys() - {"samples_per_second", "waited"}} for row in rows
        ]
    return {name: rows for name, rows in told.items() if not name.startswith(("latents", "texts"))}


@pytest.mark.usefixtures("ray_cluster")
def test_two_workers_killed_at_a_random_moment_learn_the_same_bit_for_bit(release: Path, tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    train(release, whole, KILLED, lambda line: None)
    process = juzhou_train(release, killed)
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline and not list(killed.glob(".flow-*.part/state.pt")):
        assert process.poll() is None, process.communicate()[0].decode()
        time.sleep(0.05)
    time.sleep(random.Random(os.environ.get("JUZHOU_KILL_SEED", "1")).uniform(0, 1))
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert not list(killed.glob("dmd2-*"))
    process = juzhou_train(release, killed)
    said = process.communicate(timeout=120)[0].decode()
    assert process.returncode == 0, said
    assert curves(killed) == curves(whole) and len(curves(whole)) == 4
    assert not list(killed.glob(".*"))
