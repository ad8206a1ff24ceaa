"""A release that adds to another: only what is new is written, and what is gone is named."""

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from pipelines import decide, forget
from pipelines.corpus import Corpus
from pipelines.releases import release
from pipelines.releases.difference import between
from schemas.errors import JuZhouError
from schemas.identity import digest
from schemas.policy import Policy
from schemas.recipe import Recipe, Splits
from schemas.release import Manifest, folders
from schemas.tables import SAMPLES
from tests.pipelines.releases import synthetic
from training.release import Release, decode

Chain = tuple[Corpus, dict[str, Recipe]]


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory, ray_cluster: None) -> Corpus:
    """v1 of a strict policy; v2 adds to it by a loose one with a rule more; v3 adds to v2 with other captions."""
    asked = synthetic.recipe(tmp_path_factory.mktemp("chain"), splits={"validation": 0.1})
    corpus = synthetic.filled(asked, 200)
    freeze(corpus, asked, {"narrow": ("size.width", {"min": 120})}, "v1")
    rules = {"narrow": ("size.width", {"min": 110}), "wide": ("size.width", {"max": 190})}
    freeze(corpus, asked, rules, "v2", "v1")
    [texts] = [path for path in corpus.variants if path.startswith("captions/")]
    [part] = corpus.parts(texts)
    rows = pq.read_table(corpus.tables / part)
    said = [text.replace("第1", "第一") for text in rows.column("text").to_pylist()]
    pq.write_table(rows.set_column(2, "text", pa.array(said)), corpus.tables / part)
    freeze(corpus, asked, rules, "v3", "v2")
    return corpus


def freeze(corpus: Corpus, asked: Recipe, rules: dict[str, Any], name: str, base: str | None = None) -> Path:
    """A release by a policy of such rules."""
    listed = [{"name": rule, "value": value, **bound} for rule, (value, bound) in rules.items()]
    asked.policy.write_text(yaml.safe_dump({"name": "p", "rules": listed}))
    policy = Policy.load(asked.policy)
    decide.adopt(corpus, policy)
    return release.run(corpus, asked, policy, name, base, shard_bytes=50_000)


def rows(corpus: Corpus, name: str) -> dict[bytes, dict[str, Any]]:
    found = pq.read_table(corpus.releases / name / "samples.parquet").to_pylist()
    return {row["sample_id"]: row for row in found}


def in_tars(folder: Path) -> int:
    return sum(shard.samples for shard in Manifest.load(folder).shards)


def test_only_what_is_new_is_written_and_all_rows_are_there(chain: Corpus) -> None:
    one, two = rows(chain, "v1"), rows(chain, "v2")
    assert (len(one), len(two)) == (160, 162)
    assert in_tars(chain.releases / "v2") == 20 == sum(row["release"] == "v2" for row in two.values())
    for sample_id in one.keys() & two.keys():
        assert [two[sample_id][name] for name in ("release", "shard", "offset", "length")] == [
            one[sample_id][name] for name in ("release", "shard", "offset", "length")
        ]
    for row in two.values():
        content = (chain.releases / row["release"] / row["shard"]).read_bytes()[row["offset"] :][: row["length"]]
        assert digest(content) == row["image_id"]


def test_what_is_gone_is_named_with_the_rule(chain: Corpus) -> None:
    gone = pq.read_table(chain.releases / "v2" / "gone.parquet").to_pylist()
    assert {row["sample_id"] for row in gone} == rows(chain, "v1").keys() - rows(chain, "v2").keys()
    assert {row["rule"] for row in gone} == {"wide"} and len(gone) == 18 == Manifest.load(chain.releases / "v2").gone


def test_a_changed_caption_is_written_anew_and_a_base_may_have_a_base(chain: Corpus) -> None:
    two, three = rows(chain, "v2"), rows(chain, "v3")
    changed = {name for name, row in three.items() if row["caption"] != two[name]["caption"]}
    assert changed and changed == {name for name, row in three.items() if row["release"] == "v3"}
    assert {row["release"] for row in three.values()} == {"v1", "v2", "v3"}
    assert not pq.read_table(chain.releases / "v3" / "gone.parquet").num_rows
    assert list(folders(chain.releases / "v3")) == ["v3", "v2", "v1"]


def test_our_loader_opens_it_as_a_whole(chain: Corpus) -> None:
    three = rows(chain, "v3")
    opened = Release(chain.releases / "v3")
    assert len(opened.samples) == sum(row["split"] == "train" for row in three.values())
    places = chain.sql('SELECT image_id, tar, "offset", length FROM images').to_pylist()
    there = {row["image_id"]: chain.read(row["tar"], row["offset"], row["length"]) for row in places}
    by_text = {row["caption"]: there[row["image_id"]] for row in three.values()}
    for (image, *_), caption in zip(opened.samples, opened.captions(opened.samples), strict=True):
        assert (opened.picture(image, (32, 32)) == decode(by_text[caption], (32, 32))).all()


