"""Trains the text tower against the pictures' latents.

The report takes Chinese-CLIP's text tower as it is. Where none can be had, a small one is trained by CLIP's loss, with
a small picture tower on the latents in place of CLIP's. That loss tells texts apart and is done when it can; it does
not ask where things are. So the tokens must also say enough to sketch the latents: a few layers that look at them
alone predict the picture's mean, which is what the denoiser has to know at pure noise. Both helpers are thrown away.

A tower that knows English can teach as well, on captions that were translated: what ours says of the Chinese text is,
after a projection, to point where the teacher's embedding of the English one does (AltCLIP, arXiv 2211.06679).
"""

import math
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import ChineseCLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from model import device, text
from model.autoencoder import SCALE
from model.unet import TransformerBlock, rotary_angles
from schemas.errors import JuZhouError
from schemas.training import AlignSettings
from training.batches import Batches
from training.features import Latents
from training.stage import Job, Metrics, Stage, bare, descend, learning_rate, mean, optimizer

COMMON = 128
"""The width of the space in which pictures and texts meet."""

SKETCH, SKETCH_HEAD = 192, 32
"""The width of the blocks that sketch, and of their heads."""

CONTRAST_WEIGHT = 0.2
LARGEST_SCALE = math.log(100.0)


def contrastive_loss(pictures: Tensor, texts: Tensor, scale: Tensor, same: Tensor) -> Tensor:
    """CLIP's symmetric cross-entropy (arXiv 2103.00020), in which equal pictures or texts are all right answers.

    Args:
        pictures: (batch, width), of length 1, like `texts`.
        scale: the inverse temperature, a scalar.
        same: (batch, batch), true where picture i and text j belong together; its diagonal is.
    """
    logits = scale * pictures @ texts.T
    right = same.float() / same.sum(dim=1, keepdim=True)
    return 0.5 * (F.cross_entropy(logits, right) + F.cross_entropy(logits.T, right))


class Sketch(nn.Module):
    """Positions of the latents that look at a text's tokens and say what they expect to see: E[x0 | text].

    Those of a picture that is not square are interpolated on the square's.
    """

    def __init__(self, side: int, latent_channels: int, context_size: int) -> None:
        super().__init__()
        self.side = side
        self.positions = nn.Parameter(0.5 * torch.randn(1, SKETCH, side, side))
        self.blocks = nn.ModuleList(
            TransformerBlock(SKETCH, SKETCH_HEAD, context_size, ratio=2, self_attention=True) for _ in range(3)
        )
        self.out = nn.Sequential(nn.LayerNorm(SKETCH), nn.Linear(SKETCH, latent_channels))

    def forward(self, hidden: Tensor, mask: Tensor, height: int, width: int) -> Tensor:
        """(batch, tokens, context_size) and (batch, tokens) → (batch, latent_channels, height, width)."""
        angles = rotary_angles(height, width, SKETCH_HEAD, self.side, hidden.device)
        positions = F.interpolate(self.positions, (height, width), mode="bilinear", align_corners=False)
        seen = positions.flatten(2).transpose(1, 2).expand(len(hidden), -1, -1)
        for block in self.blocks:
            seen = block(seen, angles, hidden, mask[:, None, None, :])
        return self.out(seen).transpose(1, 2).unflatten(2, (height, width))


class Seen(NamedTuple):
    """What the towers make of a batch."""

    pictures: Tensor
    """(batch, COMMON), of length 1, like `texts`."""
    texts: Tensor
    scale: Tensor
    """The inverse temperature, a scalar."""
    sketch: Tensor
    """The latents as the texts let expect them."""
    translated: Tensor | None
    """What a teacher should have said, (batch, its width); none without one."""


