"""Trains the text tower against the pictures' latents.

The report takes Chinese-CLIP's text tower as it is. Where none can be had, a small one is trained by CLIP's loss, with
a small picture tower on the latents in place of CLIP's. That loss tells texts apart and is done when it can; it does
not ask where things are. So the tokens must also say enough to sketch the latents: a few layers that look at them
alone predict the picture's mean, which is what the denoiser has to know at pure noise. Both helpers are thrown away.
"""

import math
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import ChineseCLIPTextModel

from model import device, text
from model.autoencoder import SCALE
from model.unet import TransformerBlock, rotary_angles
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


class Towers(nn.Module):
    """The text tower, the picture tower and the sketch that teach it, and the temperature between the towers."""

    def __init__(self, encoder: ChineseCLIPTextModel, latent_channels: int, side: int) -> None:
        super().__init__()
        self.encoder = encoder
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

    def forward(self, tokens: Tensor, mask: Tensor, latents: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Tokens and mask (batch, tokens), latents (batch, channels, h, w) → pictures, texts, inverse temperature, and
        the latents as the texts let expect them."""
        seen = self.encoder(input_ids=tokens, attention_mask=mask)
        pictures = F.normalize(self.picture_tower(latents).float(), dim=-1)
        texts = F.normalize(self.text_projection(seen.pooler_output).float(), dim=-1)
        sketch = self.sketch(seen.last_hidden_state, mask, *latents.shape[-2:]).float()
        return pictures, texts, self.log_scale.clamp(max=LARGEST_SCALE).exp(), sketch


class AlignBatch(NamedTuple):
    """What a step is given, (share, …) each."""

    images: Tensor
    """Their numbers, like the texts': equal ones belong together."""
    texts: Tensor
    latents: Tensor
    tokens: Tensor
    mask: Tensor


class AlignStage(Stage):
    """Product: `text_encoder` and `tokenizer`.

    Each worker contrasts within its own share of the batch, and each piece of that within itself.
    """

    name = "align"

    def __init__(self, job: Job) -> None:
        """Load the text tower that the recipe names, or start a fresh one."""
        super().__init__(job)
        self.settings: AlignSettings = self.recipe.stages.align
        if self.settings.text_encoder is not None:
            self.steps = 0
            self.encoder, self.tokenizer = text.load(self.settings.text_encoder)
            return
        self.steps = self.settings.steps
        self.latents = Latents(self.release, self.recipe, job.folders, self.recipe.size)
        self.batches = Batches(self.release, self.recipe.seed, self.recipe.size, self.settings.batch)
        self.tokenizer = text.nano_tokenizer()
        self.encoder = encoder = text.nano_encoder(self.tokenizer)
        # A CPU's fused attention has a slow backward pass in bfloat16.
        encoder.set_attn_implementation("eager")
        self.towers = job.wrap(Towers(encoder, self.latents.channels, self.recipe.size // SCALE))
        self.optimizer = optimizer(self.towers.parameters())

    def state(self) -> dict[str, Any]:
        """Both towers and their optimizer; nothing, where the text tower is taken as it is."""
        if not self.steps:
            return {}
        return {"towers": bare(self.towers), "optimizer": self.optimizer}

    def load(self, step: int) -> AlignBatch:
        """Pictures' latents and texts' tokens, as far as the longest text goes."""
        images, texts, shape = self.batch(self.batches, step)
        tokens, mask = text.tokenize(self.tokenizer, self.release.texts.take(texts.numpy()).to_pylist())
        longest = int(mask.sum(dim=1).max())
        return AlignBatch(images, texts, self.latents.load(images, shape), tokens[:, :longest], mask[:, :longest])

    def step(self, step: int, batch: AlignBatch) -> Metrics:
        """Tell a batch's pictures and texts apart."""
        told = []
        for piece in self.pieces(batch, self.towers):
            same = (piece.images[:, None] == piece.images) | (piece.texts[:, None] == piece.texts)
            same, latents = same.to(self.device), self.latents(piece.latents)
            with device.autocast(self.device):
                pictures, words, scale, sketch = self.towers(
                    piece.tokens.to(self.device), piece.mask.to(self.device), latents
                )
            contrast, sketched = contrastive_loss(pictures, words, scale, same), F.mse_loss(sketch, latents)
            loss = CONTRAST_WEIGHT * contrast + sketched
            (loss / self.settings.accumulate).backward()
            right = same.gather(1, (pictures @ words.T).argmax(dim=1, keepdim=True))
            told.append(
                {
                    "loss": loss.item(),
                    "contrast": contrast.item(),
                    "sketch": sketched.item(),
                    "accuracy": right.float().mean().item(),
                    "scale": scale.item(),
                }
            )
        norm = descend(self.optimizer, learning_rate(step, self.steps, self.settings.learning_rate))
        return mean(told) | {"grad_norm": norm}

    def finish(self, folder: Path) -> Metrics:
        """Keep the text tower."""
        if isinstance(self.encoder, ChineseCLIPTextModel):
            self.encoder.set_attn_implementation("sdpa")
        self.encoder.save_pretrained(folder / "text_encoder")
        self.tokenizer.save_pretrained(folder / "tokenizer")
        return {}
