"""How things are named: by what they are, never by a position or a counter."""

import hashlib
import json
from typing import Any

DIGEST_BYTES = 16


def digest(content: bytes) -> bytes:
    """The first 16 bytes of the SHA-256 of some bytes: of a picture's original bytes this is its image_id."""
    return hashlib.sha256(content).digest()[:DIGEST_BYTES]


def sql_digest(expression: str) -> str:
    """The same as SQL, for a text (as UTF-8) or a blob."""
    return f"unhex(left(sha256({expression}), {2 * DIGEST_BYTES}))"


HOST = r"regexp_extract(lower(url), '^[a-z]+://(?:[^/?#@]*@)?(\[[^\]/]*\]|[^/?#:]*)', 1)"
"""The host that a URL names, as SQL; empty where it names none."""
URL_ID = sql_digest("url")
PAGE_ID = sql_digest("source || chr(10) || url")
CANDIDATE_ID = sql_digest("source || chr(10) || url || chr(10) || caption")
SAMPLE_ID = sql_digest("image_id || encode(caption)")
"""An image with a caption as found: the image_id's 16 bytes, then the caption's."""


def fingerprint(**facts: Any) -> str:
    """Twelve hex digits of all that changes a stage's output: versions, weights' digests, preprocessing, scale.

    The facts must be plain data (what JSON can hold); their order does not matter.
    """
    canonical = json.dumps(facts, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:12]
