"""What a corpus is made of, in figures: how much came through, what every measure saw, what the rules reject.

Each figure is asked once, and the terminal and the page print the same.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import duckdb
import jinja2
import numpy as np
import pyarrow as pa

from pipelines import chart
from pipelines.corpus import Corpus, write_whole
from pipelines.views import HEADS, HEADS_OF_SOME, literal
from schemas.errors import JuZhouError
from schemas.identity import HOST
from schemas.release import Manifest
from schemas.tables import ENTITIES

HOSTS = 30
KINDS = 30
REPEATED = 20
LARGEST = 10
PAIRS = 12
DAYS = 14
"""Rows of the lists that show the first of many."""
BINS = 40
TAIL = 0.005
"""A histogram spans all but this share of the values at each end; its outermost bins hold the tails too."""
PICTURES_SAMPLED = 100_000
"""Pictures whose ids are below a bound, with all their samples: ids are digests, so they are drawn by chance, and the
same corpus draws the same."""
NUMERIC = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "FLOAT", "DOUBLE", "BOOLEAN")
SHARES = ("share", "survival")
LABELS = ("semantic.cluster",)
"""Numbers that only tell kinds apart."""
STEPS = ("candidates", "fetched", "images", "samples", "unique", "kept")

SITE = "if(split_part(url, '/', 2) = '', split_part(url, '/', 3), '')"
"""What a URL has in common with those of its host: few enough to look for the host's name in each once."""

AGAIN = """
    SELECT sample_id FROM samples
    SEMI JOIN (SELECT hash(image_id) AS hashed FROM samples GROUP BY ALL HAVING count(*) > 1) ON hash(image_id) = hashed
    QUALIFY row_number() OVER (PARTITION BY image_id ORDER BY sample_id) > 1
"""
"""Samples of a picture that a sample before them has; the hashes leave few to sort."""

EITHER = "GROUPING SETS ((site), (source, caption_from, licence))"
FUNNEL = f"""
    CREATE TEMP TABLE funnel AS
    WITH found AS (
        SELECT source, caption_from, licence, {SITE} AS site, grouping(site) = 0 AS by_host, count(*) AS candidates,
            count(*) FILTER (hash(url_id) IN (SELECT hash(url_id) FROM fetches WHERE status = 'ok')) AS fetched
        FROM candidates GROUP BY {EITHER}
    ), had AS (
        SELECT source, caption_from, licence, {SITE} AS site, grouping(site) = 0 AS by_host, count(*) AS samples,
            count(*) FILTER (hash(sample_id) NOT IN (SELECT hash(sample_id) FROM ({AGAIN}))) AS images,
            count(*) FILTER (hash(image_id) NOT IN (
                SELECT hash(image_id) FROM ({{heads}}) WHERE NOT stands_for_itself
            )) AS "unique",
            count(*) FILTER (hash(sample_id) IN (SELECT hash(sample_id) FROM verdicts WHERE kept)) AS kept
        FROM shown GROUP BY {EITHER}
    )
    SELECT by_host, source, caption_from, licence, {HOST.replace("url", "'http://' || site")} AS host,
        {", ".join(f'coalesce(sum("{step}"), 0)::BIGINT AS "{step}"' for step in STEPS)}
    FROM (FROM found UNION ALL BY NAME FROM had) GROUP BY ALL
"""
"""Ids, which are digests, are looked up by 64 bits of them: twice as fast, and wrong by one row in a corpus of nine
million with a chance of one in a hundred thousand."""

REACHED = "SELECT {sums} FROM funnel WHERE NOT by_host HAVING count(*) > 0"
BY_KIND = """
    SELECT coalesce(nullif({kind}, ''), '{none}') AS {kind}, {sums}
    FROM funnel WHERE by_host = ('{kind}' = 'host') GROUP BY ALL ORDER BY sum(candidates) DESC, 1 LIMIT {limit}
"""

FETCHED = """
    SELECT status, coalesce(regexp_replace(error, '[0-9,]*[:=] .*|[0-9,]+ bytes.*', ''), '') AS error,
        count(*) AS attempts
    FROM fetches GROUP BY ALL ORDER BY attempts DESC, status, error LIMIT 30
"""

