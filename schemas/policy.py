"""What a policy is: which samples a release holds, said as data over the columns of the `corpus` view."""

import hashlib
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from schemas.errors import JuZhouError
from schemas.identity import fingerprint
from schemas.strict import Strict

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$")]
BOUNDS = ("min", "max", "top", "bottom")


class Rule(Strict):
    """A sample passes when its value reaches `min`, stays within `max`, or is in the `top` or `bottom` share.

    A missing value fails.
    """

    name: Name
    value: str
    """A SQL expression over the columns of the `corpus` view; true and false count as 1 and 0."""
    min: float | None = None
    max: float | None = None
    top: float | None = Field(default=None, gt=0, lt=1)
    """The share of the samples with a value that pass: 0.3 is the highest 30 %, and what is equal to the last of it."""
    bottom: float | None = Field(default=None, gt=0, lt=1)
    """The same of the lowest."""
    within: str | None = None
    """A SQL expression; `top` and `bottom` are shares of the samples that have the same value of it: `source`."""
    where: str | None = None
    """A SQL condition: samples that do not meet it pass, and count for no share: `caption_from = 'alt'`."""
    why: str = ""

    @model_validator(mode="after")
    def _one_bound(self) -> Self:
        if sum(getattr(self, bound) is not None for bound in BOUNDS) != 1:
            raise ValueError(f"rule '{self.name}' wants one of {', '.join(BOUNDS)}")
        if self.within and not self.is_share:
            raise ValueError(f"rule '{self.name}': 'within' goes with top or bottom")
        return self

    @property
    def bound(self) -> str:
        """The name of the one bound that is set."""
        return next(bound for bound in BOUNDS if getattr(self, bound) is not None)

    @property
    def limit(self) -> float:
        """The number that it is set to: a threshold, or a share."""
        return float(getattr(self, self.bound))

    @property
    def is_share(self) -> bool:
        """Whether the threshold follows from the other samples."""
        return self.bound in ("top", "bottom")

    @property
    def at_least(self) -> bool:
        """Whether higher values pass."""
        return self.bound in ("min", "top")

    @property
    def criterion(self) -> str:
        """What the value must be, for people: `≥ 64`, `top 30 % within source`."""
        sign = {"min": "≥ {:g}", "max": "≤ {:g}"}.get(self.bound, f"{self.bound} {{:g}} %")
        within = f" within {self.within}" if self.within else ""
        where = f", where {self.where}" if self.where else ""
        return sign.format(100 * self.limit if self.is_share else self.limit) + within + where


class Listed(Strict):
    """A list by people: what it denies is out whatever the rules say, and what it allows is in."""

    name: Name
    allow: Path | None = None
    """A text file with an entry a line; lines that start with # are for people. Relative to the policy."""
    deny: Path | None = None
    of: Literal["host", "url", "image", "sample"] = "host"
    """What an entry is: a host (with its subdomains) or URL of picture or page, an image_id or sample_id in hex."""
    why: str = ""

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if (self.allow is None) == (self.deny is None):
            raise ValueError(f"list '{self.name}' wants either allow or deny")
        return self

    @property
    def path(self) -> Path:
        """Its file."""
        path = self.allow or self.deny
        assert path is not None
        return path

    def entries(self) -> list[str]:
        """What the list holds, each once, sorted.

        Raises:
            JuZhouError: the file cannot be read.
        """
        try:
            lines = self.path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise JuZhouError(f"list '{self.name}': {self.path} cannot be read ({error}); check the path") from error
        entries = {line.strip() for line in lines if line.strip() and not line.startswith("#")}
        return sorted(entry if self.of == "url" else entry.lower() for entry in entries)


class Quota(Strict):
    """Of what passed all rules, no more than so many of a kind; a sample of several kinds needs room in one of them."""

    name: Name
    by: str
    """A SQL expression for the kind, or for a list of kinds: `source`, `semantic.cluster`, `words.word`. A sample
    without one is not counted."""
    most: int | None = Field(default=None, ge=1)
    """Samples of a kind."""
    share: float | None = Field(default=None, gt=0, lt=1)
    """Of all that is kept, at most this much of a kind."""
    first: str | None = None
    """A SQL expression: samples with higher values have room first; by the sample_id, which is chance, without one."""
    why: str = ""

    @model_validator(mode="after")
    def _one_limit(self) -> Self:
        if (self.most is None) == (self.share is None):
            raise ValueError(f"quota '{self.name}' wants either most or share")
        return self


class PoemLines(Strict):
    """Which of the lines of poems that were found for a picture stand beside it in a release."""

    least: float = Field(default=0.5, ge=0, le=1)
    """How likely a line fits, at least."""
    most: int = Field(default=3, ge=1)
    """Lines of a picture."""
    times: int = Field(default=50, ge=1)
    """Pictures of a line, those that it fits best: the corpus is to know many poems, and not one line by heart."""


class Policy(Strict):
    """Lists, then rules, then quotas, in the order in which a rejected sample names them.

    What people said in reviews wins over all of it.
    """

    name: Name
    lists: tuple[Listed, ...] = ()
    rules: tuple[Rule, ...] = ()
    quotas: tuple[Quota, ...] = ()
    poem_lines: PoemLines = PoemLines()

    @model_validator(mode="after")
    def _names_once(self) -> Self:
        entries: tuple[Listed | Rule | Quota, ...] = (*self.lists, *self.rules, *self.quotas)
        names = [entry.name for entry in entries]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"more than one rule is called '{twice[0]}'")
        return self

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a policy and make the paths of its lists absolute."""
        policy = super().load(path)
        folder = path.resolve().parent
        lists = [
            entry.model_copy(update={way: folder / entry.path})
            for entry in policy.lists
            for way in ["allow" if entry.allow else "deny"]
        ]
        return policy.model_copy(update={"lists": tuple(lists)})

    @property
    def digest(self) -> str:
        """Twelve hex digits of what it means, with the content of its lists; the reasons given do not count.

        Raises:
            JuZhouError: a list cannot be read.
        """
        lists = [
            entry.model_dump(exclude={"why", "allow", "deny"})
            | {"allow": bool(entry.allow), "entries": hashlib.sha256("\n".join(entry.entries()).encode()).hexdigest()}
            for entry in self.lists
        ]
        return fingerprint(
            lists=lists,
            rules=[rule.model_dump(exclude={"why"}) for rule in self.rules],
            quotas=[quota.model_dump(exclude={"why"}) for quota in self.quotas],
            poem_lines=self.poem_lines.model_dump(),
        )
