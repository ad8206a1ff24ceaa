"""Ways to be contacted that stand in a caption: telephone, web address, e-mail, WeChat and QQ."""

import re

from filters.characters import NUMERALS

PLAIN = str.maketrans({sign: digit for signs, digit in NUMERALS.items() for sign in signs})

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
DIGITS_OF_A_PHONE = 10
"""Fewer digits than these make no number that `PHONE` knows."""

TOP_LEVEL = "com|cn|net|org|top|xyz|vip|cc|io|me|tv|info|shop|site|club|co|tw|hk|gov|edu"
URL = re.compile(rf"https?:\s?/|www\s?\.|(?<![@\w.-])[a-z0-9][a-z0-9-]*(?:\.[a-z0-9-]+)*\.(?:{TOP_LEVEL})(?![a-z0-9@])")
EMAIL = re.compile(r"[\w.+-]{1,64}\s?@\s?[a-z0-9-]{1,63}(?:\.[a-z0-9-]{1,63})+", re.ASCII)

MESSENGER = r"(?:微\s?信|薇\s?信|威\s?信|[v微]\s?信|扣\s?扣|企鹅|(?<![a-z])(?:we\s?chat|weixin|vx|wx|qq|q\s?q))"
CONTACT = re.compile(
    rf"{MESSENGER}\s*(?:(?:同?号码?|群|账号|id|[:=]|是|为|加)\s*)+[a-z0-9][a-z0-9_-]{{4,19}}"
    rf"|{MESSENGER}\s*(?=[a-z_-]{{0,19}}\d)[a-z0-9][a-z0-9_-]{{4,19}}"
)
LATIN_OF_A_CONTACT = 4
"""An id has at least so many Latin letters and digits (and one more sign)."""


def phone(text: str, digits: int) -> bool:
    """A mainland mobile, landline, 400 or 800 number, also spaced out or in Chinese numerals.

    Args:
        text: in lower case, as all of this file wants it, after `normalised`.
        digits: how many digits and Chinese numerals it has.
    """
    return digits >= DIGITS_OF_A_PHONE and PHONE.search(text.translate(PLAIN)) is not None


def url(text: str) -> bool:
    """A web address, or the name of a host."""
    return ("." in text or ":" in text) and URL.search(text) is not None


def email(text: str) -> bool:
    """An e-mail address."""
    return "@" in text and EMAIL.search(text) is not None


def contact(text: str, latin: int) -> bool:
    """A WeChat or QQ name followed by an id; `latin`: how many Latin letters and digits the text has."""
    return latin >= LATIN_OF_A_CONTACT and CONTACT.search(text) is not None
