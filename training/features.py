"""What frozen networks make of pictures and texts: computed once on Ray and kept in files, or anew for each batch.

The kept ones are in half precision, and so are those made anew, so that a training sees the same either way.
"""

import json
import os
from collections.abc import Callable, Iterator
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save_file
from torch import Tensor

from model import device, text
from model.autoencoder import JuZhouAutoencoder
from model.pipeline import STRICT_LOADING
from model.text import TextStates
from schemas.errors import JuZhouError
from schemas.training import Training
from training.order import METRICS
from training.release import Numbers, Release, Shape

PART = 4096
"""Pictures or texts of a file."""
AT_ONCE = 64
"""Of them, how many a network sees at a time."""

Compute = Callable[[], dict[str, Tensor]]


def load_teacher(source: str) -> Any:
    """The AutoencoderKL of a folder or a hub id.

    Raises:
        JuZhouError: there is none.
    """
    try:
        return AutoencoderKL.from_pretrained(source, use_safetensors=True).eval().requires_grad_(False)
    except (OSError, ValueError) as error:
        raise JuZhouError(f"{source}: no AutoencoderKL to load there ({str(error).splitlines()[0]})") from error


def pixels(pictures: Tensor, where: torch.device) -> Tensor:
    """Pictures of bytes in −1 … 1, on the device."""
    moved = pictures.to(where, non_blocking=True).float() / 127.5 - 1
    return moved.contiguous(memory_format=torch.channels_last)


