"""Poem × style → what a teacher is asked to draw: of all candidates those that suit, about 5.4 a poem as in the report.

Which ones is a function of the poem alone: each style has a key drawn by a hash, raised by how well it suits (weighted
sampling without replacement, Efraimidis and Spirakis 2006), and the largest keys win.
"""

from collections.abc import Sequence

import pyarrow as pa

from pipelines.poetry.imagery import colourless
from pipelines.poetry.styles import MOODS, STYLES, TRAITS, WORST, Style
from pipelines.poetry.variants import STANDING
from pipelines.stage import Rows, Stage
from schemas.identity import digest, fingerprint
from schemas.tables import PAIRS, Table, pairs_table

LEAST_SEEN = 3
"""Keywords below which a poem shows too little to be drawn."""
FEWEST, MORE = 5, 0.4
"""Styles of a poem, and the share of poems that have one more."""


def pairs_stage(keywords: Table) -> Stage:
    """The pairs of each poem that stands for itself and shows enough; one without any has a row without a style.

    Args:
        keywords: the table of what poems show.
    """
    facts = fingerprint(
        version=1,
        keywords=keywords.path,
        styles=[vars(style) for style in STYLES],
        traits={name: sorted(words) for name, words in (TRAITS | MOODS).items()},
        counts=(LEAST_SEEN, FEWEST, MORE),
    )
    table = pairs_table(facts)
    return Stage(
        name="pair poems",
        key=("poem_id",),
        inputs=f"SELECT poem_id, lines, keywords FROM ({STANDING}) JOIN keywords USING (poem_id)",
        outputs=(table,),
        work=lambda: _Pair(table),
        batch=10_000,
    )


def traits(lines: Sequence[str], keywords: Sequence[str]) -> set[str]:
    """The traits and moods of a poem."""
    seen, text = {*map(colourless, keywords)}, "".join(lines)
    shown = {name for name, words in TRAITS.items() if seen & words}
    return shown | {name for name, signs in MOODS.items() if sum(map(text.count, signs)) >= 2}


def chosen(poem_id: bytes, lines: Sequence[str], keywords: Sequence[str]) -> list[Style]:
    """The styles in which a poem is drawn, the best key first; none where it shows too little."""
    if len(keywords) < LEAST_SEEN:
        return []
    has = traits(lines, keywords)

    def key(style: Style) -> float:
        weight = 1.0
        for trait in has & style.suits.keys():
            weight *= style.suits[trait]
        return _share(poem_id, style.name) ** (1 / weight)

    count = FEWEST + (_share(poem_id, "how many") < MORE)
    return sorted(STYLES, key=key, reverse=True)[:count]


def prompt(keywords: Sequence[str], style: Style) -> str:
    """Keywords and style, separated by commas; the scene comes first and is the same in every style."""
    return f"{', '.join(keywords)}, {style.positive}"


def negative_prompt(style: Style) -> str:
    """What a picture in this style should not have."""
    return f"{WORST}，{style.negative}"


def _share(poem_id: bytes, what: str) -> float:
    """A number in 0 … 1 that belongs to a poem and a word, the same anywhere."""
    return int.from_bytes(digest(poem_id + what.encode())[:7]) / 2**56


class _Pair:
    def __init__(self, table: Table) -> None:
        self._table = table

    def __call__(self, batch: pa.Table) -> Rows:
        rows = []
        for row in batch.to_pylist():
            styles = chosen(row["poem_id"], row["lines"], row["keywords"] or [])
            rows += [
                {
                    "poem_id": row["poem_id"],
                    "rank": rank,
                    "style": style.name,
                    "prompt": prompt(row["keywords"], style),
                    "negative_prompt": negative_prompt(style),
                }
                for rank, style in enumerate(styles, start=1)
            ] or [{"poem_id": row["poem_id"], "rank": 1}]
        return [(self._table, pa.Table.from_pylist(rows, schema=PAIRS))]

    def lost(self, batch: pa.Table, error: str) -> Rows:
        row = {"poem_id": batch.column("poem_id")[0].as_py(), "rank": 1}
        return [(self._table, pa.Table.from_pylist([row], schema=PAIRS))]