JUDGED = """
    SELECT if(kept, 'kept', 'rejected') AS verdict, "by", count(*) AS samples,
        count(*) / (SELECT count(*) FROM verdicts) AS share
    FROM verdicts GROUP BY ALL ORDER BY verdict, samples DESC, "by"
"""

RULES = """
    WITH patterns AS (SELECT rule, failed, count(*) AS samples FROM verdicts WHERE NOT kept GROUP BY ALL)
    SELECT name AS rule, coalesce(sum(samples) FILTER (rule = name), 0)::BIGINT AS "first",
        sum(samples)::BIGINT AS "any", coalesce(sum(samples) FILTER (len(failed) <= 1), 0)::BIGINT AS "only",
        sum(samples) / (SELECT count(*) FROM verdicts) AS share
    FROM (SELECT *, unnest(list_distinct(list_append(failed, rule))) AS name FROM patterns)
    GROUP BY name ORDER BY "any" DESC, name
"""

LENGTHS = """
    WITH counted AS (
        SELECT least(length(caption) // 5 * 5, 100) AS least, count(*) AS samples FROM samples GROUP BY least
    )
    SELECT if(least < 100, least || '–' || least + 4, '100 and more') AS characters, samples,
        samples / sum(samples) OVER () AS share
    FROM counted ORDER BY least
"""

REPEATS = f"""
    WITH most AS (
        SELECT hash(caption) AS hashed, count(*) AS samples FROM samples GROUP BY ALL HAVING count(*) > 1
        ORDER BY samples DESC, hashed LIMIT {10 * REPEATED}
    ), beneath AS MATERIALIZED (
        SELECT image_id, caption FROM samples WHERE hash(caption) IN (SELECT hashed FROM most)
    )
    SELECT if(caption = '', '(no words)', caption) AS words, count(*) AS samples,
        count(DISTINCT coalesce(representative, image_id)) AS pictures
    FROM beneath LEFT JOIN duplicates USING (image_id)
    GROUP BY caption HAVING samples > 1 ORDER BY samples DESC, caption LIMIT {REPEATED}
"""

COPIED = "SELECT representative, 1 + count(*) AS pictures FROM duplicates WHERE representative <> image_id GROUP BY ALL"
GROUPS = f"""
    WITH copied AS ({COPIED}), sized AS (
        SELECT pictures, count(*) AS groups FROM copied GROUP BY ALL
        UNION ALL
        SELECT 1, count(*) - (SELECT count(*) FROM copied) FROM duplicates WHERE representative = image_id
    )
    SELECT CASE WHEN pictures <= 2 THEN pictures::VARCHAR WHEN pictures <= 5 THEN '3–5' WHEN pictures <= 10 THEN '6–10'
            WHEN pictures <= 100 THEN '11–100' ELSE 'more' END AS pictures_in_group,
        sum(groups)::BIGINT AS groups, sum(groups * pictures)::BIGINT AS pictures
    FROM sized WHERE groups > 0 GROUP BY ALL ORDER BY min(sized.pictures)
"""
LARGEST_GROUPS = f"FROM ({COPIED}) ORDER BY pictures DESC, representative LIMIT {LARGEST}"

FORMATS = """
    SELECT format, count(*) AS pictures, sum(length)::BIGINT AS bytes, min(least(width, height)) AS least_side,
        max(greatest(width, height)) AS greatest_side
    FROM images GROUP BY ALL ORDER BY pictures DESC, format
"""
SIDES = """
    WITH counted AS (
        SELECT floor(log2(greatest(least(width, height), 1)))::INTEGER AS power, count(*) AS pictures
        FROM images GROUP BY power
    )
    SELECT (2 ** power)::INTEGER || '–' || (2 ** (power + 1))::INTEGER - 1 AS pixels, pictures,
        pictures / sum(pictures) OVER () AS share
    FROM counted ORDER BY power
"""

