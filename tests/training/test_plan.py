"""The plan's figures by hand, and the recipes that come along."""

from pathlib import Path

import pytest
import torch

from model.cost import cost
from model.unet import JuZhouUNet
from schemas.training import DMD2Settings, FlowSettings, Phase, Stages, Training, TrajectorySettings
from training.plan import Device, plan

RECIPES = Path(__file__).parents[2] / "recipes"


def test_a_flow_costs_three_forward_passes_a_sample() -> None:
    stages = Stages(
        flow=FlowSettings(steps=100, batch=32, phases=(Phase(size=32, steps=10, batch=8, learning_rate=1e-3),)),
        trajectory=TrajectorySettings(steps=10, batch=8, substeps=3),
        dmd2=DMD2Settings(steps=10, batch=8, student_every=5, sampling_steps=4),
    )
    rows = {row.stage: row for row in plan(Training(workers=2, stages=stages), Device(teraflops=1.0, utilisation=0.5))}
    assert [*rows] == ["flow1", "flow", "trajectory", "dmd2"]
    with torch.device("meta"):
        step = cost(JuZhouUNet.preset("nano"), torch.empty(1, 32, 8, 8), torch.empty(1), torch.empty(1, 52, 128))
    pass_ = 2 * (step.multiply_adds + step.attention)
    assert rows["flow"].operations == 3 * pass_ * 100 * 32
    assert rows["flow"].days == pytest.approx(rows["flow"].operations / (2 * 0.5e12) / 86_400)
    assert rows["flow"].gibibytes == pytest.approx(step.parameters * 20 / 2**30)
    assert rows["flow"].activations == pytest.approx((step.parameters + 16 * step.kept) * 2 / 2**30)
    assert rows["dmd2"].activations == pytest.approx(2 * (step.parameters + 4 * step.kept) * 2 / 2**30)
    assert rows["flow1"].samples == 80 and rows["flow1"].operations / 80 < rows["flow"].operations / 3200
    assert rows["trajectory"].operations == pytest.approx((2 * 7.5 + 3) * pass_ * 80)
    assert rows["dmd2"].operations == pytest.approx((2.5 + 6 + (2 + 3 + 2) / 5) * pass_ * 80)
    held = Training(stages=stages.model_copy(update={"dmd2": stages.dmd2.model_copy(update={"regression": 1.0})}))
    assert plan(held)[-1].operations == pytest.approx((2.5 + 6 + (2 + 3 + 2 + 2 * 7.5) / 5) * pass_ * 80)


def test_the_activations_are_what_a_pass_in_bfloat16_keeps() -> None:
    torch.manual_seed(0)
    unet = JuZhouUNet.preset("nano")
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), torch.autocast("cpu", torch.bfloat16):
        unet(torch.randn(4, 32, 8, 8), torch.rand(4), torch.randn(4, 52, 128))
    own = {weight.untyped_storage().data_ptr() for weight in unet.parameters()}
    measured = sum(tensor.untyped_storage().nbytes() for place, tensor in kept.items() if place not in own) / 2**30
    (row, _) = plan(Training(stages=Stages(flow=FlowSettings(batch=8, accumulate=2))))
    assert measured == pytest.approx(row.activations, rel=0.15), "norms and attention are in float32 on a CPU"


def test_the_full_recipe_fits_on_the_reports_devices() -> None:
    assert max(row.gibibytes + row.activations for row in plan(Training.load(RECIPES / "full.yaml"))) < 64e9 / 2**30


def test_the_full_recipe_has_the_reports_stages() -> None:
    recipe = Training.load(RECIPES / "full.yaml")
    rows = {row.stage: row for row in plan(recipe)}
    report = [("flow1", 256, 114_688, 30_000), ("dmd2", 1024, 960, 10_000)]
    assert [(name, rows[name].size, rows[name].batch, rows[name].steps) for name, *_ in report] == report
    assert rows["flow2"].steps + rows["flow"].steps == 150_000
    assert rows["flow2"].batch == rows["flow"].batch == 2_688
    rates = [*(phase.learning_rate for phase in recipe.stages.flow.phases), recipe.stages.flow.learning_rate]
    assert rates == [3e-4, 1e-4, 1e-4] and recipe.stages.dmd2.learning_rate == 1e-5


def test_the_recipes_that_come_along_are_valid() -> None:
    nano = Training.load(RECIPES / "nano.yaml")
    assert [row.stage for row in plan(nano)] == ["flow1", "flow2", "flow", "trajectory", "dmd2"]
