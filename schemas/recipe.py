"""What a recipe is: all that `juzhou build` is asked to do, in one YAML file."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field

from schemas.identity import fingerprint
from schemas.strict import Strict
from schemas.training import Training


class Site(Strict):
    """Pages of live sites, followed from the seeds; robots.txt is obeyed."""

    kind: Literal["site"]
    seeds: tuple[str, ...]
    """Asked anew by every build, with the pages up to `announced` links away: where a site says what is new."""
    announced: int = Field(default=0, ge=0)
    depth: int = Field(default=3, ge=0)
    """Links followed from a seed."""
    pages: int = Field(default=10_000, ge=1)
    """Pages asked at most, all builds together."""


class MiniWeb(Strict):
    """A web of our own on 127.0.0.1 for the time of the build: real pictures, Chinese words, and the web's dirt."""

    kind: Literal["miniweb"]
    port: int = Field(default=8711, ge=1024, le=65535)
    pages: int = Field(default=2400, ge=1)


class Urls(Strict):
    """A list of picture URLs with captions: a CSV, TSV, JSONL or Parquet file."""

    kind: Literal["urls"]
    path: Path
    url: str = "url"
    """The name of the column that holds the URL."""
    caption: str = "caption"
    """The name of the column that holds the caption."""


Source = Annotated[Site | MiniWeb | Urls, Field(discriminator="kind")]


class Fetch(Strict):
    """How pages and pictures are asked for."""

    user_agent: str = "JuZhou/0.1"
    timeout_s: float = Field(default=10.0, gt=0)
    threads: int = Field(default=16, ge=1)
    """Pictures in flight for one task."""
    attempts: int = Field(default=3, ge=1)
    """How many builds may try a URL whose failures were all transient."""


class Dedupe(Strict):
    """Near-duplicates by PDQ."""

    radius: int = Field(default=31, ge=0, le=256)
    """Hamming distance up to which two pictures are one."""
    min_quality: int = Field(default=50, ge=0, le=100)
    """Below this PDQ quality a hash says too little to match on."""


class Poetry(Strict):
    """Lines of poems found for each kept picture."""

    collection: Literal["tang-300"] = "tang-300"
    lines: int = Field(default=3, ge=1)
    """Lines kept for a picture."""


class Recipe(Strict):
    """All that a build does. Paths are relative to the recipe's own folder."""

    corpus: Path
    sources: dict[str, Source]
    fetch: Fetch = Fetch()
    measures: tuple[str, ...]
    dedupe: Dedupe = Dedupe()
    policy: Path
    poetry: Poetry | None = None
    release: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Releases are called this with a number: `demo` gives demo-1, and demo-2 once other samples are kept."""
    training: Training | None = None
    checkpoints: Path | None = None
    """The folder of the training stages; beside the corpus when left out."""
    report: Path | None = None

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a recipe and make its paths absolute."""
        recipe = super().load(path)
        folder = path.resolve().parent
        sources: dict[str, Site | MiniWeb | Urls] = {
            name: source.model_copy(update={"path": folder / source.path}) if isinstance(source, Urls) else source
            for name, source in recipe.sources.items()
        }
        corpus = (folder / recipe.corpus).resolve()
        checkpoints = (folder / recipe.checkpoints) if recipe.checkpoints else corpus.parent / "checkpoints"
        return recipe.model_copy(
            update={
                "corpus": corpus,
                "sources": sources,
                "policy": (folder / recipe.policy).resolve(),
                "checkpoints": checkpoints.resolve(),
                "report": (folder / recipe.report).resolve() if recipe.report else None,
            }
        )

    @property
    def digest(self) -> str:
        """Twelve hex digits of what decides the corpus: no paths of the machine, no training."""
        places = {"corpus", "policy", "checkpoints", "report", "training"}
        return fingerprint(recipe=self.model_dump(mode="json", exclude=places))