DAY = "epoch_us({time}) // 86_400_000_000"
GROWTH = f"""
    WITH days AS (
        SELECT {DAY.format(time="found_at")} AS day, count(*) AS candidates, 0 AS pictures FROM candidates GROUP BY day
        UNION ALL
        SELECT {DAY.format(time="fetched_at")} AS day, 0, count(*) FROM fetches WHERE status = 'ok' GROUP BY day
    ), sums AS (
        SELECT day, sum(candidates)::BIGINT AS candidates, sum(pictures)::BIGINT AS pictures FROM days GROUP BY day
    )
    SELECT (DATE '1970-01-01' + day::INTEGER)::VARCHAR AS day, candidates, pictures,
        sum(candidates) OVER past::BIGINT AS candidates_so_far, sum(pictures) OVER past::BIGINT AS pictures_so_far
    FROM sums WHERE day IS NOT NULL WINDOW past AS (ORDER BY day) ORDER BY day
"""

REVIEWED = """
    WITH last AS (
        SELECT DISTINCT ON (sample_id, reviewer, drawn_by) * FROM reviews
        ORDER BY sample_id, reviewer, drawn_by, reviewed_at DESC
    )
    SELECT coalesce(drawn_by, 'no draw') AS drawn_by, count(DISTINCT sample_id) AS samples,
        count(DISTINCT reviewer) AS reviewers, count(*) FILTER (opinion = 'keep') AS "keep",
        count(*) FILTER (opinion = 'drop') AS "drop", count(*) FILTER (opinion = 'unsure') AS unsure,
        count(*) FILTER (opinion IS NULL) AS notes_alone
    FROM last GROUP BY ALL ORDER BY 1
"""


@dataclass(frozen=True)
class Section:
    """A table of figures, and what they mean."""

    title: str
    about: str
    rows: pa.Table

    @property
    def columns(self) -> list[str]:
        """The columns that are read as a table: all but lists."""
        return [field.name for field in self.rows.schema if not pa.types.is_list(field.type)]

    def is_number(self, column: str) -> bool:
        """Whether a column stands right."""
        kind = self.rows.schema.field(column).type
        return pa.types.is_integer(kind) or pa.types.is_floating(kind)

    def cells(self) -> list[list[str]]:
        """The rows for people to read."""
        return [[readable(name, row[name]) for name in self.columns] for row in self.rows.to_pylist()]


Sections = dict[str, Section]


def ask(corpus: Corpus) -> Sections:
    """All figures of a corpus, by the names of their sections; those without rows are there and empty."""
    with corpus.connect() as connection:
        connection.execute(FUNNEL.format(heads=HEADS_OF_SOME if corpus.hidden else HEADS))

        def table(query: str) -> pa.Table:
            return connection.sql(query).to_arrow_table()

        sums = _sums(connection)

        def by(kind: str, none: str, limit: int) -> pa.Table:
            return table(BY_KIND.format(kind=kind, none=none, sums=sums, limit=limit))

        measures, correlations, drawn = _measures(connection, corpus)
        return {
            "funnel": Section(
                "How much came through",
                "candidates: a URL with a caption · fetched: those whose URL gave a picture · images: pictures, each "
                "once by its bytes, counted where their first sample is from · samples: pictures with a caption · "
                "unique: samples whose picture is no copy of another · kept: samples that the policy keeps.",
                table(REACHED.format(sums=sums)),
            ),
            "sources": Section("By source", "", by("source", "unknown", KINDS)),
            "hosts": Section(
                "By host",
                f"The hosts of the pictures, the {HOSTS} with the most candidates.",
                by("host", "none", HOSTS),
            ),
            "caption_kinds": Section(
                "By kind of caption",
                "What on the page the caption was taken from.",
                by("caption_from", "unknown", KINDS),
            ),
            "licences": Section(
                "By licence", "As the pages state them; most state none.", by("licence", "none stated", KINDS)
            ),
            "fetched": Section("What came of the attempts to fetch", "", table(FETCHED)),
            "judged": Section("Verdicts", "", table(JUDGED)),
            "rules": Section(
                "What the rules reject",
                "first: rejected samples whose first failed rule it is · any: those that fail it at all · only: those "
                "that fail nothing else, and would be kept without it · share: any, of all samples.",
                table(RULES),
            ),
            "measures": Section(
                "What the measures saw",
                f"Rows, missing, errors, least, greatest and the histograms count every row; median, p95 and the kept "
                f"part of a bin are those of {drawn}. Measures marked * are stand-ins: their numbers order pictures "
                "roughly and compare to no published ones.",
                measures,
            ),
            "correlations": Section(
                "Which scores go together",
                f"Spearman's rank correlation, of {drawn}; * marks stand-ins.",
                correlations,
            ),
            "lengths": Section("Length of captions", "Characters, in steps of five.", table(LENGTHS)),
            "repeats": Section(
                "Captions that are repeated",
                "pictures: distinct ones, copies counted once.",
                table(REPEATS),
            ),
            "groups": Section(
                "Copies", "Pictures that are copies of one another, by the size of their groups.", table(GROUPS)
            ),
            "largest": Section("The largest groups of copies", "", table(LARGEST_GROUPS)),
            "formats": Section("Formats", "", table(FORMATS)),
            "sides": Section("Sizes", "The shorter side in pixels, as the header says, by doublings.", table(SIDES)),
            "growth": Section("Growth", "Candidates found and pictures fetched, by day (UTC).", table(GROWTH)),
            "reviews": Section("Reviews", "Each reviewer's last word on a sample, by what drew it.", table(REVIEWED)),
            "releases": Section("Releases", "", _releases(corpus)),
            "tables": Section(
                "Tables", "The current variants; bytes as they lie on the disk.", _tables(connection, corpus)
            ),
            "storage": Section("Storage", "", _storage(corpus)),
        }


