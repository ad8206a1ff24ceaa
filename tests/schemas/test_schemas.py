"""Identity, recipes and policies: what they promise to someone who writes YAML or computes an id elsewhere."""

import hashlib
from pathlib import Path

import duckdb
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import JuZhouError
from schemas.identity import SAMPLE_ID, digest, fingerprint, sql_digest
from schemas.policy import Policy
from schemas.recipe import Recipe
from schemas.tables import Status

RECIPE = """
corpus: here/corpus
sources:
  list: {kind: urls, path: list.csv, caption: words}
measures: [size, pdq]
policy: policy.yaml
release: test
"""


def written(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")))
def test_sql_and_python_name_things_alike(text: str) -> None:
    answer = duckdb.execute(f"SELECT {sql_digest('$1')}", [text]).fetchone()
    assert answer == (hashlib.sha256(text.encode()).digest()[:16],) == (digest(text.encode()),)


def test_a_sample_is_its_picture_and_its_caption() -> None:
    image_id = digest(b"picture")
    query = f"SELECT {SAMPLE_ID} FROM (SELECT $1::BLOB AS image_id, $2 AS caption)"
    assert duckdb.execute(query, [image_id, "红苹果"]).fetchone() == (digest(image_id + "红苹果".encode()),)


def test_a_fingerprint_depends_on_facts_alone() -> None:
    assert fingerprint(a=1, b=[2]) == fingerprint(b=[2], a=1)
    assert fingerprint(a=1) != fingerprint(a=2)


def test_paths_of_a_recipe_are_relative_to_it(tmp_path: Path) -> None:
    recipe = Recipe.load(written(tmp_path, "recipe.yaml", RECIPE))
    assert recipe.corpus == tmp_path / "here/corpus"
    assert recipe.policy == tmp_path / "policy.yaml"
    assert recipe.sources["list"].path == str(tmp_path / "list.csv")


def test_a_recipe_means_the_same_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    here = Recipe.load(written(tmp_path, "recipe.yaml", RECIPE.replace("path: list.csv", "path: /list.csv")))
    there = Recipe.load(written(tmp_path / "other", "recipe.yaml", RECIPE.replace("path: list.csv", "path: /list.csv")))
    assert here.corpus != there.corpus
    assert here.digest == there.digest


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (RECIPE + "relase: x\n", "unknown key 'relase'; did you mean 'release'?"),
        (RECIPE + "fetch: {timeout: 3}\n", "unknown key 'fetch.timeout'; did you mean 'timeout_s'?"),
        (RECIPE.replace("kind: urls", "kind: ftp"), "sources.list"),
        (RECIPE.replace("release: test", "release: ../up"), "release"),
        ("- a\n- b\n", "a mapping of keys to values is wanted"),
        ("a: [\n", "not valid YAML"),
    ],
)
def test_a_wrong_recipe_is_one_line_that_says_where(tmp_path: Path, wrong: str, said: str) -> None:
    with pytest.raises(JuZhouError) as caught:
        Recipe.load(written(tmp_path, "recipe.yaml", wrong))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_recipe_at_all(tmp_path: Path) -> None:
    with pytest.raises(JuZhouError, match="cannot be read"):
        Recipe.load(tmp_path / "none.yaml")


def test_a_rule_has_one_bound(tmp_path: Path) -> None:
    for bounds in ("", "min: 1, max: 2"):
        text = f"name: p\nrules: [{{name: r, value: size.width, {bounds}}}]\n"
        with pytest.raises(JuZhouError, match="wants one of min"):
            Policy.load(written(tmp_path, "policy.yaml", text))


def test_a_policy_is_named_by_its_thresholds_and_not_by_its_reasons() -> None:
    def policy(threshold: float, why: str) -> Policy:
        return Policy.model_validate(
            {"name": "p", "rules": [{"name": "r", "value": "x", "min": threshold, "why": why}]}
        )

    assert policy(1, "a").digest == policy(1, "b").digest != policy(2, "a").digest


@pytest.mark.parametrize(
    ("code", "status"),
    [(200, "ok"), (404, "permanent"), (410, "permanent"), (403, "permanent"), (429, "transient"), (503, "transient")],
)
def test_what_a_code_says_of_asking_again(code: int, status: str) -> None:
    assert Status.of_http(code) == status
