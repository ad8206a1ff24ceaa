"""A recipe runs on Ray Train from a release to two checkpoints, and what is done is not done twice."""

from pathlib import Path

import pytest

from model.pipeline import JuZhouPipeline
from schemas.errors import JuZhouError
from schemas.training import AlignSettings, AutoencoderSettings, DMD2Settings, FlowSettings, Phase, Stages, Training
from training.trainer import folders, pending, train

STAGES = ["autoencoder", "latents", "align", "texts", "flow1", "flow", "dmd2"]
RECIPE = Training(
    size=32,
    workers=2,
    threads=1,
    stages=Stages(
        autoencoder=AutoencoderSettings(steps=3, batch=4),
        align=AlignSettings(steps=2, batch=4),
        flow=FlowSettings(steps=3, batch=4, phases=(Phase(size=32, steps=2, batch=4, learning_rate=1e-3),)),
        dmd2=DMD2Settings(steps=2, batch=4),
    ),
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
    changed = RECIPE.model_copy(update={"stages": RECIPE.stages.model_copy(update={"dmd2": DMD2Settings(steps=9)})})
    before, after = folders(release, tmp_path, RECIPE), folders(release, tmp_path, changed)
    assert [name for name in before if before[name] != after[name]] == ["dmd2"]
    reseeded = folders(release, tmp_path, RECIPE.model_copy(update={"seed": 1}))
    assert not set(before.values()) & set(reseeded.values())
    assert before == folders(release, tmp_path, RECIPE.model_copy(update={"threads": 2, "name": "other"}))


def test_a_batch_that_workers_cannot_share_is_refused(release: Path, tmp_path: Path) -> None:
    with pytest.raises(JuZhouError, match="cannot be shared by 3 workers"):
        pending(release, tmp_path, RECIPE.model_copy(update={"workers": 3}))
