"""Distils the flow model into a student of four steps by DMD2 (arXiv 2405.14867), on rectified flow.

The student's own samples (backward simulation) are noised again. A frozen teacher with guidance says where real data
lies, a critic that follows the student says where its samples lie, and the student moves along the difference. The
critic also tells real latents from the student's at its bottleneck. What goes wrong first is that the samples drift
from the real ones (`training/drift.py`): the product is the average of the student's weights as it last was within the
tolerance.
"""

import copy
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model import device, flow
from model.autoencoder import SCALE
from model.pipeline import STRICT_LOADING
from model.text import TextStates
from model.unet import TIMESTEPS, JuZhouUNet
from training.distillation import Distillation
from training.drift import Drift
from training.flow import follow, held_prompts, keep
from training.sharding import share_out
from training.stage import Job, Metrics, bare, descend, learning_rate, mean, optimizer

TIMES = (0.001, 0.999)
"""The range of times at which the student's samples are noised, before the shift."""

CLIP = 10.0


def distribution_matching_loss(x: Tensor, real: Tensor, fake: Tensor) -> Tensor:
    """½ · mean ‖x − sg(x − g)‖² with g = (fake − real) / mean|x − real|, in float32 (equations 7 and 8 of DMD).

    Its gradient in x is g / elements: from where the student's samples lie towards where real data lies.

    Args:
        x: the student's latents, (batch, …).
        real: the teacher's prediction of x0 from noised x.
        fake: the critic's.
    """
    x, real, fake = x.float(), real.float(), fake.float()
    with torch.no_grad():
        size = (x - real).abs().mean(dim=tuple(range(1, x.ndim)), keepdim=True)
        target = x - (fake - real) / size.clamp(min=1e-6)
    return 0.5 * F.mse_loss(x, target)


def generator_gan_loss(fake_logits: Tensor) -> Tensor:
    """Mean softplus(−D(fake)): the non-saturating loss of DMD2, equation 4."""
    return F.softplus(-fake_logits).mean()


