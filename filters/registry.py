"""Measures by name, as recipes and policies call them. To build one is cheap: models are loaded by the first call."""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

from filters.aesthetic import LiteAesthetic
from filters.alignment import LiteAlignment
from filters.blur import Blur
from filters.brisque import Brisque
from filters.chinese_clip import ChineseClip, ChineseClipAlignment
from filters.embedding import LiteEmbedding
from filters.faces import Faces
from filters.laion_aesthetic import LaionAesthetic
from filters.layout import Layout
from filters.measure import Measure
from filters.names import Names
from filters.nsfw import Nsfw
from filters.ocr import Ocr
from filters.open_clip import OpenClip, OpenClipAlignment
from filters.overlap import OcrOverlap
from filters.pdq import Pdq
from filters.pixels import Pixels
from filters.size import Size
from filters.text import Text
from filters.tone import Tone
from filters.watermark import Watermark
from filters.word_list import Words
from schemas.errors import JuZhouError
from schemas.strict import explain, nearest

PICTURE: dict[str, Any] = {
    measure.name: measure
    for measure in (
        Size,
        Pixels,
        Tone,
        Layout,
        Blur,
        Brisque,
        Watermark,
        Pdq,
        Nsfw,
        Faces,
        Ocr,
        LiteEmbedding,
        ChineseClip,
        OpenClip,
    )
}
"""Measures of a picture alone."""

DERIVED: dict[str, Any] = {measure.name: measure for measure in (LiteAesthetic, LaionAesthetic)}
"""Measures that follow from what others saw of a picture."""

CAPTION: dict[str, Any] = {
    measure.name: measure
    for measure in (Text, Words, Names, OcrOverlap, LiteAlignment, ChineseClipAlignment, OpenClipAlignment)
}
"""Measures of a caption, alone or beside its picture."""

MEASURES = PICTURE | DERIVED | CAPTION


def build(wanted: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The measures that a recipe names, with its options; each is a `Measure`.

    Raises:
        JuZhouError: there is no measure of such a name or no such option, or one wants another that is not named.
    """
    for name in wanted:
        if name not in MEASURES:
            raise JuZhouError(f"there is no measure '{name}'; did you mean '{nearest(name, MEASURES)}'?")
    built = {name: _build(name, wanted) for name in wanted}
    for name, measure in built.items():
        for column in getattr(measure, "wants", ()):
            _must_name(column.partition(".")[0], name, wanted)
    return built


def _build(name: str, wanted: Mapping[str, Mapping[str, Any]]) -> Measure:
    """A measure; a field of it that is another measure is the recipe's own."""
    kind, options = MEASURES[name], dict(wanted[name])
    if not issubclass(kind, BaseModel):
        if options:
            raise JuZhouError(f"the measure '{name}' has no option '{next(iter(options))}', nor any other")
        return kind()
    for field, info in kind.model_fields.items():
        if info.annotation in MEASURES.values():
            other = info.annotation.name
            _must_name(other, name, wanted)
            options[field] = _build(other, wanted)
    try:
        return kind(**options)
    except ValidationError as error:
        raise JuZhouError(f"the measure '{name}': {explain(kind, error)}") from error


def _must_name(other: str, name: str, wanted: Mapping[str, Any]) -> None:
    if other not in wanted:
        raise JuZhouError(f"the measure '{name}' wants '{other}': add it to the recipe's measures")
