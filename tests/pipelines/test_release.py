"""A release: the same bytes wherever and however the same samples lie, in a layout that other tools open."""

import json
import random
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import webdataset

from filters import registry
from filters.picture import read_header
from filters.text import Text
from pipelines import decide, dedupe, fetch, release
from pipelines.blob import Blob
from pipelines.caption import simplified, simplified_stage
from pipelines.corpus import Corpus
from pipelines.measure import stages, tables_of
from pipelines.stage import run
from schemas.errors import JuZhouError
from schemas.identity import digest
from schemas.policy import Policy
from schemas.recipe import Dedupe, Recipe
from schemas.release import Manifest
from schemas.tables import CANDIDATES, FETCHES, SAMPLES, measure_table, verdicts_table

CAPTIONS = ["红苹果", "藍色的花", "一只猫", "Hello", "  月亮 \n 与海 ", "雨"]
KEEP_CHINESE = Policy.model_validate(
    {"name": "p", "rules": [{"name": "latin", "value": "regexp_matches(caption, '[a-z]')", "max": 0}]}
)


def silent(name: str, done: int, total: int) -> None:
    pass


def filled(path: Path, draw: Callable[..., bytes], order: int) -> Corpus:
    """A corpus of six drawn pictures; the order in which they came differs, and with it where their bytes lie."""
    corpus = Corpus.create(path)
    numbers = list(range(len(CAPTIONS)))
    random.Random(order).shuffle(numbers)
    parts = [numbers] if order % 2 else [numbers[:2], numbers[2:]]
    for part in parts:
        contents = {digest(content): content for content in (draw(number, "png") for number in part)}
        with Blob(corpus.blobs) as blob:
            for image_id, content in contents.items():
                blob.add(image_id, content)
        fetches, candidates = [], []
        for number, image_id in zip(part, contents, strict=True):
            url_id = digest(str(number).encode())
            had = {"url_id": url_id, "attempt": 1, "status": "ok", "image_id": image_id}
            fetches.append(had | blob.location(image_id) | vars(read_header(contents[image_id])))
            about = {"source": "s", "url_id": url_id, "url": f"http://a.example/{number}", "licence": "CC0"}
            candidates.append({"candidate_id": url_id, "caption": CAPTIONS[number]} | about)
        corpus.append(FETCHES, pa.Table.from_pylist(fetches, FETCHES.schema))
        corpus.append(CANDIDATES, pa.Table.from_pylist(candidates, CANDIDATES.schema))
    fetch.images_of_fetches(corpus)
    fetch.samples_of_images(corpus)
    measures = registry.build({"size": {}, "pdq": {}})
    tables = tables_of(measures)
    duplicates = dedupe.table_of(Dedupe(), tables)
    texts = simplified_stage()
    corpus.adopt("{}", [*tables.values(), duplicates, *texts.outputs])
    for stage in stages(corpus, measures):
        run(corpus, stage, silent)
    dedupe.run(corpus, Dedupe(), duplicates, [*tables], silent)
    verdicts = decide.table_of(corpus, KEEP_CHINESE)
    decide.run(corpus, KEEP_CHINESE, verdicts)
    corpus.adopt("{}", [*tables.values(), duplicates, *texts.outputs, verdicts])
    run(corpus, texts, silent)
    return corpus


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    return Recipe(corpus=tmp_path, sources={}, measures={"size": {}, "pdq": {}}, policy=tmp_path, release="r")


