"""Distils the flow model into a student of four steps by DMD2 (arXiv 2405.14867), on rectified flow.

The student's own samples (backward simulation) are noised again. A frozen teacher with guidance says where real data
lies, a critic that follows the student says where its samples lie, and the student moves along the difference. The
critic also tells real latents from the student's at its bottleneck. What goes wrong first is that the samples drift
from the real ones (`training/drift.py`): the product is the average of the student's weights as it last was within the
tolerance.
"""

import copy
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from model import device, flow
from model.pipeline import JuZhouPipeline
from model.text import TextStates
from model.unet import TIMESTEPS, JuZhouUNet
from training.align import load_latents, load_texts
from training.drift import Drift
from training.flow import CachedTexts, drawn, follow, held_prompts, keep
from training.stage import Job, Metrics, Stage, bare, descend, learning_rate, optimizer

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


class DMD2Stage(Stage):
    """Product: `checkpoint`, the student's JuZhouPipeline; `samples-4.png`; `samples-4-plain.png`, the teacher's."""

    name = "dmd2"

    def __init__(self, job: Job) -> None:
        """Start student and critic from the flow model, which also stays as the frozen teacher."""
        super().__init__(job)
        self.settings = self.recipe.stages.dmd2
        self.steps = self.settings.steps
        self.shift = self.recipe.stages.flow.shift
        self.levels = flow.noise_levels(self.settings.sampling_steps, self.shift).to(self.device)
        self.latents = load_latents(job.folders["autoencoder"], self.recipe.size)
        self.texts = CachedTexts(load_texts(job.folders["align"]), self.device)
        self.pipeline = JuZhouPipeline.from_pretrained(job.folders["flow"] / "checkpoint").to(self.device)
        self.teacher = self.pipeline.unet.eval()
        self.student = job.wrap(copy.deepcopy(self.teacher).train())
        self.critic = job.wrap(Critic(copy.deepcopy(self.teacher)).train())
        self.teacher.requires_grad_(False)
        self.average = copy.deepcopy(self.teacher)
        self.kept = copy.deepcopy(self.teacher)
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

    def step(self, step: int) -> Metrics:
        """The critic learns from what the student draws now; every few steps the student learns from both scores."""
        size, count = self.settings.batch, self.settings.sampling_steps
        batch = self.release.batch(size, self.recipe.seed, step, self.recipe.captions)
        text = self.texts[self.job.slice(batch.texts)]
        real = self.latents[self.job.slice(batch.images)].to(self.device)
        draws = self.draws(step)
        depth = int(torch.randint(count, (), generator=draws))
        shape = (size, *self.latents.shape[1:])
        noises = self.job.slice(torch.randn(count + 3, *shape, generator=draws), dim=1).to(self.device)
        times = flow.shifted(torch.empty(2, size).uniform_(*TIMES, generator=draws), self.shift)
        times = self.job.slice(times, dim=1).to(self.device)
        rate = learning_rate(step, self.steps, self.settings.learning_rate)
        learns = step % self.settings.student_every == 0

        with torch.set_grad_enabled(learns), device.autocast(self.device):
            x = self._generate(noises, depth, text)
        metrics: Metrics = {}
        if learns:
            self.drift.look(x, real)
            metrics |= self._teach_student(x, noises[count], times[0], text, rate)
            follow(self.average, bare(self.student), step // self.settings.student_every, self.settings.ema)
            if self.drift.within(self.settings.drift):
                self.kept.load_state_dict(self.average.state_dict())
        metrics |= self._teach_critic(x.detach(), real, noises[count + 1 :], times[1], text, rate)
        return metrics | self.drift.measures() | {"samples": len(real)}

    def _generate(self, noises: Tensor, depth: int, text: TextStates) -> Tensor:
        """The student's x0 at step `depth` of its own trajectory from pure noise; only that step keeps a gradient."""
        level = self.levels[depth]
        with torch.no_grad():
            before = (
                flow.sample_distilled(bare(self.student), noises[:depth], text, self.levels[:depth]) if depth else None
            )
        z = noises[0] if before is None else flow.interpolate(before, noises[depth], level)
        return flow.clean(z, level, flow.velocity(self.student, z, level, text))

    def _teach_student(self, x: Tensor, noise: Tensor, t: Tensor, text: TextStates, rate: float) -> Metrics:
        """One step of the student: distribution matching, and fooling the critic's head."""
        z = flow.interpolate(x, noise, t)
        critic: Critic = bare(self.critic).requires_grad_(False)
        with device.autocast(self.device):
            with torch.no_grad():
                speed = flow.guided_velocity(self.teacher, z, t, text, self.texts.empty(len(z)), self.settings.guidance)
            fake, logits = critic(z, t, text)
        matching = distribution_matching_loss(x, flow.clean(z.detach(), t, speed), fake.detach())
        gan = generator_gan_loss(logits)
        norm = descend(matching + self.settings.gan_weight * gan, self.student_optimizer, rate, CLIP)
        critic.requires_grad_(True)
        return {"student_matching": matching.item(), "student_gan": gan.item(), "student_grad_norm": norm}

    def _teach_critic(
        self, x: Tensor, real: Tensor, noises: Tensor, t: Tensor, text: TextStates, rate: float
    ) -> Metrics:
        """One step of the critic: x0 of the student's noised samples, and which latents are real."""
        both = TextStates(torch.cat([text.hidden] * 2), torch.cat([text.mask] * 2))
        z = torch.cat([flow.interpolate(x, noises[0], t), flow.interpolate(real, noises[1], t)])
        with device.autocast(self.device):
            predicted, logits = self.critic(z, torch.cat([t, t]), both)
        score = F.mse_loss(predicted[: len(x)], x)
        fake_logits, real_logits = logits.chunk(2)
        gan = critic_gan_loss(real_logits, fake_logits)
        norm = descend(
            score + self.settings.gan_weight * gan, self.critic_optimizer, self.settings.critic_rate * rate, CLIP
        )
        return {"loss": score.item(), "critic_gan": gan.item(), "grad_norm": norm}

    def samples(self) -> Image.Image:
        """The held pictures' captions, drawn by the student that is kept."""
        return drawn(self._distilled(), held_prompts(self.release))

    def _distilled(self) -> JuZhouPipeline:
        parts = {**self.pipeline.components, "unet": self.kept}
        return JuZhouPipeline(**parts, distilled_steps=self.settings.sampling_steps)

    def finish(self, folder: Path) -> Metrics:
        """Put the student's checkpoint together; draw the held prompts with it, and with its teacher."""
        prompts = held_prompts(self.release)
        keep(folder / "samples-4-plain.png", self.pipeline, prompts, self.settings.sampling_steps)
        student = self._distilled()
        student.save_pretrained(folder / "checkpoint")
        keep(folder / "samples-4.png", student, prompts)
        return {}
