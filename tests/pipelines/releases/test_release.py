"""A release: the same bytes wherever and however the same samples lie, in a layout that other tools open."""

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from filters import registry
from filters.picture import read_header
from filters.text import Text
from pipelines import decide, dedupe, fetch
from pipelines.blob import Blob
from pipelines.caption import simplified, simplified_stage
from pipelines.corpus import Corpus
from pipelines.measure import stages, tables_of
from pipelines.releases import release, selection
from pipelines.stage import run
from schemas.errors import JuZhouError
from schemas.identity import digest
from schemas.policy import Policy
from schemas.recipe import Dedupe, Recipe, Splits
from schemas.release import Manifest
from schemas.tables import CANDIDATES, FETCHES, SAMPLES, measure_table, verdicts_table
from tests.pipelines.releases import synthetic

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


def selected(corpus: Corpus, recipe: Recipe) -> pa.Table:
    with tempfile.TemporaryDirectory() as folder:
        rows = Path(folder) / "rows.parquet"
        selection.write(corpus, recipe, KEEP_CHINESE, rows, Path(folder) / "places.parquet")
        return pq.read_table(rows)


@pytest.mark.usefixtures("ray_cluster")
def test_the_same_samples_give_the_same_bytes(tmp_path: Path, draw: Callable[..., bytes], recipe: Recipe) -> None:
    here, there = filled(tmp_path / "here", draw, 1), filled(tmp_path / "there", draw, 2)
    places = 'SELECT image_id, tar, "offset" FROM images ORDER BY 1'
    assert here.sql(places) != there.sql(places)
    first = release.run(here, recipe, KEEP_CHINESE, shard_bytes=9000)
    second = release.run(there, recipe, KEEP_CHINESE, shard_bytes=9000)
    assert frozen(first) == frozen(second)
    assert len(list(first.glob("train-*.tar"))) > 1
    assert release.run(here, recipe, KEEP_CHINESE) == first, "nothing new, no new release"
    assert sorted(path.name for path in here.releases.iterdir()) == ["r-1"]


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
    rows = selected(corpus, Recipe.model_validate(about))
    held = dict(zip(rows.column("original_caption").to_pylist(), rows.column("caption").to_pylist(), strict=True))
    assert held["第7種花 - 花網"] == "第7种花"
    assert (held["貓 - 黑色"], held["花網"]) == ("猫 - 黑色", "花网")
    assert {held[caption] for caption in captions if "第3種花" in caption} <= {"第3种花", "第3种花 - 花网"}
    kept = Recipe.model_validate(about | {"captions": {"cut_suffixes": False}})
    assert "第7种花 - 花网" in selected(corpus, kept).column("caption").to_pylist()


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> tuple[Corpus, Recipe, Policy]:
    """Three hundred pictures, a tenth of them copies and a tenth look-alikes; 270 are kept."""
    asked = synthetic.recipe(tmp_path_factory.mktemp("many"), splits={"validation": 0.2, "test": 0.1})
    return synthetic.filled(asked, 300), asked, Policy.load(asked.policy)


@pytest.fixture(scope="module")
def v1(many: tuple[Corpus, Recipe, Policy], ray_cluster: None) -> Path:
    return release.run(*many, "v1", shard_bytes=100_000)


def test_a_name_with_the_same_content_is_given_back_and_other_content_wants_another(
    many: tuple[Corpus, Recipe, Policy], v1: Path
) -> None:
    corpus, asked, policy = many
    before = {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in v1.iterdir()}
    assert release.run(corpus, asked, policy, "v1", shard_bytes=100_000) == v1
    assert {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in v1.iterdir()} == before
    assert all(path.stat().st_mode & 0o777 == 0o444 for path in v1.iterdir())
    with pytest.raises(JuZhouError, match="another release v1 already"):
        release.run(corpus, asked.model_copy(update={"splits": Splits()}), policy, "v1")
    with pytest.raises(JuZhouError, match="no name for a release"):
        release.run(corpus, asked, policy, "../v2")
    assert {path.name for path in corpus.releases.iterdir()} == {"v1"}


