"""The report of a build: one self-contained HTML page that a person reads to see what became of everything."""

import base64
import io
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
import pyarrow as pa
from PIL import Image

from filters.picture import decode
from pipelines.corpus import Corpus, write_whole
from schemas.policy import Policy
from schemas.release import Manifest

KEPT_SHOWN = 60
REJECTED_SHOWN = 7
GROUPS_SHOWN = 12
THUMBNAIL_PX = 112
NO_CURVE = ("step", "samples_per_second", "norm", "mean", "std")
"""Endings of the metrics that are no losses."""

FUNNEL = """
    WITH answered AS (SELECT DISTINCT url_id FROM fetches WHERE status = 'ok'),
    found AS (
        SELECT source, count(*) AS found, count(answered.url_id) AS fetched
        FROM candidates LEFT JOIN answered USING (url_id) GROUP BY source
    ), judged AS (
        SELECT source, count(DISTINCT representative) AS unique_pictures, count(*) FILTER (verdict.kept) AS kept
        FROM corpus GROUP BY source
    )
    SELECT source, found, fetched, coalesce(unique_pictures, 0) AS unique_pictures, coalesce(kept, 0) AS kept
    FROM found LEFT JOIN judged USING (source) ORDER BY found DESC, source
"""

FETCHED = """
    SELECT status, coalesce(regexp_replace(error, ':.*', ''), '') AS error, count(*) AS urls FROM fetches
    GROUP BY ALL ORDER BY urls DESC
"""

RULES = """
    SELECT verdict.rule AS rule, count(*) AS first, (
        SELECT count(*) FROM verdicts WHERE list_contains(failed, verdict.rule)
    ) AS failed FROM corpus WHERE NOT verdict.kept GROUP BY verdict.rule
"""

KEPT = f"""
    SELECT corpus.caption, corpus.tar, corpus."offset", corpus.length, {{scores}} AS scores,
        poem.text AS line, poem.author, poem.title, poem.score AS fit
    FROM corpus LEFT JOIN captions AS poem
        ON poem.sample_id = corpus.sample_id AND poem.kind = 'line' AND poem.rank = 1
        AND poem.score >= {{least}}
    WHERE verdict.kept ORDER BY corpus.sample_id LIMIT {KEPT_SHOWN}
"""

REJECTED = f"""
    SELECT verdict.rule AS rule, verdict.value AS value, verdict.threshold AS threshold, verdict.failed AS failed,
        caption, tar, "offset", length
    FROM corpus WHERE NOT verdict.kept
    QUALIFY row_number() OVER (PARTITION BY verdict.rule ORDER BY sample_id) <= {REJECTED_SHOWN}
    ORDER BY sample_id
"""

GROUPS = f"""
    WITH groups AS (
        SELECT representative, list({{'distance': distance, 'tar': tar, 'offset': "offset", 'length': images.length,
            'width': width, 'height': height}} ORDER BY distance, image_id) AS pictures
        FROM duplicates JOIN images USING (image_id) GROUP BY representative
    )
    SELECT pictures FROM groups WHERE len(pictures) > 1 ORDER BY len(pictures) DESC, representative LIMIT {GROUPS_SHOWN}
"""


def funnel(corpus: Corpus) -> pa.Table:
    """By source: candidates found, candidates whose URL gave a picture, distinct pictures, samples kept."""
    return corpus.sql(FUNNEL)


def write(corpus: Corpus, policy: Policy, release: Path, stages: Sequence[Path], path: Path) -> None:
    """Write the page.

    Args:
        stages: the finished training stages, in order, whose `metrics.jsonl` and pictures are shown.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=jinja2.StrictUndefined
    )
    rejected: dict[str, list[dict[str, Any]]] = {}
    for row in _with_pictures(corpus, corpus.sql(REJECTED).to_pylist()):
        rejected.setdefault(row["rule"], []).append(row)
    counts = {row["rule"]: row for row in corpus.sql(RULES).to_pylist()}
    page = environment.get_template("report.html.j2").render(
        manifest=Manifest.load(release),
        funnel=funnel(corpus).to_pylist(),
        fetched=corpus.sql(FETCHED).to_pylist(),
        kept=_with_pictures(
            corpus, corpus.sql(KEPT.format(scores=_scores(corpus), least=policy.poem_lines.least)).to_pylist()
        ),
        rules=[(rule, counts[rule.name], rejected[rule.name]) for rule in policy.rules if rule.name in counts],
        groups=[_with_pictures(corpus, row["pictures"]) for row in corpus.sql(GROUPS).to_pylist()],
        stages=[_stage(folder) for folder in stages],
    )
    write_whole(path, page.encode())


def _scores(corpus: Corpus) -> str:
    """A SQL struct of every measure that gives a score."""
    columns = corpus.sql("DESCRIBE corpus").select(["column_name", "column_type"]).to_pylist()
    scored = [row["column_name"] for row in columns if row["column_type"].startswith("STRUCT(score ")]
    return "{" + ", ".join(f"'{name}': corpus.{name}.score" for name in scored) + "}" if scored else "NULL"


def _with_pictures(corpus: Corpus, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows with a thumbnail as a data URI, or None where the picture cannot be decoded."""
    return [row | {"picture": _thumbnail(corpus.read(row["tar"], row["offset"], row["length"]))} for row in rows]


def _thumbnail(content: bytes) -> str | None:
    try:
        image = Image.fromarray(decode(content).pixels)
    except ValueError:
        return None
    image.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX))
    sink = io.BytesIO()
    image.save(sink, "webp", quality=80)
    return _data_uri("webp", sink.getvalue())


def _data_uri(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def _stage(folder: Path) -> dict[str, Any]:
    """A training stage: its curves as SVG points, and the pictures that it left."""
    steps = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    names = dict.fromkeys(name for step in steps for name in step if not name.endswith(NO_CURVE))
    curves = {name: [step[name] for step in steps if name in step] for name in names}
    samples = folder / "samples.json"
    return {
        "name": folder.name.partition("-")[0],
        "steps": len(steps) - 1,
        "curves": [_curve(name, values) for name, values in curves.items() if len(values) > 1],
        "results": {name: values[0] for name, values in curves.items() if len(values) == 1},
        "pictures": [(path.stem, _data_uri("png", path.read_bytes())) for path in sorted(folder.glob("*.png"))],
        "prompts": json.loads(samples.read_text(encoding="utf-8"))["prompts"] if samples.exists() else [],
    }


def _curve(name: str, values: list[float], width: int = 260, height: int = 90) -> dict[str, Any]:
    """A loss over its steps, smoothed by the mean of up to 60 equal stretches, scaled to the box."""
    stretch = max(1, math.ceil(len(values) / 60))
    means = [
        sum(part) / len(part) for start in range(0, len(values), stretch) if (part := values[start : start + stretch])
    ]
    low, high = min(means), max(means)
    scale = (high - low) or 1.0
    points = [
        f"{index * width / max(1, len(means) - 1):.1f},{height - (mean - low) / scale * height:.1f}"
        for index, mean in enumerate(means)
    ]
    return {
        "name": name,
        "first": means[0],
        "last": means[-1],
        "points": " ".join(points),
        "width": width,
        "height": height,
    }
