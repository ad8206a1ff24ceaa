"""The command line: thin. Every command says with --help what it does, with an example."""

import errno
import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import duckdb
import pyarrow as pa
import typer
import typer.core
from rich.console import Console
from rich.table import Table
from rich.text import Text

from schemas.errors import JuZhouError

if TYPE_CHECKING:
    from pipelines.decide import Change
    from schemas.training import Training

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)

DECIDED = """
    SELECT count(*) AS samples, count(*) FILTER (kept) AS kept, count(*) FILTER (kept AND "by" = 'review') AS by_people,
        count(*) FILTER (kept AND "by" = 'list') AS by_lists
    FROM verdicts
"""

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
def decide(
    corpus: CorpusPath,
    policy: Annotated[Path | None, typer.Argument(help="A policy in YAML.")] = None,
    compare: Annotated[
        tuple[Path, Path] | None,
        typer.Option(
            metavar="A B", help="Two policies: who enters and who leaves if B takes A's place; nothing is written."
        ),
    ] = None,
) -> None:
    """Judge every sample by a policy, and show what each rule rejects. Nothing is measured again.

    Example: juzhou decide demo/corpus recipes/policy.yaml

    Example: juzhou decide demo/corpus --compare recipes/policy.yaml stricter.yaml
    """
    from pipelines import decide
    from pipelines.corpus import Corpus
    from schemas.policy import Policy

    if (policy is None) == (compare is None):
        raise JuZhouError("either a POLICY is wanted or --compare A B")
    opened = Corpus(corpus)
    if policy:
        wanted = Policy.load(policy)
        with opened.writing():
            decide.adopt(opened, wanted)
        lines = decide.funnel(opened, wanted)
        columns = ("rule", "wants", "rejects", "only it", "left")
        _print_counts(columns, [(line.rule, line.criterion, line.alone, line.only, line.left) for line in lines])
        [counts] = opened.sql(DECIDED).to_pylist()
        _say("{kept:,} of {samples:,} samples kept · people kept {by_people:,} and lists {by_lists:,}".format(**counts))
    elif compare:
        changes = decide.compare(opened, Policy.load(compare[0]), Policy.load(compare[1]))
        before, after = changes.kept
        _say(f"{before:,} of {changes.samples:,} samples kept before, {after:,} after")
        _print_changes("enter, kept out before by", changes.enter)
        _print_changes("leave, kept out now by", changes.leave)


class _Releases(typer.core.TyperGroup):
    """`juzhou release CORPUS NAME` is `juzhou release freeze CORPUS NAME`."""

    def parse_args(self, context: Any, words: list[str]) -> list[str]:
        known = not words or words[0] in self.commands or words[0] == "--help"
        return super().parse_args(context, words if known else ["freeze", *words])


releases = typer.Typer(cls=_Releases, no_args_is_help=True, rich_markup_mode=None)
app.add_typer(releases, name="release")


@releases.callback()
def release() -> None:
    """Freeze what a policy keeps, and compare what was frozen.

    Example: juzhou release demo/corpus v2 --policy recipes/policy.yaml --base v1

    Example: juzhou release diff demo/corpus v1 v2
    """


@releases.command()
def freeze(
    corpus: CorpusPath,
    name: Annotated[str, typer.Argument(help="What the release is called. A release never changes.")],
    policy: Annotated[
        Path | None, typer.Option(help="A policy in YAML; that of the corpus's recipe when left out.")
    ] = None,
    base: Annotated[
        str | None, typer.Option(help="The name of a release: only what is not in it as it is gets written.")
    ] = None,
) -> None:
    """Judge every sample, make the captions that are lacking, and write shards, manifest and card. The word freeze may
    be left out.

    Example: juzhou release demo/corpus v1 --policy recipes/policy.yaml
    """
    from juzhou.build import freeze
    from pipelines.corpus import Corpus
    from schemas.policy import Policy

    freeze(Corpus(corpus.resolve()), name, Policy.load(policy) if policy else None, base, _say, _Progress())


