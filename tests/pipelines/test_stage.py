"""The stage runner: what is on disk is the state; a bad row costs a row; a stray worker adds nothing."""

import os
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest

from pipelines.corpus import Corpus
from pipelines.stage import Rows, Stage, derive, pending, run
from schemas.errors import JuZhouError
from schemas.tables import ID, POEMS, Table

LENGTHS = Table("lengths@1", ("poem_id",), pa.schema([("poem_id", ID), ("count", pa.int64()), ("error", pa.string())]))
OTHER = Table("lengths@2", ("poem_id",), LENGTHS.schema)


class Measure:
    """Counts lines; leaves a line in a log for every key it was asked for; kills its process at a title `kill`."""

    def __init__(self, log: Path, outputs: tuple[Table, ...]) -> None:
        self.log = log
        self.outputs = outputs

    def __call__(self, batch: pa.Table) -> Rows:
        if "kill" in batch.column("title").to_pylist():
            os.kill(os.getpid(), signal.SIGKILL)
        if "mistake" in batch.column("title").to_pylist():
            raise JuZhouError("put the weights where the recipe says")
        with self.log.open("a") as log:
            log.writelines(f"{key.hex()}\n" for key in batch.column("poem_id").to_pylist())
        return [
            (
                table,
                pa.Table.from_pylist([self.row(row, row[f"lacks_{index}"]) for row in batch.to_pylist()], table.schema),
            )
            for index, table in enumerate(self.outputs)
        ]

    def row(self, row: dict[str, object], lacks: bool) -> dict[str, object]:
        lines = row["lines"]
        assert lacks and isinstance(lines, list)
        return {"poem_id": row["poem_id"], "count": len(lines), "error": None}

    def lost(self, batch: pa.Table, error: str) -> Rows:
        row = {"poem_id": batch.column("poem_id")[0].as_py(), "error": error}
        return [(table, pa.Table.from_pylist([row], table.schema)) for table in self.outputs]


def add_poems(corpus: Corpus, *titles: str) -> None:
    already = corpus.sql("SELECT count(*) AS n FROM poems").column("n")[0].as_py()
    rows = [
        {"poem_id": (already + index).to_bytes(16, "big"), "title": title, "lines": ["行"] * (index % 3)}
        for index, title in enumerate(titles)
    ]
    corpus.append(POEMS, pa.Table.from_pylist(rows, POEMS.schema))


def stage(tmp_path: Path, *outputs: Table, batch: int = 4) -> Stage:
    tables = outputs or (LENGTHS,)
    return Stage(
        name="lengths",
        key=("poem_id",),
        inputs="SELECT poem_id, title, lines FROM poems",
        outputs=tables,
        work=lambda: Measure(tmp_path / "log", tables),
        batch=batch,
    )


def silent(name: str, done: int, total: int) -> None:
    pass


def rows(corpus: Corpus, table: Table = LENGTHS) -> list[dict[str, object]]:
    return corpus.sql(f"FROM read_parquet('{corpus.tables / table.path}/part-*.parquet') ORDER BY 1").to_pylist()


@pytest.mark.usefixtures("ray_cluster")
class TestRun:
    def test_each_key_once_and_new_ones_alone(self, corpus: Corpus, tmp_path: Path) -> None:
        add_poems(corpus, *"abcdefghij")
        assert run(corpus, stage(tmp_path), silent) == 10
        assert run(corpus, stage(tmp_path), silent) == 0
        add_poems(corpus, "k", "l")
        assert run(corpus, stage(tmp_path), silent) == 2
        asked = (tmp_path / "log").read_text().split()
        assert len(asked) == len(set(asked)) == 12
        assert len(rows(corpus)) == 12

    def test_an_output_added_later_is_computed_alone(self, corpus: Corpus, tmp_path: Path) -> None:
        add_poems(corpus, *"abc")
        run(corpus, stage(tmp_path), silent)
        lacking = pending(corpus, stage(tmp_path, LENGTHS, OTHER))
        assert lacking.column("lacks_0").to_pylist() == [False] * 3
        assert lacking.column("lacks_1").to_pylist() == [True] * 3

    def test_a_row_that_kills_its_process_costs_a_row(self, corpus: Corpus, tmp_path: Path) -> None:
        add_poems(corpus, *"abcdefg", "kill", *"hijk")
        assert run(corpus, stage(tmp_path, batch=6), silent) == 12
        found = rows(corpus)
        assert [row["poem_id"] for row in found] == [index.to_bytes(16, "big") for index in range(12)]
        assert [index for index, row in enumerate(found) if row["error"]] == [7]
        assert "took its process down" in str(found[7]["error"])

    def test_what_the_user_can_mend_ends_the_run_in_its_own_words(self, corpus: Corpus, tmp_path: Path) -> None:
        add_poems(corpus, "a", "mistake")
        with pytest.raises(JuZhouError) as caught:
            run(corpus, stage(tmp_path), silent)
        assert str(caught.value) == "put the weights where the recipe says"


VISITS = Table("visits@1", ("poem_id",), pa.schema([("poem_id", ID), ("title", pa.string()), ("worker", pa.int64())]))
TOUCHED = Table("poems", ("poem_id",), POEMS.schema)


