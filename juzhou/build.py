"""What a recipe asks for, in order: observe, decide, release, train, report. What is done is not done twice."""

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from pydantic import ValidationError

from filters import registry
from pipelines import (
    candidates,
    caption,
    cluster,
    decide,
    dedupe,
    fetch,
    forget,
    material,
    measure,
    report,
    semantic,
    translate,
)
from pipelines.corpus import Corpus
from pipelines.miniweb import MiniWeb as Web
from pipelines.poetry import imagery, pairs, poems, reading, retrieval, variants
from pipelines.releases import release
from pipelines.sources import folder, parquet, scenes, site, synthesis, tar, urls, warc
from pipelines.stage import Progress, Stage, count, run
from pipelines.traffic import traffic
from schemas.errors import JuZhouError
from schemas.policy import Policy
from schemas.recipe import (
    Folder,
    MiniWeb,
    Parquet,
    Poetry,
    Recipe,
    Scenes,
    Semantic,
    Site,
    Source,
    Synthesis,
    Tar,
    Urls,
    Warc,
)
from schemas.tables import Table

Say = Callable[[str], None]


TOLD_S = 60.0
"""While pictures are fetched, what comes of them is told this often."""


@dataclass(frozen=True)
class Plan:
    """The stages of a recipe over a corpus, in their order, and the variants that they write."""

    sources: list[Stage]
    translations: dict[str, Table]
    fetch: Stage
    measure: list[Stage]
    duplicates: Table
    semantic: tuple[Table, Table] | None
    """Cluster centres and look-alikes."""
    caption: list[Stage]
    reading: list[Stage]
    """What poems show, by a language model."""
    poetry: list[Table]
    """The variants of poems, what they show, and how they could be drawn."""

    @property
    def stages(self) -> list[Stage]:
        """All that run on Ray."""
        return [*self.reading, *self.sources, self.fetch, *self.measure, *self.caption]

    @property
    def variants(self) -> list[Table]:
        """What the views show once this recipe is adopted; verdicts come when they are written."""
        written = [table for stage in [*self.reading, *self.measure, *self.caption] for table in stage.outputs]
        return [*written, *self.poetry, *self.translations.values(), self.duplicates, *(self.semantic or ())]


def plan(recipe: Recipe, corpus: Corpus, started: datetime, refetch: bool = False) -> Plan:
    """Lay out a recipe's stages; nothing runs.

    Raises:
        JuZhouError: the recipe names a measure or a file that there is not, or leaves out one that is needed.
    """
    measures = registry.build(recipe.measures)
    tables = measure.tables_of(measures)
    if "pdq" not in measures:
        raise JuZhouError("copies are found by the measure 'pdq': add it to the recipe's measures")
    duplicates = dedupe.table_of(recipe.dedupe, tables)
    poetry = recipe.poetry
    translations = {
        name: translate.table_of(name, source.translate)
        for name, source in recipe.sources.items()
        if isinstance(source, Synthesis) and source.translate
    }
    return Plan(
        sources=[
            stage
            for name, source in recipe.sources.items()
            for stage in _stages(corpus, name, source, recipe, translations.get(name), started)
        ],
        translations=translations,
        fetch=fetch.fetch_stage(corpus, recipe.sources, recipe.fetch, started, refetch),
        measure=measure.stages(corpus, measures),
        duplicates=duplicates,
        semantic=_semantic(recipe.dedupe.semantic, tables, duplicates),
        caption=[caption.simplified_stage(_names(recipe, tables))]
        + (_captions_of_poems(corpus, poetry, retrieval.space_of(poetry, measures, tables)) if poetry else []),
        reading=[reading.reading_stage(corpus, poetry.keywords)] if poetry and poetry.keywords else [],
        poetry=[variants.table(), _shown(poetry), *pairs.pairs_stage(_shown(poetry)).outputs] if poetry else [],
    )


def _captions_of_poems(corpus: Corpus, poetry: Poetry, space: retrieval.Space) -> list[Stage]:
    lines = retrieval.retrieval_stage(corpus, poetry, _shown(poetry), space, caption.KEPT)
    return [caption.triplets_stage(_shown(poetry)), retrieval.vectors_stage(space), lines]


def _shown(poetry: Poetry) -> Table:
    """Where it stands what poems show."""
    return reading.tables_of(poetry.keywords)[1] if poetry.keywords else imagery.keywords_stage().outputs[0]


