"""English → Chinese for the prompts of pictures that are there, by a language model or a translator."""

import re

from filters.characters import is_han
from pipelines import chat
from pipelines.corpus import Corpus
from pipelines.stage import Stage
from pipelines.views import literal
from schemas.recipe import Translate
from schemas.tables import Table, translations_table

INSTRUCTION = (
    "把下面这段英文绘画提示词译成忠实而自然的简体中文。内容不增不减；人名、画派、风格与作品用通行的译名，没有译名的保留原文。"
    "只给出一行译文，不解释，不加引号，不加标题。"
)
LEAST_HAN = 0.3
"""Of an answer's letters; the others may be names."""
LONGEST = 2
"""Times the prompt's characters that an answer may have; Chinese takes about a third of English."""
ALWAYS_ALLOWED = 24
"""Characters that the answer to however short a prompt may have."""

CHATTER = re.compile(
    r"^(?:好的|当然)[,，。!！]|^(?:以下|下面|这)(?:是|为).{0,12}(?:翻译|译文)|^(?:(?:简体)?中文|英文)?(?:翻译|译文)?(?:结果|如下)?[:：]"
    r"|^(?:sure\b|here(?:'s| is)\b|translation\b)|[（(](?:译?注|说明)[:：]",
    re.IGNORECASE,
)


def table_of(name: str, model: Translate) -> Table:
    """Where the translations for a source's prompts lie."""
    return translations_table(name, chat.fingerprint_of(model, TASK))


def translation_stage(corpus: Corpus, name: str, model: Translate, table: Table) -> Stage:
    """The prompts of the pictures that a source has, until each has its Chinese or no attempt is left."""
    drawn = f"SELECT synthesis_id, prompt AS text FROM syntheses WHERE source = {literal(name)} AND status = 'ok'"
    return chat.stage(corpus, f"translate {name}", drawn, table, model, TASK)


def longest(prompt: str) -> int:
    """Characters that an answer may have."""
    return max(ALWAYS_ALLOWED, LONGEST * len(prompt))


def refusal(prompt: str, text: str) -> str | None:
    """Why a cleaned answer cannot be a translation of a prompt into Chinese; None where it can."""
    if not text:
        return "empty"
    if len(text) > longest(prompt):
        return f"{len(text)} characters for {len(prompt)}"
    letters = [sign for sign in text if sign.isalpha()]
    han = sum(map(is_han, letters))
    if han < LEAST_HAN * max(1, len(letters)):
        return f"{han} Chinese of {len(letters)} letters"
    return "more than a translation" if CHATTER.search(text) else None


TASK = chat.Task(
    instruction=INSTRUCTION,
    version=1,
    control="a cat on a red chair",
    longest=longest,
    refusal=refusal,
    translates=True,
)
