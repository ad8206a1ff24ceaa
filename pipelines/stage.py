"""The one stage runner: the keys that lack a row → Ray → new parts. What is on disk is the state."""

import math
import time
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import ray

from pipelines import cluster
from pipelines.corpus import Corpus
from schemas.tables import Table

ROUND = 1_000_000
"""Keys looked up at a time, which bounds the driver's memory."""
PART_ROWS = 20_000
PART_S = 5.0
"""Rows wait for a part of this size, or for so long: a kill loses no more than that and the batches in flight."""
DERIVED_ROWS = 500_000
"""Rows of a part that a query gives, which bounds the driver's memory too."""

Rows = Sequence[tuple[Table | None, pa.Table]]
"""New rows by table. Rows of no table are inputs to be done yet, by the worker that their `together` now belongs to."""
Progress = Callable[[str, int, int], None]
"""Called with a stage's name, the keys done and the keys to do."""


class Work(Protocol):
    """What a stage does with a batch: an answer for every key, in every output that lacks it."""

    def __call__(self, batch: pa.Table) -> Rows | Iterator[Rows]:
        """The new rows, or an iterator over pieces of them where all at once would be too large.

        `batch` has the columns of the inputs, and `lacks_0`, `lacks_1` … for the outputs. Rows of a table that is no
        output of the stage are added where their keys are new; they come before the row of an output that tells the
        batch done.
        """
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
    given: Mapping[str, pa.Table] = field(default_factory=dict)
    """Tables that `inputs` names beside the views."""
    together: str | None = None
    """A column of the inputs: rows that share its value go to one worker, …"""
    at_once: int = 128
    """… so many of them at most in a batch, so that one value holds no batch up."""
    remaining: str | None = None
    """A query for the number of keys that are to be done yet, where `inputs` gives some of them at a time."""
    due: str | None = None
    """A query for the time at which the next key falls due, where keys do that by and by."""
    patience_s: float = 0.0
    """How long a run waits for it."""
    gpu: bool = False
    """Each worker has an accelerator to itself, with its share of the cores, where the cluster has any."""


def pending(corpus: Corpus, stage: Stage, limit: int | None = None) -> pa.Table:
    """The inputs of the keys that lack a row in one of the stage's outputs, in the order of the keys."""
    with corpus.connect() as connection:
        for name, rows in stage.given.items():
            connection.register(name, rows)
        keys = ", ".join(stage.key)
        joins, lacks = [], []
        for index, table in enumerate(stage.outputs):
            if corpus.parts(table.path):
                there = f"SELECT DISTINCT {keys}, true AS there FROM {corpus.rows_of(table)}"
                joins.append(f"LEFT JOIN ({there}) AS output_{index} USING ({keys})")
                lacks.append(f"output_{index}.there IS NULL")
            else:
                lacks.append("true")
        columns = "".join(f", {lack} AS lacks_{index}" for index, lack in enumerate(lacks))
        return connection.sql(
            f"SELECT inputs.*{columns} FROM ({stage.inputs}) AS inputs {' '.join(joins)} "
            f"WHERE {' OR '.join(lacks)} ORDER BY {keys} {f'LIMIT {limit}' if limit else ''}"
        ).to_arrow_table()


def count(corpus: Corpus, stage: Stage) -> int:
    """How many keys lack a row."""
    if stage.remaining is None:
        return pending(corpus, stage).num_rows
    return int(corpus.sql(stage.remaining).column(0)[0].as_py())


def run(corpus: Corpus, stage: Stage, progress: Progress) -> int:
    """Do what is pending until nothing is, and say how many keys that were. Starts no cluster when nothing is."""
    done = 0
    before: pa.Table | None = None
    workers: _Workers | None = None
    try:
        while True:
            rows = pending(corpus, stage, ROUND)
            if not rows.num_rows:
                if not _falls_due(corpus, stage):
                    return done
                continue
            keys = rows.select(stage.key)
            if keys.equals(before):
                raise RuntimeError(f"{stage.name} left its keys without rows")
            workers = workers or _Workers(stage)
            total = done + (count(corpus, stage) if stage.remaining else rows.num_rows)
            progress(stage.name, done, total)
            parts = _Parts(corpus, stage)
            for answered, new in workers.answers(rows):
                parts.add(new)
                if answered:
                    done += answered
                    progress(stage.name, done, total)
            parts.write()
            before = keys
    finally:
        if workers:
            workers.stop()


