"""The data-set card of a release: what it holds, whence, by which filters, and what not to trust."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import duckdb
import yaml

from pipelines.corpus import Corpus
from pipelines.releases.shards import PICTURE, TEXTS
from pipelines.views import literal
from schemas.identity import HOST
from schemas.policy import Listed, Policy, Quota
from schemas.release import Manifest
from schemas.tables import WORDS

HOSTS = 20
"""Hosts that are named; the others are counted."""
BINS = 12
BARS = "▁▂▃▄▅▆▇█"
STAND_INS = ("lite_", "watermark")
"""Measures whose names begin so stand in for better ones."""

FUNNEL = """
    WITH firsts AS (SELECT rule, count(*) AS first FROM verdicts WHERE NOT kept GROUP BY rule),
    fails AS (SELECT rule, count(*) AS failed FROM (SELECT unnest(failed) AS rule FROM verdicts) GROUP BY rule)
    SELECT rule, coalesce(first, 0) AS first, coalesce(failed, 0) AS failed
    FROM firsts FULL JOIN fails USING (rule) ORDER BY first DESC, rule
"""
"""By rule: samples of which it is the first that they fail, and all that fail it."""


def text(corpus: Corpus, samples: Path, manifest: Manifest, policy: Policy) -> str:
    """The card as Markdown, with YAML front matter as model hubs read it.

    Args:
        samples: the release's `samples.parquet`.
    """
    with duckdb.connect() as connection:
        connection.execute(f"CREATE VIEW samples AS FROM read_parquet({literal(samples)})")
        parts = [
            _front(manifest),
            _head(manifest),
            _counts(connection, manifest),
            _origins(connection),
            _filters(corpus, manifest, policy),
            _scores(connection, manifest),
            _limits(manifest),
        ]
    return "\n\n".join(parts) + "\n"


def _front(manifest: Manifest) -> str:
    """What a hub reads: among it, which files make up which split, and their columns.

    A hub's loader takes one format a folder, so that samples.parquet is named only where there are no tars.
    """
    splits = sorted({shard.split for shard in manifest.shards}, key=lambda split: (split != "train", split))
    pictures = [{"split": split, "path": f"{split}-*.tar"} for split in splits]
    words = ("sample_id", "image_id", *TEXTS, "poem_lines", *WORDS.names)
    columns = [
        {"name": PICTURE, "dtype": "image"},
        {"name": "txt", "dtype": "string"},
        {"name": "json", "struct": [{"name": name, "dtype": "string"} for name in words]},
        {"name": "__key__", "dtype": "string"},
        {"name": "__url__", "dtype": "string"},
    ]
    rows = {"config_name": "samples", "data_files": [{"split": "samples", "path": "samples.parquet"}]}
    shown = {"config_name": "pictures", "default": True, "data_files": pictures}
    front: dict[str, Any] = {
        "pretty_name": manifest.name,
        "language": ["zh"],
        "license": "other",
        "license_name": "as-the-pages-state",
        "license_link": "README.md",
        "task_categories": ["text-to-image", "image-to-text"],
        "size_categories": [_size_category(manifest.samples)],
        "tags": ["chinese", "image-text", "webdataset"],
        "configs": [shown if pictures else rows],
    }
    if pictures:
        front["dataset_info"] = [{"config_name": "pictures", "features": columns}]
    return f"---\n{yaml.safe_dump(front, allow_unicode=True, sort_keys=False)}---"


def _head(manifest: Manifest) -> str:
    base = manifest.base
    added = (
        f"\n\nIt adds to the release `{base.name}` (digest `{base.digest}`), which belongs beside it: the tars here "
        f"hold only what is new, `samples.parquet` has every sample with the `release` whose shard holds its picture, "
        f"and `gone.parquet` the {manifest.gone:,} samples of `{base.name}` that are left out now, with the reason."
        if base
        else ""
    )
    poems = (
        f" `poems.parquet` has {manifest.poems:,} poems, what each shows, and the split of its author."
        if manifest.poems
        else ""
    )
    return f"""# {manifest.name}