class Visit:
    """Notes which worker had a key and with how many of its kind; `moved` poems first go to the worker of `stays`."""

    def __init__(self, log: Path) -> None:
        self.log = log

    def __call__(self, batch: pa.Table) -> Rows:
        titles = batch.column("title").to_pylist()
        with self.log.open("a") as log:
            log.write(f"{os.getpid()} {' '.join(titles)}\n")
        rows, moved = [], []
        for row in batch.to_pylist():
            if row["title"] == "moved":
                moved.append(row | {"title": "stays"})
            else:
                rows.append({"poem_id": row["poem_id"], "title": row["title"], "worker": os.getpid()})
        new: list[tuple[Table | None, pa.Table]] = [(VISITS, pa.Table.from_pylist(rows, VISITS.schema))]
        return [*new, (None, pa.Table.from_pylist(moved, batch.schema))] if moved else new

    def lost(self, batch: pa.Table, error: str) -> Rows:
        raise AssertionError(error)


@pytest.mark.usefixtures("ray_cluster")
def test_rows_that_belong_together_go_to_one_worker_few_at_a_time(corpus: Corpus, tmp_path: Path) -> None:
    add_poems(corpus, *["stays"] * 5, *["moved"] * 4, *["a", "b", "c", "d", "e", "f"] * 3)
    together = Stage(
        name="visit",
        key=("poem_id",),
        inputs="SELECT poem_id, title FROM poems",
        outputs=(VISITS,),
        work=lambda: Visit(tmp_path / "log"),
        batch=8,
        together="title",
        at_once=2,
    )
    assert run(corpus, together, silent) == 27
    visits = rows(corpus, VISITS)
    assert len(visits) == 27
    workers: dict[str, set[object]] = {}
    for visit in visits:
        workers.setdefault(str(visit["title"]), set()).add(visit["worker"])
    assert set(workers) == {"stays", "a", "b", "c", "d", "e", "f"}
    assert all(len(had_by) == 1 for had_by in workers.values())
    assert len(set.union(*workers.values())) == 2, "both workers had something to do"
    batches = [line.split()[1:] for line in (tmp_path / "log").read_text().splitlines()]
    assert max(batch.count(title) for batch in batches for title in batch) == 2


class Pieces:
    """Adds two rows beside each poem, piece by piece, and dies between the pieces at a title `dies once`."""

    def __init__(self, log: Path) -> None:
        self.log = log

    def __call__(self, batch: pa.Table) -> Iterator[Rows]:
        for row in batch.to_pylist():
            for number in (1, 2):
                beside = {"poem_id": bytes([number]) * 8 + row["poem_id"][8:], "title": "beside", "lines": []}
                yield [(TOUCHED, pa.Table.from_pylist([beside], POEMS.schema))]
                if row["title"] == "dies once" and not self.log.exists():
                    self.log.touch()
                    time.sleep(0.5)  # the first piece reaches the driver
                    os.kill(os.getpid(), signal.SIGKILL)
            done = {"poem_id": row["poem_id"], "count": 2, "error": None}
            yield [(LENGTHS, pa.Table.from_pylist([done], LENGTHS.schema))]

    def lost(self, batch: pa.Table, error: str) -> Rows:
        done = {"poem_id": batch.column("poem_id")[0].as_py(), "error": error}
        return [(LENGTHS, pa.Table.from_pylist([done], LENGTHS.schema))]


@pytest.mark.usefixtures("ray_cluster")
def test_pieces_that_came_before_a_death_are_not_there_twice(corpus: Corpus, tmp_path: Path) -> None:
    add_poems(corpus, "a", "dies once", "b")
    pieces = Stage(
        name="pieces",
        key=("poem_id",),
        inputs="SELECT poem_id, title FROM poems WHERE title <> 'beside'",
        outputs=(LENGTHS,),
        work=lambda: Pieces(tmp_path / "died"),
        batch=2,
    )
    assert run(corpus, pieces, silent) == 3
    assert (tmp_path / "died").exists()
    beside = corpus.sql("SELECT poem_id FROM poems WHERE title = 'beside'").column(0).to_pylist()
    assert len(beside) == len(set(beside)) == 6
    assert [row["error"] for row in rows(corpus)] == [None] * 3


@pytest.mark.usefixtures("ray_cluster")
def test_a_run_waits_for_what_soon_falls_due_and_for_nothing_else(corpus: Corpus, tmp_path: Path) -> None:
    add_poems(corpus, "a", "b", "c")
    then = f"TIMESTAMPTZ '{(datetime.now(UTC) + timedelta(seconds=8)).isoformat()}'"
    later = replace(
        stage(tmp_path),
        inputs=f"SELECT poem_id, title, lines FROM poems WHERE title = 'a' OR {then} <= now()",
        due=f"SELECT CASE WHEN now() < {then} THEN {then} END AS due",
    )
    assert run(corpus, replace(later, patience_s=0.1), silent) == 1
    assert run(corpus, replace(later, patience_s=10.0), silent) == 2


def test_derived_rows_come_once(corpus: Corpus) -> None:
    listed = ("tags", "lines", "original_lines")
    columns = ", ".join(f"NULL::VARCHAR{'[]' if name in listed else ''} AS {name}" for name in POEMS.schema.names[2:])
    titles = "SELECT DISTINCT unnest(['1', '2', '2']) AS title"
    query = f"SELECT unhex(repeat(title, 32)) AS poem_id, title, {columns} FROM ({titles})"
    assert derive(corpus, POEMS, query) == 2
    assert derive(corpus, POEMS, query) == 0