def _semantic(wanted: Semantic | None, tables: dict[str, Table], duplicates: Table) -> tuple[Table, Table] | None:
    if not wanted:
        return None
    if wanted.embedding not in tables:
        raise JuZhouError(f"look-alikes are found by the measure '{wanted.embedding}': add it to the recipe's measures")
    centres = semantic.centres_of(wanted, tables[wanted.embedding])
    return centres, semantic.table_of(wanted, centres, duplicates)


def _names(recipe: Recipe, tables: dict[str, Table]) -> Table | None:
    """The table by which names are masked, where the recipe asks for it."""
    if not recipe.captions.mask_names:
        return None
    if "names" not in tables:
        raise JuZhouError("names are masked by the measure 'names': add it to the recipe's measures")
    return tables["names"]


def _stages(
    corpus: Corpus, name: str, source: Source, recipe: Recipe, translations: Table | None, started: datetime
) -> list[Stage]:
    """The stages that observe a source; lists of URLs need none, for they are a question about rows."""
    match source:
        case Site():
            return [site.crawl_stage(corpus, name, source, recipe.fetch, started)]
        case MiniWeb():
            # It is crawled as any site is; its index and lists say what is new.
            seeds = (f"http://127.0.0.1:{source.port}/",)
            own = Site(kind="site", seeds=seeds, sitemaps=False, announced=1, depth=3)
            return [site.crawl_stage(corpus, name, own, recipe.fetch, started)]
        case Warc():
            return [warc.warc_stage(corpus, name, source, recipe.fetch.user_agent)]
        case Folder():
            return [folder.folder_stage(corpus, name, source, recipe.fetch)]
        case Tar():
            return [tar.tar_stage(corpus, name, source, recipe.fetch)]
        case Parquet():
            return [parquet.parquet_stage(corpus, name, source, recipe.fetch)]
        case Scenes():
            return [scenes.scenes_stage(corpus, name, source, recipe.fetch)]
        case Synthesis():
            drawn = synthesis.synthesis_stage(corpus, name, source)
            if not source.translate or not translations:
                return [drawn]
            return [drawn, translate.translation_stage(corpus, name, source.translate, translations)]
        case Urls():
            return []


def build(recipe: Recipe, say: Say, progress: Progress, refetch: bool = False) -> Path:
    """Do all that a recipe asks and has not been done yet; gives the newest release.

    Args:
        refetch: ask again for every URL, whatever came of it before.

    Raises:
        JuZhouError: the recipe, its policy or a source cannot be used, or another process writes to the corpus.
    """
    started = datetime.now(UTC)
    policy = Policy.load(recipe.policy)
    corpus = Corpus.create(recipe.corpus)
    steps = plan(recipe, corpus, started, refetch)
    try:
        with corpus.writing():
            forget.finish(corpus)
            corpus.adopt(recipe.model_dump_json(), steps.variants)
            if recipe.poetry:
                _read_poems(recipe.poetry, corpus, say, progress)
            _observe(recipe, corpus, steps, started, say, progress)
            newest = _release(recipe, policy, corpus, steps, say, progress)
        stages = _train(recipe, newest, say)
        if recipe.report:
            report.write(corpus, policy, newest, stages, recipe.report)
            say(f"report: {recipe.report}")
    finally:
        cluster.stop()
    return newest


def freeze(corpus: Corpus, name: str, policy: Policy | None, base: str | None, say: Say, progress: Progress) -> Path:
    """Release what a policy keeps of a corpus as it is, by the policy of its recipe when left out; gives the folder.

    Raises:
        JuZhouError: the corpus is not of a build of this version, the policy cannot be used, or as `release.run`.
    """
    by_build = f"`juzhou build RECIPE` brings {corpus.path} up to date"
    try:
        recipe = Recipe.model_validate_json(corpus.recipe or "{}")
    except ValidationError as error:
        raise JuZhouError(f"there is no recipe in the corpus that this JuZhou reads; {by_build}") from error
    steps = plan(recipe, corpus, datetime.now(UTC))
    if not {table.path for table in steps.variants} <= set(corpus.variants):
        raise JuZhouError(f"the corpus was measured by other versions or weights than there are now; {by_build}")
    policy = policy or Policy.load(recipe.policy)
    try:
        with corpus.writing():
            forget.finish(corpus)
            return _release(recipe, policy, corpus, steps, say, progress, name, base)
    finally:
        cluster.stop()


def _release(
    recipe: Recipe,
    policy: Policy,
    corpus: Corpus,
    steps: Plan,
    say: Say,
    progress: Progress,
    name: str | None = None,
    base: str | None = None,
) -> Path:
    """Judge, make the captions that kept samples lack, and freeze."""
    decide.adopt(corpus, policy)
    say(_funnel(corpus))
    for stage in steps.caption:
        run(corpus, stage, progress)
    made = release.run(corpus, recipe, policy, name, base)
    say(f"release {made.name}: {made}")
    return made


