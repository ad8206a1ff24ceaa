"""What a recipe is: all that `juzhou build` is asked to do, in one YAML file."""

from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import AfterValidator, Field, ValidationInfo, field_validator, model_validator

from schemas.identity import fingerprint
from schemas.strict import Strict
from schemas.training import Training

PRESETS: dict[str, dict[str, str]] = {
    "wukong": {"url": "url", "caption": "caption"},
    "zero": {"url": "ImageUrl", "caption": "Title", "page_url": "Url"},
    "laion": {"url": "URL", "caption": "TEXT", "licence": "LICENSE"},
    "coyo": {"url": "url", "caption": "text"},
    "danqing": {"url": "url", "caption": "recaption"},
}
"""Column names of published lists: Noah-Wukong, 360's Zero-Corpus, LAION-2B-multi, COYO-700M, DanQing100M."""

PROMPT_PRESETS: dict[str, dict[str, str]] = {"diffusiondb": {"prompt": "prompt", "seed": "seed"}}
"""Column names of published prompts: DiffusionDB's metadata.parquet."""


def _located(path: str) -> str:
    if not path.strip():
        raise ValueError("a path or a URI is wanted")
    return path


Place = Annotated[str, AfterValidator(_located)]
"""A file, a folder or a glob: a local path, relative to the recipe, or a URI of an object store (`s3://…`)."""


class Site(Strict):
    """Pages of live sites, followed from seeds and sitemaps; robots.txt is obeyed."""

    kind: Literal["site"]
    seeds: tuple[str, ...]
    """Pages or sitemaps; asked anew by every build, with the pages up to `announced` links away: where a site says
    what is new."""
    sitemaps: bool = True
    """Follow the sitemaps that the robots.txt of a seed's host names, as if the seed linked to them."""
    announced: int = Field(default=0, ge=0)
    depth: int = Field(default=3, ge=0)
    """Links followed from a seed."""
    pages: int = Field(default=10_000, ge=1)
    """Pages asked at most, all builds together."""
    hosts: tuple[str, ...] = ()
    """Hosts, with their subdomains, that links may lead to; those of the seeds when left out, without subdomains."""


class MiniWeb(Strict):
    """A web of our own on 127.0.0.1 for the time of the build: real pictures, Chinese words, and the web's dirt."""

    kind: Literal["miniweb"]
    port: int = Field(default=8711, ge=1024, le=65535)
    pages: int = Field(default=2400, ge=1)


class Urls(Strict):
    """Lists of picture URLs with captions: CSV, TSV, JSONL or Parquet, plain or as gzip or zstd."""

    kind: Literal["urls"]
    path: Place
    preset: Literal["wukong", "zero", "laion", "coyo", "danqing"] | None = None
    """Column names of a published list, in place of the four below."""
    url: str = "url"
    """The name of the column that holds the URL; the others likewise."""
    caption: str = "caption"
    page_url: str | None = None
    licence: str | None = None
    where: str | None = None
    """A SQL condition over the list's columns that says which of its rows are meant: `LANGUAGE = 'zh'`."""

    @model_validator(mode="before")
    @classmethod
    def _named(cls, given: Any) -> Any:
        return _with_preset(given, PRESETS)


class Warc(Strict):
    """Archives of pages as Common Crawl keeps them: WARC, with the pages themselves, or WAT, with what they link to."""

    kind: Literal["warc"]
    path: Place


class Folder(Strict):
    """Pictures in a folder and below, each with a text file of the same name, or named in a metadata file."""

    kind: Literal["folder"]
    path: Place


class Tar(Strict):
    """Tars in WebDataset layout: files of one name up to the first dot are a sample."""

    kind: Literal["tar"]
    path: Place
    caption: str = "txt"
    """The ending of the member that holds the caption; `json:KEY` takes it from a JSON member."""