def _sums(connection: duckdb.DuckDBPyConnection) -> str:
    """The steps of the funnel that the corpus has come to, as SQL sums."""
    lacking = {
        step
        for step, view in (("unique", "duplicates"), ("kept", "verdicts"))
        if not connection.execute(f"SELECT 1 FROM {view} LIMIT 1").fetchall()
    }
    sums = [f'sum("{step}")::BIGINT AS "{step}"' for step in STEPS if step not in lacking]
    return ", ".join(sums if "kept" in lacking else [*sums, "sum(kept) / nullif(sum(candidates), 0) AS survival"])


@dataclass(frozen=True)
class _Column:
    """A numeric column of a measure."""

    measure: str
    name: str
    key: str
    kind: str

    @property
    def label(self) -> str:
        return f"{self.measure}.{self.name}"

    @property
    def marked(self) -> str:
        return self.measure + ("*" if is_stand_in(self.measure) else "")

    @property
    def is_truth(self) -> bool:
        return self.kind == "BOOLEAN"

    @property
    def is_whole(self) -> bool:
        return self.kind not in ("FLOAT", "DOUBLE")


def is_stand_in(measure: str) -> bool:
    """Whether a measure stands in for a real one, so that its numbers compare to no published ones."""
    return measure.startswith("lite_") or measure == "watermark"


MEASURED = pa.schema(
    {
        "measure": pa.string(),
        "column": pa.string(),
        "rows": pa.int64(),
        "missing": pa.int64(),
        "errors": pa.int64(),
        "least": pa.float64(),
        "median": pa.float64(),
        "p95": pa.float64(),
        "greatest": pa.float64(),
        "low": pa.float64(),
        "high": pa.float64(),
        "counts": pa.list_(pa.int64()),
        "kept_share": pa.list_(pa.float64()),
    }
)
"""`counts` are those of equal bins from `low` to `high`; `kept_share` is the part of each bin that is kept."""

CORRELATED = pa.schema(
    {"one": pa.string(), "other": pa.string(), "rank_correlation": pa.float64(), "samples": pa.int64()}
)


