"""A checkpoint called like a function: Chinese text in, pictures out, in diffusers' layout on disk."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import torch
from diffusers.configuration_utils import ConfigMixin, FrozenDict
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
from diffusers.utils import logging as diffusers_logging
from PIL import Image
from torch import Tensor, nn
from transformers.utils import logging as transformers_logging

from model import flow, text
from model.autoencoder import SCALE, JuZhouAutoencoder, to_images
from model.flow import Callback
from model.unet import JuZhouUNet
from schemas.errors import JuZhouError

STEPS = 28
"""Steps of a base checkpoint, as in the report."""

GUIDANCE = 3.0
"""The report does not publish its guidance. Of 2, 2.5, 3, 4 and 5 the nano model draws the most prompts right at 3, and
the difference is within the error; SD3's range is 3.5 to 7."""

SHIPPED = Path(__file__).parent / "checkpoints" / "nano"
"""The checkpoint that comes with the package: composed scenes of 64 pixels; its README.md says how good it is."""


STRICT_LOADING: dict[str, Any] = {"use_safetensors": True, "low_cpu_mem_usage": False, "dtype": torch.float32}
"""How weights are loaded: safetensors only, without the accelerate package, and in float32 whatever lies on disk."""


def quiet() -> None:
    """Turn off the progress bars that diffusers and transformers draw on loading and saving, in this process."""
    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()