class Parquet(Strict):
    """Parquet with the bytes of pictures in a column, as model hubs keep them."""

    kind: Literal["parquet"]
    path: Place
    image: str = "image"
    """The column with the bytes, or with a struct that has them as `bytes`."""
    caption: str = "text"
    page_url: str | None = None
    licence: str | None = None


class Scenes(Strict):
    """Composed scenes, of which all is known (`schemas/scenes.py`); they are made, not found."""

    kind: Literal["scenes"]
    count: int = Field(ge=1)
    size: int = Field(default=64, ge=64, le=128)
    """The pictures' side in pixels."""
    seed: int = 0


class LanguageModel(Strict):
    """A language model that is asked the same of many texts."""

    endpoint: str | None = None
    """The base URL of an OpenAI-compatible server, such as `http://127.0.0.1:8000/v1`."""
    model: str
    """The model that the endpoint is asked for; without an endpoint, a local path or hub id for transformers."""
    key_variable: str = "OPENAI_API_KEY"
    """The environment variable that holds the endpoint's key, where it wants one."""
    attempts: int = Field(default=5, ge=1)
    retry_s: float = Field(default=30.0, gt=0)

    def origin(self) -> str:
        """What stands beside each answer."""
        return f"{self.model} at {self.endpoint}" if self.endpoint else self.model


class Translate(LanguageModel):
    """English → Chinese after the picture, so that a translation cannot change what is drawn."""


AnyModel = TypeVar("AnyModel", bound=LanguageModel)


class Synthesis(Strict):
    """Pictures that a teacher draws from prompts."""

    kind: Literal["synthesis"]
    path: Place | None = None
    """Files of prompts. Left out, the poems of the recipe are drawn, each in the styles that suit it."""
    preset: Literal["diffusiondb"] | None = None
    prompt: str = "prompt"
    """The name of the column that holds the prompt; the others likewise."""
    negative_prompt: str | None = None
    seed: str | None = None
    """Without one, the seed follows from the prompt."""
    teacher: str
    """A pipeline of diffusers: a local path or a hub id."""
    steps: int = Field(default=28, ge=1)
    guidance: float = 4.5
    size: int = Field(default=1024, ge=8, multiple_of=8)
    batch: int = Field(default=1, ge=1)
    """Prompts drawn together."""
    translate: Translate | None = None
    """Left out, the prompts are taken to be Chinese."""

    @model_validator(mode="before")
    @classmethod
    def _named(cls, given: Any) -> Any:
        return _with_preset(given, PROMPT_PRESETS)

    @model_validator(mode="after")
    def _has_prompts(self) -> Self:
        columns = (self.preset, self.negative_prompt, self.seed, self.translate)
        if self.path is None and any(columns):
            raise ValueError("without a `path` poems are drawn: their prompts are Chinese and have no columns to name")
        return self


def _with_preset(given: Any, presets: dict[str, dict[str, str]]) -> Any:
    """Column names of the preset, where none are given by name."""
    if not isinstance(given, dict) or given.get("preset") not in presets:
        return given
    return {**presets[given["preset"]], **given}


Source = Annotated[
    Site | MiniWeb | Urls | Warc | Folder | Tar | Parquet | Scenes | Synthesis,
    Field(discriminator="kind"),
]


