"""What a measure is: pure, named, fingerprinted; a batch in, columns out."""

from collections.abc import Sequence
from typing import Any, Protocol

import pyarrow as pa

from filters.picture import Picture

Columns = dict[str, Sequence[Any]]


class PictureMeasure(Protocol):
    """Something known of a picture alone. Rows are keyed by image_id."""

    name: str
    columns: pa.Schema
    """The value columns, without key and error."""

    def fingerprint(self) -> str:
        """A digest of all that changes the numbers; cheap, loads no model."""
        ...

    def __call__(self, pictures: Sequence[Picture]) -> Columns:
        """One value a picture for each column, in order. May raise: the caller then asks one by one."""
        ...


class CaptionMeasure(Protocol):
    """Something known of a caption, alone or beside what was measured of its picture. Rows are keyed by sample_id."""

    name: str
    columns: pa.Schema
    wants: tuple[str, ...]
    """Columns of picture measures that the call needs, as `measure.column`; empty for a measure of text alone."""

    def fingerprint(self) -> str:
        """A digest of all that changes the numbers, those of the wanted columns' measures included; loads no model."""
        ...

    def __call__(self, captions: Sequence[str], wanted: dict[str, Sequence[Any]]) -> Columns:
        """One value a caption for each column, in order; `wanted` holds the columns of `wants`, a value a caption."""
        ...