@releases.command()
def diff(
    corpus: CorpusPath,
    first: Annotated[str, typer.Argument(help="The name of a release.")],
    second: Annotated[str, typer.Argument(help="The name of another.")],
) -> None:
    """Show what sets two releases of a corpus apart.

    Example: juzhou release diff demo/corpus v1 v2
    """
    from pipelines.corpus import Corpus
    from pipelines.releases.difference import between

    found = between(Corpus(corpus.resolve()), first, second)
    _say(f"{found.both:,} samples in both · {found.gone:,} in {first} alone · {found.new:,} in {second} alone")
    _say(f"in both: {found.captions:,} captions changed · {found.splits:,} splits changed")
    for before, after in found.reworded:
        _say(f"  {before} → {after}")
    _print_counts(("source", "both", f"{first} alone", f"{second} alone"), found.sources)
    if found.rules:
        _print_counts((f"why {first} alone, by the verdicts now", "samples"), found.rules)
    if found.policy:
        _print_counts(("policy", first, second), found.policy)
    means = [(name, *("" if mean is None else f"{mean:.4g}" for mean in both)) for name, *both in found.scores]
    _print_counts(("mean of", first, second), means)


@app.command()
def sql(
    corpus: CorpusPath,
    query: Annotated[
        str | None, typer.Argument(help="One SELECT, DESCRIBE, SUMMARIZE, SHOW or EXPLAIN of DuckDB.")
    ] = None,
    format: Annotated[Format, typer.Option(help="How rows are printed.")] = Format.TABLE,
    views: Annotated[bool, typer.Option(help="Print the views as SQL, for the DuckDB shell.")] = False,
) -> None:
    """Ask a corpus in SQL. SHOW TABLES lists the views, DESCRIBE corpus the columns of the widest one.

    Ids are 16 bytes: they print as hex, and unhex('…') writes one. For the DuckDB shell, its user interface or any
    other program with DuckDB in it:

    juzhou sql demo/corpus --views > views.sql; duckdb -init views.sql; duckdb -init views.sql -ui

    Example: juzhou sql demo/corpus "SELECT verdict.rule, count(*) FROM corpus GROUP BY ALL ORDER BY 2 DESC"
    """
    from pipelines.corpus import Corpus

    opened = Corpus(corpus.resolve())
    if views:
        _say(opened.views_as_sql())
    elif query is None:
        raise JuZhouError("a QUERY is wanted; SHOW TABLES lists what there is")
    else:
        _print_rows(opened.ask(query), format)


@app.command()
def stats(
    corpus: CorpusPath,
    html: Annotated[Path | None, typer.Option(help="A file for the same figures as a page with charts.")] = None,
) -> None:
    """Show what a corpus is made of: how much came through, what the measures saw, what the rules reject.

    Example: juzhou stats demo/corpus --html statistics.html
    """
    from pipelines import statistics
    from pipelines.corpus import Corpus

    sections = statistics.ask(Corpus(corpus))
    console = Console(width=None if sys.stdout.isatty() else 200)
    for section in statistics.brief(sections):
        table = Table(title=section.title, title_justify="left", caption=section.about, caption_justify="left")
        for column in section.columns:
            table.add_column(column.replace("_", " "), justify="right" if section.is_number(column) else "left")
        for cells in section.cells():
            table.add_row(*map(Text, cells))
        console.print(table, "")
    if html:
        statistics.write(sections, corpus.resolve().name, html)
        _say(f"{html}: {html.stat().st_size / 1000:,.0f} kB")