def frozen(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.usefixtures("ray_cluster")
def test_the_same_samples_give_the_same_bytes(tmp_path: Path, draw: Callable[..., bytes], recipe: Recipe) -> None:
    here, there = filled(tmp_path / "here", draw, 1), filled(tmp_path / "there", draw, 2)
    places = 'SELECT image_id, tar, "offset" FROM images ORDER BY 1'
    assert here.sql(places) != there.sql(places)
    first = release.run(here, recipe, KEEP_CHINESE, shard_bytes=3000)
    second = release.run(there, recipe, KEEP_CHINESE, shard_bytes=3000)
    assert frozen(first) == frozen(second)
    assert len(list(first.glob("train-*.tar"))) > 1
    assert release.run(here, recipe, KEEP_CHINESE) == first, "nothing new, no new release"
    assert sorted(path.name for path in here.releases.iterdir()) == ["r-1"]


@pytest.mark.usefixtures("ray_cluster")
def test_other_tools_open_it(tmp_path: Path, draw: Callable[..., bytes], recipe: Recipe) -> None:
    folder = release.run(filled(tmp_path / "c", draw, 1), recipe, KEEP_CHINESE)
    manifest = Manifest.load(folder)
    rows = {row["sample_id"].hex(): row for row in pq.read_table(folder / "samples.parquet").to_pylist()}
    assert {row["caption"] for row in rows.values()} == {"红苹果", "蓝色的花", "一只猫", "月亮 与海", "雨"}
    assert manifest.samples == manifest.images == len(rows) == 5
    opened = list(webdataset.WebDataset([str(path) for path in sorted(folder.glob("*.tar"))], shardshuffle=False))
    assert [sample["__key__"] for sample in opened] == sorted(rows)
    for sample in opened:
        row = rows[sample["__key__"]]
        assert digest(sample["png"]) == row["image_id"]
        assert sample["txt"].decode() == row["caption"]
        assert json.loads(sample["json"])["original_caption"] == row["original_caption"]
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert card.startswith("---\nlanguage: [zh]\n") and "| CC0 | 5 |" in card


def test_a_folder_that_is_no_release(tmp_path: Path) -> None:
    with pytest.raises(JuZhouError, match="is not a release"):
        Manifest.load(tmp_path)


def test_what_a_site_ends_its_captions_with_is_left_out(tmp_path: Path) -> None:
    corpus = Corpus.create(tmp_path / "corpus")
    words = measure_table("text", "0" * 12, "sample_id", Text.columns)
    texts = simplified_stage().outputs[0]
    verdicts = verdicts_table("p", "0" * 12)
    corpus.adopt("{}", [words, texts, verdicts])
    captions = [f"第{number}種花 - 花網" for number in range(30)]
    captions += ["貓 - 黑色", "花網", "第3種花 - 花網"]
    ids = [digest(str(number).encode()) for number in range(len(captions))]
    hosts = ["flowers.example"] * 32 + ["other.example"]
    found = [
        {"candidate_id": one, "url_id": one, "source": "s", "url": f"http://{host}/{number}.jpg", "caption": caption}
        for number, (one, host, caption) in enumerate(zip(ids, hosts, captions, strict=True))
    ]
    corpus.append(CANDIDATES, pa.Table.from_pylist(found, CANDIDATES.schema))
    samples = [{"sample_id": row["candidate_id"], "image_id": row["candidate_id"]} | row for row in found]
    corpus.append(SAMPLES, pa.Table.from_pylist(samples, SAMPLES.schema))
    measured = pa.table({"sample_id": ids} | dict(Text()(captions, {})) | {"error": pa.nulls(len(ids), pa.string())})
    corpus.append(words, measured)
    simple = [{"sample_id": one, "rank": 1, "text": simplified(text)} for one, text in zip(ids, captions, strict=True)]
    corpus.append(texts, pa.Table.from_pylist(simple, texts.schema))
    corpus.append(verdicts, pa.Table.from_pylist([{"sample_id": one, "kept": True} for one in ids], verdicts.schema))
    [suffix] = corpus.sql("FROM suffixes").to_pylist()
    assert suffix == {"host": "flowers.example", "tail": "花網", "pictures": 30, "share": 30 / 31}
    about = {"corpus": ".", "sources": {}, "measures": ["text"], "policy": ".", "release": "r"}
    rows = release.selection(corpus, Recipe.model_validate(about))
    held = dict(zip(rows.column("original_caption").to_pylist(), rows.column("caption").to_pylist(), strict=True))
    assert held["第7種花 - 花網"] == "第7种花"
    assert (held["貓 - 黑色"], held["花網"]) == ("猫 - 黑色", "花网")
    assert {held[caption] for caption in captions if "第3種花" in caption} <= {"第3种花", "第3种花 - 花网"}
    kept = Recipe.model_validate(about | {"captions": {"cut_suffixes": False}})
    assert "第7种花 - 花网" in release.selection(corpus, kept).column("caption").to_pylist()
