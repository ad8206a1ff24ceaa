"""Poems from their entries to a release: read by a model, drawn in styles, measured, judged, held out by author."""

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from pipelines.corpus import Corpus
from pipelines.poetry.imagery import keywords
from schemas.release import POEMS, Manifest
from tests.pipelines.chat_server import Model, Reply, said
from tests.pipelines.sources.test_synthesis import parts, teacher  # noqa: F401
from training.release import Release

JUZHOU = [sys.executable, "-c", "from juzhou.cli import main; main()"]
THINGS = ("山月船", "雪梅桥", "柳燕楼", "马剑旗", "松鹤云", "竹琴酒", "荷鱼雨", "菊雁霜", "桃莺春", "灯窗夜")
AUTHORS = [f"诗人{number}" for number in range(5)]

RECIPE = """
corpus: corpus
sources: {{poems: {{kind: synthesis, teacher: {teacher}, steps: 2, size: 32}}}}
measures: [size, pdq]
dedupe: {{radius: 0, min_quality: 100}}
policy: policy.yaml
poetry: {{collection: whole, folder: poems, keywords: {{endpoint: "{endpoint}", model: tiny, retry_s: 0.1}}, lines: 2}}
splits: {{validation: 0.3}}
release: verses
"""
POLICY = (
    "{name: test, rules: [{name: readable, value: size.pixels, min: 1}], poem_lines: {least: 0, times: 4, most: 1}}"
)


class Reader(Model):
    """Says of a poem what the lexicon does, the first time with something that it does not show."""

    def reply(self, asked: dict[str, Any]) -> Reply:
        [message] = asked["messages"]
        poem = message["content"].partition("\n\n")[2]
        self.asked[poem].append(asked)
        [shown] = keywords([poem.splitlines()])
        return said("骆驼，帐篷，骰子" if len(self.asked[poem]) == 1 else "，".join(shown))


@pytest.fixture
def reader() -> Iterator[tuple[Reader, str]]:
    model = Reader()
    with model.served() as endpoint:
        yield model, endpoint


def test_poems_become_triplets_in_a_release(tmp_path: Path, teacher: str, reader: tuple[Reader, str]) -> None:  # noqa: F811
    model, endpoint = reader
    (tmp_path / "poems" / "全唐诗").mkdir(parents=True)
    entries = [
        {"title": things, "author": AUTHORS[number % 5], "paragraphs": [f"{one}前见{two}，{two}下有{three}。"]}
        for number, things in enumerate(THINGS)
        for one, two, three in [things]
    ]
    (tmp_path / "poems" / "全唐诗" / "poet.tang.0.json").write_text(json.dumps(entries, ensure_ascii=False))
    (tmp_path / "policy.yaml").write_text(POLICY)
    (tmp_path / "recipe.yaml").write_text(RECIPE.format(teacher=teacher, endpoint=endpoint))
    told = subprocess.run([*JUZHOU, "build", str(tmp_path / "recipe.yaml")], capture_output=True, text=True)
    assert told.returncode == 0, told.stderr

    corpus = Corpus(tmp_path / "corpus")
    standing = corpus.sql("SELECT count(*) AS n FROM keywords WHERE keywords IS NOT NULL").column(0)[0].as_py()
    assert (
        standing == len(THINGS)
        and all(len(asked) == 2 for asked in model.asked.values())
        and len(model.asked) == standing
    )
    [counts] = corpus.sql("SELECT count(*) AS pairs, count(DISTINCT poem_id) AS poems FROM pairs").to_pylist()
    assert counts["poems"] == standing and 5 * standing <= counts["pairs"] <= 6 * standing

    folder = tmp_path / "corpus" / "releases" / "verses-1"
    poems = {row["text"]: row for row in pq.read_table(folder / POEMS).to_pylist()}
    assert len(poems) == Manifest.load(folder).poems == standing
    rows = pq.read_table(folder / "samples.parquet").to_pylist()
    prompts = corpus.sql("SELECT count(DISTINCT prompt) AS n FROM pairs").column(0)[0].as_py()
    assert len(rows) == prompts and {row["source"] for row in rows} == {"poems"}
    for row in rows:
        poem = poems[row["poem"]]
        assert row["keywords"] == poem["keywords"] and row["caption"].startswith(row["keywords"])
    assert all(row["split"] == poems[row["poem"]]["split"] for row in rows), "no two pictures here are alike"
    held = {poem["author"] for poem in poems.values() if poem["split"] == "validation"}
    lines = Counter(line for row in rows for line in row["poem_lines"])
    assert max(lines.values()) <= 4 and not {poems[line]["author"] for line in lines} & held

    again = subprocess.run([*JUZHOU, "build", str(tmp_path / "recipe.yaml")], capture_output=True, text=True)
    assert again.returncode == 0 and sorted(path.name for path in folder.parent.iterdir()) == ["verses-1"], again.stderr
    assert all(len(asked) == 2 for asked in model.asked.values()), "no poem is asked for again"
    texts = {*Release(folder).texts.to_pylist()}
    assert {row["poem"] for row in rows if row["split"] == "train"} <= texts