def test_pictures_captions_and_words_are_those_of_the_corpus(many: tuple[Corpus, Recipe, Policy], v1: Path) -> None:
    corpus, _, _ = many
    held = pq.read_table(v1 / "samples.parquet").to_pylist()
    there = {
        row["sample_id"]: row
        for row in corpus.sql("""
            SELECT sample_id, image_id, shown.caption, text, words, url, images.tar, images."offset", images.length
            FROM shown JOIN images USING (image_id) JOIN captions USING (sample_id) JOIN verdicts USING (sample_id)
            WHERE kept
        """).to_pylist()
    }
    assert [row["sample_id"] for row in held] == sorted(there)
    for row in held:
        wanted = there[row["sample_id"]]
        content = (v1 / row["shard"]).read_bytes()[row["offset"] :][: row["length"]]
        assert content == corpus.read(wanted["tar"], wanted["offset"], wanted["length"])
        assert (row["caption"], row["original_caption"]) == (wanted["text"], wanted["caption"])
        assert (row["words"], row["url"]) == (wanted["words"], wanted["url"])
        assert row["size"]["width"] >= 110 and row["release"] == "v1" and row["shard"].startswith(row["split"])


def test_no_group_of_alike_pictures_crosses_splits(many: tuple[Corpus, Recipe, Policy], v1: Path) -> None:
    corpus, _, _ = many
    groups = """
        SELECT coalesce(alike.leader, representative) AS head, count(*) AS samples, list(DISTINCT split) AS splits
        FROM released JOIN samples USING (sample_id) JOIN duplicates USING (image_id)
        LEFT JOIN semantic AS alike ON alike.image_id = representative WHERE release = 'v1' GROUP BY head
    """
    rows = corpus.sql(groups).to_pylist()
    assert sum(row["samples"] > 1 for row in rows) == 54
    assert all(len(row["splits"]) == 1 for row in rows)
    splits = Manifest.load(v1).splits
    assert set(splits) == {"train", "validation", "test"} and 30 < splits["validation"] < 80 < splits["train"]


def test_the_manifest_says_what_it_was_made_by(many: tuple[Corpus, Recipe, Policy], v1: Path, tmp_path: Path) -> None:
    corpus, asked, policy = many
    manifest = Manifest.load(v1)
    assert manifest.recipe == asked.digest and manifest.policy == policy.digest
    assert manifest.variants["measures/size"] in "".join(corpus.variants)
    assert Policy.load(v1 / "policy.yaml") == policy
    for shard in manifest.shards:
        content = (v1 / shard.name).read_bytes()
        assert (hashlib.sha256(content).hexdigest(), len(content)) == (shard.sha256, shard.bytes)
        with tarfile.open(v1 / shard.name) as tar:
            members = tar.getmembers()
        assert len(members) == 3 * shard.samples
        assert all(member.mtime == member.uid == 0 for member in members)
    assert sum(shard.samples for shard in manifest.shards) == manifest.samples == sum(manifest.splits.values()) == 270
    manifest_file = json.loads((v1 / "manifest.json").read_text())
    (tmp_path / "manifest.json").write_text(json.dumps(manifest_file | {"samples_sha256": "0"}))
    with pytest.raises(JuZhouError, match="digest that is not that of its parts"):
        Manifest.load(tmp_path)


def test_a_policy_with_lists_stands_whole_in_the_release(tmp_path: Path, ray_cluster: None) -> None:
    asked = synthetic.recipe(tmp_path)
    corpus = synthetic.filled(asked, 30)
    (tmp_path / "bad.txt").write_text("# not these\nwww1.example\n")
    listed = yaml.safe_load(synthetic.POLICY) | {"lists": [{"name": "bad-hosts", "deny": "bad.txt"}]}
    asked.policy.write_text(yaml.safe_dump(listed))
    policy = Policy.load(asked.policy)
    decide.adopt(corpus, policy)
    folder = release.run(corpus, asked, policy, "listed")
    assert str(tmp_path) not in (folder / "policy.yaml").read_text()
    assert Policy.load(folder / "policy.yaml").digest == policy.digest == Manifest.load(folder).policy
    assert "| bad-hosts |" in (folder / "README.md").read_text()


