"""The weight files that measures use, and their digests: a number without the weights behind it cannot be compared."""

import hashlib
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

from schemas.errors import JuZhouError
from schemas.identity import fingerprint


def packaged(package: str, file: str) -> Path:
    """The path of a file inside an installed package, which is not imported for it.

    Raises:
        ModuleNotFoundError: the package is not installed; the message names it.
    """
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"{package} is not installed; pip install {package.replace('_', '-')}", name=package)
    return Path(spec.origin).parent / file


@lru_cache
def sha256(path: Path) -> str:
    """The SHA-256 of a file in hex, read once a process.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


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
