"""The flow grows with its pictures: each phase goes on from the one before, on the same grid of positions."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file

from model.pipeline import JuZhouPipeline
from model.unet import rotary_angles
from schemas.training import AlignSettings, AutoencoderSettings, FlowSettings, Phase
from tests.training.conftest import RECIPE
from training.align import AlignStage
from training.autoencoder import AutoencoderStage
from training.dmd2 import DMD2Stage
from training.flow import FlowStage
from training.release import Release
from training.stage import Job, run
from training.trainer import folders

PHASES = (
    Phase(size=32, steps=4, batch=4, learning_rate=1e-3),
    Phase(size=64, steps=3, batch=4, learning_rate=5e-4, shift=1.5),
)
GROWING = RECIPE.model_copy(
    update={
        "size": 96,
        "stages": RECIPE.stages.model_copy(
            update={
                "autoencoder": AutoencoderSettings(steps=2, batch=4),
                "align": AlignSettings(steps=2, batch=4),
                "flow": FlowSettings(steps=2, batch=4, phases=PHASES),
            }
        ),
    }
)


def test_phases_hand_over_weights_and_positions(release: Path, tmp_path: Path) -> None:
    places = {name: tmp_path / name for name in ("autoencoder", "align", "flow1", "flow2", "flow")}
    for place in places.values():
        place.mkdir()
    run(AutoencoderStage(Job(Release(release), GROWING, places)), places["autoencoder"])
    run(AlignStage(Job(Release(release), GROWING, places)), places["align"])
    for name, phase, side in (("flow1", 1, 4), ("flow2", 2, 8), ("flow", 0, 12)):
        stage = FlowStage(Job(Release(release), GROWING, places, phase=phase))
        assert stage.name == name and stage.load(0).noise.shape[-1] == side
        if name != "flow1":
            before = JuZhouPipeline.from_pretrained(places["flow1" if name == "flow2" else "flow2"] / "checkpoint")
            for one, other in zip(before.unet.parameters(), stage.average.parameters(), strict=True):
                assert torch.equal(one, other)
        run(stage, places[name])
        unet = JuZhouPipeline.from_pretrained(places[name] / "checkpoint").unet
        assert (unet.config["sample_size"], unet.config["reference_size"]) == (side, 4)
        assert unet.down0[0].reference == 4
    rows = [json.loads(line) for line in (places["flow2"] / "metrics.jsonl").read_text().splitlines()]
    assert len(rows) == PHASES[1].steps + 1
    assert JuZhouPipeline.from_pretrained(places["flow"] / "checkpoint")("红色的圆")[0].size == (96, 96)


def test_larger_grids_span_the_angles_of_the_first(release: Path) -> None:
    first, later = (rotary_angles(side, side, 32, reference=4, where=torch.device("cpu")) for side in (4, 12))
    assert later.max() < first.max() + 0.5 and later.min() > first.min() - 0.5


def test_each_phase_is_a_stage_with_a_folder_of_its_own(release: Path, tmp_path: Path) -> None:
    assert [*folders(release, tmp_path, GROWING)] == [
        "autoencoder",
        "latents",
        "align",
        "texts",
        "flow1",
        "flow2",
        "flow",
        "trajectory",
        "dmd2",
    ]
    longer = (PHASES[0], PHASES[1].model_copy(update={"steps": 7}))
    flow = GROWING.stages.flow.model_copy(update={"phases": longer})
    changed = GROWING.model_copy(update={"stages": GROWING.stages.model_copy(update={"flow": flow})})
    before, after = folders(release, tmp_path, GROWING), folders(release, tmp_path, changed)
    assert [name for name in before if before[name] != after[name]] == ["flow2", "flow", "trajectory", "dmd2"]


def test_a_text_tower_that_learns_along_goes_into_the_checkpoint(
    release: Path, trained: dict[str, Path], tmp_path: Path
) -> None:
    tuned = FlowSettings(
        steps=4, batch=4, tune_text=True, phases=(Phase(size=32, steps=4, batch=4, learning_rate=1e-3),)
    )
    recipe = RECIPE.model_copy(update={"stages": RECIPE.stages.model_copy(update={"flow": tuned})})
    places = {**trained, "flow1": tmp_path / "flow1", "flow": tmp_path / "flow", "dmd2": tmp_path / "dmd2"}
    for name, kind, phase in (("flow1", FlowStage, 1), ("flow", FlowStage, 0), ("dmd2", DMD2Stage, 0)):
        places[name].mkdir()
        run(kind(Job(Release(release), recipe, places, phase=phase)), places[name])
    paths = [trained["align"], *(places[name] / "checkpoint" for name in ("flow1", "flow", "dmd2"))]
    align, first, last, distilled = (load_file(path / "text_encoder" / "model.safetensors") for path in paths)
    assert all(torch.equal(align[name], first[name]) and torch.equal(last[name], distilled[name]) for name in align)
    moved = [name for name in align if not torch.equal(align[name], last[name])]
    assert any("layer.0" in name for name in moved) and any("word_embeddings" in name for name in moved)
    stage = DMD2Stage(Job(Release(release), recipe, places))
    assert not stage.texts.parts, "states that the tower had before are not taken"