class Fetch(Strict):
    """How pages and pictures are asked for. The defaults are kind to sites that know nothing of us."""

    user_agent: str = Field(default="JuZhou/0.1", pattern=r"^[\x21-\x7e][\x20-\x7e]*$")
    """Names us to servers; with a URL or an e-mail address where a webmaster reaches us, once one that is not on
    loopback is asked."""
    requests_per_second: float | None = Field(default=1.0, gt=0)
    """For each host, pages, pictures and robots.txt together; less where its Crawl-delay says so. `null`: no limit."""
    connections_per_host: int | None = Field(default=2, ge=1)
    """At one time; `null`: no limit."""
    networks: tuple[IPv4Network | IPv6Network, ...] = ()
    """Addresses that may be asked although they are not public, such as 127.0.0.0/8."""
    timeout_s: float = Field(default=10.0, gt=0)
    """For a connection, and for each wait on it."""
    transfer_s: float = Field(default=60.0, gt=0)
    """For the whole of one answer, redirects included."""
    redirects: int = Field(default=5, ge=0)
    max_bytes: int = Field(default=50_000_000, ge=1)
    """The largest body that is read, packed or unpacked."""
    max_pixels: int = Field(default=60_000_000, ge=1)
    """The largest picture that is kept, by its header; larger ones than this no measure reads."""
    threads: int = Field(default=32, ge=1)
    """Requests in flight in one worker."""
    attempts: int = Field(default=5, ge=1)
    """How often a URL is asked whose failures were all transient."""
    retry_s: float = Field(default=60.0, gt=0)
    """The wait before the second attempt; it doubles with each one more, give or take a quarter."""
    patience_s: float = Field(default=60.0, ge=0)
    """How long a build waits for such an attempt to fall due before it goes on without it."""


class Semantic(Strict):
    """Pictures that show the same: the cosine of their embeddings, within clusters."""

    embedding: str = "lite_embedding"
    """The measure whose `vector` is compared."""
    similarity: float = Field(default=0.95, gt=0, le=1)
    clusters: int = Field(default=1000, ge=1)
    """At most; learnt from the pictures of the first build, so that what a release holds keeps its place."""


class Dedupe(Strict):
    """Copies by PDQ, and by equal pixels where the recipe has the measure `pixels`; look-alikes where asked for."""

    radius: int = Field(default=31, ge=0, le=256)
    """Hamming distance up to which two pictures are one."""
    min_quality: int = Field(default=50, ge=0, le=100)
    """Below this PDQ quality a hash says too little to match on."""
    semantic: Semantic | None = None


class Captions(Strict):
    """What is done to the words of a kept picture; those that were found stay beside them."""

    cut_suffixes: bool = True
    """What a site ends its captions with is left out, where the recipe has the measure `text`: …_千图网."""
    mask_names: bool = False
    """Names of private persons become 某人, by the measure `names`."""


class Poetry(Strict):
    """Poems, what they show, and lines of them found for each kept picture."""

    collection: Literal["tang-300", "whole"] = "tang-300"
    """Of chinese-poetry: 唐诗三百首, or everything, some 330,000 poems."""
    folder: Path | None = None
    """A clone of its repository; the npm package is fetched when left out."""
    keywords: LanguageModel | None = None
    """Says what each poem shows; the lexicon that comes along does when left out."""
    embedding: str | None = None
    """The measure, a CLIP, whose vectors of pictures lines are found by; what the captions say when left out."""
    lines: int = Field(default=8, ge=1)
    """Lines found for a picture; the policy says which of them a release takes."""


class Splits(Strict):
    """Shares of the pictures that training does not see. Pictures that are alike go to one split together."""

    validation: float = Field(default=0.02, ge=0, lt=1)
    test: float = Field(default=0.0, ge=0, lt=1)

    @model_validator(mode="after")
    def _leaves_some(self) -> Self:
        if self.validation + self.test >= 1:
            raise ValueError("validation and test leave nothing to train on")
        return self


