"""What a row is: an Arrow schema and a key for each table of a corpus."""

from dataclasses import dataclass
from enum import StrEnum

import pyarrow as pa

from schemas.identity import DIGEST_BYTES

ID = pa.binary(DIGEST_BYTES)
TIME = pa.timestamp("us", tz="UTC")

SCHEMA_VERSION = 5


class Status(StrEnum):
    """What became of an attempt to get a page or a picture.

    `transient` may go better later and is asked again, with back-off; `permanent` cannot; `disallowed` is what we may
    not have: robots.txt, an opt-out, or an address outside the networks of the recipe.
    """

    OK = "ok"
    TRANSIENT = "transient"
    PERMANENT = "permanent"
    DISALLOWED = "disallowed"

    @classmethod
    def of_http(cls, code: int) -> "Status":
        """What an HTTP code says of asking again: later for 408, 425, 429 and 5xx, never for the other errors."""
        if code < 400:
            return cls.OK
        return cls.TRANSIENT if code in (408, 425, 429) or code >= 500 else cls.PERMANENT


@dataclass(frozen=True)
class Table:
    """A table, or one variant of it (a measure with its fingerprint, the verdicts of a policy).

    `path` is its folder below `tables/`; `key` names the columns that no two rows share.
    """

    path: str
    key: tuple[str, ...]
    schema: pa.Schema


def _schema(**columns: pa.DataType) -> pa.Schema:
    return pa.schema(list(columns.items()))


WORDS = pa.struct([(name, pa.string()) for name in ("alt", "title", "figcaption", "heading", "context")])
"""All that a page says of a picture: its attributes, its figure's caption, the heading above it, the text around it."""

_FOUND = {
    "url": pa.string(),
    "caption": pa.string(),
    "caption_from": pa.string(),
    "words": WORDS,
    "page_url": pa.string(),
    "licence": pa.string(),
}
_LOCATION = {"tar": pa.string(), "offset": pa.int64(), "length": pa.int64()}
_HEADER = {"format": pa.string(), "width": pa.int32(), "height": pa.int32(), "orientation": pa.int32()}
OUTCOME = {"status": pa.string(), "error": pa.string(), "image_id": ID, **_LOCATION, **_HEADER}
"""What became of the bytes of a picture: where they lie and what their header says, or why there are none."""

FOUND = pa.struct(list(_FOUND.items()))
"""A picture that a page shows."""

ITEM = pa.struct(list((_FOUND | OUTCOME).items()))
"""A picture that a file holds: it is found and had in one."""

PAGES = Table(
    "pages",
    ("page_id", "attempt"),
    _schema(
        page_id=ID,
        attempt=pa.int32(),
        source=pa.string(),
        url=pa.string(),
        depth=pa.int32(),
        status=pa.string(),
        http_code=pa.int32(),
        error=pa.string(),
        asked=pa.bool_(),
        fetched_at=TIME,
        retry_at=TIME,
        links=pa.list_(pa.string()),
        pictures=pa.list_(FOUND),
    ),
)

CANDIDATES = Table(
    "candidates",
    ("candidate_id",),
    _schema(
        candidate_id=ID,
        source=pa.string(),
        url_id=ID,
        url=pa.string(),
        caption=pa.string(),
        caption_from=pa.string(),
        words=WORDS,
        page_url=pa.string(),
        licence=pa.string(),
        found_at=TIME,
        recipe=pa.string(),
    ),
)

FETCHES = Table(
    "fetches",
    ("url_id", "attempt"),
    _schema(
        url_id=ID,
        attempt=pa.int32(),
        url=pa.string(),
        final_url=pa.string(),
        http_code=pa.int32(),
        asked=pa.bool_(),
        fetched_at=TIME,
        retry_at=TIME,
        **OUTCOME,
    ),
)
"""`final_url` is where redirects led; `asked` whether a request was made; `retry_at` when a transient failure may be
asked again."""

FILES = Table(
    "files",
    ("file_id",),
    _schema(
        file_id=ID,
        source=pa.string(),
        path=pa.string(),
        size=pa.int64(),
        modified=TIME,
        read_at=TIME,
        status=pa.string(),
        error=pa.string(),
        count=pa.int64(),
        pictures=pa.list_(ITEM),
    ),
)
"""A file of a source that was read: an archive of pages, whose `count` pages are rows of `pages`, or pictures."""

SYNTHESES = Table(
    "syntheses",
    ("synthesis_id",),
    _schema(
        synthesis_id=ID,
        source=pa.string(),
        prompt=pa.string(),
        negative_prompt=pa.string(),
        seed=pa.int64(),
        model=pa.string(),
        steps=pa.int32(),
        guidance=pa.float32(),
        drawn_at=TIME,
        **OUTCOME,
    ),
)
"""A picture that a teacher drew from a prompt; `model` is the digest of the teacher's files."""

IMAGES = Table("images", ("image_id",), _schema(image_id=ID, **_LOCATION, **_HEADER))

SAMPLES = Table("samples", ("sample_id",), _schema(sample_id=ID, image_id=ID, caption=pa.string(), candidate_id=ID))

POEMS = Table(
    "poems",
    ("poem_id",),
    _schema(
        poem_id=ID,
        title=pa.string(),
        author=pa.string(),
        dynasty=pa.string(),
        form=pa.string(),
        tags=pa.list_(pa.string()),
        lines=pa.list_(pa.string()),
        original_title=pa.string(),
        original_author=pa.string(),
        original_lines=pa.list_(pa.string()),
        source=pa.string(),
        reason=pa.string(),
    ),
)
"""An entry of a collection of poems. `title`, `author` and `lines` are in Simplified script; `reason` says why an entry
is not a poem that can be used, null where it is one."""