class Latents:
    """Pictures' latents as the denoiser has them, shifted and scaled."""

    def __init__(self, release: Release, recipe: Training, folders: dict[str, Path], size: int) -> None:
        """Take the autoencoder of `folders`, and where `latents` is among them, what is kept there."""
        self.release, self.buckets = release, release.buckets(size)
        self.device = device.pick()
        self.autoencoder = JuZhouAutoencoder.from_pretrained(folders["autoencoder"] / "autoencoder", **STRICT_LOADING)
        self.channels: int = self.autoencoder.config["latent_channels"]
        self.teacher = recipe.stages.autoencoder.teacher
        self.parts: dict[str, Tensor] = {}
        if "latents" in folders:
            kept = folders["latents"] / str(size)
            self.parts = {name: load_file(kept / name)["latents"] for name, _, _ in _latent_parts(release, size)}

    def load(self, images: Tensor, shape: Shape) -> Tensor:
        """What is read for pictures of one shape, in any thread: kept latents, or pixels of bytes."""
        if not self.parts:
            return self.release.read(images, shape)
        rows = self.buckets.row[images.numpy()]
        found = [self.parts[_latent_file(shape, row // PART)][row % PART] for row in rows.tolist()]
        return torch.stack(found)

    def __call__(self, loaded: Tensor) -> Tensor:
        """The latents of what was loaded, on the device: (batch, channels, h, w) in float32."""
        if not self.parts:
            loaded = self.encode(pixels(loaded, self.device))
        settings = self.autoencoder.config
        return (loaded.to(self.device).float() - settings["shift_factor"]) * settings["scaling_factor"]

    @torch.no_grad()
    def encode(self, pictures: Tensor) -> Tensor:
        """Raw latents, in half precision, of pictures in −1 … 1 on the device."""
        seen = self._encoder.encode(pictures)
        return (seen.latent_dist.mean if self.teacher else seen.latent).half()

    @cached_property
    def _encoder(self) -> Any:
        """The teacher, or our own autoencoder; only what is not kept needs it."""
        autoencoder = load_teacher(self.teacher) if self.teacher else self.autoencoder
        return autoencoder.to(self.device).eval()


class Texts:
    """Texts' hidden states and masks, as far as the longest of a batch goes."""

    def __init__(self, release: Release, tower: Path, kept: Path | None) -> None:
        """Take the text encoder and the tokenizer of a folder, and what is kept of their states, if it is."""
        self.release, self.device = release, device.pick()
        self.parts: list[dict[str, Tensor]] = []
        self.encoder, self.tokenizer = text.load_parts(tower)
        if kept:
            self.parts = [load_file(kept / name) for name, _ in _text_parts(release)]
        else:
            self.encoder.to(self.device)  # type: ignore[arg-type]
            self.encoder.eval().requires_grad_(False)
        self.empty_states = self(*self.load(torch.zeros(1, dtype=torch.long)))
        self.width = self.empty_states.hidden.shape[-1]

    def load(self, texts: Tensor) -> tuple[Tensor, Tensor]:
        """What is read for texts given by number, in any thread: kept states or tokens, and the mask."""
        if not self.parts:
            words = self.release.texts.take(texts.numpy()).to_pylist()
            tokens, mask = text.tokenize(self.tokenizer, words)
            longest = int(mask.sum(dim=1).max())
            return tokens[:, :longest], mask[:, :longest]
        found = [self._kept(number) for number in texts.tolist()]
        lengths = torch.tensor([len(states) for states in found])
        states = torch.nn.utils.rnn.pad_sequence(found, batch_first=True)
        return states, torch.arange(states.shape[1]) < lengths[:, None]

    def __call__(self, loaded: Tensor, mask: Tensor) -> TextStates:
        """The states of what was loaded, on the device, in float32."""
        mask = mask.to(self.device)
        if not self.parts:
            with torch.no_grad():
                seen = self.encoder(input_ids=loaded.to(self.device), attention_mask=mask).last_hidden_state
            loaded = seen.half() * mask[..., None]
        return TextStates(loaded.to(self.device).float(), mask)

    def empty(self, like: TextStates) -> TextStates:
        """The empty text's states, as many and as long as others."""
        hidden, mask = self.empty_states
        room = like.mask.shape[1] - mask.shape[1]
        hidden, mask = F.pad(hidden, (0, 0, 0, room)), F.pad(mask, (0, room))
        return TextStates(hidden.expand(len(like.mask), -1, -1), mask.expand(len(like.mask), -1))

    def _kept(self, number: int) -> Tensor:
        part, row = self.parts[number // PART], number % PART
        return part["hidden"][int(part["ends"][row - 1]) if row else 0 : int(part["ends"][row])]


def keep(name: str, release: Release, recipe: Training, folders: dict[str, Path], folder: Path, share: slice) -> None:
    """Compute `latents` of every picture at each size of the recipe, or the states of all `texts`, into a folder.

    Files that are whole stay as they are. The first worker notes how far it is.

    Args:
        share: which of the files are this worker's.
    """
    todo = list(_latent_files(release, recipe, folders) if name == "latents" else _text_files(release, folders))[share]
    for done, (file, compute) in enumerate(todo, start=1):
        path = folder / file
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = path.with_suffix(".tmp")
            save_file(compute(), temporary)
            os.replace(temporary, path)
        if not share.start:
            with (folder / METRICS).open("a", encoding="utf-8") as log:
                log.write(json.dumps({"files": done, "of": len(todo)}) + "\n")


def _latent_files(release: Release, recipe: Training, folders: dict[str, Path]) -> Iterator[tuple[str, Compute]]:
    """Each file of latents, and what computes it."""
    for size in recipe.sizes:
        live = Latents(release, recipe, {"autoencoder": folders["autoencoder"]}, size)

        def latents(numbers: Numbers, shape: Shape, live: Latents = live) -> dict[str, Tensor]:
            pieces = torch.from_numpy(numbers).split(AT_ONCE)
            seen = [live.encode(pixels(release.read(piece, shape), live.device)).cpu() for piece in pieces]
            return {"latents": torch.cat(seen).contiguous()}

        for name, shape, numbers in _latent_parts(release, size):
            yield f"{size}/{name}", partial(latents, numbers, shape)


def _text_files(release: Release, folders: dict[str, Path]) -> Iterator[tuple[str, Compute]]:
    """The same for every text of the release; states of padding are not kept."""
    live = Texts(release, folders["align"], None)

    def texts(numbers: range) -> dict[str, Tensor]:
        seen = [live(*live.load(piece)) for piece in torch.tensor(numbers).split(AT_ONCE)]
        hidden = torch.cat([states.hidden[states.mask].half().cpu() for states in seen])
        return {"hidden": hidden, "ends": torch.cat([states.mask.sum(dim=1).cpu() for states in seen]).cumsum(0)}

    for name, numbers in _text_parts(release):
        yield name, partial(texts, numbers)


def _latent_parts(release: Release, size: int) -> Iterator[tuple[str, Shape, Numbers]]:
    """The files of latents at a size: name, pictures' shape, and their numbers in order."""
    buckets = release.buckets(size)
    for bucket, shape in enumerate(buckets.shapes):
        members = np.flatnonzero(buckets.of == bucket)
        for number, first in enumerate(range(0, len(members), PART)):
            yield _latent_file(shape, number), shape, members[first : first + PART]


def _latent_file(shape: Shape, number: int) -> str:
    return f"{shape[0]}x{shape[1]}-{number:05}.safetensors"


def _text_parts(release: Release) -> Iterator[tuple[str, range]]:
    """The files of texts: name and numbers."""
    for number, first in enumerate(range(0, len(release.texts), PART)):
        yield f"{number:05}.safetensors", range(first, min(first + PART, len(release.texts)))