def _measures(connection: duckdb.DuckDBPyConnection, corpus: Corpus) -> tuple[pa.Table, pa.Table, str]:
    """Every numeric column of the current measures, the correlation of each two, and the sample that both draw on."""
    columns = list(_numeric(connection, corpus))
    kept, values, drawn = _sampled(connection, columns)
    counted = {
        measure: connection.execute(f"SELECT count(*), count(error) FROM {measure}").fetchall()[0]
        for measure in dict.fromkeys(column.measure for column in columns)
    }
    rows = []
    for column, seen in zip(columns, values.T, strict=True):
        total, errors = counted[column.measure]
        row = _histogram(connection, column, seen, kept)
        rows.append(row | {"rows": total, "errors": errors, "missing": total - sum(row["counts"])})
    scores = [
        index for index, row in enumerate(rows) if row["least"] != row["greatest"] and not columns[index].is_truth
    ]
    correlations = _correlations(
        [f"{columns[index].marked}.{columns[index].name}" for index in scores], values[:, scores]
    )
    return pa.Table.from_pylist(rows, MEASURED), correlations, drawn


def _numeric(connection: duckdb.DuckDBPyConnection, corpus: Corpus) -> Iterator[_Column]:
    for path in corpus.variants:
        if path.startswith("measures/") and corpus.parts(path):
            measure = path.removeprefix("measures/").partition("@")[0]
            kinds = {row[0]: str(row[1]) for row in connection.execute(f"DESCRIBE {measure}").fetchall()}
            key = "sample_id" if "sample_id" in kinds else "image_id"
            for name, kind in kinds.items():
                if kind in NUMERIC and f"{measure}.{name}" not in LABELS:
                    yield _Column(measure, name, key, kind)


def _sampled(
    connection: duckdb.DuckDBPyConnection, columns: Sequence[_Column]
) -> tuple[np.ndarray | None, np.ndarray, str]:
    """Which samples of some pictures are kept (None before there are verdicts); their values, float64, samples ×
    columns, NaN where missing; and the sample in words."""
    [(pictures,)] = connection.execute("SELECT count(*) FROM images").fetchall()
    share = PICTURES_SAMPLED / max(pictures, 1)
    below = f"image_id < unhex('{int(share * 2**32):08x}')" if share < 1 else "true"
    connection.execute(
        f"CREATE TEMP TABLE drawn AS SELECT sample_id, image_id, kept FROM "
        f"(FROM samples WHERE {below}) LEFT JOIN verdicts USING (sample_id)"
    )
    measures: dict[tuple[str, str], list[_Column]] = {}
    for column in columns:
        measures.setdefault((column.measure, column.key), []).append(column)
    joins = ""
    for (measure, key), some in measures.items():
        these = below if key == "image_id" else "sample_id IN (SELECT sample_id FROM drawn)"
        named = ", ".join(f'"{column.name}"::DOUBLE AS "{column.label}"' for column in some)
        joins += f" LEFT JOIN (SELECT {key}, {named} FROM {measure} WHERE {these}) USING ({key})"
    labels = ", ".join(f'"{column.label}"' for column in columns)
    rows = connection.sql(f"SELECT kept, {labels} FROM drawn {joins} ORDER BY sample_id").to_arrow_table()
    values = np.full((rows.num_rows, len(columns)), np.nan)
    for index, column in enumerate(columns):
        values[:, index] = rows.column(column.label).to_numpy()
    values[~np.isfinite(values)] = np.nan
    kept = rows.column("kept")
    judged = kept.null_count < len(kept)
    drawn = f"{rows.num_rows:,} samples of one picture in {1 / share:,.0f}, by its id" if share < 1 else "all samples"
    return kept.fill_null(False).to_numpy() if judged else None, values, drawn


