"""The command line: thin. Every command says with --help what it does, with an example."""

import errno
import json
import os
import sys
import time
import traceback
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import duckdb
import pyarrow as pa
import typer
from rich.console import Console
from rich.table import Table

from schemas.errors import JuZhouError

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)

CorpusPath = Annotated[Path, typer.Argument(help="The folder of a corpus.")]


class Format(StrEnum):
    """How rows are printed."""

    TABLE = "table"
    CSV = "csv"
    JSON = "json"
    PARQUET = "parquet"


@app.callback()
def options(debug: Annotated[bool, typer.Option(help="Show a traceback where something fails.")] = False) -> None:
    """Build a Chinese image-text corpus, and train a four-step text-to-image model on it."""


@app.command()
def build(
    recipe: Annotated[Path, typer.Argument(help="A recipe in YAML.")],
    refetch: Annotated[bool, typer.Option(help="Ask again for every URL, whatever came of it before.")] = False,
) -> None:
    """Do all that a recipe asks and has not been done yet.

    Example: juzhou build recipes/demo.yaml
    """
    from juzhou.build import build as build_all
    from schemas.recipe import Recipe

    started = time.monotonic()
    build_all(Recipe.load(recipe), _say, _Progress(), refetch)
    _say(f"done in {time.monotonic() - started:.0f} s")


@app.command()
def status(corpus: CorpusPath) -> None:
    """Show rows done, pending and failed by stage, and how fetching goes, as the disk tells; a build may be running.

    Example: juzhou status demo/corpus
    """
    from juzhou.build import status as stage_counts
    from pipelines.corpus import Corpus
    from pipelines.traffic import traffic

    opened = Corpus(corpus)
    stages = stage_counts(opened)
    _print_counts(("stage", "done", "pending", "failed"), stages)
    now = traffic(opened)
    if not now.by_error.num_rows:
        return
    _print_counts(("status", "error", "URLs"), [tuple(row.values()) for row in now.by_error.to_pylist()])
    hosts = [tuple(row.values()) for row in now.by_host.to_pylist()]
    _print_counts(("host", "URLs", "ok", "to retry", "last error"), hosts)
    pending = next((waiting for name, _, waiting, _ in stages if name == "fetch"), 0)
    if now.rows_a_second and (left_s := now.seconds_left(pending)) is not None:
        _say(f"{now.rows_a_second:,.1f} URLs/s of late · {pending:,} left · about {left_s / 60:,.0f} min at that rate")


@app.command()
def sql(
    corpus: CorpusPath,
    query: Annotated[str, typer.Argument(help="One SELECT, DESCRIBE, SUMMARIZE, SHOW or EXPLAIN of DuckDB.")],
    format: Annotated[Format, typer.Option(help="How rows are printed.")] = Format.TABLE,
) -> None:
    """Ask a corpus in SQL. SHOW TABLES lists the views, DESCRIBE corpus the columns of the widest one.

    Ids are 16 bytes: they print as hex, and unhex('…') writes one.

    Example: juzhou sql demo/corpus "SELECT verdict.rule, count(*) FROM corpus GROUP BY ALL ORDER BY 2 DESC"
    """
    from pipelines.corpus import Corpus

    _print_rows(Corpus(corpus).ask(query), format)


@app.command()
def generate(
    checkpoint: Annotated[Path, typer.Argument(help="The folder of a checkpoint.")],
    prompt: Annotated[str, typer.Argument(help="What to draw, in Chinese.")],
    steps: Annotated[
        int | None, typer.Option(help="Denoising steps; the checkpoint's own number when left out.")
    ] = None,
    seed: Annotated[int, typer.Option(help="The same seed draws the same picture.")] = 0,
    output: Annotated[Path, typer.Option("-o", "--output", help="The picture's file.")] = Path("picture.png"),
) -> None:
    """Draw a picture.

    Example: juzhou generate demo/checkpoints/dmd2-…/checkpoint "红苹果" --steps 4 --seed 1 -o apple.png
    """
    from model.pipeline import JuZhouPipeline, quiet

    quiet()
    pipeline = JuZhouPipeline.from_pretrained(checkpoint)
    [picture] = pipeline(prompt, num_inference_steps=steps, seed=seed)
    output.parent.mkdir(parents=True, exist_ok=True)
    picture.save(output)
    _say(f"{output}: {picture.width}×{picture.height}")