@app.command()
def forget(
    corpus: CorpusPath,
    url: Annotated[list[str] | None, typer.Option(help="The URL of a picture or of a page.")] = None,
    domain: Annotated[list[str] | None, typer.Option(help="A domain, with all hosts below it.")] = None,
    image: Annotated[list[str] | None, typer.Option(help="An image_id in hex, or a file with the picture.")] = None,
    listed: Annotated[
        Path | None, typer.Option("--list", help="A text file with a URL, a domain or an image_id a line.")
    ] = None,
    reason: Annotated[str | None, typer.Option(help="Why, for whoever asks later.")] = None,
) -> None:
    """Take pictures down: out of the tables, their bytes too, never to be fetched again. It cannot be undone.

    With nothing named, a take-down that was interrupted is completed. Releases never change: those that hold some of
    it are listed, and are yours to withdraw.

    Example: juzhou forget demo/corpus --url https://example.org/a.jpg --reason "its author asked"

    Example: juzhou forget demo/corpus --domain example.org
    """
    from pipelines import forget
    from pipelines.corpus import Corpus
    from pipelines.forget import Request

    wanted = [Request.of_url(one) for one in url or ()] + [Request.of_domain(one) for one in domain or ()]
    wanted += [Request.of_image(one) for one in image or ()] + (Request.of_list(listed) if listed else [])
    opened = Corpus(corpus.resolve())
    with opened.writing():
        taken = forget.forget(opened, wanted, reason) if wanted else forget.finish(opened)
    if taken is None:
        _say("all of it was forgotten before" if wanted else "no take-down is left to complete")
    else:
        for kind, value in dict.fromkeys((one.kind, one.value) for one in wanted):
            _say(f"{kind} {value}: {taken.told(kind, value)}")
        _say(
            f"{taken.images:,} pictures, {taken.samples:,} samples and {taken.candidates:,} candidates forgotten · "
            f"{taken.parts:,} parts written anew"
        )
    if releases := taken.releases if taken else forget.held(opened):
        _print_counts(("release to withdraw", "samples of it"), releases)


