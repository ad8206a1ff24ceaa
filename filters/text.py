"""What the characters of a caption tell: script, digits, ways to be contacted, and whether it describes anything."""

import logging
import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from filters.measure import Columns
from filters.weights import packaged
from schemas import identity

if TYPE_CHECKING:
    from jieba.posseg import POSTokenizer

DIGITS_OF = {
    "零〇○": "0",
    "一幺壹": "1",
    "二贰貳": "2",
    "三叁參": "3",
    "四肆": "4",
    "五伍": "5",
    "六陆陸": "6",
    "七柒": "7",
    "八捌": "8",
    "九玖": "9",
}
NUMERALS = str.maketrans({sign: digit for signs, digit in DIGITS_OF.items() for sign in signs})

BREAK = r"[\s\-‐–—_.·()/*~]"
GAP = rf"{BREAK}{{0,3}}"
MOBILE = "|".join(
    (
        rf"1{GAP}[3-9]{GAP}\d{GAP}\d{{4}}{GAP}\d{{4}}",
        rf"1[3-9]\d\d{GAP}\d{{3}}{GAP}\d{{4}}",
        rf"1{BREAK}{{1,3}}[3-9](?:{BREAK}{{1,3}}\d){{9}}",
    )
)
LANDLINE = r"\(?0\d{2,3}(?:\s?[-)]\s?|\s)\d{7,8}|[48]00[\s-]?\d{3}[\s-]?\d{4}|[48]00[\s-]\d{4}[\s-]\d{3}"
PHONE = re.compile(rf"(?<![\d.])(?:(?:\+|00)?86{GAP})?(?:{MOBILE}|{LANDLINE})(?!\.?\d)")

TOP_LEVEL = "com|cn|net|org|top|xyz|vip|cc|io|me|tv|info|shop|site|club|co|tw|hk|gov|edu"
URL = re.compile(rf"https?:\s?/|www\s?\.|(?<![@\w.-])[a-z0-9][a-z0-9-]*(?:\.[a-z0-9-]+)*\.(?:{TOP_LEVEL})(?![a-z0-9@])")
EMAIL = re.compile(r"[\w.+-]{1,64}\s?@\s?[a-z0-9-]{1,63}(?:\.[a-z0-9-]{1,63})+", re.ASCII)

MESSENGER = r"(?:微\s?信|薇\s?信|威\s?信|[v微]\s?信|扣\s?扣|企鹅|(?<![a-z])(?:we\s?chat|weixin|vx|wx|qq|q\s?q))"
CONTACT = re.compile(
    rf"{MESSENGER}\s*(?:(?:同?号码?|群|账号|id|[:=]|是|为|加)\s*)+[a-z0-9][a-z0-9_-]{{4,19}}"
    rf"|{MESSENGER}\s*(?=[a-z_-]{{0,19}}\d)[a-z0-9][a-z0-9_-]{{4,19}}"
)

FILE_NAME = re.compile(
    r"[^\n/\\]+\.(?:jpe?g|png|gif|webp|bmp|tiff?|heic|avif|svg|psd|raw|cr2|nef|mp4|pdf)"
    r"|(?:img|image|dscn?|dscf|dcim|pict?|photo|mmexport|screenshot|wx|微信图片|图片|照片|截图|未命名|untitled)[\s_-]*\d[\d_-]*"
    r"|\d{8}[_-]\d{4,}|(?=[a-z-]*\d)[0-9a-f-]{16,}"
)


def normalised(caption: str) -> str:
    """NFKC (full-width and circled digits become plain), without invisible and combining signs, blanks trimmed."""
    plain = unicodedata.normalize("NFKC", caption)
    return "".join(sign for sign in plain if unicodedata.category(sign) not in {"Cf", "Mn", "Me"}).strip()


def is_han(character: str) -> bool:
    """Whether a character is a Chinese one: the unified ideographs with their extensions."""
    return (
        "\u3400" <= character <= "\u4dbf"
        or "\u4e00" <= character <= "\u9fff"
        or "\U00020000" <= character <= "\U0003ffff"
    )