def _read_poems(poetry: Poetry, corpus: Corpus, say: Say, progress: Progress) -> None:
    """Poems, their variants, what they show and how they could be drawn; what is there already is not read again."""
    only = "唐诗三百首.json" if poetry.collection == "tang-300" else None
    run(corpus, poems.poems_stage(poetry.folder or material.poetry(say), only), progress)
    variants.run(corpus)
    if poetry.keywords:
        run(corpus, reading.reading_stage(corpus, poetry.keywords), progress)
        reading.take(corpus, poetry.keywords)
    else:
        run(corpus, imagery.keywords_stage(), progress)
    run(corpus, pairs.pairs_stage(_shown(poetry)), progress)


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
        rows.append((stage.name, done, count(corpus, stage), failed))
    return rows


def _observe(recipe: Recipe, corpus: Corpus, steps: Plan, started: datetime, say: Say, progress: Progress) -> None:
    """Everything that adds rows before a verdict."""
    with contextlib.ExitStack() as servers:
        for source in recipe.sources.values():
            if isinstance(source, MiniWeb):
                servers.enter_context(_served(source, say))
        for stage in steps.sources:
            run(corpus, stage, progress)
        _find(recipe, corpus, steps, started)
        if run(corpus, steps.fetch, _telling(corpus, say, progress)):
            say(told(corpus))
    forget.finish(corpus)
    fetch.images_of_fetches(corpus)
    fetch.samples_of_images(corpus)
    if not corpus.sql("SELECT 1 FROM samples LIMIT 1").num_rows:
        raise JuZhouError(f'no source gave a picture; juzhou sql {corpus.path} "FROM fetches" and "FROM pages" say why')
    for stage in steps.measure:
        run(corpus, stage, progress)
    dedupe.run(corpus, recipe.dedupe, steps.duplicates, [*recipe.measures], progress)
    if recipe.dedupe.semantic and steps.semantic:
        semantic.run(corpus, recipe.dedupe.semantic, *steps.semantic, [*recipe.measures], progress)


def _find(recipe: Recipe, corpus: Corpus, steps: Plan, started: datetime) -> None:
    """What the sources found, as candidates; what they had already, as fetches; what left the recipe, hidden."""
    candidates.of_pages(corpus, recipe.sources, recipe.digest)
    candidates.of_files(corpus, recipe.sources, recipe.digest)
    candidates.fetches_of_files(corpus)
    for name, source in recipe.sources.items():
        if isinstance(source, Urls):
            urls.add_candidates(corpus, name, source, recipe.digest, started)
        elif isinstance(source, Synthesis):
            synthesis.add_candidates(corpus, name, steps.translations.get(name), recipe.digest)
            synthesis.add_fetches(corpus, name)
    known = corpus.sql("SELECT DISTINCT source FROM candidates").column(0).to_pylist()
    corpus.hide([name for name in known if name not in recipe.sources])


def _telling(corpus: Corpus, say: Say, progress: Progress) -> Progress:
    """The same progress, which tells now and then what comes of what is fetched."""
    last = time.monotonic()

    def tell(stage: str, done: int, total: int) -> None:
        nonlocal last
        progress(stage, done, total)
        if time.monotonic() - last >= TOLD_S:
            last = time.monotonic()
            say(told(corpus))

    return tell


def told(corpus: Corpus) -> str:
    """What became of the URLs so far, by error and by host, in two lines."""
    now = traffic(corpus, hosts=5)
    errors = (f"{row['error'] or row['status']} {row['urls']:,}" for row in now.by_error.to_pylist()[:8])
    hosts = (f"{row['host']} {row['ok']:,} of {row['urls']:,}" for row in now.by_host.to_pylist())
    return f"fetched so far: {' · '.join(errors)}\nby host: {' · '.join(hosts)}"


@contextlib.contextmanager
def _served(source: MiniWeb, say: Say) -> Iterator[None]:
    with Web(material.pairs(say), source.pages).serve(source.port):
        yield


def _counts(corpus: Corpus, stage: Stage) -> tuple[int, int]:
    """Rows of a stage's outputs, and those among them that hold an error."""
    done = failed = 0
    with corpus.connect() as connection:
        for table in stage.outputs:
            if corpus.parts(table.path):
                error = "error IS NOT NULL" if "error" in table.schema.names else "false"
                parts = corpus.rows_of(table)
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