class Towers(nn.Module):
    """The text tower, the picture tower and the sketch that teach it, and the temperature between the towers."""

    def __init__(self, encoder: ChineseCLIPTextModel, latent_channels: int, side: int, teacher_width: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.teacher_projection = nn.Linear(encoder.config.hidden_size, teacher_width) if teacher_width else None
        self.sketch = Sketch(side, latent_channels, encoder.config.hidden_size)
        self.text_projection = nn.Linear(encoder.config.hidden_size, COMMON)
        self.picture_tower = nn.Sequential(
            nn.Conv2d(latent_channels, 64, 3, padding=1),
            nn.Hardswish(),
            nn.Conv2d(64, 128, 3, stride=2, padding=1),
            nn.Hardswish(),
            nn.Conv2d(128, 256, 3, stride=2, padding=1),
            nn.Hardswish(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(256, COMMON),
        )
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    def forward(self, tokens: Tensor, mask: Tensor, latents: Tensor) -> Seen:
        """Latents (batch, channels, h, w); tokens and mask (batch, tokens), or twice as many: texts of the pictures,
        then those that a teacher reads in English."""
        count = len(latents)
        seen = self.encoder(input_ids=tokens, attention_mask=mask)
        words = seen.pooler_output
        return Seen(
            pictures=F.normalize(self.picture_tower(latents).float(), dim=-1),
            texts=F.normalize(self.text_projection(words[:count]).float(), dim=-1),
            scale=self.log_scale.clamp(max=LARGEST_SCALE).exp(),
            sketch=self.sketch(seen.last_hidden_state[:count], mask[:count], *latents.shape[-2:]).float(),
            translated=self.teacher_projection(words[count:]).float() if self.teacher_projection else None,
        )


class AlignBatch(NamedTuple):
    """What a step is given, (share, …) each."""

    images: Tensor
    """Their numbers, like the texts': equal ones belong together."""
    texts: Tensor
    latents: Tensor
    tokens: Tensor
    """(share, 1 or 2, tokens): a text of the picture's, and one that the teacher reads in English."""
    mask: Tensor
    english: Tensor
    """Those for the teacher; (share, 0) without one, like its mask."""
    english_mask: Tensor


def load_english(source: str) -> tuple[Any, CLIPTokenizer]:
    """An English CLIP text tower with its projection, and its tokenizer.

    Raises:
        JuZhouError: there is none.
    """
    try:
        tower = CLIPTextModelWithProjection.from_pretrained(source)
        return tower.eval().requires_grad_(False), CLIPTokenizer.from_pretrained(source)
    except (OSError, ValueError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise JuZhouError(f"{source}: no English CLIP text tower to load there ({reason})") from error


class AlignStage(Stage):
    """Product: `text_encoder` and `tokenizer`.

    Each worker contrasts within its own share of the batch, and each piece of that within itself.
    """

    name = "align"

    def __init__(self, job: Job) -> None:
        """Load the text tower that the recipe names, or start a fresh one; load the teacher, if there is to be one."""
        super().__init__(job)
        self.settings: AlignSettings = self.recipe.stages.align
        source = self.settings.text_encoder
        self.encoder, self.tokenizer = text.load(source) if source else _fresh()
        self.steps = self.settings.steps if not source or self.settings.adapt else 0
        if not self.steps:
            return
        learner = text.learner(self.encoder)
        self.latents = Latents(self.release, self.recipe, job.folders, self.recipe.size)
        self.batches = Batches(self.release, self.recipe.seed, self.recipe.size, self.settings.batch)
        self.teacher, width = None, 0
        if self.settings.teacher:
            self.teacher, self.english = load_english(self.settings.teacher)
            self.teacher.to(self.device)
            width = self.teacher.config.projection_dim
            self.chinese, self.originals = self.release.parallel()
            if not self.chinese:
                raise JuZhouError(f"stages.align.teacher: {self.release.name} has no captions that were translated")
        side = self.recipe.size // SCALE
        self.towers = job.wrap(Towers(learner, self.latents.channels, side, width))
        self.optimizer = optimizer(self.towers.parameters())

    def state(self) -> dict[str, Any]:
        """Both towers and their optimizer; nothing, where the text tower is taken as it is."""
        if not self.steps:
            return {}
        return {"towers": bare(self.towers), "optimizer": self.optimizer}

    def load(self, step: int) -> AlignBatch:
        """Pictures' latents, their texts' tokens and translated ones', as far as the longest goes."""
        images, numbers, shape = self.batch(self.batches, step)
        texts, english = self.release.texts.take(numbers.numpy()).to_pylist(), torch.zeros(2, len(images), 0)
        if self.teacher:
            draws = self.draws("parallel", step)
            drawn = torch.randint(len(self.chinese), (self.settings.batch,), generator=draws)
            chosen = self.job.slice(drawn).tolist()
            texts += [self.chinese[number] for number in chosen]
            tokens, mask = text.tokenize(self.english, [self.originals[number] for number in chosen])
            english = torch.stack([tokens, mask])
        tokens, mask = text.tokenize(self.tokenizer, texts)
        longest = int(mask.sum(dim=1).max())
        tokens, mask = (part[:, :longest].unflatten(0, (-1, len(images))).transpose(0, 1) for part in (tokens, mask))
        return AlignBatch(images, numbers, self.latents.load(images, shape), tokens, mask, *english)

    def step(self, step: int, batch: AlignBatch) -> Metrics:
        """Tell a batch's pictures and texts apart."""
        told = [self._learn(piece) for piece in self.in_turn(self.pieces(batch), self.towers)]
        norm = descend(self.optimizer, learning_rate(step, self.steps, self.settings.learning_rate))
        return mean(told) | {"grad_norm": norm}

    def _learn(self, piece: AlignBatch) -> Metrics:
        """The gradients of a piece."""
        same = (piece.images[:, None] == piece.images) | (piece.texts[:, None] == piece.texts)
        same, latents = same.to(self.device), self.latents(piece.latents)
        tokens, mask = (part.transpose(0, 1).flatten(0, 1).to(self.device) for part in (piece.tokens, piece.mask))
        with device.autocast(self.device):
            seen = self.towers(tokens, mask, latents)
        contrast = contrastive_loss(seen.pictures, seen.texts, seen.scale, same)
        sketched = F.mse_loss(seen.sketch, latents)
        right = same.gather(1, (seen.pictures @ seen.texts.T).argmax(dim=1, keepdim=True))
        told = {
            "contrast": contrast.item(),
            "sketch": sketched.item(),
            "accuracy": right.float().mean().item(),
            "scale": seen.scale.item(),
        }
        loss = CONTRAST_WEIGHT * contrast + sketched
        if self.teacher:
            with torch.no_grad(), device.autocast(self.device):
                english, reads = piece.english.to(self.device), piece.english_mask.to(self.device)
                said = self.teacher(input_ids=english, attention_mask=reads).text_embeds
            apart = 1 - F.cosine_similarity(seen.translated, said.float()).mean()
            told["teacher"] = apart.item()
            loss = loss + apart
        self.backward(loss)
        return {"loss": loss.item()} | told

    def finish(self, folder: Path) -> Metrics:
        """Keep the text tower."""
        self.encoder.save_pretrained(folder / "text_encoder")
        self.tokenizer.save_pretrained(folder / "tokenizer")
        return {}


def _fresh() -> tuple[ChineseCLIPTextModel, text.Tokenizer]:
    tokenizer = text.nano_tokenizer()
    return text.nano_encoder(tokenizer), tokenizer
