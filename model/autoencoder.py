"""Pictures to latents eight times smaller and back: a small encoder, and the report's attention-free light decoder."""

from collections.abc import Sequence
from typing import Any, NamedTuple, Self

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from PIL import Image
from torch import Tensor, nn

from schemas.errors import JuZhouError

SCALE = 8
"""A picture's side in latents' sides."""

PRESETS: dict[str, dict[str, Any]] = {
    "full": {},
    "nano": {
        "latent_channels": 32,
        "encoder_channels": (),
        "decoder_channels": (128, 64, 32),
        "decoder_blocks": (2, 2, 2),
        "groups": 8,
    },
}


class Decoded(NamedTuple):
    """What `decode` returns, named as diffusers' autoencoders name it."""

    sample: Tensor
    """(batch, 3, height, width), about −1 … 1."""


class Encoded(NamedTuple):
    """What `encode` returns, named as diffusers' deterministic autoencoders name it."""

    latent: Tensor
    """(batch, latent channels, height / 8, width / 8), neither shifted nor scaled."""


class DecoderBlock(nn.Module):
    """A separable convolution that expands, a depthwise one, normalisation, and back; plus a shortcut."""

    def __init__(self, channels_in: int, channels: int, expansion: int, groups: int, dropout: float) -> None:
        super().__init__()
        wide = channels * expansion
        self.body = nn.Sequential(
            nn.Conv2d(channels_in, channels_in, 3, padding=1, groups=channels_in, bias=False),
            nn.Conv2d(channels_in, wide, 1, bias=False),
            nn.Conv2d(wide, wide, 3, padding=1, groups=wide, bias=False),
            nn.GroupNorm(groups, wide),
            nn.Hardswish(),
            nn.Dropout(dropout),
            nn.Conv2d(wide, channels, 1, bias=False),
        )
        self.shortcut = nn.Conv2d(channels_in, channels, 1) if channels_in != channels else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels_in, h, w) → (batch, channels, h, w)."""
        return self.shortcut(x) + self.body(x)


class Decoder(ModelMixin, ConfigMixin):  # type: ignore[misc]
    """The light decoder: (batch, latent channels, h, w) → (batch, 3, 8 h, 8 w).

    Stages of 3, 3, 2 and 1 blocks, the first three followed by nearest ×2, which has no parameters. Expansion 2 and
    bias-free separable convolutions are unpublished and chosen so that `full` has the report's 1.90M parameters. With
    fewer stages the last convolution gives the pixels that are left, each position a square of them.
    """

    @register_to_config
    def __init__(
        self,
        latent_channels: int = 16,
        channels: Sequence[int] = (256, 256, 128, 64),
        blocks: Sequence[int] = (3, 3, 2, 1),
        expansion: int = 2,
        groups: int = 32,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(latent_channels, channels[0], 3, padding=1)
        layers: list[nn.Module] = []
        width = channels[0]
        for stage, (target, count) in enumerate(zip(channels, blocks, strict=True)):
            if stage:
                layers.append(nn.Upsample(scale_factor=2.0))
            for _ in range(count):
                layers.append(DecoderBlock(width, target, expansion, groups, dropout))
                width = target
        self.stages = nn.Sequential(*layers)
        self.square = SCALE >> len(channels) - 1
        self.norm_out = nn.GroupNorm(groups, width)
        self.conv_out = nn.Conv2d(width, 3 * self.square**2, 3, padding=1)

    def forward(self, latents: Tensor) -> Tensor:
        """(batch, latent channels, h, w) → (batch, 3, 8 h, 8 w), about −1 … 1."""
        latents = latents.contiguous(memory_format=torch.channels_last)
        seen = self.conv_out(F.hardswish(self.norm_out(self.stages(self.conv_in(latents)))))
        return F.pixel_shuffle(seen, self.square)


class DenseBlock(nn.Module):
    """Two dense 3×3 convolutions and a shortcut."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.GroupNorm(groups, channels),
            nn.Hardswish(),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.GroupNorm(groups, channels),
            nn.Hardswish(),
            nn.Conv2d(channels, channels, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels, h, w) → the same."""
        return x + self.body(x)


class Encoder(nn.Sequential):
    """Pixel unshuffle by 4, then dense convolutions at a quarter and an eighth of the side: cheap on a CPU.

    Without channels it is one linear map of squares of 8 × 8 pixels, which for small pictures keeps more than a deep
    one that has little time to learn, and moves smoothly as things in the picture do.
    """

    def __init__(self, latent_channels: int, channels: Sequence[int], groups: int) -> None:
        if not channels:
            super().__init__(nn.Conv2d(3, latent_channels, SCALE, stride=SCALE))
            return
        fine, coarse = channels
        super().__init__(
            nn.PixelUnshuffle(4),
            nn.Conv2d(48, fine, 3, padding=1),
            DenseBlock(fine, groups),
            nn.Conv2d(fine, coarse, 3, stride=2, padding=1),
            DenseBlock(coarse, groups),
            DenseBlock(coarse, groups),
            nn.GroupNorm(groups, coarse),
            nn.Hardswish(),
            nn.Conv2d(coarse, latent_channels, 3, padding=1),
        )


class JuZhouAutoencoder(ModelMixin, ConfigMixin):  # type: ignore[misc]
    """A deterministic autoencoder with diffusers' face: `encode(x).latent`, `decode(z).sample`.

    The denoiser works on (latent − shift_factor) · scaling_factor, as with SD3's autoencoder; both are measured on real
    latents after training. The report's encoder is its teacher's: then there is no encoder here (`encoder_channels` is
    None). Otherwise it is small and our own.
    """

    @register_to_config
    def __init__(
        self,
        latent_channels: int = 16,
        encoder_channels: Sequence[int] | None = (64, 128),
        decoder_channels: Sequence[int] = (256, 256, 128, 64),
        decoder_blocks: Sequence[int] = (3, 3, 2, 1),
        groups: int = 32,
        scaling_factor: float = 1.0,
        shift_factor: float = 0.0,
    ) -> None:
        super().__init__()
        self.encoder = None if encoder_channels is None else Encoder(latent_channels, encoder_channels, groups)
        self.decoder = Decoder(latent_channels, decoder_channels, decoder_blocks, groups=groups)

    @classmethod
    def preset(cls, name: str, **changes: Any) -> Self:
        """A fresh autoencoder with the decoder `full` (1.90M) or `nano`, single settings changed."""
        return cls(**{**PRESETS[name], **changes})

    def forward(self, pictures: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """One look while training: the pictures decoded from their latents plus noise, and those latents."""
        latents = self.encode(pictures).latent
        return self.decoder(latents + noise), latents

    def encode(self, pictures: Tensor) -> Encoded:
        """(batch, 3, h, w) in −1 … 1, sides multiples of 8 → latents.

        Raises:
            JuZhouError: the latents are a teacher's, and there is but the decoder for them.
        """
        if self.encoder is None:
            raise JuZhouError(
                "this autoencoder only decodes; its latents are those of the teacher it was distilled from"
            )
        return Encoded(self.encoder(pictures))

    def decode(self, latents: Tensor) -> Decoded:
        """(batch, latent channels, h, w) as `encode` gives them → pictures eight times as large."""
        return Decoded(self.decoder(latents))


def to_images(pictures: Tensor) -> list[Image.Image]:
    """(batch, 3, height, width) in −1 … 1 → RGB pictures."""
    pixels = ((pictures.float() + 1) * 127.5).round().clamp(0, 255).byte().permute(0, 2, 3, 1).cpu().numpy()
    return [Image.fromarray(picture) for picture in pixels]
