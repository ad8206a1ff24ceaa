"""A student that drifts is noticed, by mean, deviation and saturation, and is not kept."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from model.autoencoder import JuZhouAutoencoder
from schemas.training import DMD2Settings
from tests.training.test_stages import RECIPE
from training.dmd2 import DMD2Stage
from training.drift import Drift
from training.release import Release
from training.stage import Job


@pytest.fixture
def drift() -> Drift:
    torch.manual_seed(0)
    return Drift(JuZhouAutoencoder.preset("nano").eval())


def latents(mean: float = 0.0, deviation: float = 1.0) -> Tensor:
    return mean + deviation * torch.randn(16, 32, 4, 4, generator=torch.Generator().manual_seed(1))


def test_equal_samples_have_no_drift(drift: Drift) -> None:
    drift.look(latents(), latents())
    assert drift.measures() == pytest.approx({"drift_mean": 0, "drift_std": 0, "drift_saturation": 0}, abs=1e-5)
    assert drift.within(1e-4)


def test_mean_and_deviation_are_told_in_real_deviations(drift: Drift) -> None:
    drift.look(latents(mean=0.5, deviation=2.0), latents(deviation=2.0))
    assert drift.measures()["drift_mean"] == pytest.approx(0.25, abs=0.01)
    drift = Drift(drift._autoencoder[0])
    drift.look(latents(deviation=1.2), latents())
    assert drift.measures()["drift_std"] == pytest.approx(0.182, abs=0.01)
    assert not drift.within(0.1) and drift.within(0.6)


def test_one_odd_batch_is_no_drift_and_many_are(drift: Drift) -> None:
    for _ in range(60):
        drift.look(latents(), latents())
    drift.look(latents(mean=2.0), latents())
    assert drift.within(0.1)
    for _ in range(60):
        drift.look(latents(mean=2.0), latents())
    assert not drift.within(0.5)


def test_averages_are_state_and_the_autoencoder_is_not(drift: Drift) -> None:
    drift.look(latents(mean=1.0), latents())
    other = Drift(drift._autoencoder[0])
    other.load_state_dict(drift.state_dict())
    assert other.measures() == drift.measures()
    assert set(drift.state_dict()) == {"looks", "averages"}


def test_a_student_beyond_the_tolerance_is_not_kept(
    release: Path, trained: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = DMD2Settings(steps=6, batch=2, student_every=1, learning_rate=1e-3)
    recipe = RECIPE.model_copy(update={"stages": RECIPE.stages.model_copy(update={"dmd2": settings})})
    stage = DMD2Stage(Job(Release(release), recipe, trained))
    start = {name: value.clone() for name, value in stage.kept.state_dict().items()}
    monkeypatch.setattr(Drift, "within", lambda self, tolerance: False)
    stage.step(0, stage.load(0))
    assert all(torch.equal(value, start[name]) for name, value in stage.kept.state_dict().items())
    monkeypatch.setattr(Drift, "within", lambda self, tolerance: True)
    stage.step(1, stage.load(1))
    kept, average = stage.kept.state_dict(), stage.average.state_dict()
    assert all(torch.equal(kept[name], average[name]) for name in kept)
    assert any(not torch.equal(value, start[name]) for name, value in kept.items())
