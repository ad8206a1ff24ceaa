"""What a recipe asks for, in order: observe, decide, release, train, report. What is done is not done twice."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from pipelines import caption, cluster, crawl, decide, dedupe, fetch, measure, release, report
from pipelines.corpus import Corpus
from pipelines.material import pairs
from pipelines.miniweb import MiniWeb as Web
from pipelines.stage import Progress, Stage, pending, run
from schemas.errors import JuZhouError
from schemas.policy import Policy
from schemas.recipe import MiniWeb, Recipe, Site, Urls
from schemas.tables import Table

Say = Callable[[str], None]


@dataclass(frozen=True)
class Plan:
    """The stages of a recipe over a corpus, in their order, and the variants that they write."""

    crawl: list[Stage]
    fetch: Stage
    measure: list[Stage]
    duplicates: Table
    caption: list[Stage]

    @property
    def stages(self) -> list[Stage]:
        """All that run on Ray."""
        return [*self.crawl, self.fetch, *self.measure, *self.caption]

    @property
    def variants(self) -> list[Table]:
        """What the views show once this recipe is adopted; verdicts come when they are written."""
        written = [table for stage in [*self.measure, *self.caption] for table in stage.outputs]
        return [*written, self.duplicates]


def plan(recipe: Recipe, corpus: Corpus, started: datetime) -> Plan:
    """Lay out a recipe's stages; nothing runs.

    Raises:
        JuZhouError: the recipe names a measure that there is not, or leaves out one that is needed.
    """
    sites = {name: _site(source) for name, source in recipe.sources.items() if isinstance(source, Site | MiniWeb)}
    measures = measure.tables_of(recipe.measures)
    if "pdq" not in measures:
        raise JuZhouError("near-duplicates are found by the measure 'pdq': add it to the recipe's measures")
    poetry = recipe.poetry
    return Plan(
        crawl=[crawl.crawl_stage(name, site, recipe.fetch, started) for name, site in sites.items()],
        fetch=fetch.fetch_stage(corpus, recipe.fetch, started),
        measure=measure.stages(corpus, measures),
        duplicates=dedupe.table_of(recipe.dedupe, measures["pdq"]),
        caption=[caption.simplified_stage()]
        + ([caption.lines_stage(), caption.poem_stage(corpus, poetry)] if poetry else []),
    )


def build(recipe: Recipe, say: Say, progress: Progress) -> Path:
    """Do all that a recipe asks and has not been done yet; gives the newest release.

    Raises:
        JuZhouError: the recipe, its policy or a source cannot be used, or another process writes to the corpus.
    """
    started = datetime.now(UTC)
    policy = Policy.load(recipe.policy)
    corpus = Corpus.create(recipe.corpus)
    steps = plan(recipe, corpus, started)
    try:
        with corpus.writing():
            corpus.adopt(recipe.model_dump_json(), steps.variants)
            _observe(recipe, corpus, steps, started, say, progress)
            verdicts = decide.table_of(corpus, policy)
            decide.run(corpus, policy, verdicts)
            corpus.adopt(recipe.model_dump_json(), [*steps.variants, verdicts])
            say(_funnel(corpus))
            if recipe.poetry:
                caption.add_poems(corpus)
            for stage in steps.caption:
                run(corpus, stage, progress)
            if not corpus.sql("SELECT 1 FROM verdicts WHERE kept LIMIT 1").num_rows:
                raise JuZhouError(
                    "the policy keeps no sample, so there is nothing to release; see `juzhou sql` on verdicts"
                )
            newest = release.run(corpus, recipe, policy)
            say(f"release {newest.name}: {newest}")
        stages = _train(recipe, newest, say)
        if recipe.report:
            report.write(corpus, policy, newest, stages, recipe.report)
            say(f"report: {recipe.report}")
    finally:
        cluster.stop()
    return newest


def _train(recipe: Recipe, newest: Path, say: Say) -> list[Path]:
    """The finished training stages of a release, in order; what is finished starts no cluster."""
    if not recipe.training:
        return []
    # It takes seconds to import, and only recipes that train need it.
    from training import trainer

    assert recipe.checkpoints
    if trainer.pending(newest, recipe.checkpoints, recipe.training):
        cluster.start()
        trainer.train(newest, recipe.checkpoints, recipe.training, say)
    stages = list(trainer.folders(newest, recipe.checkpoints, recipe.training).values())
    say(f"checkpoint: {stages[-1] / 'checkpoint'}")
    return stages


def status(corpus: Corpus) -> list[tuple[str, int, int, int]]:
    """Stage by stage: its name, rows done, keys that the last recipe's next build would do, and rows that failed."""
    if corpus.recipe is None:
        return []
    recipe = Recipe.model_validate_json(corpus.recipe)
    rows = []
    for stage in plan(recipe, corpus, datetime.now(UTC)).stages:
        done, failed = _counts(corpus, stage)
        rows.append((stage.name, done, pending(corpus, stage).num_rows, failed))
    return rows


def _observe(recipe: Recipe, corpus: Corpus, steps: Plan, started: datetime, say: Say, progress: Progress) -> None:
    """Everything that adds rows before a verdict."""
    with contextlib.ExitStack() as servers:
        for source in recipe.sources.values():
            if isinstance(source, MiniWeb):
                servers.enter_context(_served(source, say))
        for stage in steps.crawl:
            run(corpus, stage, progress)
        crawl.candidates_of_pages(corpus, recipe.digest)
        for name, source in recipe.sources.items():
            if isinstance(source, Urls):
                crawl.candidates_of_urls(corpus, name, source, recipe.digest, started)
        run(corpus, steps.fetch, progress)
    fetch.images_of_fetches(corpus)
    fetch.samples_of_images(corpus)
    if not corpus.sql("SELECT 1 FROM samples LIMIT 1").num_rows:
        raise JuZhouError(f'no source gave a picture; juzhou sql {corpus.path} "FROM fetches" and "FROM pages" say why')
    for stage in steps.measure:
        run(corpus, stage, progress)
    dedupe.run(corpus, recipe.dedupe, steps.duplicates, progress)


@contextlib.contextmanager
def _served(source: MiniWeb, say: Say) -> Iterator[None]:
    with Web(pairs(say), source.pages).serve(source.port):
        yield


def _site(source: Site | MiniWeb) -> Site:
    """A mini web is crawled as any site is; its index and lists say what is new."""
    if isinstance(source, Site):
        return source
    return Site(kind="site", seeds=(f"http://127.0.0.1:{source.port}/",), announced=1, depth=3)


def _counts(corpus: Corpus, stage: Stage) -> tuple[int, int]:
    """Rows of a stage's outputs, and those among them that hold an error."""
    done = failed = 0
    with corpus.connect() as connection:
        for table in stage.outputs:
            if corpus.parts(table.path):
                error = "error IS NOT NULL" if "error" in table.schema.names else "false"
                parts = f"read_parquet('{corpus.tables / table.path}/part-*.parquet')"
                [counts] = connection.execute(f"SELECT count(*), count(*) FILTER ({error}) FROM {parts}").fetchall()
                done, failed = done + counts[0], failed + counts[1]
    return done, failed


def _funnel(corpus: Corpus) -> str:
    counts = report.funnel(corpus).to_pylist()
    return "\n".join(
        f"{row['source']}: {row['found']:,} found → {row['fetched']:,} fetched → {row['unique_pictures']:,} unique "
        f"→ {row['kept']:,} kept"
        for row in counts
    )
