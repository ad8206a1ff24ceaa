"""A raw poem, as a user types it, to the prompt that a model draws."""

from pipelines.poetry.imagery import keywords
from pipelines.poetry.poems import cleaned, simplified
from schemas.errors import JuZhouError


def refined(poem: str) -> str:
    """What a poem in either script shows, separated by commas: 清晨, 云, ….

    Raises:
        JuZhouError: it shows nothing that is known.
    """
    [shown] = keywords([[cleaned(simplified(line)) for line in poem.splitlines()]])
    if not shown:
        raise JuZhouError(
            f"{poem}: nothing to see in it; give a poem that names things, or a plain prompt to `generate`"
        )
    return ", ".join(shown)
