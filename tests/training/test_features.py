"""Latents and texts are the same whether they are kept or computed anew, and what is kept is not computed again."""

import math
from pathlib import Path

import pytest
import torch

from tests.training.conftest import RECIPE
from training import features
from training.features import Latents, Texts, keep
from training.flow import FlowStage
from training.release import Release
from training.stage import Job

ALL = slice(0, None)


def without(trained: dict[str, Path], *names: str) -> dict[str, Path]:
    return {name: folder for name, folder in trained.items() if name not in names}


def test_latents_kept_or_anew(release: Path, trained: dict[str, Path]) -> None:
    opened, images = Release(release), torch.tensor([30, 2, 2, 17])
    kept = Latents(opened, RECIPE, trained, 32)
    anew = Latents(opened, RECIPE, without(trained, "latents"), 32)
    assert kept.load(images, (32, 32)).dtype == torch.float16 and anew.load(images, (32, 32)).dtype == torch.uint8
    one, other = (latents(latents.load(images, (32, 32))) for latents in (kept, anew))
    assert one.shape == (4, kept.channels, 4, 4) and one.dtype == torch.float32
    torch.testing.assert_close(one, other, atol=5e-3, rtol=5e-3)
    assert torch.equal(one[1], one[2]) and not torch.equal(one[0], one[1])
    every = kept(kept.load(torch.arange(8, 36), (32, 32)))
    assert abs(every.mean()) < 0.05 and abs(every.std() - 1) < 0.05


def test_texts_kept_or_anew(release: Path, trained: dict[str, Path]) -> None:
    opened = Release(release)
    numbers = torch.tensor([0, 3, 1, len(opened.texts) - 1])
    kept, anew = (Texts(opened, trained["align"], states) for states in (trained["texts"], None))
    one, other = (texts(*texts.load(numbers)) for texts in (kept, anew))
    assert (
        torch.equal(one.mask, other.mask)
        and one.mask.shape[1] == max(len("".join(opened.texts[int(n)].as_py().split())) for n in numbers) + 2
    )
    torch.testing.assert_close(one.hidden, other.hidden, atol=5e-3, rtol=5e-3)
    assert (one.hidden[~one.mask] == 0).all()
    empty = kept.empty(one)
    assert torch.equal(empty.hidden[2], one.hidden[0]) and torch.equal(empty.mask[1], one.mask[0])


def test_a_stage_learns_the_same_either_way(release: Path, trained: dict[str, Path]) -> None:
    opened, both = Release(release), (trained, without(trained, "latents", "texts"))
    stages = [FlowStage(Job(opened, RECIPE, folders)) for folders in both]
    one, other = ([stage.step(step, stage.load(step))["loss"] for step in range(3)] for stage in stages)
    assert one == pytest.approx(other, rel=1e-2)


@pytest.mark.parametrize("name", ["latents", "texts"])
def test_workers_share_the_files_and_whole_ones_stay(
    release: Path, trained: dict[str, Path], tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(features, "PART", 5)
    opened = Release(release)
    for rank in range(2):
        keep(name, opened, RECIPE, trained, tmp_path, slice(rank, None, 2))
        files = sorted(tmp_path.rglob("*.safetensors"))
        count = len(opened.pictures.shard) if name == "latents" else len(opened.texts)
        every = math.ceil(count / 5)
        assert len(files) == (every if rank else math.ceil(every / 2))
    [first, second, *_] = files
    first.unlink()
    before = second.stat().st_mtime_ns
    keep(name, opened, RECIPE, trained, tmp_path, ALL)
    assert first.exists() and second.stat().st_mtime_ns == before
    assert not list(tmp_path.rglob("*.tmp"))
    folders = {**trained, name: tmp_path}
    if name == "latents":
        images = torch.arange(36)
        in_parts, whole = (Latents(opened, RECIPE, places, 32) for places in (folders, without(trained, "latents")))
        one, other = (latents(latents.load(images, (32, 32))) for latents in (in_parts, whole))
    else:
        numbers = torch.arange(len(opened.texts))
        both = (Texts(opened, trained["align"], states) for states in (tmp_path, None))
        one, other = (texts(*texts.load(numbers)).hidden for texts in both)
    torch.testing.assert_close(one, other, atol=5e-3, rtol=5e-3)