@app.command()
def audit(
    corpus: CorpusPath,
    policy: Annotated[
        Path | None, typer.Option(help="The policy that the verdicts are of, where the corpus does not remember it.")
    ] = None,
    reviewer: Annotated[str | None, typer.Option(help="Who reviews; the login name when left out.")] = None,
    host: Annotated[
        str, typer.Option(help="The address to listen at; any other than this machine's own wants a token.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="The port; 0 takes a free one.", min=0, max=65535)] = 8710,
) -> None:
    """Look at a corpus in the browser: samples and why they are in or out, thresholds, copies, reviews, SQL.

    Example: juzhou audit demo/corpus
    """
    import getpass

    from pipelines.audit.app import serve
    from pipelines.corpus import Corpus

    serve(Corpus(corpus.resolve()), policy, reviewer or getpass.getuser(), host, port, _say)


@app.command()
def train(
    release: Annotated[Path | None, typer.Argument(help="The folder of a release.")] = None,
    recipe: Annotated[Path | None, typer.Argument(help="A training recipe in YAML.")] = None,
    output: Annotated[
        Path, typer.Option("-o", "--output", help="The folder of the stages; what is there is gone on with.")
    ] = Path("checkpoints"),
    plan: Annotated[bool, typer.Option(help="Only tell what a training recipe will cost.")] = False,
    self_test: Annotated[
        bool, typer.Option(help="Only see whether this device computes forwards and backwards as it should.")
    ] = False,
) -> None:
    """Train on a release, stage by stage, from where it was left. What it will cost is told first.

    Example: juzhou train scenes/corpus/releases/scenes-1 recipes/nano.yaml -o scenes/checkpoints

    Example: juzhou train RELEASE recipes/full.yaml --plan

    Example: juzhou train --self-test
    """
    if self_test:
        _self_test()
        return
    if release is None or recipe is None:
        raise JuZhouError("a release and a training recipe are wanted: juzhou train RELEASE RECIPE")
    from pipelines import cluster
    from schemas.training import Training
    from training import trainer

    settings = Training.load(recipe)
    _print_plan(settings)
    if plan:
        return
    if trainer.pending(release, output, settings):
        cluster.start()
        try:
            trainer.train(release, output, settings, _say)
        finally:
            cluster.stop()
    _say(f"checkpoint: {trainer.folders(release, output, settings)['dmd2'] / 'checkpoint'}")


def _print_plan(recipe: "Training") -> None:
    """A row for each stage: what it sees, computes, holds and takes."""
    from training.plan import Device, plan

    where = Device()
    rows = [
        (
            row.stage,
            row.size,
            row.steps,
            row.batch,
            row.samples,
            f"{row.operations:.1e}",
            f"{row.gibibytes:,.2f}",
            f"{row.activations:,.2f}",
            f"{row.days:,.2f}",
        )
        for row in plan(recipe, where)
    ]
    columns = ("stage", "size", "steps", "batch", "samples", "operations", "GiB of state", "of activations", "days")
    _print_counts(columns, rows)
    _say(
        f"days on {recipe.workers} devices of {where.teraflops:g} TFLOPS in bfloat16 (the report's), of which a"
        f" training is taken to get {where.utilisation:.0%}; GiB are those of each"
    )


def _self_test() -> None:
    """Print the verdict on each operator; a wrong one is an error."""
    from model import device
    from training import selftest

    rows = selftest.run()
    shown = [
        (row.operator, row.precision, f"{row.forward:.1e}", f"{row.backward:.1e}", row.error or _verdict(row.passed))
        for row in rows
    ]
    _print_counts(("operator", "precision", "forward error", "backward error", "verdict"), shown)
    wrong = {row.operator for row in rows if not row.passed}
    if wrong:
        raise JuZhouError(
            f"do not train on {device.pick()}: it gets {', '.join(sorted(wrong))} wrong; update its torch"
        )
    _say(f"{device.pick()}: all {len(rows)} right")


def _verdict(passed: bool) -> str:
    return "right" if passed else "wrong"


evaluations = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
app.add_typer(evaluations, name="evaluate")


@evaluations.callback()
def evaluate() -> None:
    """Measure what a checkpoint can do.

    Example: juzhou evaluate scenes scenes/checkpoints
    """


Checkpoint = Annotated[
    Path, typer.Argument(help="A checkpoint, or the folder of a training, which has a base and a distilled one.")
]
Refiner = Annotated[
    str | None,
    typer.Option(
        help="Who says what a poem shows: the folder or hub id of a chat model or of an adapter for one; with an "
        "endpoint, the model's name there. Without one, the lexicon that comes along does."
    ),
]
Endpoint = Annotated[str | None, typer.Option(help="The base URL of an OpenAI-compatible server that has the refiner.")]


@evaluations.command()
def scenes(
    checkpoint: Checkpoint,
    quick: Annotated[bool, typer.Option(help="A part of the prompts.")] = False,
    pictures: Annotated[int, typer.Option(min=1, help="Drawn of each prompt; GenEval has 4.")] = 1,
    grid: Annotated[Path | None, typer.Option(help="A PNG of the same 16 prompts, drawn each way.")] = None,
) -> None:
    """Ask for composed scenes in GenEval's six categories, and score what is drawn by our own detector.

    A training's folder is scored at 28 steps, at 4 distilled ones and at 4 plain ones; a checkpoint at its own.

    Example: juzhou evaluate scenes scenes/checkpoints --grid scenes.png
    """
    from model.pipeline import quiet
    from training.evaluation import scenes as evaluation

    quiet()
    scores, firsts = evaluation.evaluate(*evaluation.pipelines(checkpoint), quick=quick, pictures=pictures, say=_say)
    if grid:
        evaluation.grid(firsts, grid)
        _say(f"{grid}: {' · '.join(scores)}")
    _say(evaluation.summary(scores))


@app.command()
def refine(
    poem: Annotated[str, typer.Argument(help="A poem, or a line of one.")],
    refiner: Refiner = None,
    endpoint: Endpoint = None,
) -> None:
    """Say what a poem shows, as a prompt: its visual keywords. The prompt is the last line.

    Example: juzhou refine "朝辞白帝彩云间，千里江陵一日还"

    Example: juzhou refine "两岸猿声啼不住" --refiner Qwen/Qwen3-1.7B --endpoint http://127.0.0.1:8000/v1
    """
    _say(_refiner(refiner, endpoint)(poem))


@evaluations.command()
def poetry(
    checkpoint: Checkpoint,
    release: Annotated[Path, typer.Argument(help="The folder of a release with held-out poems.")],
    quick: Annotated[bool, typer.Option(help="A few of the poems.")] = False,
    clip: Annotated[
        str | None, typer.Option(help="A Chinese-CLIP that scores, a folder or hub id; without it a stand-in does.")
    ] = None,
    page: Annotated[Path | None, typer.Option(help="An HTML page of the poems, pictures, prompts and scores.")] = None,
    refiner: Refiner = None,
    endpoint: Endpoint = None,
) -> None:
    """Draw held-out poems and score them: alignment, share of the keywords that are found, Fréchet distance.

    The prompt of a poem is what the release says that it shows; with a refiner, what that says of its text.

    Example: juzhou evaluate poetry checkpoints demo/corpus/releases/demo-1 --page poems.html
    """
    from filters.pairing import ClipPairing, LitePairing
    from model.pipeline import quiet
    from training.evaluation import poetry as evaluation
    from training.evaluation.scenes import pipelines

    quiet()
    ways = evaluation.steps_of(*pipelines(checkpoint))
    asked = evaluation.held_out(release, evaluation.QUICK if quick else evaluation.POEMS)
    sides = {pipeline.default_size for pipeline, _ in ways.values()}
    pictures = evaluation.held_pictures(release, (max(sides), max(sides)))
    scorer = ClipPairing(clip) if clip else LitePairing()

    refine = _refiner(refiner, endpoint) if refiner or endpoint else None
    found = evaluation.evaluate(ways, asked, refine, scorer, pictures, _say)
    if page:
        evaluation.page(found, scorer, page)
        _say(f"{page}: {len(asked)} poems")
    _say(evaluation.summary(found, scorer, len(pictures)))


def _refiner(name: str | None, endpoint: str | None) -> Callable[[str], str]:
    from pipelines.poetry.refine import refiner
    from schemas.recipe import LanguageModel

    if endpoint and not name:
        raise JuZhouError(f"{endpoint}: name the model that it is asked for: --refiner NAME")
    return refiner(LanguageModel(model=name, endpoint=endpoint) if name else None)


@app.command()
def merge(
    adapter: Annotated[Path, typer.Argument(help="The adapter of a refiner: the folder `adapter` of its stage.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="The folder of the whole model.")],
) -> None:
    """Merge a refiner's adapter into its base model, for servers and phones that take a whole one.

    Example: juzhou merge checkpoints/refiner-…/adapter -o refiner
    """
    from model.refiner import is_adapter, load_chat

    if not is_adapter(adapter):
        raise JuZhouError(f"{adapter}: no adapter there; the stage `refiner` of a training makes one")
    for part in load_chat(adapter, "auto"):
        part.save_pretrained(output)
    _say(f"{output}")


@app.command()
def generate(
    prompt: Annotated[str, typer.Argument(help="What to draw, in Chinese.")],
    checkpoint: Annotated[
        Path | None, typer.Option(help="The folder of a checkpoint, or a hub id; the one that comes along by default.")
    ] = None,
    steps: Annotated[
        int | None, typer.Option(help="Denoising steps; the checkpoint's own number when left out.")
    ] = None,
    seed: Annotated[int, typer.Option(help="The same seed draws the same picture.")] = 0,
    output: Annotated[Path, typer.Option("-o", "--output", help="The picture's file.")] = Path("picture.png"),
    refine: Annotated[
        bool, typer.Option("--refine", help="Draw what the poem shows, as `juzhou refine` says it.")
    ] = False,
    refiner: Refiner = None,
    endpoint: Endpoint = None,
) -> None:
    """Draw a picture.

    Example: juzhou generate "红苹果在猫的左边" -o a.png

    Example: juzhou generate "一只熊猫" --checkpoint checkpoints/dmd2-…/checkpoint --seed 7
    """
    from model.pipeline import SHIPPED, JuZhouPipeline, quiet

    quiet()
    if refine or refiner or endpoint:
        prompt = _refiner(refiner, endpoint)(prompt)
        _say(prompt)
    pipeline = JuZhouPipeline.from_pretrained(checkpoint or SHIPPED)
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


def _print_changes(what: str, changes: "Sequence[Change]") -> None:
    """Samples that enter or leave, by rule, with examples."""
    _say(f"{sum(change.samples for change in changes):,} {what}")
    rows = []
    for change in changes:
        shown = [
            f"{example['caption']} ({'no value' if example['value'] is None else format(example['value'], '.4g')})"
            for example in change.examples
        ]
        rows.append((change.rule, change.criterion, change.samples, " · ".join(shown)))
    if rows:
        _print_counts(("rule", "wants", "samples", "for example"), rows)


def _readable(value: object) -> object:
    """Bytes as hex, at any depth."""
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, list):
        return [_readable(item) for item in value]
    if isinstance(value, dict):
        return {key: _readable(item) for key, item in value.items()}
    return value
