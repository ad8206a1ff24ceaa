"""Verdicts: the first failed rule with its value and threshold, all failed rules, and nothing lost."""

import pyarrow as pa
import pytest

from pipelines import decide
from pipelines.corpus import Corpus
from schemas.errors import JuZhouError
from schemas.identity import digest
from schemas.policy import Policy
from schemas.tables import SAMPLES, measure_table

SCORES = measure_table("scores", "0", "sample_id", pa.schema([("score", pa.float32())]))
CAPTIONS = {"红苹果": 0.9, "蓝花": 0.2, "点击查看大图": 0.8, "猫": None}


@pytest.fixture
def scored(corpus: Corpus) -> Corpus:
    """Four captions with scores, one of them unknown, one caption under three pictures."""
    samples, scores = [], []
    for caption, score in CAPTIONS.items():
        for picture in range(3 if caption == "点击查看大图" else 1):
            sample_id = digest(f"{caption}{picture}".encode())
            samples.append({"sample_id": sample_id, "image_id": sample_id, "caption": caption})
            scores.append({"sample_id": sample_id, "score": score, "error": None if score else "broken"})
    corpus.append(SAMPLES, pa.Table.from_pylist(samples, SAMPLES.schema))
    corpus.append(SCORES, pa.Table.from_pylist(scores, SCORES.schema))
    corpus.adopt("{}", [SCORES])
    return corpus


def policy(*rules: dict[str, object]) -> Policy:
    return Policy.model_validate({"name": "p", "rules": rules})


REPEATED = {"name": "repeated", "value": "repeats", "max": 2}
LOW = {"name": "low", "value": "scores.score", "min": 0.5}
SHORT = {"name": "short", "value": "length(caption) > 1", "min": 1}


def verdicts(corpus: Corpus, rules: Policy) -> dict[str, dict[str, object]]:
    with corpus.connect() as connection:
        rows = decide.judge(connection, corpus, rules).to_pylist()
    captions = {row["sample_id"]: row["caption"] for row in corpus.sql("FROM samples").to_pylist()}
    assert [row["sample_id"] for row in rows] == sorted(captions)
    return {captions[row.pop("sample_id")]: row for row in rows}


def test_the_first_failure_is_named_and_all_are_listed(scored: Corpus) -> None:
    found = verdicts(scored, policy(REPEATED, LOW, SHORT))
    kept = {"kept": True, "by": "rules", "rule": None, "value": None, "threshold": None, "failed": []}
    assert found["红苹果"] == kept
    low = found["蓝花"]
    assert (low["rule"], low["threshold"], low["failed"]) == ("low", 0.5, ["low"])
    assert low["value"] == pytest.approx(0.2)
    assert found["点击查看大图"] == {
        "kept": False,
        "by": "rules",
        "rule": "repeated",
        "value": 3,
        "threshold": 2,
        "failed": ["repeated"],
    }
    assert found["猫"] == {
        "kept": False,
        "by": "rules",
        "rule": "low",
        "value": None,
        "threshold": 0.5,
        "failed": ["low", "short"],
    }


def test_the_order_of_rules_decides_which_is_first(scored: Corpus) -> None:
    assert verdicts(scored, policy(SHORT, LOW))["猫"]["rule"] == "short"


def test_verdicts_follow_the_rows(scored: Corpus) -> None:
    rules = policy(REPEATED)
    before = decide.table_of(scored, rules)
    assert decide.run(scored, rules, before) == 6
    assert decide.run(scored, rules, before) == 0
    new = [{"sample_id": digest(b"new"), "image_id": digest(b"new"), "caption": "蓝花"}]
    scored.append(SAMPLES, pa.Table.from_pylist(new, SAMPLES.schema))
    after = decide.table_of(scored, rules)
    assert after.path != before.path
    assert decide.run(scored, rules, after) == 7


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("scores.scor", "did you mean 'scores.score'?"),
        ("captoin = ''", "did you mean 'caption'?"),
        ("((", "rule 'wrong'"),
        ("caption", "rule 'wrong'"),
    ],
)
def test_a_rule_that_cannot_be_asked(scored: Corpus, value: str, said: str) -> None:
    with pytest.raises(JuZhouError) as caught:
        verdicts(scored, policy({"name": "wrong", "value": value, "min": 1}))
    assert said in str(caught.value)
