"""What a release selects: a row for each sample that the verdicts keep, with all that is known of it, and its split."""

import contextlib
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from filters.suffix import without
from pipelines.caption import simplified
from pipelines.corpus import Corpus
from pipelines.poetry.variants import ANONYMOUS
from pipelines.releases import paged
from pipelines.wide import PAGE_HOST
from schemas.errors import JuZhouError
from schemas.policy import Policy
from schemas.recipe import Recipe, Splits

WHERE = ["tar", "tar_offset", "length"]
"""Columns that say where a picture's bytes lie in the corpus, which is nobody else's business."""

SELECTION = """
    SELECT corpus.sample_id, corpus.image_id, {split} AS split,
        coalesce(simplified.text, corpus.caption) AS caption, corpus.caption AS original_caption, corpus.caption_from,
        coalesce(poem_lines, []) AS poem_lines, coalesce(poems, []) AS poems, drawn.keywords,
        coalesce(drawn.poem, whole) AS poem, found.words,
        corpus.source, corpus.url, corpus.page_url, corpus.licence, corpus.format, corpus.orientation, corpus.repeats,
        {tail} AS tail, corpus.tar, corpus."offset" AS tar_offset, corpus.length
    FROM corpus
    LEFT JOIN (SELECT sample_id, words FROM shown) AS found USING (sample_id)
    LEFT JOIN (SELECT sample_id, text FROM captions WHERE kind = 'simplified') AS simplified USING (sample_id)
    LEFT JOIN (
        SELECT sample_id, list(text ORDER BY rank) AS poem_lines, min_by(whole, rank) AS whole,
            list({{'line': text, 'title': title, 'author': author, 'score': score}} ORDER BY rank) AS poems
        FROM ({lines}) GROUP BY sample_id
    ) AS lines USING (sample_id)
    LEFT JOIN (
        SELECT sample_id, max(text) FILTER (kind = 'keywords') AS keywords, max(text) FILTER (kind = 'poem') AS poem
        FROM captions WHERE kind IN ('keywords', 'poem') GROUP BY sample_id
    ) AS drawn USING (sample_id)
    {joins}
    WHERE corpus.verdict.kept ORDER BY corpus.sample_id
"""
"""A row for each kept sample, in the order of the ids, with the place of its bytes."""

LINES = """
    SELECT found.*, array_to_string(lines, chr(10)) AS whole
    FROM (
        SELECT *, row_number() OVER (PARTITION BY sample_id ORDER BY rank) AS place
        FROM (
            SELECT captions.*, row_number() OVER (PARTITION BY text ORDER BY score DESC, sample_id) AS time
            FROM captions JOIN verdicts USING (sample_id) JOIN poems USING (poem_id)
            WHERE kept AND kind = 'line' AND text IS NOT NULL AND score >= {least} AND {learnt}
        ) WHERE time <= {times}
    ) AS found JOIN poems USING (poem_id) WHERE place <= {most}
"""
"""The lines of poems that a policy takes: of each line its best pictures, of each picture its best lines; none of an
author whose poems are held out."""

SCORES = "SELECT corpus.sample_id, corpus.{measure} FROM corpus WHERE corpus.verdict.kept ORDER BY corpus.sample_id"
"""The same rows, with what one measure says of them."""

SUFFIXED = f"""
    SELECT sample_id, suffixes.tail FROM shown JOIN text USING (sample_id)
    JOIN suffixes ON suffixes.tail = text.tail AND suffixes.host = {PAGE_HOST.format("shown")}
"""

SPLIT = """
    CASE WHEN {unit} < {validation} THEN 'validation' WHEN {unit} < {validation} + {test} THEN 'test' ELSE 'train' END
"""
AUTHOR = f"CASE WHEN poems.author IN {ANONYMOUS} THEN hex(poem_id) ELSE poems.author END"
"""Whose a poem is; each one whose author nobody knows is its own."""
DRAWN = f"""
    SELECT sample_id, min({AUTHOR}) AS author FROM captions JOIN poems USING (poem_id)
    WHERE kind = 'poem' GROUP BY sample_id
"""
"""Pictures that were drawn of a poem go where its author's poems go."""
UNIT = "(('0x' || left(sha256({head}), 8))::UBIGINT / 4294967296.0)"
"""A number from 0 to 1 that a picture's group draws, the same in every release."""


