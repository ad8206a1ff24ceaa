"""A raw poem, as a user types it, to the prompt that a model draws."""

from pipelines import chat
from pipelines.poetry.imagery import keywords
from pipelines.poetry.poems import cleaned, simplified
from pipelines.poetry.reading import NOTHING, TASK
from schemas.errors import JuZhouError
from schemas.recipe import LanguageModel


def refined(poem: str, model: LanguageModel | None = None) -> str:
    """What a poem in either script shows, separated by commas: 清晨, 云, ….

    Args:
        model: says it; the lexicon that comes along when left out.

    Raises:
        JuZhouError: it shows nothing that is known, or as `chat.asked`.
    """
    lines = [cleaned(simplified(line)) for line in poem.splitlines()]
    said = chat.asked(model, TASK, "\n".join(lines)) if model else ", ".join(*keywords([lines]))
    if said in ("", NOTHING):
        raise JuZhouError(
            f"{poem}: nothing to see in it; give a poem that names things, or a plain prompt to `generate`"
        )
    return said
