"""What a poem shows, without a language model: words of a lexicon of imagery, as visual keywords in modern Chinese.

jieba's dictionary is of modern words and cuts classical lines wrong. Classical Chinese is mostly words of one and two
characters, so the lexicon segments for itself: from the left, the longest word first. What is said and not seen (三月
is no moon, 青云 no cloud) stands in it too, and shows nothing.
"""

import re
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from filters.characters import classes, texts
from filters.segmentation import tags, words
from filters.trie import Trie, found, trie
from pipelines.poetry.variants import STANDING
from pipelines.stage import Rows, Stage
from schemas.errors import JuZhouError
from schemas.identity import fingerprint
from schemas.tables import KEYWORDS, Table, keywords_table

MOST = 12
"""Keywords of a poem."""

GENERAL = {
    "花": ("花",),
    "水": ("江水", "河水", "湖水", "溪水", "泉水", "池塘", "大海", "深潭", "瀑布"),
    "船": ("渔船", "帆船"),
    "天空": ("银河",),
}
"""Keywords that say no more beside one that is, or ends in, one of these."""


WHEN = {
    "春": "春天",
    "夏": "夏天",
    "秋": "秋天",
    "冬": "冬天",
    "夜": "夜晚",
    "暮": "黄昏",
    "晚": "黄昏",
    "晓": "清晨",
    "晨": "清晨",
    "月": "月亮",
}
"""What a word that shows something shows also, by its first character: 春江 is a river and spring."""


ADJECTIVES = "大小老古新旧美好高长红黄白蓝绿黑紫金银青孤"
"""What jieba leaves before a thing's name in a word: 小船, 红花."""
HEADS = "山江河湖花草树云雨雪鸟桥船亭塔林"
"""Names of things that a word for a kind of them ends in: 雪山 is snow and a mountain."""


COLOURED = "色的"
"""Between a colour and the name of the thing: 红色的枫叶."""

OF_PICTURES = re.compile(r"一[张幅个只支]|的?(?:图片|照片|图像|插图|配图|素材|截图)|stock photo", re.IGNORECASE)
"""Words about a picture as a picture, which say nothing of what it shows."""


class Lexicon(NamedTuple):
    """Words of poems and what each shows."""

    words: tuple[str, ...]
    keywords: tuple[tuple[str, ...], ...]
    """Beside `words`, in the colours that they say; empty where nothing is seen."""
    shown: dict[str, tuple[str, ...]]
    """The keywords of each word, without their colours."""
    numbers: dict[str, int]
    """A number for each keyword without its colour."""
    trie: Trie
    version: str
    """A digest of the file."""


@cache
def lexicon() -> Lexicon:
    """The lexicon that comes along, `imagery.txt`.

    Raises:
        JuZhouError: a line of it has no "=".
    """
    text = files(__package__).joinpath("imagery.txt").read_text(encoding="utf-8")
    shown: dict[str, tuple[str, ...]] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        left, equals, right = line.partition("=")
        if not equals:
            raise JuZhouError(f'imagery.txt: line {number} has no "=" between keywords and words')
        keywords = tuple(left.split())
        itself = keywords if len(keywords) == 1 and COLOURED not in left else ()
        shown |= dict.fromkeys((*itself, *right.split()), keywords)
    for word, keywords in shown.items():
        when = WHEN.get(word[0])
        if keywords and when and len(word) > 1:
            shown[word] = tuple(dict.fromkeys((when, *keywords)))
    plain = {word: tuple(map(colourless, keywords)) for word, keywords in shown.items()}
    every = sorted({name for names in plain.values() for name in names})
    numbers = {name: number for number, name in enumerate(every)}
    words = tuple(shown)
    return Lexicon(words, tuple(shown.values()), plain, numbers, trie(words), fingerprint(text=text, when=WHEN))


def keywords(poems: Sequence[Sequence[str]]) -> list[list[str]]:
    """The visual keywords of poems given by their lines in Simplified script: in the order in which they are seen, each
    thing once and in the first colour that is said of it, `MOST` at most."""
    known = lexicon()
    batch = texts(["\n".join(lines) for lines in poems])
    place, _, word = found(batch.codes, batch.bounds, known.trie, classes())
    seen: list[dict[str, str]] = [{} for _ in poems]
    for poem, number in zip(place.tolist(), word.tolist(), strict=True):
        for name, keyword in zip(known.shown[known.words[number]], known.keywords[number], strict=True):
            if seen[poem].get(name, name) == name:
                seen[poem][name] = keyword
    return [[shown[name] for name in _salient([*shown])] for shown in seen]


def colourless(keyword: str) -> str:
    """The thing that a keyword names: of 红色的枫叶 the 枫叶."""
    return keyword.partition(COLOURED)[2] or keyword


def named(captions: Sequence[Sequence[tuple[str, str]]]) -> list[list[str]]:
    """The same keywords for what captions that are `cut` name: words that the lexicon knows as a whole, or but for an
    adjective before them. A 火车 is neither fire nor a cart."""
    shown = lexicon().shown
    found = []
    for said in captions:
        seen: dict[str, None] = {}
        for word, _ in said:
            parts = [word]
            if word not in shown and len(word) > 1:
                parts = [word[1:]] if word[0] in ADJECTIVES else [word[:-1], word[-1]] if word[-1] in HEADS else []
            for part in parts:
                seen |= dict.fromkeys(shown.get(part, ()))
        found.append(_salient([*seen]))
    return found


def cut(captions: Sequence[str]) -> list[list[tuple[str, str]]]:
    """The words of captions in modern Chinese with jieba's tags; none of those about the picture as a picture."""
    lines = [OF_PICTURES.sub(" ", caption.replace("\n", " ")) for caption in captions]
    text = "\n".join(lines)
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32).copy()
    found: list[list[tuple[str, str]]] = [[] for _ in captions]
    starts, ends, kinds = words(codes)
    line = np.searchsorted(np.flatnonzero(codes == ord("\n")), starts).tolist()
    names = tags()
    for caption, start, end, kind in zip(line, starts.tolist(), ends.tolist(), kinds.tolist(), strict=True):
        found[caption].append((text[start:end], names[kind]))
    return found


def _salient(shown: list[str]) -> list[str]:
    """Without general words beside special ones, as many as there may be."""
    kept = [word for word in shown if not _said(word, shown)]
    return kept[:MOST]


def _said(word: str, shown: list[str]) -> bool:
    return any(other != word and other.endswith(GENERAL.get(word, ())) for other in shown)


def keywords_stage() -> Stage:
    """What each poem that stands for itself shows, by the lexicon."""
    table = keywords_table("lite", fingerprint(version=1, lexicon=lexicon().version, most=MOST, general=GENERAL))
    return Stage(
        name="read imagery",
        key=("poem_id",),
        inputs=f"SELECT poem_id, lines FROM ({STANDING})",
        outputs=(table,),
        work=lambda: _Read(table),
        batch=10_000,
    )


class _Read:
    def __init__(self, table: Table) -> None:
        self._table = table

    def __call__(self, batch: pa.Table) -> Rows:
        shown = keywords(batch.column("lines").to_pylist())
        return [(self._table, pa.table({"poem_id": batch.column("poem_id"), "keywords": shown}).cast(KEYWORDS))]

    def lost(self, batch: pa.Table, error: str) -> Rows:
        return [(self._table, pa.table({"poem_id": batch.column("poem_id"), "keywords": [None]}).cast(KEYWORDS))]
