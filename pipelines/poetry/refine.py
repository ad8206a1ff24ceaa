"""A raw poem, as a user types it, to the prompt that a model draws."""

from collections.abc import Callable

from pipelines import chat
from pipelines.poetry.imagery import keywords
from pipelines.poetry.poems import cleaned, simplified
from pipelines.poetry.reading import NOTHING, TASK
from schemas.errors import JuZhouError
from schemas.recipe import LanguageModel


def refiner(model: LanguageModel | None = None) -> Callable[[str], str]:
    """A poem in either script → what it shows, separated by commas: 清晨, 云, ….

    Args:
        model: says it, opened once; the lexicon that comes along when left out.

    Raises:
        JuZhouError: as `chat.asker`; and when it is asked, if a poem shows nothing that is known.
    """
    ask = chat.asker(model, TASK) if model else _by_lexicon

    def refined(poem: str) -> str:
        said = ask("\n".join(cleaned(simplified(line)) for line in poem.splitlines()))
        if said in ("", NOTHING):
            raise JuZhouError(
                f"{poem}: nothing to see in it; give a poem that names things, or a plain prompt to `generate`"
            )
        return said

    return refined


def _by_lexicon(poem: str) -> str:
    return ", ".join(*keywords([poem.splitlines()]))
