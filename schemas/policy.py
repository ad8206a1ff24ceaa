"""What a policy is: named rules over the columns of the `corpus` view, thresholds as data."""

from typing import Self

from pydantic import Field, model_validator

from schemas.identity import fingerprint
from schemas.strict import Strict


class Rule(Strict):
    """A sample passes when `value` is at least `min` or at most `max`. A missing value fails."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    value: str
    """A SQL expression over the columns of the `corpus` view; true and false count as 1 and 0."""
    min: float | None = None
    max: float | None = None
    why: str = ""

    @model_validator(mode="after")
    def _one_bound(self) -> Self:
        if (self.min is None) == (self.max is None):
            raise ValueError(f"rule '{self.name}' wants either min or max")
        return self

    @property
    def threshold(self) -> float:
        """The one bound that is set."""
        bound = self.min if self.min is not None else self.max
        assert bound is not None
        return bound


class Policy(Strict):
    """Rules in the order in which a rejected sample names them."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    rules: tuple[Rule, ...]

    @model_validator(mode="after")
    def _names_once(self) -> Self:
        names = [rule.name for rule in self.rules]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"more than one rule is called '{twice[0]}'")
        return self

    @property
    def digest(self) -> str:
        """Twelve hex digits of the rules' meaning; the reasons given for them do not count."""
        return fingerprint(rules=[rule.model_dump(exclude={"why"}) for rule in self.rules])
