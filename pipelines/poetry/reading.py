"""What a poem shows, as a language model says it: asked with our own instruction, held to rules, asked again."""

import re
from collections import Counter

from filters.characters import is_han
from model.refiner import INSTRUCTION
from pipelines import chat
from pipelines.corpus import Corpus
from pipelines.poetry.imagery import MOST, colourless, keywords, lexicon
from pipelines.poetry.poems import simplified
from pipelines.poetry.variants import STANDING
from pipelines.stage import Stage, derive
from schemas.identity import fingerprint
from schemas.recipe import LanguageModel
from schemas.tables import Table, keywords_table, readings_table

BETWEEN = re.compile(r"[，,、;；。.·|/\s]+")
NUMBER = re.compile(r"^[（(]?\d+[）).、:：]*")
LONGEST_WORD = 6
"""Characters of a keyword."""
UNSEEN = frozenset("愁恨怨悲忧哀欢喜怒情思意志心念想爱感魂梦愿怀境韵德义理道命运福祸功名利誉")
"""What ends in one of these is a feeling or a thought, and no picture has it."""
ALSO_SEEN = frozenset({"小路", "道路", "栈道", "驿道", "古道", "街道"})
"""Things that end in one of them nevertheless."""
SETTING = frozenset("春夏秋冬昼夜晨昏暮夕雨雪风云雾霜月日阳天山水人男女花草树")
"""Characters of a scene's own: a keyword with one of them may be implied where no line has the word."""
IMPLIED = 4
"""One keyword of so many may be of none of the poem's words: who drinks has a cup."""
NOTHING = "无"
"""The answer for a poem that shows nothing."""


def words(answer: str) -> list[str]:
    """The keywords of an answer in one line, in Simplified script."""
    parts = (NUMBER.sub("", part).strip("\"'“”‘’「」《》[]【】*-") for part in BETWEEN.split(simplified(answer)))
    return [part for part in parts if part]


def tidied(answer: str) -> str:
    """The keywords of an answer, separated by commas."""
    return ", ".join(words(answer))


def refusal(poem: str, answer: str) -> str | None:
    """Why a tidied answer does not say what a poem shows; None where it may."""
    said = words(answer)
    if not said:
        return "empty"
    known = [*map(colourless, *keywords([poem.splitlines()]))]
    if said == [NOTHING]:
        return f"not nothing ({known[0]})" if len(known) > 2 else None
    if len(said) > MOST:
        return f"{len(said)} keywords"
    if odd := [word for word in said if len(word) > LONGEST_WORD or not all(map(is_han, word))]:
        return f"no keyword ({odd[0]})"
    if twice := [word for word, times in Counter(said).items() if times > 1]:
        return f"said twice ({twice[0]})"
    if same := _same(said):
        return f"the same thing ({same[0]}, {same[1]})"
    if unseen := [word for word in said if word[-1] in UNSEEN and word not in ALSO_SEEN]:
        return f"nothing to see ({unseen[0]})"
    ground = {*poem, *"".join(known)} | SETTING
    strange = [word for word in said if not ground & {*colourless(word)}]
    if len(strange) > len(said) // IMPLIED:
        return f"not in the poem ({strange[0]})"
    return None


def _same(said: list[str]) -> tuple[str, str] | None:
    """Two keywords by which the lexicon means one and the same."""
    shown = lexicon().shown
    first: dict[tuple[str, ...], str] = {}
    for word in said:
        name = colourless(word)
        meant = shown.get(name) or (name,)
        if meant in first:
            return first[meant], word
        first[meant] = word
    return None


def _longest(poem: str) -> int:
    return MOST * (LONGEST_WORD + 2)


TASK = chat.Task(
    instruction=INSTRUCTION,
    version=2,
    control="床前明月光，疑是地上霜。\n举头望明月，低头思故乡。",
    longest=_longest,
    refusal=refusal,
    tidied=tidied,
)


def tables_of(model: LanguageModel) -> tuple[Table, Table]:
    """Where the model's answers lie, and the keywords that are taken from them."""
    facts = fingerprint(asked=chat.fingerprint_of(model, TASK), lexicon=lexicon().version, most=MOST)
    return readings_table(facts), keywords_table("model", facts)


def reading_stage(corpus: Corpus, model: LanguageModel) -> Stage:
    """Each poem that stands for itself, until it has an answer that the rules take or no attempt is left."""
    poems = f"SELECT poem_id, array_to_string(lines, chr(10)) AS text FROM ({STANDING})"
    return chat.stage(corpus, "read imagery", poems, tables_of(model)[0], model, TASK)


def take(corpus: Corpus, model: LanguageModel) -> int:
    """Add the keywords of the poems that are settled, none for those that no attempt has read; says of how many."""
    readings, table = tables_of(model)
    return derive(
        corpus,
        table,
        f"""
        SELECT poem_id, keywords FROM (
        SELECT poem_id, max(text) FILTER (status = 'ok') AS said,
            list_filter(string_split(said, ', '), lambda word: word <> '{NOTHING}') AS keywords
        FROM ({chat.rows(corpus, readings)}) GROUP BY poem_id
        HAVING bool_or(status <> 'transient') OR count(*) >= {model.attempts})
        """,
    )
