"""Verdicts: every reason is told, people win over rules, another threshold asks nothing anew, and nothing is lost."""

import random
import shutil
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest

from pipelines import decide, values
from pipelines.corpus import Corpus
from schemas.errors import JuZhouError
from schemas.identity import digest
from schemas.policy import Policy
from schemas.tables import CANDIDATES, REVIEWS, SAMPLES, measure_table

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


def policy(*rules: dict[str, object], **more: object) -> Policy:
    return Policy.model_validate({"name": "p", "rules": rules, **more})


REPEATED = {"name": "repeated", "value": "repeats", "max": 2}
LOW = {"name": "low", "value": "scores.score", "min": 0.5}
SHORT = {"name": "short", "value": "length(caption) > 1", "min": 1}


def verdicts(corpus: Corpus, rules: Policy) -> dict[str, dict[str, object]]:
    rows = decide.judged(corpus, rules).to_pylist()
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


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"rules": [LOW | {"where": "sorce = 'a'"}]}, "rule 'low': .*did you mean 'source'"),
        ({"rules": [{"name": "r", "value": "scores.score", "top": 0.5, "within": "hots"}]}, "did you mean 'host'"),
        ({"quotas": [{"name": "q", "by": "sorce", "most": 1}]}, "rule 'q': .*did you mean 'source'"),
        ({"lists": [{"name": "l", "deny": "/nowhere/list.txt"}]}, "list 'l': /nowhere/list.txt cannot be read"),
    ],
)
def test_every_part_of_a_policy_is_checked(scored: Corpus, changed: dict[str, object], said: str) -> None:
    with pytest.raises(JuZhouError, match=said):
        decide.adopt(scored, Policy.model_validate({"name": "p", **changed}))