def test_the_same_again_is_given_back_and_a_release_without_the_base_holds_the_same(chain: Corpus) -> None:
    asked = Recipe.model_validate_json(chain.recipe or "")
    policy = Policy.load(asked.policy)
    assert release.run(chain, asked, policy, "v3", "v2") == chain.releases / "v3"
    with pytest.raises(JuZhouError, match="another release v3"):
        release.run(chain, asked, policy, "v3")
    whole = release.run(chain, asked, policy, "whole", shard_bytes=50_000)
    placed = ("release", "shard", "offset")
    bare = [{name: value for name, value in row.items() if name not in placed} for row in rows(chain, "whole").values()]
    assert bare == [
        {name: value for name, value in row.items() if name not in placed} for row in rows(chain, "v3").values()
    ]
    assert in_tars(whole) == 162
    shutil.rmtree(whole)


def test_a_base_that_is_not_there_or_not_the_same_is_one_line(chain: Corpus, tmp_path: Path) -> None:
    asked = Recipe.model_validate_json(chain.recipe or "")
    with pytest.raises(JuZhouError, match="no release v0 to add to; there are: v1, v2, v3"):
        release.run(chain, asked, Policy.load(asked.policy), "v4", "v0")
    for name in ("v2", "v3"):
        shutil.copytree(chain.releases / name, tmp_path / name)
    with pytest.raises(JuZhouError, match=r"v2 adds to v1 with the digest .* none beside it"):
        folders(tmp_path / "v3")
    shutil.copytree(chain.releases / "v2", tmp_path / "v1")
    with pytest.raises(JuZhouError, match="put the right one back"):
        Release(tmp_path / "v3")
    shutil.rmtree(tmp_path / "v1")
    shutil.copytree(chain.releases / "v1", tmp_path / "v1")
    assert len(folders(tmp_path / "v3")) == 3
    cut = next((tmp_path / "v1").glob("train-*.tar"))
    cut.chmod(0o644)
    cut.write_bytes(cut.read_bytes()[:-1])
    with pytest.raises(JuZhouError, match="missing or cut"):
        folders(tmp_path / "v3")


def test_a_sample_that_was_taken_down_is_gone_as_forgotten_and_one_that_is_lost_as_absent(
    tmp_path: Path, ray_cluster: None
) -> None:
    asked = synthetic.recipe(tmp_path, splits={"validation": 0})
    corpus = synthetic.filled(asked, 40)
    rules = {"narrow": ("size.width", {"min": 100})}
    freeze(corpus, asked, rules, "v1")
    held = digest(synthetic.picture(5, 4)).hex()
    with corpus.writing():
        forget.forget(corpus, [forget.Request.of_image(held), forget.Request.of_domain("www3.example")])
    moved = digest(synthetic.picture(6, 4)).hex()
    left = corpus.sql(f"SELECT * FROM samples WHERE image_id <> unhex('{moved}')")
    [part] = corpus.parts("samples")
    (corpus.tables / part).unlink()
    corpus.append(SAMPLES, left)
    lost = [5, 6, *range(3, 40, 7)]
    folder = freeze(corpus, asked, rules, "v2", "v1")
    gone = {row["sample_id"]: row["rule"] for row in pq.read_table(folder / "gone.parquet").to_pylist()}
    before = {row["image_id"]: name for name, row in rows(corpus, "v1").items()}
    why = {number: gone[before[digest(synthetic.picture(number, 4))]] for number in lost}
    assert why == {number: "absent" if number == 6 else "forgotten" for number in lost} and len(gone) == len(why)


def test_the_difference_of_two_releases(chain: Corpus) -> None:
    found = between(chain, "v1", "v2")
    assert (found.both, found.gone, found.new, found.captions, found.splits) == (142, 18, 20, 0, 0)
    assert [sum(counts) for counts in zip(*(row[1:] for row in found.sources), strict=True)] == [142, 18, 20]
    assert found.rules == [("wide", 18)]
    assert found.policy == [("narrow", "size.width ≥ 120", "size.width ≥ 110"), ("wide", "", "size.width ≤ 190")]
    means = {name: both for name, *both in found.scores}
    widths = [
        sum(row["size"]["width"] for row in rows(chain, name).values()) / n for name, n in (("v1", 160), ("v2", 162))
    ]
    assert means["size.width"] == pytest.approx(widths)
    reworded = between(chain, "v2", "v3")
    assert reworded.captions > 0 and all("第一" in after for _, after in reworded.reworded)
    with pytest.raises(JuZhouError, match="there is no release v9; there are: v1, v2, v3"):
        between(chain, "v1", "v9")


def test_another_share_moves_samples_between_splits(chain: Corpus) -> None:
    asked = Recipe.model_validate_json(chain.recipe or "")
    other = asked.model_copy(update={"splits": Splits(validation=0.4)})
    moved = release.run(chain, other, Policy.load(asked.policy), "moved", "v3", shard_bytes=50_000)
    found = between(chain, "v3", "moved")
    assert found.splits == in_tars(moved) > 20, "the tars of a split hold all of it"
    assert json.loads((moved / "manifest.json").read_text())["splits"]["validation"] > found.splits
    shutil.rmtree(moved)