class JuZhouPipeline(DiffusionPipeline):
    """U-Net, autoencoder, text encoder, tokenizer and scheduler of one checkpoint.

    `distilled_steps` is saved with the checkpoint: a distilled one knows in how many steps it draws, at the levels
    `noise_levels(distilled_steps, scheduler.shift)`, without guidance.
    """

    unet: JuZhouUNet
    autoencoder: JuZhouAutoencoder
    text_encoder: text.Encoder
    tokenizer: text.Tokenizer
    scheduler: FlowMatchEulerDiscreteScheduler

    def __init__(
        self,
        unet: JuZhouUNet,
        autoencoder: JuZhouAutoencoder,
        text_encoder: text.Encoder,
        tokenizer: text.Tokenizer,
        scheduler: FlowMatchEulerDiscreteScheduler,
        distilled_steps: int | None = None,
    ) -> None:
        super().__init__()
        self.register_modules(
            unet=unet, autoencoder=autoencoder, text_encoder=text_encoder, tokenizer=tokenizer, scheduler=scheduler
        )
        self.register_to_config(distilled_steps=distilled_steps)
        self.set_progress_bar_config(disable=True)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike[str], **kwargs: Any) -> Self:
        """Load a checkpoint: a folder that `save_pretrained` wrote, or a hub id. Weights are safetensors only.

        Raises:
            JuZhouError: there is no JuZhou checkpoint there, or it is damaged.
        """
        folder = Path(pretrained_model_name_or_path)
        if (folder.exists() or folder.is_absolute()) and not (folder / "model_index.json").is_file():
            raise JuZhouError(f"{folder}: no checkpoint here (no model_index.json); give a folder that training wrote")
        try:
            pipeline = super().from_pretrained(str(pretrained_model_name_or_path), **{**STRICT_LOADING, **kwargs})
        except (OSError, ValueError, TypeError, KeyError, RuntimeError) as error:
            raise JuZhouError(f"{folder}: the checkpoint cannot be loaded: {' '.join(str(error).split())}") from error
        for part in pipeline.components.values():
            if isinstance(part, nn.Module):
                _align(part)
        return pipeline

    def save_pretrained(self, save_directory: str | os.PathLike[str], *args: Any, **kwargs: Any) -> None:
        """As diffusers does, but without the paths that the parts were loaded from: they name the machine."""
        for part in (self, *self.components.values()):
            if isinstance(part, ConfigMixin):
                part._internal_dict = FrozenDict({k: v for k, v in part.config.items() if k != "_name_or_path"})  # type: ignore[has-type]
        super().save_pretrained(save_directory, *args, **kwargs)

    @property
    def default_size(self) -> int:
        """The side in pixels at which the checkpoint was trained."""
        return self.unet.config["sample_size"] * SCALE

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | Sequence[str],
        negative_prompt: str | Sequence[str] = "",
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        seed: int = 0,
        height: int | None = None,
        width: int | None = None,
        callback: Callback | None = None,
    ) -> list[Image.Image]:
        """Draw a picture for each prompt. On a CPU equal seeds give equal pictures, bit for bit.

        At another size than the trained one, positions are interpolated onto the trained grid, and a base checkpoint's
        times are shifted as the number of pixels asks; a distilled one keeps the times that it was trained for.

        Args:
            negative_prompt: what to keep away from, for all pictures or for each; a distilled checkpoint takes none.
            num_inference_steps: by default 28, or the number that a distilled checkpoint was trained for.
            guidance_scale: by default 3; a distilled checkpoint needs none.
            seed: the first picture's; the next ones have seed + 1, seed + 2, …
            height: pixels, a multiple of 32; the checkpoint's own by default, like `width`.
            callback: told after each step how many of how many are done.

        Raises:
            JuZhouError: no prompt, a size that does not fit, or steps or guidance that the checkpoint cannot do.
        """
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        shape = self._latent_shape(height or self.default_size, width or self.default_size)
        distilled = self.config["distilled_steps"]
        steps = num_inference_steps if num_inference_steps is not None else distilled or STEPS
        negatives = [negative_prompt] * len(prompts) if isinstance(negative_prompt, str) else list(negative_prompt)
        if not prompts or steps < 1:
            raise JuZhouError("at least one prompt and one step are needed")
        if len(negatives) != len(prompts):
            raise JuZhouError(
                f"{len(negatives)} negative prompts for {len(prompts)} prompts; give one, or one for each"
            )
        if distilled and (steps != distilled or guidance_scale not in (None, 1.0) or any(negatives)):
            raise JuZhouError(f"this checkpoint is distilled: it draws in {distilled} steps, without guidance")
        self.text_encoder.eval()
        self.unet.eval()
        device = self._execution_device
        seen = text.encode(self.text_encoder, self.tokenizer, prompts)
        noises = _noises(len(prompts), distilled or 1, shape, seed).to(device, self.unet.dtype)
        if distilled:
            levels = flow.noise_levels(steps, self.scheduler.config["shift"]).to(device)
            latents = flow.sample_distilled(self.unet, noises, seen, levels, callback)
        else:
            negative = text.encode(self.text_encoder, self.tokenizer, negatives)
            guidance = GUIDANCE if guidance_scale is None else guidance_scale
            pixels, trained = shape[1] * shape[2], self.unet.config["sample_size"] ** 2
            shift = flow.resolution_shift(self.scheduler.config["shift"], pixels, trained)
            latents = flow.sample(
                self.unet, self.scheduler, noises[0], seen, negative, steps, guidance, shift, callback
            )
        return self._pictures(latents)

    def _latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        """Channels, height and width of the latents of a picture; the U-Net halves them twice more."""
        if height <= 0 or width <= 0 or height % (4 * SCALE) or width % (4 * SCALE):
            raise JuZhouError(f"{height} × {width} is not possible; both sides must be multiples of {4 * SCALE}")
        return self.unet.config["latent_channels"], height // SCALE, width // SCALE

    def _pictures(self, latents: Tensor) -> list[Image.Image]:
        """Latents as the denoiser has them → RGB pictures."""
        settings = self.autoencoder.config
        raw = latents.to(self.autoencoder.dtype) / settings["scaling_factor"] + settings["shift_factor"]
        return to_images(self.autoencoder.decode(raw).sample)


def _align(module: nn.Module) -> None:
    """Copy weights out of the mapped file: a CPU's matrix products differ in the last bit by where the weights lie."""
    for weight in [*module.parameters(), *module.buffers()]:
        weight.data = weight.data.clone()


def _noises(count: int, steps: int, shape: tuple[int, ...], seed: int) -> Tensor:
    """(steps, count, *shape): each picture's noise depends on its own seed alone, not on its neighbours."""
    pictures = [torch.randn(steps, *shape, generator=torch.Generator().manual_seed(seed + i)) for i in range(count)]
    return torch.stack(pictures, dim=1)
