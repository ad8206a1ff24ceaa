"""The poems of a release: what each shows, and the split in which all poems of its author are."""

from pathlib import Path

from pipelines.corpus import Corpus
from pipelines.poetry.variants import STANDING
from pipelines.releases import paged
from pipelines.releases.selection import AUTHOR, split
from schemas.recipe import Splits

POEMS = """
    SELECT poem_id, {split} AS split, title, author, dynasty, form, array_to_string(lines, chr(10)) AS text,
        array_to_string(keywords, ', ') AS keywords
    FROM ({standing}) AS poems JOIN keywords USING (poem_id)
    WHERE len(keywords) > 0 ORDER BY poem_id
"""


def write(corpus: Corpus, splits: Splits, path: Path) -> None:
    """Write the poems that stand for themselves and show something as Parquet, in the order of their ids."""
    with corpus.connect() as connection:
        paged.write(connection, POEMS.format(split=split(splits, AUTHOR), standing=STANDING), path)
