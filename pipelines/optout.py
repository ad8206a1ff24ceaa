"""What a site says against our use beyond robots.txt: in X-Robots-Tag headers, and in metas, which say the same."""

import re
from collections.abc import Iterable, Iterator

REFUSALS = ("noai", "noimageai", "noindex", "noimageindex", "none")
"""Pictures of such a page are not for us; `none` is noindex and nofollow."""
NOFOLLOW = ("nofollow", "none")
"""Links of such a page are not to be followed."""
VALUED = re.compile(r"\b(?:unavailable_after|max-[a-z-]{1,30})\s*:[^,]*")
"""Directives with a value, which may be `none`; the name before their colon is no agent's."""


def addressed(name: str, user_agent: str) -> bool:
    """Whether an agent's name, or that of a meta, means us: `robots`, `*`, or the product token of our user agent."""
    return _product(name) in ("robots", "*", _product(user_agent))


def refused(directives: Iterable[str], user_agent: str) -> str | None:
    """The first directive that keeps us from using what it stands on; None without any.

    Args:
        directives: values of X-Robots-Tag headers, one an item, or the contents of metas that are addressed to us.
        user_agent: ours, such as `JuZhou/0.1 (+https://…)`.
    """
    return next((one for one in _said(directives, user_agent) if one in REFUSALS), None)


def unfollowed(directives: Iterable[str], user_agent: str) -> bool:
    """Whether the links of what the directives stand on are not to be followed."""
    return any(one in NOFOLLOW for one in _said(directives, user_agent))


def _said(directives: Iterable[str], user_agent: str) -> Iterator[str]:
    """The directives that mean us. An agent's name holds until the next one of the same value."""
    for value in directives:
        ours = True
        for piece in VALUED.sub("", value.lower()).split(","):
            name, colon, rest = piece.partition(":")
            if colon and len(name.split()) == 1 and name.strip() not in (*REFUSALS, *NOFOLLOW):
                ours = addressed(name, user_agent)
                piece = rest
            if ours:
                yield from re.split(r"[\s;:]+", piece)


def _product(user_agent: str) -> str:
    return user_agent.partition("/")[0].strip().lower()