def write(corpus: Corpus, recipe: Recipe, policy: Policy, rows: Path, places: Path) -> None:
    """Write what is kept as Parquet, in the order of the ids; and beside it, row by row, where the bytes lie.

    Each measure is asked for by itself, and its column laid beside the others: twenty tables joined and sorted as one
    would spill some kilobytes a sample.

    Raises:
        JuZhouError: a measure has two rows for a sample.
    """
    with contextlib.ExitStack() as files:
        folder = Path(files.enter_context(tempfile.TemporaryDirectory(dir=rows.parent, prefix=".columns-")))
        columns = []
        for number, query in enumerate(_queries(corpus, recipe, policy)):
            with corpus.connect(query) as connection:
                paged.write(connection, query, folder / f"{number}.parquet")
            columns.append(files.enter_context(pq.ParquetFile(folder / f"{number}.parquet")))
        samples = located = None
        for group in range(columns[0].num_row_groups):
            found, *scores = (file.read_row_group(group) for file in columns)
            where = found.select(["sample_id", *WHERE])
            found = _without_suffixes(found).drop_columns(["tail", *WHERE])
            for score in scores:
                if not score.column("sample_id").equals(found.column("sample_id")):
                    raise JuZhouError(f"{corpus.path} has a key twice in a table; its parts were changed by hand")
                found = found.append_column(score.schema.field(1), score.column(1))
            samples = samples or files.enter_context(pq.ParquetWriter(rows, found.schema, compression="zstd"))
            located = located or files.enter_context(pq.ParquetWriter(places, where.schema, compression="zstd"))
            samples.write_table(found)
            located.write_table(where)


def _queries(corpus: Corpus, recipe: Recipe, policy: Policy) -> list[str]:
    """The query for the samples, and one for each measure that has numbers or texts."""
    columns = set(corpus.sql("DESCRIBE corpus").column("column_name").to_pylist())
    current = {path.removeprefix("measures/").partition("@")[0] for path in corpus.variants if "measures/" in path}
    measures = sorted(current & columns)
    joins, head, tail = "", "coalesce(corpus.representative, corpus.image_id)", "NULL::VARCHAR"
    if "semantic" in measures:
        joins += f" LEFT JOIN semantic AS alike ON alike.image_id = {head}"
        head = f"coalesce(alike.leader, {head})"
    if recipe.poetry:
        joins += f" LEFT JOIN ({DRAWN}) AS of_poem USING (sample_id)"
        head = f"coalesce(encode(min(of_poem.author) OVER (PARTITION BY {head})), {head})"
    if recipe.captions.cut_suffixes and "text" in recipe.measures:
        joins += f" LEFT JOIN ({SUFFIXED}) AS tails USING (sample_id)"
        tail = "tails.tail"
    learnt = f"{split(recipe.splits, AUTHOR)} = 'train'"
    lines = LINES.format(**policy.poem_lines.model_dump(), learnt=learnt)
    samples = SELECTION.format(split=split(recipe.splits, head), tail=tail, joins=joins, lines=lines)
    return [samples, *(SCORES.format(measure=measure) for measure in measures)]


def split(splits: Splits, head: str) -> str:
    """The split of what has a head, both as SQL: all of one head go to one."""
    return SPLIT.format(unit=UNIT.format(head=head), validation=splits.validation, test=splits.test)


def _without_suffixes(rows: pa.Table) -> pa.Table:
    """The rows, their captions less what the sites end them with; one that would be left without words stays whole."""
    tails, captions = rows.column("tail").to_pylist(), rows.column("caption").to_pylist()
    cut = [
        (without(caption, simplified(tail)) or caption) if tail and caption else caption
        for tail, caption in zip(tails, captions, strict=True)
    ]
    return rows.set_column(rows.column_names.index("caption"), "caption", pa.array(cut, pa.string()))
