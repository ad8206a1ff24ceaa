"""What a measure is: pure, named, fingerprinted; a batch in, columns out."""

from collections.abc import Sequence
from typing import Any, Protocol

import pyarrow as pa

from filters.picture import Picture

Columns = dict[str, Sequence[Any]]


class Measure(Protocol):
    """What all measures share. One that has options is a frozen pydantic model, whose fields they are."""

    @property
    def name(self) -> str: ...

    @property
    def columns(self) -> pa.Schema:
        """The value columns, without key and error."""
        ...

    def fingerprint(self) -> str:
        """A digest of all that changes the numbers, those of the wanted columns' measures included; loads no model."""
        ...


class PictureMeasure(Measure, Protocol):
    """Something known of a picture alone. Rows are keyed by image_id."""

    def __call__(self, pictures: Sequence[Picture]) -> Columns:
        """One value a picture for each column, in order. May raise: the caller then asks one by one."""
        ...


class DerivedMeasure(Measure, Protocol):
    """Something that follows from what other measures saw of a picture, without its pixels. Keyed by image_id."""

    @property
    def wants(self) -> tuple[str, ...]:
        """Columns of picture measures that the call needs, as `measure.column`."""
        ...

    def __call__(self, wanted: dict[str, Sequence[Any]]) -> Columns:
        """One value a picture for each column, in order; `wanted` holds the columns of `wants`, a value a picture."""
        ...


class CaptionMeasure(Measure, Protocol):
    """Something known of a caption, alone or beside what was measured of its picture. Rows are keyed by sample_id."""

    @property
    def wants(self) -> tuple[str, ...]:
        """Columns of picture measures that the call needs, as `measure.column`; empty for a measure of text alone."""
        ...

    def __call__(self, captions: Sequence[str], wanted: dict[str, Sequence[Any]]) -> Columns:
        """One value a caption for each column, in order; `wanted` holds the columns of `wants`, a value a caption."""
        ...
