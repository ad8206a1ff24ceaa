"""A corpus on disk, hurt: not one, locked, half-written, full, asked to change."""

import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest

from pipelines.corpus import UNFINISHED, Corpus
from schemas.errors import JuZhouError
from schemas.tables import POEMS


def poems(count: int) -> pa.Table:
    rows = [
        {"poem_id": index.to_bytes(16, "big"), "title": "静夜思", "lines": ["床前明月光"]} for index in range(count)
    ]
    return pa.Table.from_pylist(rows, POEMS.schema)


def test_a_folder_that_is_no_corpus(tmp_path: Path) -> None:
    with pytest.raises(JuZhouError, match="is not a corpus; `juzhou build RECIPE` makes one"):
        Corpus(tmp_path)


def test_a_corpus_is_not_made_over_other_things(tmp_path: Path) -> None:
    (tmp_path / "thesis.doc").write_text("x")
    with pytest.raises(JuZhouError, match="holds something else"):
        Corpus.create(tmp_path)


def test_another_schema_version(corpus: Corpus) -> None:
    (corpus.path / "corpus.json").write_text('{"schema_version": 99}')
    with pytest.raises(JuZhouError, match="schema version 99"):
        Corpus(corpus.path)


def test_one_writer_at_a_time(corpus: Corpus) -> None:
    with (
        corpus.writing(),
        pytest.raises(JuZhouError, match="another process is writing"),
        Corpus(corpus.path).writing(),
    ):
        pass
    with corpus.writing():
        pass


def test_what_was_left_half_is_swept_and_never_seen(corpus: Corpus) -> None:
    corpus.append(POEMS, poems(2))
    half = corpus.tables / "poems" / f"{UNFINISHED}part-1.parquet"
    half.write_bytes(b"PAR1")
    (corpus.blobs / f"{UNFINISHED}1").write_bytes(b"x")
    (corpus.blobs / "whole.tar").write_bytes(b"x")
    (corpus.releases / f"{UNFINISHED}demo-1").mkdir()
    assert corpus.sql("SELECT * FROM poems").num_rows == 2
    with corpus.writing():
        assert not half.exists()
        assert [path.name for path in corpus.blobs.iterdir()] == ["whole.tar"]
        assert not list(corpus.releases.iterdir())
    assert corpus.sql("SELECT * FROM poems").num_rows == 2


def test_views_of_an_empty_corpus(corpus: Corpus) -> None:
    views = corpus.ask("SHOW TABLES").column(0).to_pylist()
    for view in (
        "pages",
        "candidates",
        "fetches",
        "images",
        "samples",
        "poems",
        "duplicates",
        "captions",
        "verdicts",
        "corpus",
    ):
        assert view in views
        assert corpus.ask(f"SELECT * FROM {view}").num_rows == 0


@pytest.mark.parametrize(
    "query",
    [
        "DROP VIEW poems",
        "INSERT INTO poems VALUES (1)",
        "COPY poems TO '/tmp/poems.csv'",
        "SELECT 1; SELECT 2",
        "ATTACH '/tmp/other.db'",
        "SET threads = 1",
        "no sql at all",
        "SELECT * FROM nowhere",
        "SELECT * FROM read_csv('/etc/passwd')",
        "SELECT content FROM read_text('/etc/hostname')",
    ],
)
def test_questions_alone_and_of_the_corpus_alone(corpus: Corpus, query: str) -> None:
    corpus.append(POEMS, poems(2))
    with pytest.raises(JuZhouError):
        corpus.ask(query)
    assert corpus.ask("SELECT * FROM poems").num_rows == 2


def test_a_full_disk_loses_nothing(tmp_path: Path) -> None:
    """A file-size limit makes the write fail half-way, as a full disk does, in a process of its own."""
    corpus = Corpus.create(tmp_path / "corpus")
    corpus.append(POEMS, poems(2))
    script = f"""
import resource, signal
from pathlib import Path
import pyarrow as pa
from pipelines.corpus import Corpus
from schemas.tables import POEMS
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
rows = [{{"poem_id": i.to_bytes(16, "big"), "title": str(i * 7919), "lines": [str(i)]}} for i in range(9000)]
try:
    Corpus(Path({str(corpus.path)!r})).append(POEMS, pa.Table.from_pylist(rows, POEMS.schema))
except OSError as error:
    print("refused", error.errno)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.stdout.startswith("refused"), done.stderr
    assert corpus.sql("SELECT * FROM poems").num_rows == 2
    with corpus.writing():
        assert [path.name for path in (corpus.tables / "poems").iterdir() if path.name.startswith(UNFINISHED)] == []
