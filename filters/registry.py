"""Measures by name, as recipes and policies call them. To build one is cheap: models are loaded by the first call."""

from filters.aesthetic import LiteAesthetic
from filters.alignment import LiteAlignment
from filters.blur import Blur
from filters.embedding import LiteEmbedding
from filters.measure import CaptionMeasure, PictureMeasure
from filters.nsfw import Nsfw
from filters.pdq import Pdq
from filters.size import Size
from filters.text import Text


def picture_measures() -> dict[str, type[PictureMeasure]]:
    """Measures of a picture alone, by name."""
    return {measure.name: measure for measure in (Size, Blur, Pdq, Nsfw, LiteEmbedding, LiteAesthetic)}


def caption_measures() -> dict[str, type[CaptionMeasure]]:
    """Measures of a caption, alone or beside its picture, by name."""
    return {measure.name: measure for measure in (Text, LiteAlignment)}
