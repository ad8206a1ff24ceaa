"""The entries of chinese-poetry's files, as they stand there: from the npm package, or a clone of the repository.

Left out are the prose of its primers and classics, and 御定全唐诗, which has the poems of the other Tang files again
with lines cut away.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from schemas.errors import JuZhouError

HAN_POETS = ("东方朔", "王褒", "刘向", "王逸", "淮南小山", "贾谊", "庄忌")
"""Who of the 楚辞 wrote under the Han."""


@dataclass(frozen=True)
class Entry:
    """An entry of a file, in its own script."""

    title: str
    author: str
    dynasty: str
    form: str | None
    """Where the file says it; of shi it follows from the lines."""
    tags: tuple[str, ...]
    lines: tuple[str, ...]
    flaw: str | None
    """What the collection itself says is wrong with it."""
    source: str
    """The file, below the folder of the collection."""


@dataclass(frozen=True)
class Kind:
    """Files of one shape: which they are by name, and where their entries have what."""

    files: re.Pattern[str]
    dynasty: str
    form: str | None = None
    lines: str = "paragraphs"
    author: str | None = None


KINDS = (
    Kind(re.compile(r"唐诗三百首\.json|poet\.tang\.\d+\.json|唐诗补录\.json|shuimotangshi\.json"), "唐"),
    Kind(re.compile(r"poet\.song\.\d+\.json"), "宋"),
    Kind(re.compile(r"宋词三百首\.json|ci\.song\.\d+\.json"), "宋", "词"),
    Kind(re.compile(r"huajianji-[\dx]-juan\.json|poetrys\.json"), "五代", "词"),
    Kind(re.compile(r"yuanqu\.json"), "元", "曲"),
    Kind(re.compile(r"shijing\.json"), "先秦", "诗经", lines="content"),
    Kind(re.compile(r"chuci\.json"), "先秦", "楚辞", lines="content"),
    Kind(re.compile(r"caocao\.json"), "汉", author="曹操"),
    Kind(re.compile(r"纳兰性德诗集\.json"), "清", "词", lines="para"),
)
ASIDE = {"rank", "strains", "json"}
"""Folders of files that are named alike and hold something else."""


def kind_of(path: Path) -> Kind | None:
    """How to read a file of the collection, or None where it holds no poems."""
    if ASIDE & set(path.parts):
        return None
    return next((kind for kind in KINDS if kind.files.fullmatch(path.name)), None)


def entries(folder: Path, only: str | None = None) -> Iterator[Entry]:
    """All entries of a folder, or of its files of one name, file by file in the order of their paths.

    Raises:
        JuZhouError: there is no file with poems, or one cannot be read as such.
    """
    found = False
    for path in sorted(folder.rglob(only or "*.json")):
        place = path.relative_to(folder)
        if kind := kind_of(place):
            found = True
            yield from _read(path, str(place), kind)
    if not found:
        raise JuZhouError(
            f"{folder}: no poems there; chinese-poetry has files such as poet.tang.0.json and shijing.json"
        )


def _read(path: Path, place: str, kind: Kind) -> Iterator[Entry]:
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
        for row in rows:
            author = row.get("author") or kind.author or ""
            yield Entry(
                title=_title(row),
                author=author,
                dynasty="汉" if kind.form == "楚辞" and author in HAN_POETS else kind.dynasty,
                form=kind.form,
                tags=tuple(row.get("tags") or ()),
                lines=tuple(row.get(kind.lines) or ()),
                flaw="；".join(row.get("error_type") or ()) or None,
                source=place,
            )
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise JuZhouError(
            f"{path}: not poems as chinese-poetry has them ({error}); fetch the collection anew"
        ) from error


def _title(row: dict[str, Any]) -> str:
    """The title; of ci, which are sung to a tune, tune and title."""
    tune, title = row.get("rhythmic") or "", row.get("title") or ""
    return title if tune in title else f"{tune}·{title}" if title else tune