def derive(
    corpus: Corpus, table: Table, query: str, given: Mapping[str, pa.Table | pa.RecordBatchReader] | None = None
) -> int:
    """Add the rows of a query whose keys the table lacks, and say how many: a stage that is a question about rows.

    The rows stream through, so that their number is not bounded by the memory; the query itself spills to disk.

    Args:
        query: over the views; one row a key.
        given: tables that the query names beside the views.
    """
    keys = ", ".join(table.key)
    added = 0
    with corpus.connect() as connection:
        for name, rows in (given or {}).items():
            connection.register(name, rows)
        known = f"ANTI JOIN {corpus.rows_of(table)} USING ({keys})" if corpus.parts(table.path) else ""
        lacking = connection.sql(f"SELECT * FROM ({query}) {known}")
        for rows in _chunks(lacking.to_arrow_reader(DERIVED_ROWS), DERIVED_ROWS):
            corpus.append(table, rows.sort_by([(key, "ascending") for key in table.key]))
            added += rows.num_rows
    return added


def _chunks(batches: Iterable[pa.RecordBatch], least: int) -> Iterator[pa.Table]:
    """The same rows in tables of at least so many rows, but for the last."""
    held: list[pa.RecordBatch] = []
    for batch in batches:
        held.append(batch)
        if sum(len(one) for one in held) >= least:
            yield pa.Table.from_batches(held)
            held = []
    if held:
        yield pa.Table.from_batches(held)


def _falls_due(corpus: Corpus, stage: Stage) -> bool:
    """Wait for a key that falls due within the stage's patience; false where none does."""
    if stage.due is None:
        return False
    [[due]] = corpus.sql(stage.due).to_pydict().values()
    if due is None or (wait := (due - datetime.now(UTC)).total_seconds()) > stage.patience_s:
        return False
    time.sleep(max(wait, 0) + 0.05)
    return True


class _Parts:
    """Gathers what workers return into parts of a fair size, in this process alone: a stray worker adds nothing."""

    def __init__(self, corpus: Corpus, stage: Stage) -> None:
        self._corpus = corpus
        self._outputs = {table.path for table in stage.outputs}
        self._held: dict[str, tuple[Table, list[pa.Table]]] = {}
        self._since = time.monotonic()

    def add(self, new: Rows) -> None:
        for table, rows in new:
            if table is not None and rows.num_rows:
                self._held.setdefault(table.path, (table, []))[1].append(rows)
        held = sum(rows.num_rows for _, tables in self._held.values() for rows in tables)
        if held >= PART_ROWS or time.monotonic() - self._since >= PART_S:
            self.write()

    def write(self) -> None:
        """Outputs come last: they tell done what the other rows are part of."""
        for path, (table, tables) in sorted(self._held.items(), key=lambda item: item[0] in self._outputs):
            rows = pa.concat_tables(tables)
            if path in self._outputs:
                self._corpus.append(table, rows)
            else:
                self._corpus.add(table, rows)
        self._held = {}
        self._since = time.monotonic()


class _Worker:
    """A process that holds a stage's work ready."""

    def __init__(self, work: Callable[[], Work]) -> None:
        self.work = work()

    def run(self, batch: pa.Table) -> Iterator[Rows]:
        rows = self.work(batch)
        if isinstance(rows, Iterator):
            yield from rows
        else:
            yield rows

    def lost(self, batch: pa.Table, error: str) -> Rows:
        return self.work.lost(batch, error)