def critic_gan_loss(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """Mean softplus(−D(real)) + softplus(D(fake))."""
    return F.softplus(-real_logits).mean() + F.softplus(fake_logits).mean()


class Critic(nn.Module):
    """The fake score with a small head on its bottleneck that tells real latents from the student's."""

    def __init__(self, unet: JuZhouUNet) -> None:
        super().__init__()
        self.unet = unet
        width = unet.config["channels"][-1]
        self.head = nn.Sequential(
            nn.Conv2d(width, width, 1),
            nn.GroupNorm(unet.config["groups"], width),
            nn.Hardswish(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(width, 1),
        )

    def forward(self, z: Tensor, t: Tensor, text: TextStates) -> tuple[Tensor, Tensor]:
        """Noised latents (batch, channels, h, w) at times (batch,) → predicted x0 in float32, logits (batch, 1)."""
        seen = self.unet(z, t * TIMESTEPS, text.hidden, text.mask)
        return flow.clean(z, t, seen.sample), self.head(seen.bottleneck).float()


class DMD2Batch(NamedTuple):
    """What a step is given, (share, …) each; `Latents` and `Texts` know the first three."""

    latents: Tensor
    texts: Tensor
    mask: Tensor
    noises: Tensor
    """(share, sampling_steps + 3, channels, h, w): the student's own; then for what the student, the critic as fake and
    the critic as real see."""
    times: Tensor
    """(share, 2): the student's and the critic's."""


class Given(NamedTuple):
    """A piece of it on the device, as the networks take it."""

    real: Tensor
    text: TextStates
    noises: Tensor
    """(sampling_steps + 3, piece, channels, h, w)."""
    times: Tensor
    """(2, piece)."""


class DMD2Stage(Distillation):
    """The student that is kept is the average as it last was within the tolerance. `samples-4-plain.png`, the teacher's
    in as many steps, lies beside what the student draws."""

    name = "dmd2"

    def __init__(self, job: Job) -> None:
        """Start the critic from the flow model, which also stays as the frozen teacher, and the student from where
        regression has brought it, if the recipe asks for that."""
        super().__init__(job)
        start = self.pipeline.unet
        ready = start
        if "trajectory" in job.folders:
            unet = job.folders["trajectory"] / "checkpoint" / "unet"
            ready = JuZhouUNet.from_pretrained(unet, **STRICT_LOADING).to(self.device).requires_grad_(False)
        sharded = self.settings.sharded and job.world > 1
        self.student = job.wrap(copy.deepcopy(ready).train().requires_grad_(True), sharded)
        self.critic = job.wrap(Critic(copy.deepcopy(start)).train().requires_grad_(True), sharded)
        still: list[nn.Module] = [copy.deepcopy(start), copy.deepcopy(ready), copy.deepcopy(ready)]
        self.teacher, self.average, self.kept = map(share_out, still) if sharded else still
        self.drift = Drift(self.pipeline.autoencoder).to(self.device)
        self.student_optimizer = optimizer(self.student.parameters())
        self.critic_optimizer = optimizer(self.critic.parameters())

    def state(self) -> dict[str, Any]:
        """Student, its average and the one that is kept, critic, what is known of the drift, and the optimizers."""
        return {
            "student": bare(self.student),
            "average": self.average,
            "kept": self.kept,
            "critic": bare(self.critic),
            "drift": self.drift,
            "student_optimizer": self.student_optimizer,
            "critic_optimizer": self.critic_optimizer,
        }

    def load(self, step: int) -> DMD2Batch:
        """Latents, texts, the noises of all samples that the step draws, and the times at which they are noised."""
        images, texts, shape = self.batch(self.batches, step)
        count = self.sampling_steps + 3
        noises = self.noise(step, count, self.latents.channels, shape[0] // SCALE, shape[1] // SCALE)
        times = torch.empty(self.settings.batch, 2).uniform_(*TIMES, generator=self.draws("times", step))
        times = self.job.slice(flow.shifted(times, self.shift))
        return DMD2Batch(self.latents.load(images, shape), *self.texts.load(texts), noises, times)

    def step(self, step: int, batch: DMD2Batch) -> Metrics:
        """The critic learns from what the student draws now; every few steps the student learns from both scores."""
        rate = learning_rate(step, self.steps, self.settings.learning_rate)
        depth = int(torch.randint(self.sampling_steps, (), generator=self.draws("depth", step)))
        updates, between = divmod(step - self.settings.critic_first, self.settings.student_every)
        learns = updates >= 0 and not between
        given, samples = [self._given(piece) for piece in self.pieces(batch)], []
        metrics: Metrics = {}
        if learns:
            told = []
            for piece in self.in_turn(given, self.student):
                with device.autocast(self.device):
                    z, x = self._generate(piece, depth)
                told.append(self._teach_student(x, piece, self._hold(x, z, piece, depth)))
                samples.append(x.detach())
            norm = descend(self.student_optimizer, rate, CLIP)
            metrics |= mean(told) | {"student_grad_norm": norm}
            self.drift.look(torch.cat(samples), torch.cat([piece.real for piece in given]))
            follow(self.average, bare(self.student), updates, self.settings.ema)
            if self.drift.within(self.settings.drift):
                self.kept.load_state_dict(self.average.state_dict())
        else:
            with torch.no_grad(), device.autocast(self.device):
                samples = [self._generate(piece, depth)[1] for piece in given]
        drawn_and_given = list(zip(samples, given, strict=True))
        told = [self._teach_critic(x, piece) for x, piece in self.in_turn(drawn_and_given, self.critic)]
        norm = descend(self.critic_optimizer, self.settings.critic_rate * rate, CLIP)
        return metrics | mean(told) | {"grad_norm": norm} | self.drift.measures()

    def _given(self, piece: DMD2Batch) -> Given:
        """A piece of a batch on the device."""
        noises = piece.noises.to(self.device).transpose(0, 1)
        return Given(
            self.latents(piece.latents), self.texts(piece.texts, piece.mask), noises, piece.times.to(self.device).T
        )

    def _generate(self, given: Given, depth: int) -> tuple[Tensor, Tensor]:
        """What the student is given at step `depth` of its own trajectory from pure noise, and the x0 that it says
        there; only that step keeps a gradient."""
        noises, text, level = given.noises, given.text, self.levels[depth]
        with torch.no_grad():
            before = (
                flow.sample_distilled(bare(self.student), noises[:depth], text, self.levels[:depth]) if depth else None
            )
        z = noises[0] if before is None else flow.interpolate(before, noises[depth], level)
        return z, flow.clean(z, level, flow.velocity(self.student, z, level, text))

    def _teach_student(self, x: Tensor, given: Given, held: Tensor | None) -> Metrics:
        """The student's gradients: distribution matching, fooling the critic's head, and what holds it."""
        t, text = given.times[0], given.text
        z = flow.interpolate(x, given.noises[-3], t)
        critic: Critic = bare(self.critic).requires_grad_(False)
        with device.autocast(self.device):
            with torch.no_grad():
                empty = self.texts.empty(text)
                speed = flow.guided_velocity(self.teacher, z, t, text, empty, self.settings.guidance)
            fake, logits = critic(z, t, text)
        matching = distribution_matching_loss(x, flow.clean(z.detach(), t, speed), fake.detach())
        gan = generator_gan_loss(logits)
        loss = matching + self.settings.gan_weight * gan
        told = {"student_matching": matching.item(), "student_gan": gan.item()}
        if held is not None:
            loss = loss + self.settings.regression * held
            told["student_regression"] = held.item()
        self.backward(loss)
        critic.requires_grad_(True)
        return told

    def _hold(self, x: Tensor, z: Tensor, given: Given, depth: int) -> Tensor | None:
        """How far the student's x0 is from where the teacher's trajectory from z ends, where the recipe asks for that:
        it keeps what distribution matching loses first, the number of things."""
        if not self.settings.regression:
            return None
        with device.autocast(self.device):
            end = self.follow_teacher(self.teacher, z, depth, given.text, self.settings.guidance)
        return F.mse_loss(x.float(), end)

    def _teach_critic(self, x: Tensor, given: Given) -> Metrics:
        """The critic's gradients: x0 of the student's noised samples, and which latents are real."""
        t, text = given.times[1], given.text
        both = TextStates(torch.cat([text.hidden] * 2), torch.cat([text.mask] * 2))
        z = torch.cat([flow.interpolate(x, given.noises[-2], t), flow.interpolate(given.real, given.noises[-1], t)])
        with device.autocast(self.device):
            predicted, logits = self.critic(z, torch.cat([t, t]), both)
        score = F.mse_loss(predicted[: len(x)], x)
        fake_logits, real_logits = logits.chunk(2)
        gan = critic_gan_loss(real_logits, fake_logits)
        self.backward(score + self.settings.gan_weight * gan)
        return {"loss": score.item(), "critic_gan": gan.item()}

    def finish(self, folder: Path) -> Metrics:
        """Draw the held prompts with the teacher too."""
        keep(
            folder / f"samples-{self.sampling_steps}-plain.png",
            self.pipeline,
            held_prompts(self.release),
            self.sampling_steps,
        )
        return super().finish(folder)
