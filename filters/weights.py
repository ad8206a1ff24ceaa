"""The weight files that measures use, and their digests: a number without the weights behind it cannot be compared."""

import hashlib
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path


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