class _Workers:
    """The processes of a stage: they start as there is work for them, and hold what they learn until the run ends."""

    def __init__(self, stage: Stage) -> None:
        cluster.start()
        self._stage = stage
        resources = ray.cluster_resources()
        on_gpu = stage.gpu and resources.get("GPU", 0) >= 1
        cores = max(1, int(resources["CPU"] // resources["GPU"])) if on_gpu else 1
        self._actor: Any = ray.remote(num_cpus=cores, num_gpus=int(on_gpu))(_Worker)
        self._workers: list[Any] = [None] * max(1, int(resources.get("GPU" if on_gpu else "CPU", 1)))

    def answers(self, rows: pa.Table) -> Iterator[tuple[int, Rows]]:
        """Hand batches to workers; gives what they return, with the number of keys that are answered by it.

        A batch that takes its worker down is halved until the row is found that does so; that row alone is lost. What
        tells keys done is given when their batch is: one that dies half-way is done anew.
        """
        queues: list[deque[pa.Table]] = [deque() for _ in self._workers]
        self._queue(rows, queues)
        busy: dict[Any, tuple[int, pa.Table, list[tuple[Table | None, pa.Table]]]] = {}
        running: set[int] = set()
        while busy or any(queues):
            for index in set(range(len(queues))) - running:
                if queue := self._next(queues, index):
                    batch = queue.popleft()
                    busy[self._worker(index).run.options(num_returns="streaming").remote(batch)] = (index, batch, [])
                    running.add(index)
            [ready], _ = ray.wait(list(busy), num_returns=1)
            index, batch, held = busy.pop(ready)
            try:
                new = cluster.get(next(ready))  # type: ignore[arg-type]
                held += [(table, rows) for table, rows in new if table is None or table in self._stage.outputs]
                busy[ready] = (index, batch, held)
                yield 0, [(table, rows) for table, rows in new if table and table not in self._stage.outputs]
            except StopIteration:
                running.discard(index)
                moved = [rows for table, rows in held if table is None]
                for rows in moved:
                    self._queue(rows, queues)
                yield batch.num_rows - sum(rows.num_rows for rows in moved), held
            except ray.exceptions.RayActorError as death:
                self._workers[index] = None
                running.discard(index)
                if batch.num_rows > 1:
                    half = math.ceil(batch.num_rows / 2)
                    queues[index].extendleft([_slice(batch, half, half), _slice(batch, 0, half)])
                    continue
                error = f"took its process down: {type(death).__name__}"
                yield 1, cluster.get(self._worker(index).lost.remote(batch, error))

    def stop(self) -> None:
        """End the processes."""
        for worker in self._workers:
            if worker is not None:
                ray.kill(worker)

    def _worker(self, index: int) -> Any:
        if self._workers[index] is None:
            self._workers[index] = self._actor.remote(self._stage.work)
        return self._workers[index]

    def _next(self, queues: list[deque[pa.Table]], index: int) -> deque[pa.Table] | None:
        """Where a free worker finds its next batch: its own queue, or where rows belong to no one, the longest."""
        if queues[index]:
            return queues[index]
        longest = max(queues, key=len)
        return longest if longest and self._stage.together is None else None

    def _queue(self, rows: pa.Table, queues: list[deque[pa.Table]]) -> None:
        """Cut rows into batches and put each at the end of its worker's queue."""
        stage, workers = self._stage, len(self._workers)
        if stage.together is None:
            for number, start in enumerate(range(0, rows.num_rows, stage.batch)):
                queues[number % workers].append(_slice(rows, start, stage.batch))
            return
        values = rows.column(stage.together).combine_chunks().dictionary_encode()
        codes = values.indices.to_numpy()
        owners = np.array([zlib.crc32(str(value).encode()) % workers for value in values.dictionary.to_pylist()])[codes]
        turns = _ranks(codes) // stage.at_once
        order = np.lexsort((turns, owners))
        cuts = np.flatnonzero(np.diff(owners[order]) | np.diff(turns[order])) + 1
        for group in np.split(order, cuts):
            for start in range(0, len(group), stage.batch):
                some = group[start : start + stage.batch]
                queues[owners[some[0]]].append(rows.take(pa.array(some)))


def _ranks(codes: np.ndarray) -> np.ndarray:
    """How many rows with the same code stand before each row."""
    order = np.argsort(codes, kind="stable")
    ordered = codes[order]
    first = np.searchsorted(ordered, ordered, side="left")
    ranks = np.empty(len(codes), np.int64)
    ranks[order] = np.arange(len(codes)) - first
    return ranks


def _slice(rows: pa.Table, start: int, length: int) -> pa.Table:
    """A copy of some rows; a view would carry the whole table along when it is sent to a worker."""
    return rows.take(pa.array(range(start, min(start + length, rows.num_rows))))