def _histogram(
    connection: duckdb.DuckDBPyConnection, column: _Column, sampled: np.ndarray, kept: np.ndarray | None
) -> dict[str, Any]:
    """The row of a column, but for what the whole measure has in common; its counts are of all rows with a value."""
    there = ~np.isnan(sampled)
    low, median, p95, high = np.quantile(sampled[there], [TAIL, 0.5, 0.95, 1 - TAIL]) if there.any() else [np.nan] * 4
    if low == high:
        low, high = sampled[there].min(), sampled[there].max()
    low, high, bins = _bins(low, high, column.is_whole)
    scale = bins / (high - low)
    value = f'"{column.name}"::DOUBLE'
    counts, found = np.zeros(bins, np.int64), []
    query = f"""
        SELECT least(greatest(floor(({value} - {low!r}::DOUBLE) * {scale!r}::DOUBLE), 0), {bins - 1})::UTINYINT AS bin,
            count(*), min({value}), max({value})
        FROM {column.measure} WHERE isfinite({value}) GROUP BY bin
    """  # a bin of eight bits is counted in an array and not in a hash table
    for place, count, least, greatest in connection.execute(query).fetchall():
        counts[place] = count
        found += [least, greatest]
    shares = None
    if kept is not None:
        place = np.clip((sampled[there] - low) * scale, 0, bins - 1).astype(np.int64)
        drawn = np.bincount(place, minlength=bins)
        shares = (np.bincount(place, kept[there], bins) / np.maximum(drawn, 1)).tolist()
    return {
        "measure": column.marked,
        "column": column.name,
        "least": min(found, default=None),
        "median": None if np.isnan(median) else float(median),
        "p95": None if np.isnan(p95) else float(p95),
        "greatest": max(found, default=None),
        "low": low,
        "high": high,
        "counts": counts.tolist(),
        "kept_share": shares,
    }


def _bins(low: float, high: float, is_whole: bool) -> tuple[float, float, int]:
    """The edges of equal bins and their number: one for each whole number, if these are few."""
    if not low < high:
        low = 0.0 if np.isnan(low) else float(low)
        return low, low + 1, 1
    if is_whole and (bins := math.ceil(high) - math.floor(low) + 1) <= BINS:
        return float(math.floor(low)), float(math.floor(low) + bins), bins
    return float(low), float(high), BINS


def _correlations(labels: Sequence[str], values: np.ndarray) -> pa.Table:
    """Spearman's correlation of each two columns, over the rows where both have a value; the strongest first.

    Ranks are those among all rows where a column has a value.
    """
    there = ~np.isnan(values)
    ranks = np.zeros(values.shape)
    for index in range(values.shape[1]):
        _, place, count = np.unique(values[there[:, index], index], return_inverse=True, return_counts=True)
        middle = np.cumsum(count) - (count + 1) / 2
        ranks[there[:, index], index] = (middle - len(place) / 2)[place]
    both = there.astype(float)
    rows = both.T @ both
    sums = ranks.T @ both
    squares = (ranks**2).T @ both
    with np.errstate(divide="ignore", invalid="ignore"):
        spread = squares - sums**2 / rows
        rho = (ranks.T @ ranks - sums * sums.T / rows) / np.sqrt(spread * spread.T)
    found: list[dict[str, Any]] = [
        {
            "one": labels[i],
            "other": labels[j],
            "rank_correlation": round(float(rho[i, j]), 4),
            "samples": int(rows[i, j]),
        }
        for i in range(len(labels))
        for j in range(i + 1, len(labels))
        if np.isfinite(rho[i, j])
    ]
    found.sort(key=lambda row: (-abs(row["rank_correlation"]), row["one"], row["other"]))
    return pa.Table.from_pylist(found, CORRELATED)


def _releases(corpus: Corpus) -> pa.Table:
    schema = pa.schema(
        {
            "release": pa.string(),
            "samples": pa.int64(),
            "images": pa.int64(),
            "bytes": pa.int64(),
            "digest": pa.string(),
        }
    )
    rows: list[dict[str, Any]] = []
    for folder in sorted(path for path in corpus.releases.iterdir() if path.is_dir() and not path.name.startswith(".")):
        try:
            manifest = Manifest.load(folder)
        except JuZhouError:
            rows.append({"release": f"{folder.name} (cannot be read)"})
            continue
        size = sum(shard.bytes for shard in manifest.shards)
        counts = {"samples": manifest.samples, "images": manifest.images, "bytes": size}
        rows.append({"release": folder.name, "digest": manifest.digest} | counts)
    return pa.Table.from_pylist(rows, schema)