REVIEWS = Table(
    "reviews",
    ("sample_id", "reviewed_at", "reviewer"),
    _schema(
        sample_id=ID,
        reviewed_at=TIME,
        reviewer=pa.string(),
        opinion=pa.string(),
        note=pa.string(),
        policy=pa.string(),
        drawn_by=pa.string(),
    ),
)
"""What a person said of a sample: `keep` and `drop` win over a policy's rules, `unsure` and null (a note alone) do not.

The last opinion of anyone counts. `policy` is the digest of the policy under which it was looked at; `drawn_by` names
the draw that showed it, as `rule:misaligned` or `kept`, null where the reviewer came upon it."""

FORGOTTEN = Table(
    "forgotten",
    ("forgotten_id",),
    _schema(
        forgotten_id=ID,
        kind=pa.string(),
        value=pa.string(),
        image_id=ID,
        reason=pa.string(),
        forgotten_at=TIME,
    ),
)
"""A tombstone of what was taken down: a `url`, a `domain` with its subdomains, or an `image` by its bytes.

It is all that is left of it, and what keeps it from being had again."""

DUPLICATES = _schema(image_id=ID, representative=ID, distance=pa.float32(), method=pa.string())
CAPTIONS = _schema(
    sample_id=ID,
    rank=pa.int32(),
    text=pa.string(),
    score=pa.float32(),
    poem_id=ID,
    title=pa.string(),
    author=pa.string(),
)
POEM_VARIANTS = _schema(poem_id=ID, representative=ID, similarity=pa.float32())
PAIRS = _schema(poem_id=ID, rank=pa.int32(), style=pa.string(), prompt=pa.string(), negative_prompt=pa.string())
KEYWORDS = _schema(poem_id=ID, keywords=pa.list_(pa.string()))


def _answers(key: str) -> pa.Schema:
    """What became of an attempt to have a language model's answer to a text."""
    return _schema(
        **{key: ID},
        attempt=pa.int32(),
        status=pa.string(),
        error=pa.string(),
        answered_at=TIME,
        retry_at=TIME,
        text=pa.string(),
        model=pa.string(),
    )


TRANSLATIONS = _answers("synthesis_id")
READINGS = _answers("poem_id")
VERDICTS = _schema(
    sample_id=ID,
    kept=pa.bool_(),
    by=pa.string(),
    rule=pa.string(),
    value=pa.float64(),
    threshold=pa.float64(),
    failed=pa.list_(pa.string()),
)

ENTITIES = (PAGES, FILES, SYNTHESES, CANDIDATES, FETCHES, IMAGES, SAMPLES, POEMS, REVIEWS, FORGOTTEN)
"""The tables without variants."""


def measure_table(name: str, fingerprint: str, key: str, columns: pa.Schema) -> Table:
    """What one measure saw; `error` says why where it could not."""
    schema = pa.schema([pa.field(key, ID), *columns, pa.field("error", pa.string())])
    return Table(f"measures/{name}@{fingerprint}", (key,), schema)


def duplicates_table(method: str, fingerprint: str) -> Table:
    """For each image the one that stands for it; the distance, missing without a usable hash; and how the two were
    found to be alike, missing where it stands for itself."""
    return Table(f"duplicates/{method}@{fingerprint}", ("image_id",), DUPLICATES)


def captions_table(kind: str, fingerprint: str) -> Table:
    """Texts made for a sample, best first. A sample for which none was found has one row without text."""
    return Table(f"captions/{kind}@{fingerprint}", ("sample_id", "rank"), CAPTIONS)


def poem_variants_table(method: str, fingerprint: str) -> Table:
    """For each poem that can be used the one that stands for it, and how alike the two are, 1 for itself."""
    return Table(f"poem_variants/{method}@{fingerprint}", ("poem_id",), POEM_VARIANTS)


def keywords_table(by: str, fingerprint: str) -> Table:
    """What each poem that stands for itself shows, in the order in which it is seen; null where that is not known."""
    return Table(f"keywords/{by}@{fingerprint}", ("poem_id",), KEYWORDS)


def keyword_vectors_table(space: str, fingerprint: str) -> Table:
    """What an embedding reads in each keyword; null where it cannot."""
    schema = _schema(keyword=pa.string(), vector=pa.list_(pa.float32()))
    return Table(f"keyword_vectors/{space}@{fingerprint}", ("keyword",), schema)


def pairs_table(fingerprint: str) -> Table:
    """What a teacher is asked to draw of each poem, in which style; a poem of which nothing is has one row without."""
    return Table(f"pairs/styles@{fingerprint}", ("poem_id", "rank"), PAIRS)


def translations_table(source: str, fingerprint: str) -> Table:
    """Chinese for the prompts of a source's pictures, by one translator; transient failures are asked again."""
    return Table(f"translations/{source}@{fingerprint}", ("synthesis_id", "attempt"), TRANSLATIONS)


def readings_table(fingerprint: str) -> Table:
    """What a language model said a poem shows; transient failures are asked again."""
    return Table(f"readings/keywords@{fingerprint}", ("poem_id", "attempt"), READINGS)


def verdicts_table(policy: str, fingerprint: str) -> Table:
    """Kept or not, by `rules`, a `list` or a `review`; the first failed rule with its value and threshold, where it was
    not kept; all failed rules, in the policy's order."""
    return Table(f"verdicts/{policy}@{fingerprint}", ("sample_id",), VERDICTS)
