"""A corpus of many small pictures made of rows alone, judged and captioned: nothing is asked or measured."""

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image

from filters import registry
from pipelines import decide, dedupe
from pipelines.blob import Blob
from pipelines.caption import simplified_stage
from pipelines.corpus import Corpus
from pipelines.measure import tables_of
from pipelines.semantic import COLUMNS
from schemas.identity import digest
from schemas.policy import Policy
from schemas.recipe import Dedupe, Recipe
from schemas.tables import CANDIDATES, FETCHES, ID, IMAGES, SAMPLES, measure_table

MEASURES = {"size": {}, "pdq": {}}
POLICY = "name: p\nrules:\n  - {name: narrow, value: size.width, min: 110, why: too narrow}\n"


def recipe(folder: Path, **more: object) -> Recipe:
    """The recipe of such a corpus; its policy stands beside it."""
    (folder / "policy.yaml").write_text(POLICY)
    about = {"corpus": folder / "corpus", "sources": {"s": {"kind": "urls", "path": str(folder / "none.csv")}}}
    about |= {"measures": MEASURES, "policy": folder / "policy.yaml", "release": "r"}
    return Recipe.model_validate(about | more)


def filled(asked: Recipe, count: int, side: int = 4, captioned: bool = True) -> Corpus:
    """A corpus of so many samples. Of ten pictures one is a copy of the one before, one looks like the one after."""
    corpus = Corpus.create(asked.corpus)
    contents = [picture(number, side) for number in range(count)]
    image_ids = [digest(content) for content in contents]
    captions = [f"第{number}幅畫" if number % 3 else f"第 {number} | 幅画" for number in range(count)]
    sample_ids = [digest(one + text.encode()) for one, text in zip(image_ids, captions, strict=True)]
    with Blob(corpus.blobs) as blob:
        for image_id, content in zip(image_ids, contents, strict=True):
            blob.add(image_id, content)
    url_ids = [digest(str(number).encode()) for number in range(count)]
    urls = [f"http://img.example/{number}.png" for number in range(count)]
    add(
        corpus,
        CANDIDATES,
        candidate_id=url_ids,
        source=["s" if number % 4 else "t" for number in range(count)],
        url_id=url_ids,
        url=urls,
        page_url=[f"http://www{number % 7}.example/{number}" for number in range(count)],
        licence=["CC0" if number % 2 else None for number in range(count)],
        caption=captions,
        caption_from=["alt"] * count,
        words=[{"alt": text, "title": None if number % 5 else "标题"} for number, text in enumerate(captions)],
    )
    where = pa.Table.from_pylist([blob.location(one) for one in image_ids])
    about = {name: where.column(name) for name in where.column_names}
    had = {"status": ["ok"] * count, "attempt": [1] * count, "asked": [True] * count}
    add(corpus, FETCHES, url_id=url_ids, url=urls, image_id=image_ids, **had, **about)
    add(
        corpus, IMAGES, image_id=image_ids, format=["png"] * count, width=[side] * count, height=[side] * count, **about
    )
    add(corpus, SAMPLES, sample_id=sample_ids, image_id=image_ids, caption=captions, candidate_id=url_ids)
    tables = tables_of(registry.build(asked.measures))
    widths = [100 + number % 100 for number in range(count)]
    add(corpus, tables["size"], image_id=image_ids, width=widths, height=widths, pixels=[1.0] * count)
    heads = [image_ids[number - (number % 10 == 1)] for number in range(count)]
    duplicates = dedupe.table_of(Dedupe(), tables)
    add(corpus, duplicates, image_id=image_ids, representative=heads, distance=[0.0] * count, method=["pdq"] * count)
    semantic = measure_table("semantic", "0" * 12, "image_id", COLUMNS)
    leaders = [heads[min(count - 1, number + (number % 10 == 4))] for number in range(count)]
    leads = [one == head for one, head in zip(image_ids, leaders, strict=True)]
    add(corpus, semantic, image_id=image_ids, cluster=[0] * count, leader=leaders, leads=leads)
    [texts] = simplified_stage().outputs
    if captioned:
        add(corpus, texts, sample_id=sample_ids, rank=[1] * count, text=[text.replace("畫", "画") for text in captions])
    current = [*tables.values(), duplicates, semantic, texts]
    corpus.adopt(asked.model_dump_json(), current)
    decide.adopt(corpus, Policy.load(asked.policy))
    return corpus


def picture(number: int, side: int) -> bytes:
    """A small PNG of noise, another for each number."""
    noise = np.random.default_rng(number).integers(0, 256, (side, side, 3), np.uint8)
    sink = io.BytesIO()
    Image.fromarray(noise).save(sink, "png", compress_level=0)
    return sink.getvalue()


def add(corpus: Corpus, table, **columns) -> None:
    """Rows of a table; columns that are left out are empty."""
    [count] = {len(column) for column in columns.values()}
    whole = {
        field.name: columns[field.name]
        if isinstance(columns.get(field.name), pa.ChunkedArray)
        else pa.array(columns.get(field.name) or [None] * count, field.type if field.type != ID else pa.binary(16))
        for field in table.schema
    }
    corpus.append(table, pa.table(whole))