def test_another_threshold_asks_nothing_anew(scored: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    decide.adopt(scored, policy(LOW, SHORT))
    monkeypatch.setattr(values, "_ask", lambda *_: pytest.fail("values were asked again"))
    decide.adopt(scored, policy(LOW | {"min": 0.85}, SHORT))
    kept = scored.sql("SELECT caption FROM corpus WHERE verdict.kept").column(0).to_pylist()
    assert kept == ["红苹果"]
    changes = decide.compare(scored, policy(LOW), policy(LOW | {"min": 0.1}))
    assert [(change.rule, change.samples) for change in changes.enter] == [("low", 1)]


def test_what_is_kept_of_values_is_what_the_tables_say(scored: Corpus) -> None:
    rules = policy(REPEATED, LOW, SHORT)
    live = decide.judged(scored, rules)
    decide.adopt(scored, rules)
    assert decide.judged(scored, rules).equals(live)
    shutil.rmtree(scored.path / "cache")
    assert decide.judged(scored, rules).equals(live)


def test_a_comparison_says_who_enters_and_who_leaves_and_writes_nothing(scored: Corpus) -> None:
    before = sorted(path for path in scored.path.rglob("*"))
    changes = decide.compare(scored, policy(LOW), policy(REPEATED))
    assert sorted(path for path in scored.path.rglob("*")) == before
    assert (changes.samples, changes.kept) == (6, (4, 3))
    [enter], [leave] = changes.enter, changes.leave
    assert (enter.rule, enter.samples) == ("low", 2)
    assert {(example["caption"], example["value"] is None) for example in enter.examples} == {
        ("蓝花", False),
        ("猫", True),
    }
    assert (leave.rule, leave.samples, {example["caption"] for example in leave.examples}) == (
        "repeated",
        3,
        {"点击查看大图"},
    )


def test_a_funnel_counts_what_a_rule_rejects_and_what_it_alone_rejects(scored: Corpus) -> None:
    lines = decide.funnel(scored, policy(REPEATED, LOW, SHORT))
    counted = [(line.rule, line.alone, line.only, line.left) for line in lines]
    assert counted == [("repeated", 3, 3, 3), ("low", 2, 1, 1), ("short", 1, 0, 1)]


def review(corpus: Corpus, caption: str, opinion: str | None, minute: int = 0, reviewer: str = "李") -> None:
    [row] = corpus.sql(f"SELECT sample_id FROM samples WHERE caption = '{caption}' LIMIT 1").to_pylist()
    when = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(minutes=minute)
    rows = [row | {"reviewed_at": when, "reviewer": reviewer, "opinion": opinion}]
    corpus.append(REVIEWS, pa.Table.from_pylist(rows, REVIEWS.schema))


def test_people_win_over_rules_and_their_last_word_counts(scored: Corpus) -> None:
    rules = policy(LOW)
    first = decide.table_of(scored, rules)
    review(scored, "蓝花", "keep")
    review(scored, "红苹果", "drop")
    assert decide.table_of(scored, rules) != first, "a review makes new verdicts"
    found = verdicts(scored, rules)
    assert (found["蓝花"]["kept"], found["蓝花"]["by"], found["蓝花"]["rule"]) == (True, "review", None)
    assert found["蓝花"]["failed"] == ["low"], "what the rules say stands beside it"
    dropped = {"kept": False, "by": "review", "rule": "review", "value": None, "threshold": None, "failed": ["review"]}
    assert found["红苹果"] == dropped
    second = decide.table_of(scored, rules)
    review(scored, "红苹果", None, minute=1, reviewer="王")
    assert decide.table_of(scored, rules) == second, "a note makes none"
    assert not verdicts(scored, rules)["红苹果"]["kept"], "a note takes nothing back"
    review(scored, "红苹果", "unsure", minute=2, reviewer="王")
    assert verdicts(scored, rules)["红苹果"] == {
        "kept": True, "by": "rules", "rule": None, "value": None, "threshold": None, "failed": [],
    }  # fmt: skip


@pytest.fixture
def found(corpus: Corpus) -> Corpus:
    """Four samples from four hosts."""
    urls = {
        "一": ("http://img.a.example/1.jpg", "http://www.a.example/1"),
        "二": ("http://cdn.example/2.jpg", "http://b.example:8080/2"),
        "三": ("http://ba.example/3.jpg", None),
        "四": ("http://A.Example/4.jpg", None),
    }
    for caption, (url, page_url) in urls.items():
        key = digest(caption.encode())
        about = {"candidate_id": key, "source": "s", "url": url, "page_url": page_url, "caption": caption}
        corpus.append(CANDIDATES, pa.Table.from_pylist([about], CANDIDATES.schema))
        row = {"sample_id": key, "image_id": key, "caption": caption, "candidate_id": key}
        corpus.append(SAMPLES, pa.Table.from_pylist([row], SAMPLES.schema))
    return corpus


@pytest.mark.parametrize(
    ("of", "entries", "denied"),
    [
        ("host", "a.example\n# not this: ba.example\n\n", {"一", "四"}),
        ("host", "example", {"一", "二", "三", "四"}),
        ("host", "B.example", {"二"}),
        ("url", "http://cdn.example/2.jpg\nhttp://www.a.example/1", {"一", "二"}),
        ("image", digest("三".encode()).hex().upper(), {"三"}),
        ("sample", digest("四".encode()).hex(), {"四"}),
        ("host", "", set()),
    ],
)
def test_a_list_denies_what_it_names(found: Corpus, tmp_path: Path, of: str, entries: str, denied: set[str]) -> None:
    (tmp_path / "list.txt").write_text(entries)
    (tmp_path / "p.yaml").write_text(f"name: p\nlists: [{{name: ours, deny: list.txt, of: {of}}}]")
    judged = verdicts(found, Policy.load(tmp_path / "p.yaml"))
    assert {caption for caption, row in judged.items() if not row["kept"]} == denied
    assert all((row["rule"], row["by"]) == ("ours", "list") for row in judged.values() if not row["kept"])


def test_a_list_allows_over_rules_but_not_over_people_or_a_list_that_denies(found: Corpus, tmp_path: Path) -> None:
    (tmp_path / "allow.txt").write_text("a.example\nb.example\nba.example")
    (tmp_path / "deny.txt").write_text("b.example")
    lists = [{"name": "ours", "allow": "allow.txt"}, {"name": "theirs", "deny": "deny.txt"}]
    lists = [
        entry | {way: tmp_path / path for way, path in entry.items() if way in ("allow", "deny")} for entry in lists
    ]
    review(found, "三", "drop")
    none = {"name": "none", "value": "false", "min": 1}
    judged = verdicts(found, policy(none, lists=lists))
    assert {caption: (row["kept"], row["by"], row["rule"]) for caption, row in judged.items()} == {
        "一": (True, "list", None),
        "二": (False, "list", "theirs"),
        "三": (False, "review", "review"),
        "四": (True, "list", None),
    }


def test_the_content_of_a_list_is_part_of_a_policy(found: Corpus, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("a.example")
    rules = policy(lists=[{"name": "ours", "deny": tmp_path / "list.txt"}])
    before = rules.digest
    (tmp_path / "list.txt").write_text("# for people\nA.example\n")
    assert rules.digest == before
    (tmp_path / "list.txt").write_text("b.example")
    assert rules.digest != before


def test_an_entry_that_is_no_id(found: Corpus, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("1.jpg")
    rules = policy(lists=[{"name": "ours", "deny": tmp_path / "list.txt", "of": "image"}])
    with pytest.raises(JuZhouError, match=r"list 'ours': '1\.jpg' is no image_id"):
        decide.judged(found, rules)


def many(corpus: Corpus, count: int) -> Corpus:
    """So many samples with scores."""
    ids = [digest(str(number).encode()) for number in range(count)]
    captions = [f"图{number % 999}" for number in range(count)]
    corpus.append(SAMPLES, pa.table({"sample_id": ids, "image_id": ids, "caption": captions, "candidate_id": ids}))
    scores = [(number * 7919 % count) / count for number in range(count)]
    corpus.append(SCORES, pa.table({"sample_id": ids, "score": scores, "error": pa.nulls(count, pa.string())}))
    corpus.adopt("{}", [SCORES])
    return corpus


DECIDE = """
import sys
from pathlib import Path
from pipelines import decide
from pipelines.corpus import Corpus
from schemas.policy import Policy
corpus = Corpus(Path(sys.argv[1]))
print("ready", flush=True)
sys.stdin.readline()
with corpus.writing():
    decide.adopt(corpus, Policy.load(Path(sys.argv[2])))
print("done", flush=True)
"""


def test_a_kill_leaves_the_old_verdicts_or_the_new_ones(corpus: Corpus, tmp_path: Path) -> None:
    many(corpus, 60_000)
    decide.adopt(corpus, policy(LOW))
    old = corpus.sql("SELECT count(*) FILTER (kept) AS kept, count(*) AS all FROM verdicts").to_pylist()
    new = [{"kept": 24_000, "all": 60_000}]
    chance = random.Random(5)
    seen = []
    for attempt in range(10):
        stricter = tmp_path / f"{attempt}.yaml"
        stricter.write_text(
            f"name: p\nrules: [{{name: low, value: scores.score, min: 0.6}}, "
            f"{{name: same, value: length(caption) + {attempt}, min: 0}}]"
        )
        if attempt % 3 == 0:
            shutil.rmtree(corpus.path / "cache")
        command = [sys.executable, "-c", DECIDE, str(corpus.path), str(stricter)]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert process.stdin and process.stdout and process.stdout.readline() == "ready\n"
        process.stdin.write("\n")
        process.stdin.flush()
        time.sleep(chance.uniform(0.0, 0.5))
        process.kill()
        process.wait()
        now = corpus.sql("SELECT count(*) FILTER (kept) AS kept, count(*) AS all FROM verdicts").to_pylist()
        assert now in (old, new)
        seen.append(now == new)
        with corpus.writing():
            decide.adopt(corpus, policy(LOW))
        assert corpus.sql("SELECT count(*) FILTER (kept) AS kept, count(*) AS all FROM verdicts").to_pylist() == old
    with corpus.writing():
        decide.adopt(corpus, Policy.load(stricter))
    assert corpus.sql("SELECT count(*) FILTER (kept) AS kept, count(*) AS all FROM verdicts").to_pylist() == new
    assert not list(corpus.path.rglob(".unfinished-*"))
