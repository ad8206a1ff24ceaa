"""Trains the text tower against the pictures' latents, then computes every text's hidden states once.

The report takes Chinese-CLIP's text tower as it is. Where none can be had, a small one is trained by CLIP's loss, with
a small picture tower on the latents in place of CLIP's. That loss tells texts apart and is done when it can; it does
not ask where things are. So the tokens must also say enough to sketch the latents: a few layers that look at them
alone predict the picture's mean, which is what the denoiser has to know at pure noise. Both helpers are thrown away.
"""

import math
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import ChineseCLIPTextModel

from model import device, text
from model.autoencoder import JuZhouAutoencoder
from model.unet import TransformerBlock, rotary_angles
from training.autoencoder import LATENTS
from training.stage import Job, Metrics, Stage, bare, descend, learning_rate, optimizer

COMMON = 128
"""The width of the space in which pictures and texts meet."""

SKETCH, SKETCH_HEAD = 192, 32
"""The width of the blocks that sketch, and of their heads."""

CONTRAST_WEIGHT = 0.2
LARGEST_SCALE = math.log(100.0)
TEXTS_AT_ONCE = 64


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
    """Positions of the latents that look at a text's tokens and say what they expect to see: E[x0 | text]."""

    def __init__(self, side: int, latent_channels: int, context_size: int) -> None:
        super().__init__()
        self.side = side
        self.positions = nn.Parameter(0.5 * torch.randn(side * side, SKETCH))
        self.blocks = nn.ModuleList(
            TransformerBlock(SKETCH, SKETCH_HEAD, context_size, ratio=2, self_attention=True) for _ in range(3)
        )
        self.out = nn.Sequential(nn.LayerNorm(SKETCH), nn.Linear(SKETCH, latent_channels))

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """(batch, tokens, context_size) and (batch, tokens) → (batch, latent_channels, side, side)."""
        angles = rotary_angles(self.side, self.side, SKETCH_HEAD, self.side, hidden.device)
        seen = self.positions.expand(len(hidden), -1, -1)
        for block in self.blocks:
            seen = block(seen, angles, hidden, mask[:, None, None, :])
        return self.out(seen).transpose(1, 2).unflatten(2, (self.side, self.side))


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
        sketch = self.sketch(seen.last_hidden_state, mask).float()
        return pictures, texts, self.log_scale.clamp(max=LARGEST_SCALE).exp(), sketch


class AlignStage(Stage):
    """Product: `text_encoder`, `tokenizer`, and `texts.safetensors` (every text's hidden states and mask).

    With several workers each contrasts within its own share of the batch.
    """

    name = "align"

    def __init__(self, job: Job) -> None:
        """Load the latents, and the text tower that the recipe names or a fresh one."""
        super().__init__(job)
        self.settings = self.recipe.stages.align
        self.latents = load_latents(job.folders["autoencoder"], self.recipe.size)
        if self.settings.text_encoder is not None:
            self.steps = 0
            self.encoder, self.tokenizer = text.load(self.settings.text_encoder)
            self.encoder.to(self.device)  # type: ignore[arg-type]
            return
        self.steps = self.settings.steps
        self.tokenizer = text.nano_tokenizer()
        self.encoder = encoder = text.nano_encoder(self.tokenizer)
        # A CPU's fused attention has a slow backward pass in bfloat16.
        encoder.set_attn_implementation("eager")
        self.towers = job.wrap(Towers(encoder, self.latents.shape[1], self.latents.shape[-1]))
        self.optimizer = optimizer(self.towers.parameters())

    def state(self) -> dict[str, Any]:
        """Both towers and their optimizer; nothing, where the text tower is taken as it is."""
        if not self.steps:
            return {}
        return {"towers": bare(self.towers), "optimizer": self.optimizer}

    def step(self, step: int) -> Metrics:
        """Tell a batch's pictures and texts apart."""
        batch = self.release.batch(self.settings.batch, self.recipe.seed, step, self.recipe.captions)
        images, texts = self.job.slice(batch.images), self.job.slice(batch.texts)
        tokens, mask = text.tokenize(self.tokenizer, [self.release.texts[number] for number in texts.tolist()])
        longest = int(mask.sum(dim=1).max())
        tokens, mask = tokens[:, :longest], mask[:, :longest]
        same = (images[:, None] == images) | (texts[:, None] == texts)
        latents = self.latents[images].to(self.device)
        with device.autocast(self.device):
            pictures, words, scale, sketch = self.towers(tokens.to(self.device), mask.to(self.device), latents)
        contrast, sketched = contrastive_loss(pictures, words, scale, same.to(self.device)), F.mse_loss(sketch, latents)
        loss = CONTRAST_WEIGHT * contrast + sketched
        right = same.to(self.device).gather(1, (pictures @ words.T).argmax(dim=1, keepdim=True))
        norm = descend(loss, self.optimizer, learning_rate(step, self.steps, self.settings.learning_rate))
        return {
            "loss": loss.item(),
            "contrast": contrast.item(),
            "sketch": sketched.item(),
            "accuracy": right.float().mean().item(),
            "scale": scale.item(),
            "grad_norm": norm,
            "samples": len(images),
        }

    @torch.no_grad()
    def finish(self, folder: Path) -> Metrics:
        """Keep the text tower, and what it makes of every text of the release."""
        encoder = self.encoder.eval()
        if isinstance(encoder, ChineseCLIPTextModel):
            encoder.set_attn_implementation("sdpa")
        encoder.save_pretrained(folder / "text_encoder")
        self.tokenizer.save_pretrained(folder / "tokenizer")
        texts = self.release.texts
        parts = [
            text.encode(encoder, self.tokenizer, texts[start : start + TEXTS_AT_ONCE])
            for start in range(0, len(texts), TEXTS_AT_ONCE)
        ]
        hidden = torch.cat([part.hidden.half().cpu() for part in parts])
        save_file(
            {"hidden": hidden, "mask": torch.cat([part.mask.cpu() for part in parts])}, folder / "texts.safetensors"
        )
        return {"texts": len(texts), "hidden_std": hidden.float().std().item()}


def load_latents(folder: Path, size: int) -> Tensor:
    """Every picture's latent at a size as the denoiser has it, shifted and scaled: (pictures, channels, h, w)."""
    settings = JuZhouAutoencoder.load_config(folder / "autoencoder")
    raw = load_file(folder / LATENTS.format(size))["latents"]
    return (raw - settings["shift_factor"]) * settings["scaling_factor"]


def load_texts(folder: Path) -> text.TextStates:
    """Every text's hidden states, half precision, and mask, in the order of `Release.texts`, on the CPU."""
    states = load_file(folder / "texts.safetensors")
    return text.TextStates(states["hidden"], states["mask"])