def main() -> None:
    """Run a command; what a user can mend ends in one line and exit code 1.

    The process ends here rather than by the interpreter's teardown, in which Ray's threads still hold DuckDB's types
    and its bindings print pages about leaks. Nothing is left to tear down: servers, cluster and files end with their
    contexts.
    """
    code = _run()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _run() -> int:
    """Run a command and give its exit code."""
    try:
        app()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 0
    except (JuZhouError, OSError, duckdb.Error) as error:
        if "--debug" in sys.argv:
            traceback.print_exc()
        _complain(_in_words(error))
    except KeyboardInterrupt:
        _complain("stopped; the same command goes on from here")
    except Exception:
        traceback.print_exc()
    return 1


def _complain(failure: str) -> None:
    print(f"juzhou: {' '.join(failure.split())}", file=sys.stderr)


def _in_words(error: JuZhouError | OSError | duckdb.Error) -> str:
    if isinstance(error, JuZhouError):
        return str(error)
    if isinstance(error, duckdb.Error):
        return f"{str(error).splitlines()[0]}; a part that is damaged can be moved away, and its rows are made again"
    where = f" ({error.filename})" if error.filename else ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"the disk is full{where}; make room and run the same command again, nothing that was done is lost"
    return f"{error.strerror or error}{where}; see to it and run the same command again"


def _say(line: str) -> None:
    print(line, flush=True)


class _Progress:
    """A line a stage: rewritten in place on a terminal, printed at its end elsewhere."""

    def __init__(self) -> None:
        self._started: dict[str, float] = {}

    def __call__(self, stage: str, done: int, total: int) -> None:
        seconds = time.monotonic() - self._started.setdefault(stage, time.monotonic())
        rate = f" · {done / seconds:,.0f}/s" if done and seconds > 0 else ""
        left = f" · {(total - done) * seconds / done:,.0f} s left" if 0 < done < total else ""
        line = f"{stage}: {done:,} of {total:,}{rate}{left}"
        if sys.stdout.isatty():
            print(f"\r\033[K{line}", end="\n" if done == total else "", flush=True)
        elif done == total:
            print(line, flush=True)


def _print_rows(rows: pa.Table, format: Format) -> None:
    if format is Format.PARQUET:
        import pyarrow.parquet as pq

        sink = pa.BufferOutputStream()
        pq.write_table(rows, sink)
        sys.stdout.buffer.write(sink.getvalue())
        return
    values = [[_readable(value) for value in row.values()] for row in rows.to_pylist()]
    names = rows.column_names
    if format is Format.JSON:
        for row in values:
            print(json.dumps(dict(zip(names, row, strict=True)), ensure_ascii=False, default=str))
    elif format is Format.CSV:
        import csv

        csv.writer(sys.stdout, lineterminator="\n").writerows([names, *values])
    else:
        table = Table(*names)
        for row in values:
            table.add_row(*("" if value is None else str(value) for value in row))
        Console(width=None if sys.stdout.isatty() else 200).print(table)


def _print_counts(columns: Sequence[str], rows: Sequence[tuple[Any, ...]]) -> None:
    """A table whose numbers stand right."""
    table = Table(*columns)
    for index, column in enumerate(table.columns):
        if rows and isinstance(rows[0][index], int):
            column.justify = "right"
    for row in rows:
        table.add_row(*(f"{value:,}" if isinstance(value, int) else value or "" for value in row))
    Console(width=None if sys.stdout.isatty() else 200).print(table)


def _readable(value: object) -> object:
    """Bytes as hex, at any depth."""
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, list):
        return [_readable(item) for item in value]
    if isinstance(value, dict):
        return {key: _readable(item) for key, item in value.items()}
    return value