class Recipe(Strict):
    """All that a build does. Paths are relative to the recipe's own folder."""

    corpus: Path
    sources: dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")], Source]
    """Each under a name that its rows bear."""
    fetch: Fetch = Fetch()
    measures: dict[str, dict[str, Any]]
    """Measures by name, each with its options: `[size, open_clip: {model: PATH}]`."""
    dedupe: Dedupe = Dedupe()
    policy: Path
    captions: Captions = Captions()
    poetry: Poetry | None = None
    release: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Releases are called this with a number: `demo` gives demo-1, and demo-2 once other samples are kept."""
    splits: Splits = Splits()
    training: Training | None = None
    """Settings, or the name of a training recipe beside this one."""
    checkpoints: Path | None = None
    """The folder of the training stages; beside the corpus when left out."""
    report: Path | None = None

    @model_validator(mode="after")
    def _has_poems(self) -> Self:
        for name, source in self.sources.items():
            if isinstance(source, Synthesis) and source.path is None and not self.poetry:
                raise ValueError(
                    f"sources.{name}: without a `path` it draws poems; the recipe asks for none (`poetry`)"
                )
        return self

    @field_validator("training", mode="before")
    @classmethod
    def _by_name(cls, given: Any, info: ValidationInfo) -> Any:
        """A training recipe that is named, read from its file."""
        if isinstance(given, str) and info.context:
            return Training.load(info.context["folder"] / given)
        return given

    @field_validator("measures", mode="before")
    @classmethod
    def _with_options(cls, given: Any) -> Any:
        """A list of names, or of names with options, as a mapping."""
        if not isinstance(given, list | tuple):
            return given
        named = [{entry: {}} if isinstance(entry, str) else entry for entry in given]
        if not all(isinstance(entry, dict) and len(entry) == 1 for entry in named):
            raise ValueError("a list of names is wanted, or of `name: {option: value}`")
        return {name: options or {} for entry in named for name, options in entry.items()}

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a recipe and make its paths absolute."""
        recipe = super().load(path)
        folder = path.resolve().parent
        corpus = (folder / recipe.corpus).resolve()
        checkpoints = (folder / recipe.checkpoints) if recipe.checkpoints else corpus.parent / "checkpoints"
        return recipe.model_copy(
            update={
                "corpus": corpus,
                "sources": {name: _placed(source, folder) for name, source in recipe.sources.items()},
                "measures": {
                    name: {option: _local(value, folder) for option, value in options.items()}
                    for name, options in recipe.measures.items()
                },
                "poetry": recipe.poetry and _beside(recipe.poetry, folder),
                "policy": (folder / recipe.policy).resolve(),
                "checkpoints": checkpoints.resolve(),
                "report": (folder / recipe.report).resolve() if recipe.report else None,
            }
        )

    @property
    def digest(self) -> str:
        """Twelve hex digits of what decides the corpus: no paths of the machine, no training."""
        places: dict[str, Any] = dict.fromkeys(("corpus", "policy", "checkpoints", "report", "training"), True)
        if self.poetry:
            places["poetry"] = {"folder": True, "keywords": {"endpoint"}} if self.poetry.keywords else {"folder"}
        return fingerprint(recipe=self.model_dump(mode="json", exclude=places))


def _beside(poetry: Poetry, folder: Path) -> Poetry:
    """With absolute paths to the clone, and to a model that lies beside the recipe."""
    found: dict[str, Any] = {"folder": poetry.folder and (folder / poetry.folder).resolve()}
    if poetry.keywords:
        found["keywords"] = _model(poetry.keywords, folder)
    return poetry.model_copy(update=found)


def _model(model: AnyModel, folder: Path) -> AnyModel:
    """With an absolute path, where it is no endpoint's and lies beside the recipe."""
    return model if model.endpoint else model.model_copy(update={"model": _local(model.model, folder)})


def _placed(source: Any, folder: Path) -> Any:
    """A source whose local paths are absolute; a teacher or translator that is a folder beside the recipe too."""
    found: dict[str, Any] = {}
    if (path := getattr(source, "path", None)) and "://" not in path:
        found["path"] = str(folder / path)
    if isinstance(source, Synthesis):
        found["teacher"] = _local(source.teacher, folder)
        if source.translate:
            found["translate"] = _model(source.translate, folder)
    return source.model_copy(update=found)


def _local(value: Any, folder: Path) -> Any:
    """An absolute path, where a value is the name of what lies beside the recipe."""
    return str((folder / value).resolve()) if isinstance(value, str) and value and (folder / value).exists() else value