{manifest.samples:,} samples of {manifest.images:,} pictures with Chinese captions, as a JuZhou corpus kept them.
Digest `{manifest.digest}`.{added}

`<split>-*.tar` hold for each sample the original bytes of its picture (`.{PICTURE}` whatever the format, which
readers tell from the bytes), its caption (`.txt`) and all its words (`.json`), in WebDataset layout. `samples.parquet`
has a row a sample with every caption and score, and where in which tar its picture lies. `manifest.json` has the
digests of all, `policy.yaml` the policy, `croissant.json` the metadata for machines.{poems}"""


def _counts(connection: duckdb.DuckDBPyConnection, manifest: Manifest) -> str:
    tars = {split: sum(shard.split == split for shard in manifest.shards) for split in manifest.splits}
    splits = [(name, count, tars[name]) for name, count in manifest.splits.items()]
    formats = connection.execute("SELECT format, count(*) AS n FROM samples GROUP BY ALL ORDER BY n DESC, 1").fetchall()
    return f"""## What it holds

{_table(("split", "samples", "tars here"), splits)}

Pictures that are alike, as far as copies and look-alikes were found, are in one split together.

{_table(("format", "samples"), formats)}"""


def _origins(connection: duckdb.DuckDBPyConnection) -> str:
    host = HOST.replace("url", "coalesce(page_url, url)")
    count = "SELECT {0} AS what, count(*) AS samples FROM samples GROUP BY ALL ORDER BY samples DESC, what"
    sources = connection.execute(count.format("source")).fetchall()
    licences = connection.execute(count.format("coalesce(licence, 'not stated')")).fetchall()
    hosts = connection.execute(count.format(host)).fetchall()
    rest = [(f"{len(hosts) - HOSTS:,} others", sum(number for _, number in hosts[HOSTS:]))] if hosts[HOSTS:] else []
    return f"""## Sources

{_table(("source", "samples"), sources)}

{_table(("host of the page", "samples"), [(name or "none", number) for name, number in hosts[:HOSTS]] + rest)}

## Licences, as the pages state them

Each picture stays under the licence of its page. Whoever uses this release answers for that use.

{_table(("licence", "samples"), licences)}"""


def _filters(corpus: Corpus, manifest: Manifest, policy: Policy) -> str:
    judged = corpus.sql("SELECT count(*) FROM verdicts").column(0)[0].as_py()
    rejected = {row["rule"]: row for row in corpus.sql(FUNNEL).to_pylist()}
    said = {entry.name: ("", f"{_way(entry)} these {entry.of}s", entry.why) for entry in policy.lists}
    said |= {rule.name: (f"`{rule.value}`", rule.criterion, rule.why) for rule in policy.rules}
    said |= {quota.name: (f"`{quota.by}`", _room(quota), quota.why) for quota in policy.quotas}
    rows = []
    for name in [*said, *(rule for rule in rejected if rule not in said)]:
        value, criterion, why = said.get(name, ("", "", ""))
        counts = rejected.get(name, {"first": 0, "failed": 0})
        rows.append((name, value, criterion, counts["first"], counts["failed"], why))
    variants = ", ".join(f"`{name}@{variant}`" for name, variant in sorted(manifest.variants.items()))
    return f"""## How it was filtered

Policy `{policy.name}`, digest `{manifest.policy}`. Of {judged:,} samples it keeps {manifest.samples:,}; the others
fail a rule, and count under the first that they fail, in this order, and under all.

{_table(("rule", "value", "kept if", "rejected first by it", "fail it in all", "why"), rows)}

