"""What a training recipe is: the stages and the few numbers each needs. The defaults are the nano demo."""

from typing import Annotated, Literal, Self

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from schemas.strict import Strict

CaptionKind = Literal["simplified", "original", "keywords", "line", "poem"]
Tracker = Literal["tensorboard", "wandb"]
Feature = Literal["latents", "texts"]


class StageSettings(Strict):
    """What every stage has."""

    steps: PositiveInt
    batch: PositiveInt
    """Samples of a step, over all workers."""
    accumulate: PositiveInt = 1
    """The pieces in which a worker sees its share of them, one after another, where memory is short."""
    learning_rate: PositiveFloat


class AutoencoderSettings(StageSettings):
    """Encoder and light decoder, trained together on the release's pictures; or the encoder of a teacher."""

    steps: PositiveInt = 300
    batch: PositiveInt = 16
    learning_rate: PositiveFloat = 2e-3
    teacher: str | None = None
    """A folder or hub id of a diffusers AutoencoderKL, such as SD3's `vae`. Nothing is trained here then: its encoder
    gives the latents, and the stage `decoder` a light decoder for them."""


class DecoderSettings(StageSettings):
    """The light decoder, distilled behind a frozen encoder."""

    steps: PositiveInt = 1000
    batch: PositiveInt = 16
    learning_rate: PositiveFloat = 5e-4
    features: str | None = None
    """VGG-16's weights as torchvision names them, a safetensors file; the critic's own features when left out."""
    feature_weight: Annotated[float, Field(ge=0.0)] = 0.5
    critic_weight: Annotated[float, Field(ge=0.0)] = 0.1
    """Of the critic's gradient, over that of the other losses."""
    critic_from: Annotated[int, Field(ge=0)] = 300
    """The step from which on the decoder is to please the critic."""


class AlignSettings(StageSettings):
    """The text tower: aligned with the pictures' latents, or a finished one from elsewhere."""

    steps: PositiveInt = 150
    batch: PositiveInt = 64
    learning_rate: PositiveFloat = 1e-3
    text_encoder: str | None = None
    """A folder or hub id of a Chinese-CLIP text tower to take instead of a fresh one; it stays frozen, unless …"""
    adapt: bool = False
    """… it is to be trained further."""
    teacher: str | None = None
    """A folder or hub id of an English CLIP text tower with its projection: ours also learns to say of a Chinese text
    what the teacher says of the English original, where the release has such texts."""

    @model_validator(mode="after")
    def _has_a_learner(self) -> Self:
        if self.text_encoder and not self.adapt and self.teacher:
            raise ValueError("a frozen text_encoder learns nothing from a teacher; set `adapt` too")
        return self


class Phase(StageSettings):
    """Rectified flow at one size."""

    size: Annotated[int, Field(gt=0, multiple_of=32)]
    """The pictures' side in pixels."""
    tune_text: bool = False
    """Whether the text tower learns along. A small one of ours has seen too little to know which colour goes with which
    thing; the report's Chinese-CLIP stays frozen."""
    shift: PositiveFloat = 1.0
    drop_captions: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.1
    ema: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.999


class FlowSettings(StageSettings):
    """Rectified flow from noise, at the size of the recipe."""

    steps: PositiveInt = 300
    batch: PositiveInt = 24
    learning_rate: PositiveFloat = 1e-3
    shift: PositiveFloat = 1.5
    """How far times move towards noise, in training, sampling and the student's steps; larger pictures want more."""
    drop_captions: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.1
    """The share of samples that see an empty caption, for guidance."""
    ema: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.99
    tune_text: bool = False
    """As in a phase."""
    phases: tuple[Phase, ...] = ()
    """What comes before, the smallest size first; each begins with the averaged weights of the one before."""

    def tunes_text(self, count: int) -> bool:
        """Whether one of the first so many phases does, the last one being this itself."""
        return any([*(phase.tune_text for phase in self.phases), self.tune_text][:count])


class TrajectorySettings(StageSettings):
    """Regression of a student of as few steps as `dmd2` has onto the ends of the flow model's guided trajectories."""

    steps: PositiveInt = 100
    batch: PositiveInt = 16
    learning_rate: PositiveFloat = 3e-4
    guidance: Annotated[float, Field(ge=1.0)] = 3.0
    """The teacher's."""
    substeps: PositiveInt = 2
    """Euler steps of the teacher for one of the student."""
    ema: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.98


