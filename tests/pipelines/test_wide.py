"""The wide row: what a question names decides what is joined, and never what it is answered."""

import pyarrow as pa
import pytest

from pipelines.corpus import Corpus
from pipelines.wide import named
from schemas.identity import digest
from schemas.tables import CANDIDATES, IMAGES, SAMPLES, measure_table, verdicts_table

SHARP = measure_table("blur", "0", "image_id", pa.schema([("sharpness", pa.float32()), ("kind", pa.string())]))
WORDS = measure_table("text", "0", "sample_id", pa.schema([("length", pa.int32()), ("url", pa.bool_())]))
VERDICTS = verdicts_table("p", "0")

QUESTIONS = [
    "SELECT count(*) FROM corpus",
    "SELECT avg(blur.sharpness), max(text.length) FROM corpus",
    "SELECT c.blur.sharpness AS s FROM corpus AS c ORDER BY s",
    "SELECT text FROM corpus ORDER BY caption",
    "SELECT struct_extract(text, 'length') AS n FROM corpus ORDER BY n",
    'SELECT "corpus"."TEXT"."Length" AS n FROM CORPUS ORDER BY n',
    "SELECT c FROM corpus AS c ORDER BY c.caption",
    "SELECT corpus FROM corpus ORDER BY corpus.caption",
    "FROM corpus ORDER BY caption",
    "SELECT * EXCLUDE (url) FROM corpus ORDER BY caption",
    "SELECT COLUMNS('len.*') FROM corpus ORDER BY ALL",
    "SELECT host, count(*) FROM corpus GROUP BY ALL HAVING count(*) > 0 ORDER BY ALL",
    "WITH kept AS (SELECT caption FROM corpus WHERE verdict.kept) SELECT count(*) FROM kept",
    "SELECT caption FROM corpus WHERE image_id IN (SELECT image_id FROM blur WHERE sharpness > 1) ORDER BY ALL",
    "SELECT caption, text.url FROM samples JOIN corpus USING (sample_id, caption) ORDER BY ALL",
    "SELECT verdict.rule, list(repeats) FROM corpus GROUP BY ALL ORDER BY ALL",
    "SELECT unnest(verdict) FROM corpus ORDER BY ALL",
    "SELECT caption FROM corpus UNION ALL SELECT blur.kind FROM corpus ORDER BY ALL",
    "SELECT length FROM corpus ORDER BY ALL",
    "SELECT release, in_recipe FROM corpus ORDER BY ALL",
    "DESCRIBE corpus",
    "SUMMARIZE SELECT blur.sharpness FROM corpus",
    "PIVOT (SELECT source, format FROM corpus) ON source USING count(*)",
]


@pytest.fixture
def filled(corpus: Corpus) -> Corpus:
    rows = []
    for number, caption in enumerate(["一", "二二", "三三三"]):
        key = digest(caption.encode())
        rows.append(
            {"sample_id": key, "image_id": key, "candidate_id": key, "caption": caption, "source": "s"}
            | {"url": f"http://h{number % 2}.example/{number}", "tar": "a.tar", "length": 10 + number, "format": "png"}
            | {
                "sharpness": number * 1.5,
                "kind": "k",
                "kept": number > 0,
                "rule": None if number else "r",
                "failed": [],
            }
        )
    for table in (CANDIDATES, IMAGES, SAMPLES, SHARP, VERDICTS):
        corpus.append(table, pa.Table.from_pylist(rows, table.schema))
    words = [row | {"length": len(row["caption"]), "url": False} for row in rows]
    corpus.append(WORDS, pa.Table.from_pylist(words, WORDS.schema))
    corpus.adopt("{}", [SHARP, WORDS, VERDICTS])
    return corpus


@pytest.mark.parametrize("question", QUESTIONS)
def test_a_question_is_answered_as_if_all_were_joined(filled: Corpus, question: str) -> None:
    with filled.connect() as connection:
        whole = connection.sql(question).to_arrow_table()
    assert filled.sql(question).equals(whole)


def test_a_question_joins_no_more_than_it_names(filled: Corpus) -> None:
    question = "SELECT avg(blur.sharpness) FROM corpus"
    with filled.connect(question) as connection:
        [[sql]] = connection.execute("SELECT sql FROM duckdb_views() WHERE view_name = 'corpus'").fetchall()
    assert "JOIN blur" in sql and "sharpness" in sql
    assert not any(word in sql for word in ("candidates", "text", "verdicts", "images", "kind"))


def test_what_may_want_everything_names_nothing() -> None:
    assert named("FROM corpus") is None and named("SELECT c FROM corpus AS c") is None
    assert named("not SQL") is None


def test_a_sample_is_the_row_that_the_view_has(filled: Corpus) -> None:
    for row in filled.sql("FROM corpus").to_pylist():
        assert filled.sample(row["sample_id"]) == row
    assert filled.sample(digest(b"nothing")) is None


def test_the_views_open_in_any_duckdb(filled: Corpus) -> None:
    import duckdb

    with duckdb.connect() as connection:
        connection.execute(filled.views_as_sql())
        assert connection.sql("SELECT count(*) FROM corpus WHERE verdict.kept").fetchall() == [(2,)]
        assert connection.sql("SELECT count(*) FROM reviews").fetchall() == [(0,)]