@lru_cache(maxsize=1)
def scripts() -> tuple[frozenset[str], frozenset[str]]:
    """Characters that only Traditional and only Simplified texts use, by the tables of OpenCC.

    A character that stands for itself in the other script, or that both scripts know (著, 乾, 后), is in neither.
    """
    traditional, simplified = (_table(name) for name in ("TSCharacters.txt", "STCharacters.txt"))
    return (
        frozenset(key for key, values in traditional.items() if key not in values and key not in simplified),
        frozenset(key for key, values in simplified.items() if key not in values and key not in traditional),
    )


def _table(name: str) -> dict[str, list[str]]:
    lines = packaged("opencc", f"dictionary/{name}").read_text(encoding="utf-8").splitlines()
    return {key: values.split() for key, _, values in (line.partition("\t") for line in lines)}


@lru_cache(maxsize=1)
def _tagger() -> "POSTokenizer":
    """jieba's part-of-speech tagger on a dictionary of its own, so that nobody's user words change the numbers."""
    import jieba
    from jieba.posseg import POSTokenizer

    jieba.setLogLevel(logging.WARNING)
    return POSTokenizer(jieba.Tokenizer())


def content_word_share(text: str) -> float:
    """Nouns, verbs and adjectives (jieba's n…, v…, a… and the idioms i, l) over all words; 0 where there is no word."""
    kinds = [kind for word, kind in _tagger().cut(text) if any(sign.isalnum() for sign in word)]
    return sum(kind[0] in "nvail" for kind in kinds) / len(kinds) if kinds else 0.0


def measured(caption: str) -> dict[str, Any]:
    """Every column of `Text` for one caption; a share of nothing is 0."""
    text = normalised(caption)
    lower = text.lower()
    han = [character for character in text if is_han(character)]
    only_traditional, only_simplified = scripts()
    traditional = sum(character in only_traditional for character in han)
    simplified = sum(character in only_simplified for character in han)
    length = max(1, len(text))
    kinds = [unicodedata.category(character)[0] for character in text]
    return {
        "length": len(text),
        "han_share": len(han) / length,
        "traditional": traditional > simplified,
        "traditional_share": traditional / max(1, len(han)),
        "digit_share": sum(character.isdecimal() for character in text) / length,
        "punctuation_share": kinds.count("P") / length,
        "content_word_share": content_word_share(text),
        "phone": bool(PHONE.search(lower.translate(NUMERALS))),
        "url": bool(URL.search(lower)),
        "email": bool(EMAIL.search(lower)),
        "contact": bool(CONTACT.search(lower)),
        "filename": bool(FILE_NAME.fullmatch(lower)),
    }


class Text:
    """Length in characters; shares, 0–1, of characters (traditional: of the Han ones; content words: of words); flags.

    All of it after `normalised`. `traditional` says that more characters are Traditional only than Simplified only;
    `contact` that a WeChat or QQ id is given; `filename` that the whole caption is the name of a file.
    """

    name = "text"
    columns = pa.schema(
        {
            "length": pa.int32(),
            "han_share": pa.float32(),
            "traditional": pa.bool_(),
            "traditional_share": pa.float32(),
            "digit_share": pa.float32(),
            "punctuation_share": pa.float32(),
            "content_word_share": pa.float32(),
            "phone": pa.bool_(),
            "url": pa.bool_(),
            "email": pa.bool_(),
            "contact": pa.bool_(),
            "filename": pa.bool_(),
        }
    )
    wants: tuple[str, ...] = ()

    def fingerprint(self) -> str:
        return identity.fingerprint(
            name=self.name,
            version=1,
            unicode=unicodedata.unidata_version,
            jieba=version("jieba"),
            opencc=version("opencc-python-reimplemented"),
        )

    def __call__(self, captions: Sequence[str], wanted: dict[str, Sequence[Any]]) -> Columns:
        rows = [measured(caption) for caption in captions]
        return {column: [row[column] for row in rows] for column in self.columns.names}