class DMD2Settings(StageSettings):
    """Distribution-matching distillation of the flow model."""

    steps: PositiveInt = 45
    batch: PositiveInt = 16
    learning_rate: PositiveFloat = 2.5e-4
    critic_rate: PositiveFloat = 4.0
    """The critic's learning rate over the student's, so that it keeps up with a student that moves fast."""
    sampling_steps: PositiveInt = 4
    student_every: PositiveInt = 3
    """DMD2 moves the student every fifth step; in the demo's some tens of steps that would be too seldom to see."""
    critic_first: Annotated[int, Field(ge=0)] = 0
    """Steps in which the critic alone learns, so that it knows the samples of a student that regression has moved."""
    guidance: Annotated[float, Field(ge=1.0)] = 3.0
    """The real score's."""
    gan_weight: Annotated[float, Field(ge=0.0)] = 0.03
    regression: Annotated[float, Field(ge=0.0)] = 0.0
    """The weight of a regression onto where the teacher's trajectories end, from the student's own steps. DMD has one
    on pairs that are computed beforehand (section 4.2 of arXiv 2311.18828), DMD2 has none."""
    ema: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.98
    """Of the student's weights, by its own steps."""
    sharded: bool = False
    """Whether the workers share out the networks' weights, gradients and moments (FSDP) rather than copy them (DDP)."""
    drift: PositiveFloat = 0.25
    """How far the student's latents and saturation may lie from the real ones; beyond it a student is not kept."""


class RefinerSettings(StageSettings):
    """A LoRA adapter by which a chat model says what a poem shows, from the poems of the release."""

    model: str
    """The chat model's folder or hub id."""
    steps: PositiveInt = 1000
    batch: PositiveInt = 16
    learning_rate: PositiveFloat = 2e-4
    rank: PositiveInt = 16
    """Of the adapter's matrices."""


class Stages(Strict):
    """The stages in the order in which they run."""

    refiner: RefinerSettings | None = None
    """Left out, poems are refined by the lexicon or by a model from elsewhere; no other stage depends on it."""
    autoencoder: AutoencoderSettings = AutoencoderSettings()
    decoder: DecoderSettings | None = None
    """Left out, the autoencoder's own decoder is taken as it is."""
    align: AlignSettings = AlignSettings()
    flow: FlowSettings = FlowSettings()
    trajectory: TrajectorySettings | None = None
    """Left out, DMD2's student starts from the flow model itself."""
    dmd2: DMD2Settings = DMD2Settings()

    @model_validator(mode="after")
    def _has_a_decoder(self) -> Self:
        if self.autoencoder.teacher and not self.decoder:
            raise ValueError("a teacher autoencoder wants the stage `decoder`, which distils a light decoder from it")
        return self


class Training(Strict):
    """A whole training run, from a release to a distilled checkpoint."""

    name: str = "nano"
    preset: Literal["nano", "full"] = "nano"
    seed: int = 0
    size: Annotated[int, Field(gt=0, multiple_of=32)] = 64
    """The pictures' side in pixels."""
    captions: dict[CaptionKind, PositiveFloat] = Field(default={"simplified": 0.8, "line": 0.2}, min_length=1)
    """How often each kind of text stands beside a picture: its caption in Simplified script, or as it was found; the
    keywords of the poem of which it was drawn, or that poem; the line of a poem that fits best. A sample that has none
    of a kind shows its caption."""
    workers: PositiveInt = 1
    readers: PositiveInt = 1
    """Threads of each worker that read the next batches while it trains."""
    cached: tuple[Feature, ...] = ("latents", "texts")
    """What is computed once and kept on disk; the rest is computed anew for each batch."""
    threads: PositiveInt = 1
    """CPU threads of each worker, never more than there are free cores; with one, a run repeats to the bit."""
    save_every: PositiveInt = 100
    """Steps between saved training states."""
    show_every: PositiveInt = 1000
    """Steps between sheets of samples in the trackers."""
    trackers: tuple[Tracker, ...] = ("tensorboard",)
    """Where metrics and samples go beside `metrics.jsonl`."""
    stages: Stages = Stages()

    @property
    def sizes(self) -> tuple[int, ...]:
        """The sizes at which latents are wanted, the recipe's own first."""
        return tuple(dict.fromkeys((self.size, *(phase.size for phase in self.stages.flow.phases))))