Made from (name and fingerprint): {variants}."""


def _way(entry: Listed) -> str:
    return "allow" if entry.allow else "deny"


def _room(quota: Quota) -> str:
    return f"at most {quota.most:,} of each" if quota.most else f"at most {100 * (quota.share or 0):g} % of each"


def _scores(connection: duckdb.DuckDBPyConnection, manifest: Manifest) -> str:
    rows = []
    for name in numbers(connection, "samples"):
        known, low, middle, high = _quantiles(connection, name)
        if known:
            rows.append(
                (f"{name}{_mark(name)}", known, *map(_short, (low, middle, high)), _bars(connection, name, low, high))
            )
    head = ("measure", "samples", "1 %", "median", "99 %", "from 1 % to 99 %")
    return f"## Scores of what was kept\n\n{_table(head, rows)}\n\n(s) is by a stand-in."


def numbers(connection: duckdb.DuckDBPyConnection, relation: str) -> list[str]:
    """Every number in the rows of samples.parquet as SQL: `size.width`; truth values too."""
    found = []
    for name, kind, *_ in connection.execute(f"DESCRIBE {relation}").fetchall():
        if str(kind).startswith("STRUCT") and not str(kind).endswith("]"):
            fields = connection.execute(f"DESCRIBE SELECT unnest({name}) FROM {relation}").fetchall()
            found += [f"{name}.{field}" for field, of, *_ in fields if of not in ("VARCHAR", "BLOB")]
    return found


def _quantiles(connection: duckdb.DuckDBPyConnection, name: str) -> tuple[int, float, float, float]:
    """How many samples have a value, and its first, fiftieth and ninety-ninth hundredth."""
    query = f"SELECT count(*), quantile_disc(v, [0.01, 0.5, 0.99]) FROM ({_finite(name)})"
    [(known, found)] = connection.execute(query).fetchall()
    return (known, *found) if known else (0, 0.0, 0.0, 0.0)


def _bars(connection: duckdb.DuckDBPyConnection, name: str, low: float, high: float) -> str:
    """A histogram of equal steps between two values; what lies beyond them counts in the outer ones."""
    if low == high:
        return BARS[-1]
    place = f"least({BINS - 1}, greatest(0, floor({BINS} * ((v - {low!r}) / ({high!r} - {low!r})))))::INT"
    query = f"SELECT {place} AS place, count(*) FROM ({_finite(name)}) GROUP BY ALL"
    counts = dict(connection.execute(query).fetchall())
    most = max(counts.values())
    return "".join(BARS[-(-counts.get(place, 0) * (len(BARS) - 1) // most)] for place in range(BINS))


def _finite(name: str) -> str:
    return f"SELECT ({name})::DOUBLE AS v FROM samples WHERE isfinite(({name})::DOUBLE)"


def _limits(manifest: Manifest) -> str:
    names = sorted({name.partition("/")[2] for name in manifest.variants if name.startswith("measures/")})
    stand_ins = [f"`{name}`" for name in names if _mark(name)]
    scorers = (
        f"\n- {', '.join(stand_ins)} are stand-ins for Chinese-CLIP, the LAION aesthetic head and detectors with "
        "weights of their own: their numbers order pictures roughly and are comparable to no published ones."
        if stand_ins
        else ""
    )
    poems = "\n- Poem lines were found by keywords, words and vectors, with a probability; nobody has read them all."
    return f"""## Known limits
{scorers}{poems if any(name == "captions/line" for name in manifest.variants) else ""}
- Captions are what pages say of their pictures, brought to Simplified script; they were not written for this use.
- Splits part groups of copies and look-alikes, not every pair: two pictures can be near each other and belong to two
  groups.
- Licences are what pages state, or nothing; nobody has checked them."""


def _mark(name: str) -> str:
    return " (s)" if name.startswith(STAND_INS) else ""


def _short(value: float) -> str:
    return f"{value:.4g}"


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines)


def _cell(value: Any) -> str:
    """A cell; what strangers wrote breaks no table."""
    return f"{value:,}" if isinstance(value, int) else " ".join(str(value).replace("|", "\\|").split())


def _size_category(samples: int) -> str:
    """The hub's name for a size."""
    bounds = [
        (1_000, "n<1K"),
        (10_000, "1K<n<10K"),
        (100_000, "10K<n<100K"),
        (1_000_000, "100K<n<1M"),
        (10_000_000, "1M<n<10M"),
        (100_000_000, "10M<n<100M"),
    ]
    return next((name for bound, name in bounds if samples < bound), "100M<n<1B")