def _tables(connection: duckdb.DuckDBPyConnection, corpus: Corpus) -> pa.Table:
    schema = pa.schema({"table": pa.string(), "rows": pa.int64(), "parts": pa.int64(), "bytes": pa.int64()})
    rows = []
    for path in [*(table.path for table in ENTITIES), *corpus.variants]:
        if parts := corpus.parts(path):
            files = [corpus.tables / part for part in parts]
            query = f"SELECT count(*) FROM read_parquet({literal(corpus.tables / path / 'part-*.parquet')})"
            [(count,)] = connection.execute(query).fetchall()
            size = sum(file.stat().st_size for file in files)
            rows.append({"table": path.partition("@")[0], "rows": count, "parts": len(parts), "bytes": size})
    return pa.Table.from_pylist(rows, schema)


def _storage(corpus: Corpus) -> pa.Table:
    """Files and bytes by kind: what is half written is none, and what is derived may be deleted."""
    schema = pa.schema({"what": pa.string(), "files": pa.int64(), "bytes": pa.int64()})
    current = {corpus.tables / part for path in corpus.variants for part in corpus.parts(path)}
    current |= {corpus.tables / part for table in ENTITIES for part in corpus.parts(table.path)}
    parts = {corpus.tables / part for part in corpus.parts("")}
    kinds = {
        "pictures as fetched": set(corpus.blobs.glob("*.tar")),
        "tables, current": current,
        "tables of other recipes": parts - current,
        "releases": {path for path in corpus.releases.glob("*/*") if not path.parent.name.startswith(".")},
    }
    rows = [
        {"what": kind, "files": len(files), "bytes": sum(file.stat().st_size for file in files)}
        for kind, files in kinds.items()
        if files
    ]
    return pa.Table.from_pylist(rows, schema)


def readable(column: str, value: Any) -> str:
    """A figure for people."""
    if value is None:
        return "–"
    if column == "bytes":
        return _size(value)
    if column in SHARES:
        return f"{value:.1%}"
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in str(value))
    if isinstance(value, int):
        shown = f"{value:,}"
    else:
        shown = (
            f"{value / 1e6:,.3g} M" if abs(value) >= 1e6 else f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
        )
    return shown.replace("-", "−") if value < 0 else shown


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:,.3g} {unit}"
        count /= 1000
    return f"{count:,.3g} TB"


def write(sections: Sections, name: str, path: Path) -> None:
    """Write the page: one file that needs no other, no network and no script."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=jinja2.StrictUndefined
    )
    page = environment.get_template("statistics.html.j2").render(
        name=name,
        sections=sections,
        steps=STEPS,
        strongest=strongest(sections),
        chart=chart,
        readable=readable,
        matrix=_matrix,
    )
    write_whole(path, page.encode())


def brief(sections: Sections) -> list[Section]:
    """What a terminal shows: sections with rows, histograms as a line of blocks, the strongest pairs, the last days."""
    measures = sections["measures"].rows
    blocks = [chart.blocks(chart.halved(counts)) for counts in measures.column("counts").to_pylist()]
    shown = {
        "measures": measures.drop_columns(["low", "high"]).append_column("histogram", pa.array(blocks, pa.string())),
        "correlations": strongest(sections).rows,
        "growth": sections["growth"].rows[-DAYS:],
    }
    briefer = [replace(section, rows=shown.get(key, section.rows)) for key, section in sections.items()]
    return [section for section in briefer if section.rows.num_rows]


def strongest(sections: Sections) -> Section:
    """Of the correlations the strongest between columns of different measures."""
    whole = sections["correlations"]
    rows: list[dict[str, Any]] = whole.rows.to_pylist()
    apart = [row for row in rows if row["one"].partition(".")[0] != row["other"].partition(".")[0]]
    return replace(whole, rows=pa.Table.from_pylist(apart[:PAIRS], CORRELATED))


def _matrix(correlations: pa.Table) -> tuple[list[str], dict[tuple[str, str], float]]:
    """The columns in their order, and the correlation of each two, both ways round."""
    rows = correlations.to_pylist()
    labels = sorted({row[name] for row in rows for name in ("one", "other")})
    cells = {(label, label): 1.0 for label in labels}
    for row in rows:
        cells[row["one"], row["other"]] = cells[row["other"], row["one"]] = row["rank_correlation"]
    return labels, cells