def test_a_key_that_is_there_twice_is_one_line_and_no_shifted_scores(tmp_path: Path) -> None:
    asked = synthetic.recipe(tmp_path)
    corpus = synthetic.filled(asked, 30)
    [table] = [path for path in corpus.variants if path.startswith("measures/size@")]
    part = corpus.tables / corpus.parts(table)[0]
    rows = pq.read_table(part)
    pq.write_table(pa.concat_tables([rows, rows.slice(20, 1)]), part)
    with pytest.raises(JuZhouError, match="has a key twice in a table"):
        release.run(corpus, asked, Policy.load(asked.policy), "v1")
    assert not list(corpus.releases.iterdir())


FREEZE = """
import os, sys
from pathlib import Path
from pipelines import cluster
from pipelines.releases import release
from pipelines.corpus import Corpus
from schemas.policy import Policy
from schemas.recipe import Recipe
corpus = Corpus(Path(sys.argv[1]))
recipe = Recipe.model_validate_json(corpus.recipe)
if int(sys.argv[2]):
    cluster.start(int(sys.argv[2]))
print("ready", flush=True)
sys.stdin.readline()
with corpus.writing():
    release.run(corpus, recipe, Policy.load(recipe.policy), "v1", shard_bytes=int(sys.argv[3]))
cluster.stop()
os._exit(0)
"""


def freezing(corpus: Corpus, cpus: int, shard_bytes: int) -> subprocess.Popen[str]:
    """A process that starts a cluster, of 0 cores none, and makes the release v1 once it is told to."""
    command = [sys.executable, "-c", FREEZE, *map(str, (corpus.path, cpus, shard_bytes))]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True)


def go(process: subprocess.Popen[str]) -> None:
    """Wait until it has started, and tell it to begin."""
    assert process.stdin and process.stdout and process.stdout.readline() == "ready\n"
    process.stdin.write("go\n")
    process.stdin.flush()


@pytest.mark.parametrize(
    ("cpus", "shard_bytes", "kills"),
    [pytest.param(0, release.SHARD_BYTES, 10, id="alone"), pytest.param(1, 100_000, 2, id="on-ray")],
)
def test_a_killed_release_is_there_whole_or_not_at_all(
    many: tuple[Corpus, Recipe, Policy], tmp_path: Path, cpus: int, shard_bytes: int, kills: int
) -> None:
    """And then it completes, with the bytes as if nothing had been; on Ray, those that a cluster of two wrote."""
    shutil.copytree(many[0].path, tmp_path / "corpus", ignore=shutil.ignore_patterns("v1"))
    corpus = Corpus(tmp_path / "corpus")
    place = corpus.releases / "v1"
    began = time.monotonic()
    undisturbed = frozen(release.run(corpus, *many[1:], "v1", shard_bytes=shard_bytes))
    longest = time.monotonic() - began
    shutil.rmtree(place)
    dice = random.Random(os.environ.get("JUZHOU_KILL_SEED", "1"))
    halves = 0
    following = freezing(corpus, cpus, shard_bytes)
    for _ in range(kills):
        process, following = following, freezing(corpus, cpus, shard_bytes)  # which starts meanwhile
        go(process)
        while not any(corpus.releases.iterdir()):
            time.sleep(0.001)
        time.sleep(dice.uniform(0, longest))
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        halves += any(corpus.releases.glob(".unfinished-*/*"))
        if place.exists():
            assert frozen(place) == undisturbed
            shutil.rmtree(place)
    go(following)
    assert following.wait() == 0
    assert frozen(place) == undisturbed
    assert [path.name for path in corpus.releases.iterdir()] == ["v1"]
    assert halves, "some kills must come while it is written"
