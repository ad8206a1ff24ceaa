"""Poems as rows: in Simplified script, with their form, and the reason where an entry is no poem that can be used."""

import re
import unicodedata
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
from opencc import OpenCC

from pipelines.poetry.collection import Entry, entries
from pipelines.stage import Rows, Stage
from schemas.identity import digest
from schemas.tables import POEMS

HAN = r"\u3400-\u9fff\uf900-\ufaff\U00020000-\U000323af〇"
PHRASE = re.compile(f"[^{HAN}、·]+")
"""What stands between two phrases."""
ASIDE = re.compile(r"[（(〔【［\[〖][^（(〔【［\[〖）)〕】］\]〗]*[）)〕】］\]〗]")
"""An editor's remark."""
MARKS = str.maketrans("", "", "[]［］〔〕{}")
LOST = re.compile(r"[□■◇○●\ufffd\ue000-\uf8ff?？]{2,}|[□■◇\ufffd\ue000-\uf8ff]|\{|缺")
"""A character that the text has lost, or a description in place of it."""
STAGE = re.compile(r"[（(](?:[^（()）]{0,12}[生旦净末丑外众合云唱白科介下上背]|前腔|同前)[^（()）]{0,8}[）)]")
"""Who speaks, sings or enters in a play."""
LONG, LONG_MEAN = 22, 11
"""Characters of a phrase beyond which, alone or on average, it is prose."""
SHORT = 8
"""Characters below which a text is a fragment."""


def poems_stage(folder: Path, only: str | None = None) -> Stage:
    """Every entry of a collection, or of its files of one name, that is no row yet.

    Raises:
        JuZhouError: as `entries`.
    """
    found = {row["poem_id"]: row for row in map(_row, entries(folder, only))}
    return Stage(
        name="read poems",
        key=("poem_id",),
        inputs="SELECT * FROM entries",
        outputs=(POEMS,),
        work=_Simplify,
        batch=4000,
        given={"entries": pa.Table.from_pylist(list(found.values()), ENTRIES)},
    )


ENTRIES = pa.schema(
    [
        POEMS.schema.field(name)
        for name in ("poem_id", "dynasty", "form", "tags", "original_title", "original_author", "original_lines")
    ]
    + [("flaw", pa.string()), POEMS.schema.field("source")]
)


def _row(entry: Entry) -> dict[str, Any]:
    return {
        "poem_id": digest("\n".join((entry.source, entry.title, entry.author, *entry.lines)).encode()),
        "dynasty": entry.dynasty,
        "form": entry.form,
        "tags": entry.tags,
        "original_title": entry.title,
        "original_author": entry.author,
        "original_lines": entry.lines,
        "flaw": entry.flaw,
        "source": entry.source,
    }


def phrases(lines: Sequence[str]) -> list[str]:
    """The phrases of a poem, without punctuation: 床前明月光, 疑是地上霜."""
    return [phrase for phrase in PHRASE.split("\n".join(lines)) if phrase]


def form_of(lines: Sequence[str]) -> str:
    """The form of a shi, by how many phrases it has and how long they are. Tones are not looked at, so that old-style
    poems of four or eight phrases count as regulated verse."""
    lengths = [len(phrase) for phrase in phrases(lines)]
    if len(set(lengths)) != 1 or lengths[0] not in (4, 5, 6, 7):
        return "杂言"
    said = "零一二三四五六七"[lengths[0]]
    if lengths[0] in (5, 7):
        shape = {4: "绝句", 8: "律诗"}.get(len(lengths), "古诗" if len(lengths) % 2 or len(lengths) < 8 else "排律")
        return f"{said}言{shape}"
    return f"{said}言"


def flaw_of(lines: Sequence[str], form: str | None) -> str | None:
    """Why a text is not a poem that can be used, or None: one of `empty`, `missing characters`, `stage directions`,
    `fragment`, `prose`. Stage directions are looked for in qu (曲), some of which stand in plays."""
    text = "\n".join(lines)
    said = phrases([cleaned(line) for line in lines])
    han = sum(map(len, said))
    if not han:
        return "empty"
    if LOST.search(text):
        return "missing characters"
    if form == "曲" and STAGE.search(text):
        return "stage directions"
    if len(said) < 2 or han < SHORT:
        return "fragment"
    if max(map(len, said)) > LONG or han / len(said) > LONG_MEAN:
        return "prose"
    return None


def cleaned(line: str) -> str:
    """A line without an editor's remarks and marks, NFKC but for its punctuation."""
    return ASIDE.sub("", line).translate(MARKS).strip()


class _Simplify:
    def __call__(self, batch: pa.Table) -> Rows:
        rows = []
        for row in batch.to_pylist():
            flaw = row.pop("flaw")
            lines = [simplified(line) for line in row["original_lines"]]
            reason = flaw_of(lines, row["form"]) or ("doubted by the collection" if flaw else None)
            kept = [line for line in map(cleaned, lines) if line]
            tagged = next((tag for tag in row["tags"] if tag.endswith(("绝句", "律诗", "古诗", "乐府"))), None)
            rows.append(
                {name: row[name] for name in POEMS.schema.names if name in row}
                | {
                    "title": simplified(row["original_title"]),
                    "author": simplified(row["original_author"]),
                    "form": row["form"] or tagged or form_of(kept),
                    "lines": kept,
                    "reason": reason,
                }
            )
        return [(POEMS, pa.Table.from_pylist(rows, schema=POEMS.schema))]

    def lost(self, batch: pa.Table, error: str) -> Rows:
        row = {"poem_id": batch.column("poem_id")[0].as_py(), "reason": error}
        return [(POEMS, pa.Table.from_pylist([row], schema=POEMS.schema))]


def simplified(text: str) -> str:
    """A text in Simplified script."""
    return _to_simplified().convert(unicodedata.normalize("NFC", text))


@cache
def _to_simplified() -> OpenCC:
    return OpenCC("t2s")
