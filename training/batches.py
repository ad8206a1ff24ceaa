"""Which samples make up the batch of a step: a function of the seed, the release and the step, and of nothing else."""

import threading
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from schemas.training import CaptionKind
from training.draws import generator
from training.release import KINDS, Numbers, Release, Shape


class Batch(NamedTuple):
    """Indices of a batch: pictures of one shape and the texts beside them, each (size,)."""

    images: Tensor
    texts: Tensor
    shape: Shape


class Batches:
    """The batches of a training, in the order of its steps. Any of them is found without those before it.

    Every bucket of shapes deals its samples epoch after epoch, each epoch another permutation, without a gap: no sample
    is left out and none comes twice in an epoch. Which bucket's turn it is is drawn too, so that in each epoch of the
    release as many of its batches come up as it has samples for.
    """

    def __init__(self, release: Release, seed: int, pixels: int, size: int) -> None:
        """Sort the samples into the buckets of pictures of `pixels` a side; batches have `size` samples of one."""
        self.release, self.seed, self.size = release, seed, size
        self.buckets = release.buckets(pixels)
        of = self.buckets.of[release.samples[:, 0]]
        self.members: list[Numbers] = [np.flatnonzero(of == bucket) for bucket in range(len(self.buckets.shapes))]
        self.counts = np.array([len(members) for members in self.members])
        self._dealt: dict[tuple[int, int], Numbers] = {}
        self._dealing = threading.Lock()

    def batch(self, step: int, captions: Mapping[CaptionKind, float], drop: float = 0.0) -> Batch:
        """The batch of a step.

        Args:
            captions: the weight of each kind of text.
            drop: the share of texts replaced by the empty one.
        """
        bucket, number = self._turn(step)
        chosen = torch.from_numpy(self.release.samples[self._samples(bucket, number)])
        draws = generator(self.seed, self.release.digest, "texts", step)
        weights = torch.tensor([captions.get(kind, 0.0) for kind in KINDS])
        kind = torch.multinomial(weights, self.size, replacement=True, generator=draws)
        dropped = torch.rand(self.size, generator=draws) < drop
        texts = chosen[:, 1:].gather(1, kind[:, None])[:, 0].masked_fill(dropped, 0)
        return Batch(chosen[:, 0], texts, self.buckets.shapes[bucket])

    def _turn(self, step: int) -> tuple[int, int]:
        """Which bucket a step takes its batch from, and how many batches that one has given before."""
        epoch = step * self.size // int(self.counts.sum())
        while self._given(epoch).sum() > step:
            epoch -= 1
        while self._given(epoch + 1).sum() <= step:
            epoch += 1
        before, after = self._given(epoch), self._given(epoch + 1)
        turns = np.repeat(np.arange(len(before)), after - before)
        drawn = torch.randperm(len(turns), generator=generator(self.seed, self.release.digest, "turns", epoch))
        turns = turns[drawn.numpy()][: step - before.sum() + 1]
        bucket = int(turns[-1])
        return bucket, int(before[bucket] + (turns[:-1] == bucket).sum())

    def _given(self, epoch: int) -> Numbers:
        """How many whole batches each bucket can have given before an epoch."""
        return self.counts * epoch // self.size

    def _samples(self, bucket: int, number: int) -> Numbers:
        """The samples of a bucket's batch."""
        count, first = self.counts[bucket], number * self.size
        epochs = range(first // count, (first + self.size - 1) // count + 1)
        dealt = np.concatenate([self._deal(bucket, epoch) for epoch in epochs])
        return dealt[first - epochs[0] * count :][: self.size]

    def _deal(self, bucket: int, epoch: int) -> Numbers:
        """All samples of a bucket in the order of an epoch; the latest orders are kept, as each is wanted often."""
        with self._dealing:
            if (bucket, epoch) not in self._dealt:
                for old in [key for key in self._dealt if key[0] == bucket and key[1] < epoch - 1]:
                    del self._dealt[old]
                draws = generator(self.seed, self.release.digest, "epoch", bucket, epoch)
                order = torch.randperm(int(self.counts[bucket]), generator=draws).numpy()
                self._dealt[bucket, epoch] = self.members[bucket][order]
            return self._dealt[bucket, epoch]
