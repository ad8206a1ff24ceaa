"""The one stage runner: the keys that lack a row → Ray → new parts. What is on disk is the state."""

import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import pyarrow as pa
import ray

from pipelines import cluster
from pipelines.corpus import Corpus
from schemas.tables import Table

ROUND = 1_000_000
"""Keys looked up at a time, which bounds the driver's memory."""

Rows = Sequence[tuple[Table, pa.Table]]
Progress = Callable[[str, int, int], None]
"""Called with a stage's name, the keys done and the keys to do."""


class Work(Protocol):
    """What a stage does with a batch: an answer for every key, in every output that lacks it."""

    def __call__(self, batch: pa.Table) -> Rows:
        """The new rows, by table. `batch` has the columns of the inputs, and `lacks_0`, `lacks_1` … for the outputs."""
        ...

    def lost(self, batch: pa.Table, error: str) -> Rows:
        """The rows of a batch of one that takes its process down whenever it is tried."""
        ...


@dataclass(frozen=True)
class Stage:
    """A step of the line.

    `inputs` is a query over the views with one row a key; `work` is called in each worker and gives what handles a
    batch there, so that a model is loaded once a worker.
    """

    name: str
    key: tuple[str, ...]
    inputs: str
    outputs: tuple[Table, ...]
    work: Callable[[], Work]
    batch: int = 128


def pending(corpus: Corpus, stage: Stage, limit: int | None = None) -> pa.Table:
    """The inputs of the keys that lack a row in one of the stage's outputs, in the order of the keys."""
    with corpus.connect() as connection:
        keys = ", ".join(stage.key)
        joins, lacks = [], []
        for index, table in enumerate(stage.outputs):
            folder = corpus.tables / table.path
            if any(folder.glob("part-*.parquet")):
                rows = f"SELECT DISTINCT {keys}, true AS there FROM read_parquet('{folder}/part-*.parquet')"
                joins.append(f"LEFT JOIN ({rows}) AS output_{index} USING ({keys})")
                lacks.append(f"output_{index}.there IS NULL")
            else:
                lacks.append("true")
        columns = "".join(f", {lack} AS lacks_{index}" for index, lack in enumerate(lacks))
        return connection.sql(
            f"SELECT inputs.*{columns} FROM ({stage.inputs}) AS inputs {' '.join(joins)} "
            f"WHERE {' OR '.join(lacks)} ORDER BY {keys} {f'LIMIT {limit}' if limit else ''}"
        ).to_arrow_table()


def run(corpus: Corpus, stage: Stage, progress: Progress) -> int:
    """Do what is pending until nothing is, and say how many keys that were. Starts no cluster when nothing is."""
    done = 0
    before: pa.Table | None = None
    while (rows := pending(corpus, stage, ROUND)).num_rows:
        keys = rows.select(stage.key)
        if keys.equals(before):
            raise RuntimeError(f"{stage.name} left its keys without rows")
        total = done + rows.num_rows
        progress(stage.name, done, total)
        for answered in _round(corpus, stage, rows):
            done += answered
            progress(stage.name, done, total)
        before = keys
    return done


def derive(corpus: Corpus, table: Table, query: str) -> int:
    """Add the rows of a query whose keys the table lacks, and say how many: a stage that is a question about rows."""
    keys = ", ".join(table.key)
    with corpus.connect() as connection:
        lacking = f"SELECT * FROM ({query}) ANTI JOIN {table.path} USING ({keys}) ORDER BY {keys}"
        rows = connection.sql(lacking).to_arrow_table()
    corpus.append(table, rows)
    return rows.num_rows


class _Worker:
    """A process that holds a stage's work ready."""

    def __init__(self, work: Callable[[], Work]) -> None:
        self.work = work()

    def run(self, batch: pa.Table) -> Rows:
        return self.work(batch)

    def lost(self, batch: pa.Table, error: str) -> Rows:
        return self.work.lost(batch, error)


def _round(corpus: Corpus, stage: Stage, rows: pa.Table) -> Iterator[int]:
    """Hand batches to workers and add what they return as parts, in this process alone: a stray worker adds nothing.

    A batch that takes its worker down is halved until the row is found that does so; that row alone is lost.

    Yields:
        How many keys were answered, batch by batch.
    """
    cluster.start()
    actor: Any = ray.remote(num_cpus=1)(_Worker)
    batches = deque(_slice(rows, start, stage.batch) for start in range(0, rows.num_rows, stage.batch))
    count = min(len(batches), int(ray.cluster_resources().get("CPU", 1)))
    idle: list[Any] = [actor.remote(stage.work) for _ in range(count)]
    busy: dict[Any, tuple[Any, pa.Table]] = {}
    while batches or busy:
        while batches and idle:
            worker, batch = idle.pop(), batches.popleft()
            busy[worker.run.remote(batch)] = (worker, batch)
        [ready], _ = ray.wait(list(busy), num_returns=1)
        worker, batch = busy.pop(ready)
        try:
            result = cluster.get(ready)
        except ray.exceptions.RayActorError as death:
            worker = actor.remote(stage.work)
            if batch.num_rows > 1:
                half = math.ceil(batch.num_rows / 2)
                batches.extendleft([_slice(batch, half, half), _slice(batch, 0, half)])
                idle.append(worker)
                continue
            result = cluster.get(worker.lost.remote(batch, f"took its process down: {type(death).__name__}"))
        idle.append(worker)
        for table, new in result:
            corpus.append(table, new)
        yield batch.num_rows
    for worker in idle:
        ray.kill(worker)


def _slice(rows: pa.Table, start: int, length: int) -> pa.Table:
    """A copy of some rows; a view would carry the whole table along when it is sent to a worker."""
    return rows.take(pa.array(range(start, min(start + length, rows.num_rows))))
