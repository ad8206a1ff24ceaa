"""A step's batch depends on (seed, step, digest) alone; an epoch has every sample of every bucket once."""

from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from schemas.training import CaptionKind, Training
from training.batches import Batches
from training.draws import normal
from training.release import HELD, KINDS, Pictures, Release, bucket_shapes, sorted_into
from training.stage import Job

CAPTIONS = Training().captions


def drawn(shapes: dict[tuple[int, int], int], seed: int, size: int) -> Batches:
    """Batches of a release that has so many pictures, with a sample each, of each width and height."""
    width, height = np.repeat(np.array(list(shapes)), list(shapes.values()), axis=0).T
    count = len(width)
    none, numbers = np.zeros(count, dtype=np.int64), np.arange(count)
    buckets = sorted_into(bucket_shapes(256), Pictures(none, none, none, width, height))
    samples = np.stack([numbers] * (1 + len(KINDS)), axis=1)
    release = SimpleNamespace(samples=samples, digest="made up", buckets=lambda pixels: buckets)
    return Batches(cast(Release, release), seed, 256, size)


def test_every_epoch_sees_every_training_sample_once(release: Path) -> None:
    opened = Release(release)
    assert len(opened.samples) == 36 - HELD and len(opened.held) == HELD
    seen = torch.cat([Batches(opened, 0, 32, 7).batch(step, CAPTIONS).images for step in range(4)])
    assert sorted(seen.tolist()) == list(range(HELD, 36))


def test_a_batch_is_a_pure_function_and_ranks_share_it(release: Path) -> None:
    first, again = (Batches(Release(release), 3, 32, 8).batch(5, CAPTIONS, drop=0.5) for _ in range(2))
    assert torch.equal(first.images, again.images) and torch.equal(first.texts, again.texts)
    other = Batches(Release(release), 4, 32, 8).batch(5, CAPTIONS, drop=0.5)
    assert not torch.equal(first.images, other.images)
    for world in (1, 2, 4):
        jobs = [Job(Release(release), Training(), rank=rank, world=world) for rank in range(world)]
        assert torch.equal(torch.cat([job.slice(first.images) for job in jobs]), first.images)


def test_noise_depends_on_the_place_in_the_batch_and_not_on_who_draws_it() -> None:
    whole = normal(range(8), (3, 4), 0, "flow", 7)
    for world in (1, 2, 4):
        shares = [
            normal(range(rank * 8 // world, (rank + 1) * 8 // world), (3, 4), 0, "flow", 7) for rank in range(world)
        ]
        assert torch.equal(torch.cat(shares), whole)
    assert not torch.equal(whole, normal(range(8), (3, 4), 0, "flow", 8))
    many = normal(range(2000), (64,), 1)
    assert abs(many.mean()) < 0.01 and abs(many.std() - 1) < 0.01
    assert abs(torch.corrcoef(many[:50]).fill_diagonal_(0)).max() < 0.6, "neighbours are independent"


@given(
    counts=st.lists(st.integers(0, 90), min_size=3, max_size=3).filter(lambda counts: sum(counts) > 0),
    size=st.integers(1, 16),
    seed=st.integers(0, 5),
)
def test_buckets_deal_in_turn_and_leave_nothing_out(counts: list[int], size: int, seed: int) -> None:
    batches = drawn(dict(zip([(200, 300), (256, 256), (300, 200)], counts, strict=True)), seed, size)
    steps = 4 * sum(counts) // size + 1
    seen = [batches.batch(step, {"simplified": 1.0}) for step in range(steps)]
    of = batches.buckets.of
    for bucket, shape in enumerate(batches.buckets.shapes):
        stream = [batch for batch in seen if batch.shape == shape]
        assert all((of[batch.images.numpy()] == bucket).all() for batch in stream)
        images = torch.cat([batch.images for batch in stream]).tolist() if stream else []
        members = sorted(np.flatnonzero(of == bucket).tolist())
        for first in range(0, len(images) - len(members), max(1, len(members))):
            assert sorted(images[first : first + len(members)]) == members, "an epoch of a bucket has each once"
        share = len(images) - 4 * len(members)
        assert abs(share) < 2 * size + len(members), "and buckets get as many turns as they have samples for"


def test_any_step_is_found_without_those_before_it() -> None:
    shapes = {(200, 300): 70, (256, 256): 40, (300, 200): 55}
    whole = drawn(shapes, 0, 8)
    there = [whole.batch(step, CAPTIONS) for step in range(60)]
    for step in (59, 3, 31):
        alone = drawn(shapes, 0, 8).batch(step, CAPTIONS)
        assert torch.equal(alone.images, there[step].images) and alone.shape == there[step].shape


def test_texts_follow_their_weights_and_are_dropped(release: Path) -> None:
    opened = Release(release)
    batches = Batches(opened, 0, 32, 28)
    kinds = [batches.batch(step, {"line": 1.0}).texts for step in range(2)]
    poems = opened.texts.take(torch.cat(kinds).numpy()).to_pylist()
    assert {text for text in poems if "山" in text} == {"白日依山尽"}
    dropped = [(batches.batch(step, CAPTIONS, drop=0.25).texts == 0).float().mean() for step in range(40)]
    assert 0.2 < torch.stack(dropped).mean() < 0.3


@pytest.mark.parametrize("kind", KINDS)
def test_one_kind_alone(release: Path, kind: CaptionKind) -> None:
    opened = Release(release)
    batch = Batches(opened, 0, 32, 28).batch(0, {kind: 1.0})
    by_image = {int(row[0]): int(row[1 + KINDS.index(kind)]) for row in opened.samples}
    assert [by_image[image] for image in batch.images.tolist()] == batch.texts.tolist()
