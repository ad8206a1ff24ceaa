"""A corpus of captions that are judged, and of poems, without a picture."""

import pyarrow as pa

from pipelines.corpus import Corpus
from schemas.identity import digest
from schemas.tables import POEMS, SAMPLES, verdicts_table

VERDICTS = verdicts_table("p", "0")
REJECTED = "被拒绝"
"""The caption that is not kept."""


def keep(corpus: Corpus, captions: list[str], poems: dict[str, tuple[str, list[str]]]) -> Corpus:
    """Add a sample a caption, and poems by title: author and lines. Every id is the digest of the caption or title."""
    ids = {text: digest(text.encode()) for text in captions}
    samples = [{"sample_id": one, "image_id": one, "caption": text} for text, one in ids.items()]
    corpus.append(SAMPLES, pa.Table.from_pylist(samples, SAMPLES.schema))
    verdicts = [{"sample_id": one, "kept": text != REJECTED} for text, one in ids.items()]
    corpus.append(VERDICTS, pa.Table.from_pylist(verdicts, VERDICTS.schema))
    rows = [
        {"poem_id": digest(title.encode()), "title": title, "author": author, "lines": lines}
        for title, (author, lines) in poems.items()
    ]
    corpus.append(POEMS, pa.Table.from_pylist(rows, POEMS.schema))
    return corpus
