"""What stands after the last separator of a caption: often a site's name, which only many captions together tell."""

import re

LONGEST = 32
"""Characters; what is longer is no name of a site."""

ENDS = "-–—_|丨•»›>~ "
SEPARATOR = re.compile(r"[-–—_|丨•»›>]|\s[·:~]\s")


def tail(text: str) -> str | None:
    """Of 一只猫的高清图片_千图网 千图网; None where nothing, or more than `LONGEST` characters, stands on a side.

    Args:
        text: after `normalised`. Separators are - – — _ | 丨 • » › > and, between blanks, · : ~; those that end the
            text are passed over.
    """
    text = text.rstrip(ENDS)
    separators = list(SEPARATOR.finditer(text, max(0, len(text) - LONGEST - 3)))
    if not separators or not text[: separators[-1].start()].strip(ENDS):
        return None
    found = text[separators[-1].end() :].strip()
    return found if len(found) <= LONGEST else None


def without(text: str, tail: str) -> str:
    """A text less the tail and the separator before it; as it is, where it does not end so."""
    return text.rstrip(ENDS).removesuffix(tail).rstrip(ENDS + "·:") if text.rstrip(ENDS).endswith(tail) else text
