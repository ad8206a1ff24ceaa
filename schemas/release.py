"""What a release is: kept samples frozen into shards, with a manifest that says what they were made by."""

import json
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict

from schemas.errors import JuZhouError
from schemas.identity import fingerprint

POEMS = "poems.parquet"
"""The file of a release that has the corpus's poems: what each shows, and the split in which it is."""


class Shard(BaseModel):
    """A tar of a release."""

    model_config = ConfigDict(frozen=True)

    name: str
    split: str
    sha256: str
    bytes: int
    samples: int


class Base(BaseModel):
    """The release that another one adds to."""

    model_config = ConfigDict(frozen=True)

    name: str
    digest: str


class Manifest(BaseModel):
    """`manifest.json` of a release. It holds no time and no path, so that the same samples give the same bytes."""

    model_config = ConfigDict(frozen=True)

    name: str
    schema_version: int
    selection: str
    """SHA-256 of the kept samples with captions and scores: by it the next build knows whether anything is new."""
    recipe: str
    policy: str
    """The digest of the policy, which stands whole in `policy.yaml`."""
    variants: dict[str, str]
    """Fingerprints of the measures, duplicates and captions it was made from."""
    base: Base | None = None
    """Where the samples lie that this release has no shard for; a folder beside it."""
    samples: int
    images: int
    splits: dict[str, int]
    """Samples of each split."""
    gone: int = 0
    """Samples of the base that it does not hold; `gone.parquet` says why."""
    samples_sha256: str
    poems: int = 0
    """Poems in `poems.parquet`; none where the recipe asks for none."""
    poems_sha256: str | None = None
    shards: tuple[Shard, ...]

    @property
    def digest(self) -> str:
        """Twelve hex digits of all that the release holds: samples.parquet, poems.parquet, and the shards with those of
        its base."""
        shards = [shard.sha256 for shard in self.shards]
        tables = {"samples": self.samples_sha256, "poems": self.poems_sha256}
        return fingerprint(**tables, shards=shards, base=self.base and self.base.digest)

    @property
    def made_by(self) -> dict[str, object]:
        """All that decides what a release holds: two of one name are the same if this is."""
        return self.model_dump(
            include={"selection", "recipe", "policy", "variants", "base", "schema_version", "poems_sha256"}
        )

    @classmethod
    def load(cls, release: Path) -> Self:
        """Read the manifest of a release.

        Raises:
            JuZhouError: the folder is no release, or its manifest was tampered with or is of another version.
        """
        path = release / "manifest.json"
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            manifest = cls.model_validate(content)
            stated = content["digest"]
        except OSError as error:
            raise JuZhouError(f"{release} is not a release; `juzhou release CORPUS NAME` makes one") from error
        except (ValueError, KeyError, TypeError) as error:
            said = " ".join(str(error).split())[:200]
            raise JuZhouError(
                f"{path} is no manifest that this JuZhou reads ({said}); make the release anew"
            ) from error
        if stated != manifest.digest:
            raise JuZhouError(f"{path} states a digest that is not that of its parts; get the release anew")
        return manifest

    def text(self) -> str:
        """The file's content."""
        return json.dumps({"digest": self.digest} | self.model_dump(), ensure_ascii=False, indent=1) + "\n"


def folders(release: Path) -> dict[str, Path]:
    """The folders in which a release's pictures lie, by the name that its rows give them: its own, its base's, and so
    on. Each shard is there at its full length, and each base is the one that was added to.

    Raises:
        JuZhouError: a folder is no release, or a base is missing or has changed.
    """
    manifest = Manifest.load(release)
    found = {manifest.name: release}
    _whole(release, manifest)
    while base := manifest.base:
        folder = release.parent / base.name
        wanted = f"{release}: {manifest.name} adds to {base.name} with the digest {base.digest}"
        if not folder.is_dir():
            raise JuZhouError(f"{wanted}, and there is none beside it; put it back at {folder}")
        manifest = Manifest.load(folder)
        if manifest.digest != base.digest:
            raise JuZhouError(f"{wanted}, and the one beside it has {manifest.digest}; put the right one back")
        _whole(folder, manifest)
        found[base.name] = folder
    return found


def _whole(release: Path, manifest: Manifest) -> None:
    for shard in manifest.shards:
        path = release / shard.name
        if not path.is_file() or path.stat().st_size != shard.bytes:
            raise JuZhouError(f"{path} is missing or cut: {shard.bytes:,} bytes are wanted; get it anew")
