"""The denoiser: JuZhou's U-Net of separable convolutions and multi-query transformer blocks, small enough for a phone.

What the report publishes is followed; widths, head size, feed-forward ratio, expansion and resamplers are not
published and are chosen so that the parameters (0.385B) and the multiply-adds of a step (579.65 G) come out.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, Self

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from model import device

PRESETS: dict[str, dict[str, Any]] = {
    "full": {},
    "english": {"context_size": 2048},
    "nano": {
        "sample_size": 8,
        "latent_channels": 32,
        "channels": (256, 128, 96),
        "depths": (1, 1, 1),
        "head_size": 32,
        "context_size": 128,
        "time_size": 128,
        "groups": 16,
    },
}
TIMESTEPS = 1000
"""The timestep that the network sees is t · 1000, diffusers' convention for flow models."""


class Denoised(NamedTuple):
    """What the U-Net returns."""

    sample: Tensor
    """The velocity ε − x0, like the input: (batch, latent channels, height, width)."""
    bottleneck: Tensor
    """The feature after the mid block: (batch, widest, height / 4, width / 4)."""


def timestep_features(timestep: Tensor, size: int) -> Tensor:
    """Sinusoids of a timestep, (batch,) → (batch, size), as in DDPM (arXiv 2006.11239), periods 2π … 2π · 10⁴."""
    half = size // 2
    frequencies = torch.exp(-math.log(10_000) * torch.arange(half, device=timestep.device) / half)
    angles = timestep.float()[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


def rotary_angles(height: int, width: int, head_size: int, reference: int, where: torch.device) -> Tensor:
    """2D RoPE (arXiv 2104.09864, an axis each half): angles of each position, (height · width, head_size / 2).

    Positions are interpolated onto a grid of `reference` × `reference`, so that another resolution keeps the range
    of angles that was trained.
    """
    quarter = head_size // 4
    frequencies = 10_000 ** (-torch.arange(quarter, device=where) / quarter)
    rows, columns = (
        (torch.arange(length, device=where) + 0.5) * (reference / length) - 0.5 for length in (height, width)
    )
    angles = torch.cat(
        [
            (rows[:, None, None] * frequencies).expand(height, width, quarter),
            (columns[None, :, None] * frequencies).expand(height, width, quarter),
        ],
        dim=-1,
    )
    return angles.reshape(height * width, head_size // 2)


def rotate(x: Tensor, angles: Tensor) -> Tensor:
    """Turn each pair (x[i], x[i + size / 2]) by its angle: x (…, positions, size), angles (positions, size / 2)."""
    first, second = x.float().chunk(2, dim=-1)
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([first * cos - second * sin, first * sin + second * cos], dim=-1).to(x.dtype)


class SeparableConv(nn.Sequential):
    """Depthwise 3×3, then pointwise: (batch, channels_in, h, w) → (batch, channels_out, h, w)."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__(
            nn.Conv2d(channels_in, channels_in, 3, padding=1, groups=channels_in),
            nn.Conv2d(channels_in, channels_out, 1),
        )


class ResNetBlock(nn.Module):
    """Two separable convolutions around a wider middle, to which the time embedding is added."""

    def __init__(
        self, channels_in: int, channels: int, expansion: int, time_size: int, groups: int, dropout: float
    ) -> None:
        super().__init__()
        wide = channels * expansion
        self.norm_in = nn.GroupNorm(groups, channels_in)
        self.conv_in = SeparableConv(channels_in, wide)
        self.time = nn.Sequential(nn.Hardswish(), nn.Linear(time_size, wide))
        self.norm_out = nn.GroupNorm(groups, wide)
        self.dropout = nn.Dropout(dropout)
        self.conv_out = SeparableConv(wide, channels)
        self.shortcut = nn.Conv2d(channels_in, channels, 1) if channels_in != channels else nn.Identity()

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """(batch, channels_in, h, w) and (batch, time_size) → (batch, channels, h, w)."""
        hidden = self.conv_in(F.hardswish(self.norm_in(x)))
        hidden = hidden + self.time(time)[:, :, None, None]
        return self.shortcut(x) + self.conv_out(self.dropout(F.hardswish(self.norm_out(hidden))))


class Attention(nn.Module):
    """Multi-query attention (arXiv 1911.02150): many query heads share one key and value head.

    Queries and keys are layer-normalised. RoPE turns queries, and keys where they are positions of the same picture.
    """

    def __init__(self, width: int, head_size: int, context_size: int | None = None) -> None:
        super().__init__()
        self.head_size = head_size
        self.to_query = nn.Linear(width, width, bias=False)
        self.to_key_value = nn.Linear(context_size or width, 2 * head_size, bias=False)
        self.norm_query = nn.LayerNorm(head_size)
        self.norm_key = nn.LayerNorm(head_size)
        self.to_out = nn.Linear(width, width)

    def forward(self, x: Tensor, angles: Tensor, context: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """Let x (batch, positions, width) see itself, or context (batch, tokens, context_size) where mask is true.

        Args:
            mask: (batch, 1, 1, tokens), true where a token counts.
        """
        batch, positions, width = x.shape
        query = self.to_query(x).view(batch, positions, -1, self.head_size).transpose(1, 2)
        query = rotate(self.norm_query(query), angles)
        key, value = self.to_key_value(x if context is None else context).chunk(2, dim=-1)
        key = self.norm_key(key)
        if context is None:
            key = rotate(key, angles)
        heads_as_positions = query.reshape(batch, 1, -1, self.head_size)
        attended = device.attention(heads_as_positions, key[:, None], value[:, None], mask)
        attended = attended.view(batch, -1, positions, self.head_size)
        return self.to_out(attended.transpose(1, 2).reshape(batch, positions, width))


class FeedForward(nn.Module):
    """GEGLU (arXiv 2002.05202): (…, width) → (…, width)."""

    def __init__(self, width: int, ratio: int) -> None:
        super().__init__()
        self.up = nn.Linear(width, 2 * ratio * width)
        self.down = nn.Linear(ratio * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """A gated hidden layer."""
        hidden, gate = self.up(x).chunk(2, dim=-1)
        return self.down(hidden * F.gelu(gate))


class TransformerBlock(nn.Module):
    """Self-attention where it is kept, cross-attention, feed-forward, each after a LayerNorm and added."""

    def __init__(self, width: int, head_size: int, context_size: int, ratio: int, self_attention: bool) -> None:
        super().__init__()
        self.norm_self = nn.LayerNorm(width) if self_attention else None
        self.self_attention = Attention(width, head_size) if self_attention else None
        self.norm_cross = nn.LayerNorm(width)
        self.cross_attention = Attention(width, head_size, context_size)
        self.norm_feed = nn.LayerNorm(width)
        self.feed_forward = FeedForward(width, ratio)

    def forward(self, x: Tensor, angles: Tensor, context: Tensor, mask: Tensor | None) -> Tensor:
        """(batch, positions, width) → the same."""
        if self.self_attention is not None and self.norm_self is not None:
            x = x + self.self_attention(self.norm_self(x), angles)
        x = x + self.cross_attention(self.norm_cross(x), angles, context, mask)
        return x + self.feed_forward(self.norm_feed(x))


class Conditions(NamedTuple):
    """What every block of one forward pass sees beside the picture."""

    time: Tensor
    context: Tensor
    mask: Tensor | None


class Unit(nn.Module):
    """A ResNet block and the transformer blocks behind it."""

    def __init__(
        self, resnet: ResNetBlock, transformers: Sequence[TransformerBlock], head_size: int, reference: int
    ) -> None:
        super().__init__()
        self.resnet = resnet
        self.transformers = nn.ModuleList(transformers)
        self.head_size = head_size
        self.reference = reference

    def forward(self, x: Tensor, conditions: Conditions) -> Tensor:
        """(batch, channels_in, h, w) → (batch, channels, h, w)."""
        x = self.resnet(x, conditions.time)
        if not self.transformers:
            return x
        batch, width, height, breadth = x.shape
        angles = rotary_angles(height, breadth, self.head_size, self.reference, x.device)
        tokens = x.permute(0, 2, 3, 1).reshape(batch, height * breadth, width)
        for block in self.transformers:
            tokens = block(tokens, angles, conditions.context, conditions.mask)
        return tokens.view(batch, height, breadth, width).permute(0, 3, 1, 2)


class JuZhouUNet(ModelMixin, ConfigMixin):  # type: ignore[misc]
    """Latents, a timestep and the text's hidden states → the velocity of rectified flow.

    Down0 and Down1 are two units each, a ResNet block and two transformer blocks with cross-attention only; Down2, Mid
    and Up0 are two, one and three units with four transformer blocks that self-attend as well; Up1 is three units like
    Down1's, Up2 three ResNet blocks. Skips are concatenated, each used once: the second unit of a down block feeds the
    upsampler, its first unit the first unit of the up block, and what entered the down block (conv-in, the first
    downsampler) the second. None goes from Down2 to Up0.

    Positions are laid on a grid of `reference_size`, that of the latents on which it was trained first, whatever the
    size of those that come in; `sample_size` is that of the latents on which it was trained last.

    Downsamplers are dense 3×3 convolutions with stride 2; upsamplers are nearest ×2, concatenation and a separable
    convolution.
    """

    @register_to_config
    def __init__(
        self,
        sample_size: int = 128,
        reference_size: int | None = None,
        latent_channels: int = 16,
        channels: Sequence[int] = (256, 512, 960),
        depths: Sequence[int] = (2, 2, 4),
        head_size: int = 64,
        context_size: int = 1024,
        time_size: int = 1024,
        expansion: int = 2,
        feedforward_ratio: int = 3,
        groups: int = 32,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        low, middle, high = channels

        def unit(channels_in: int, level: int, attends: bool = True) -> Unit:
            width = channels[level]
            return Unit(
                ResNetBlock(channels_in, width, expansion, time_size, groups, dropout),
                [
                    TransformerBlock(width, head_size, context_size, feedforward_ratio, self_attention=level == 2)
                    for _ in range(depths[level] if attends else 0)
                ],
                head_size,
                (reference_size or sample_size) >> level,
            )

        self.time = nn.Sequential(nn.Linear(low, time_size), nn.Hardswish(), nn.Linear(time_size, time_size))
        self.conv_in = nn.Conv2d(latent_channels, low, 3, padding=1)
        self.down0 = nn.ModuleList([unit(low, 0), unit(low, 0)])
        self.downsample0 = nn.Conv2d(low, low, 3, stride=2, padding=1)
        self.down1 = nn.ModuleList([unit(low, 1), unit(middle, 1)])
        self.downsample1 = nn.Conv2d(middle, middle, 3, stride=2, padding=1)
        self.down2 = nn.ModuleList([unit(middle, 2), unit(high, 2)])
        self.mid = unit(high, 2)
        self.up0 = nn.ModuleList([unit(high, 2), unit(high, 2), unit(high, 2)])
        self.upsample0 = SeparableConv(high + middle, high)
        self.up1 = nn.ModuleList([unit(high + middle, 1), unit(middle + low, 1), unit(middle, 1)])
        self.upsample1 = SeparableConv(middle + low, middle)
        self.up2 = nn.ModuleList([unit(middle + low, 0, False), unit(low + low, 0, False), unit(low, 0, False)])
        self.norm_out = nn.GroupNorm(groups, low)
        self.conv_out = nn.Conv2d(low, latent_channels, 3, padding=1)
        for parameter in self.conv_out.parameters():
            nn.init.zeros_(parameter)

    @classmethod
    def preset(cls, name: str, **changes: Any) -> Self:
        """A fresh network, with single settings changed.

        Args:
            name: `full` (0.385B), `english` (the same for CLIP-L's and CLIP-G's states side by side) or `nano`.
        """
        return cls(**{**PRESETS[name], **changes})

    def forward(self, sample: Tensor, timestep: Tensor, context: Tensor, mask: Tensor | None = None) -> Denoised:
        """One look at noisy latents.

        Args:
            sample: (batch, latent_channels, h, w), h and w multiples of 4.
            timestep: (batch,), t · 1000 with t in [0, 1].
            context: (batch, tokens, context_size), the text encoder's hidden states.
            mask: (batch, tokens), true where a token counts; None where all do.
        """
        time = self.time(timestep_features(timestep, self.config["channels"][0]))
        seen = Conditions(time, context, None if mask is None else mask[:, None, None, :].bool())
        entry0 = x = self.conv_in(sample.contiguous(memory_format=torch.channels_last))
        early0 = x = self.down0[0](x, seen)
        late0 = x = self.down0[1](x, seen)
        entry1 = x = self.downsample0(x)
        early1 = x = self.down1[0](x, seen)
        late1 = x = self.down1[1](x, seen)
        x = self.downsample1(x)
        for block in self.down2:
            x = block(x, seen)
        x = bottleneck = self.mid(x, seen)
        for block in self.up0:
            x = block(x, seen)
        x = self.upsample0(torch.cat([F.interpolate(x, scale_factor=2.0), late1], dim=1))
        x = self.up1[0](torch.cat([x, early1], dim=1), seen)
        x = self.up1[1](torch.cat([x, entry1], dim=1), seen)
        x = self.up1[2](x, seen)
        x = self.upsample1(torch.cat([F.interpolate(x, scale_factor=2.0), late0], dim=1))
        x = self.up2[0](torch.cat([x, early0], dim=1), seen)
        x = self.up2[1](torch.cat([x, entry0], dim=1), seen)
        x = self.up2[2](x, seen)
        return Denoised(self.conv_out(F.hardswish(self.norm_out(x))).float(), bottleneck)
