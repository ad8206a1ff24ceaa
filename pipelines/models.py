"""Models that others made, which draw and translate: where they lie, what they are made of, whose fault an error is."""

import os
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from filters.weights import sha256
from schemas.errors import JuZhouError
from schemas.identity import fingerprint

if TYPE_CHECKING:
    import torch

Item = TypeVar("Item")
Answer = TypeVar("Answer")


@lru_cache
def folder(model: str) -> Path:
    """Where the files of a model lie: the folder that is named, or this machine's copy of what the hub has by that id.

    Raises:
        JuZhouError: there is no such folder, and the hub has no such model or cannot be reached.
    """
    if Path(model).is_dir():
        return Path(model)
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(model))
    except Exception as error:  # the hub's, its validators', the transport's and the disk's
        raise JuZhouError(
            f"{model}: no such folder, and no model that the hub gives ({type(error).__name__})"
        ) from error


def model_digest(model: str) -> str:
    """Twelve hex digits of the names and contents of a model's files, its weights above all.

    Hidden files and Markdown are about a model and no part of it. The files are read once a process.

    Raises:
        JuZhouError: see `folder`; or there are no files in it.
    """
    root = folder(model)
    files = {path.relative_to(root).as_posix(): path for path in root.rglob("*") if path.is_file()}
    parts = {
        name: sha256(path)
        for name, path in files.items()
        if path.suffix.lower() != ".md" and not any(step.startswith(".") for step in name.split("/"))
    }
    if not parts:
        raise JuZhouError(f"{model}: an empty folder; name the one with the model's files")
    return fingerprint(**parts)


def precision(device: "torch.device") -> "torch.dtype":
    """What weights are held in: half the bits on an accelerator, bfloat16 where it computes that; float32 elsewhere."""
    import torch

    if device.type == "cpu":
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16


def each(work: Callable[[list[Item]], Sequence[Answer]], items: list[Item], control: Item) -> list[Answer | Exception]:
    """What the work answers for each item: for all at once, or where that fails, for one by one.

    One that fails alone has its error for an answer, provided that the work still does the control, which is known to
    go well. If it does not, the fault is the process's (no accelerator computes again after some errors): it ends, and
    the stage runner finds the item out in another.
    """
    try:
        return list(work(items))
    except JuZhouError:
        raise
    except Exception as error:  # whatever a stranger's model raises
        failure = error.with_traceback(None)  # the frames hold the memory that may have been short
    if len(items) > 1:
        return [answer for item in items for answer in each(work, [item], control)]
    try:
        work([control])
    except Exception:
        os._exit(1)
    return [failure]


def in_words(error: Exception) -> str:
    """An error in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]
