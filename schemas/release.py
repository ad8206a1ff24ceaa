"""What a release is: kept samples frozen into shards, with a manifest that says what they were made by."""

import json
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, ValidationError

from schemas.errors import JuZhouError


class Shard(BaseModel):
    """A tar of a release."""

    model_config = ConfigDict(frozen=True)

    name: str
    sha256: str
    bytes: int
    samples: int


class Manifest(BaseModel):
    """`manifest.json` of a release. It holds no time and no path, so that the same samples give the same bytes."""

    model_config = ConfigDict(frozen=True)

    name: str
    digest: str
    """Twelve hex digits of all that the release holds: its shards and its samples.parquet."""
    selection: str
    """SHA-256 of the kept samples with captions and scores: by it the next build knows whether anything is new."""
    recipe: str
    policy: str
    variants: dict[str, str]
    """Fingerprints of the measures, duplicates and captions it was made from."""
    samples: int
    images: int
    samples_sha256: str
    shards: tuple[Shard, ...]

    @classmethod
    def load(cls, release: Path) -> Self:
        """Read the manifest of a release.

        Raises:
            JuZhouError: the folder is no release.
        """
        try:
            return cls.model_validate(json.loads((release / "manifest.json").read_text(encoding="utf-8")))
        except (OSError, ValueError, ValidationError) as error:
            raise JuZhouError(f"{release} is not a release; `juzhou build RECIPE` makes one") from error
