"""How well keywords are found: precision and recall against what people said of poems by hand."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

from pipelines.poetry.collection import entries
from pipelines.poetry.imagery import colourless
from pipelines.poetry.poems import cleaned, phrases, simplified
from schemas.errors import JuZhouError


@dataclass(frozen=True)
class GoldPoem:
    """A poem with its keywords, each a tuple of names of which any will do."""

    author: str
    lines: tuple[str, ...]
    """In Simplified script."""
    wanted: tuple[tuple[str, ...], ...]
    allowed: tuple[tuple[str, ...], ...]
    """What may be said or not."""


class Found(NamedTuple):
    """What became of a poem's keywords."""

    right: list[str]
    wrong: list[str]
    missed: list[tuple[str, ...]]


class Scores(NamedTuple):
    """Over all keywords of some poems."""

    precision: float
    recall: float
    f1: float


def gold_poems(folder: Path) -> list[GoldPoem]:
    """The gold set in its order, with the lines that a collection has: every second one is for tests.

    Raises:
        JuZhouError: the collection lacks one of its poems, or as `entries`.
    """
    rows = [
        line.split("\t")
        for line in files(__package__).joinpath("gold.txt").read_text(encoding="utf-8").splitlines()
        if line and not line.startswith("#")
    ]
    wanted = {(name, phrase) for name, _, phrase, _ in rows}
    texts = {
        (name, phrase): entry.lines
        for name in sorted({row[0] for row in rows})
        for entry in entries(folder, name)
        for phrase in phrases([*map(cleaned, entry.lines)])
        if (name, phrase) in wanted
    }
    found = []
    for name, author, phrase, keywords in rows:
        if (name, phrase) not in texts:
            raise JuZhouError(f"{folder}: {name} there has no poem with {phrase}; another version is wanted")
        names = [tuple(word.removeprefix("?").split("/")) for word in keywords.split()]
        optional = [word.startswith("?") for word in keywords.split()]
        lines = tuple(cleaned(simplified(line)) for line in texts[name, phrase])
        found.append(
            GoldPoem(
                simplified(author),
                lines,
                tuple(word for word, may in zip(names, optional, strict=True) if not may),
                tuple(word for word, may in zip(names, optional, strict=True) if may),
            )
        )
    return found


def compare(poem: GoldPoem, said: Sequence[str]) -> Found:
    """Each wanted keyword is found once; another name of one that was found, or one that may be said, is not wrong.
    Colours are not looked at."""
    left = list(poem.wanted)
    right, wrong = [], []
    for word in map(colourless, said):
        if names := next((names for names in left if word in names), None):
            left.remove(names)
            right.append(word)
        elif not any(word in names for names in poem.wanted + poem.allowed):
            wrong.append(word)
    return Found(right, wrong, left)


def scores(found: Sequence[Found]) -> Scores:
    """Precision, recall and their harmonic mean, over the keywords of all poems together."""
    right, wrong, missed = (sum(map(len, column)) for column in zip(*found, strict=True))
    precision, recall = right / max(1, right + wrong), right / max(1, right + missed)
    return Scores(precision, recall, 2 * precision * recall / max(1e-9, precision + recall))
