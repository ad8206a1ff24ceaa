"""The stages learn in a few steps, and an interrupted one goes on to the same losses bit for bit."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from model import flow
from model.pipeline import JuZhouPipeline
from schemas.training import AlignSettings
from tests.training.conftest import RECIPE, STAGES
from training.align import AlignStage
from training.autoencoder import AutoencoderStage
from training.dmd2 import DMD2Stage
from training.flow import FlowStage
from training.release import Release
from training.stage import STATE, Job, Stage, run
from training.trajectory import TrajectoryStage


def losses(folder: Path) -> list[float]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [row["loss"] for row in rows if "loss" in row]


@pytest.mark.parametrize("name", ["autoencoder", "align", "flow"])
def test_a_few_steps_lower_the_loss(trained: dict[str, Path], name: str) -> None:
    values = losses(trained[name])
    assert sum(values[-3:]) < 0.9 * sum(values[:3])


def test_products_are_whole_and_the_state_is_gone(trained: dict[str, Path]) -> None:
    files = {name: {path.name for path in folder.iterdir()} for name, folder in trained.items()}
    assert files == {
        "autoencoder": {"metrics.jsonl", "tensorboard", "autoencoder", "reconstructions.png"},
        "latents": {"metrics.jsonl", "32"},
        "align": {"metrics.jsonl", "tensorboard", "text_encoder", "tokenizer"},
        "texts": {"metrics.jsonl", "00000.safetensors"},
        "flow": {"metrics.jsonl", "tensorboard", "checkpoint", "samples-28.png", "samples.json"},
        "trajectory": {"metrics.jsonl", "tensorboard", "checkpoint", "samples-4.png", "samples.json"},
        "dmd2": {"metrics.jsonl", "tensorboard", "checkpoint", "samples-4.png", "samples-4-plain.png", "samples.json"},
    }
    assert JuZhouPipeline.from_pretrained(trained["flow"] / "checkpoint").config["distilled_steps"] is None
    assert JuZhouPipeline.from_pretrained(trained["dmd2"] / "checkpoint").config["distilled_steps"] == 4


def test_the_students_latents_are_watched(trained: dict[str, Path]) -> None:
    rows = [json.loads(line) for line in (trained["dmd2"] / "metrics.jsonl").read_text().splitlines()]
    assert all({"drift_mean", "drift_std", "drift_saturation"} <= set(row) for row in rows[:-1])
    assert [row["step"] for row in rows if "student_matching" in row] == [0, 5]


def test_a_text_tower_from_elsewhere_is_taken_as_it_is(release: Path, trained: dict[str, Path], tmp_path: Path) -> None:
    tower, folder = tmp_path / "tower", tmp_path / "align"
    for part in ("text_encoder", "tokenizer"):
        shutil.copytree(trained["align"] / part, tower, dirs_exist_ok=True)
    folder.mkdir()
    align = AlignSettings(text_encoder=str(tower))
    recipe = RECIPE.model_copy(update={"stages": RECIPE.stages.model_copy(update={"align": align})})
    run(AlignStage(Job(Release(release), recipe, trained)), folder)
    assert losses(folder) == []
    for name, weight in load_file(folder / "text_encoder" / "model.safetensors").items():
        assert torch.equal(weight, load_file(trained["align"] / "text_encoder" / "model.safetensors")[name])


@pytest.mark.parametrize("name", STAGES)
def test_gradients_add_up_over_pieces(release: Path, trained: dict[str, Path], name: str) -> None:
    told = []
    for accumulate in (1, 2):
        settings = getattr(RECIPE.stages, name).model_copy(update={"accumulate": accumulate})
        stages = RECIPE.stages.model_copy(update={name: settings})
        stage = STAGES[name](Job(Release(release), RECIPE.model_copy(update={"stages": stages}), trained))
        told.append([stage.step(step, stage.load(step)) for step in range(3)])
    if name == "align":  # a smaller piece is easier to tell apart, so only the sketch is the same
        assert [row["sketch"] for row in told[0][:1]] == pytest.approx([row["sketch"] for row in told[1][:1]], rel=1e-3)
        return
    for whole, pieces in zip(*told, strict=True):
        assert whole["loss"] == pytest.approx(pieces["loss"], rel=2e-2)
        assert whole["grad_norm"] == pytest.approx(pieces["grad_norm"], rel=0.1)


@pytest.mark.parametrize("stage", [AutoencoderStage, AlignStage, FlowStage, TrajectoryStage, DMD2Stage])
def test_interrupted_and_resumed_is_the_same_bit_for_bit(
    stage: type[Stage], release: Path, trained: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = Job(Release(release), RECIPE, trained)
    plain_step = stage.step

    def dies(self: Stage, step: int, batch: Any) -> dict[str, float]:
        if step == 5:
            raise KeyboardInterrupt
        return plain_step(self, step, batch)

    monkeypatch.setattr(stage, "step", dies)
    with pytest.raises(KeyboardInterrupt):
        run(stage(job), tmp_path)
    monkeypatch.undo()
    assert (tmp_path / STATE).exists() and len(losses(tmp_path)) == 5
    run(stage(job), tmp_path)
    assert losses(tmp_path) == losses(trained[stage.name])


def test_a_student_learns_where_the_teachers_trajectories_end(release: Path, trained: dict[str, Path]) -> None:
    stage = TrajectoryStage(Job(Release(release), RECIPE, trained))
    batch = stage.load(0)
    real, text = stage.latents(batch.latents), stage.texts(batch.texts, batch.mask)
    z = flow.interpolate(real, batch.noise, stage.levels[3])
    empty, guidance = stage.texts.empty(text), stage.settings.guidance
    assert stage.grid[6] == stage.levels[3] and stage.settings.substeps == 2
    with torch.no_grad():
        speed = flow.guided_velocity(stage.teacher, z, stage.levels[3], text, empty, guidance)
        half = z + (stage.grid[7] - stage.levels[3]) * speed
        end = flow.clean(
            half, stage.grid[7], flow.guided_velocity(stage.teacher, half, stage.grid[7], text, empty, guidance)
        )
    torch.testing.assert_close(stage.follow_teacher(stage.teacher, z, 3, text, guidance), end)
    ready = JuZhouPipeline.from_pretrained(trained["trajectory"] / "checkpoint").unet
    start = DMD2Stage(Job(Release(release), RECIPE, trained)).student
    assert all(torch.equal(one, other) for one, other in zip(ready.parameters(), start.parameters(), strict=True))
    assert any(
        not torch.equal(one, other) for one, other in zip(ready.parameters(), stage.teacher.parameters(), strict=True)
    )


def test_a_student_of_dmd2_may_be_held_by_regression(release: Path, trained: dict[str, Path]) -> None:
    moved, told = [], []
    for weight in (0.0, 1e4):
        dmd2 = RECIPE.stages.dmd2.model_copy(update={"regression": weight})
        stages = RECIPE.stages.model_copy(update={"dmd2": dmd2})
        stage = DMD2Stage(Job(Release(release), RECIPE.model_copy(update={"stages": stages}), trained))
        before = [part.clone() for part in stage.student.parameters()]
        told.append(stage.step(0, stage.load(0)))
        steps = [new - old for new, old in zip(stage.student.parameters(), before, strict=True)]
        moved.append(torch.cat([step.flatten() for step in steps]))
    assert "student_regression" not in told[0] and told[1]["student_regression"] > 0
    assert told[0]["student_matching"] == told[1]["student_matching"]
    assert torch.nn.functional.cosine_similarity(*moved, dim=0) < 0.95
