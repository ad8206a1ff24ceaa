"""Lines found for pictures: what fits comes first, by captions or by a CLIP's vectors, and a release takes some."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pipelines.caption import KEPT
from pipelines.corpus import Corpus
from pipelines.poetry.imagery import keywords_stage
from pipelines.poetry.retrieval import Space, retrieval_stage, space_of, vectors_stage
from pipelines.stage import run
from schemas.errors import JuZhouError
from schemas.identity import digest
from schemas.recipe import Poetry
from schemas.tables import measure_table
from tests.pipelines.kept import REJECTED, VERDICTS, keep

POEMS_READ = {
    "静夜思": ("李白", ["床前明月光，疑是地上霜。", "举头望明月，低头思故乡。"]),
    "江雪": ("柳宗元", ["千山鸟飞绝，万径人踪灭。", "孤舟蓑笠翁，独钓寒江雪。"]),
    "感遇": ("张九龄", ["江南有丹橘，经冬犹绿林。", "岂伊地气暖，自有岁寒心。"]),
    "道": ("某人", ["道可道，非常道。", "名可名，非常名。"]),
}
CAPTIONS = ("一張橘子的圖片", "月亮", "雪山", "手机", REJECTED)


def silent(name: str, done: int, total: int) -> None:
    pass


@pytest.fixture
def kept(corpus: Corpus) -> Corpus:
    """Samples with captions, the last of them rejected, and four poems, of which one shows nothing."""
    return keep(corpus, [*CAPTIONS], POEMS_READ)


def found(corpus: Corpus, space: Space, poetry: Poetry) -> dict[str, list[dict[str, Any]]]:
    """The rows of each caption, best first, made twice to see that nothing is left."""
    shown = keywords_stage()
    corpus.adopt("{}", [VERDICTS, *shown.outputs, *([space.pictures] if space.pictures else [])])
    lines = retrieval_stage(corpus, poetry, shown.outputs[0], space, KEPT)
    for stage in (shown, vectors_stage(space), lines):
        run(corpus, stage, silent)
        assert run(corpus, stage, silent) == 0
    asked = f"SELECT caption, lines.* FROM {corpus.rows_of(lines.outputs[0])} AS lines JOIN samples USING (sample_id)"
    rows: dict[str, list[dict[str, Any]]] = {}
    for row in corpus.sql(f"{asked} ORDER BY rank").to_pylist():
        rows.setdefault(row["caption"], []).append(row)
    return rows


@pytest.mark.usefixtures("ray_cluster")
def test_lines_fit_what_a_caption_says(kept: Corpus) -> None:
    rows = found(kept, space_of(Poetry(), {}, {}), Poetry(lines=2))
    assert rows.keys() == set(CAPTIONS) - {REJECTED}
    best = {caption: some[0] for caption, some in rows.items()}
    assert best["一張橘子的圖片"]["text"] == "江南有丹橘，经冬犹绿林。"
    assert (best["一張橘子的圖片"]["author"], best["一張橘子的圖片"]["title"]) == ("张九龄", "感遇")
    assert "明月" in best["月亮"]["text"] and best["雪山"]["title"] == "江雪"
    for caption, some in rows.items():
        assert [row["rank"] for row in some] == [1, 2] and some[0]["score"] >= some[1]["score"], caption
        assert all(0 < row["score"] < 1 for row in some) and len({row["poem_id"] for row in some}) == 2
    assert best["月亮"]["score"] > best["手机"]["score"]


@pytest.mark.usefixtures("ray_cluster")
def test_lines_fit_what_a_picture_shows(kept: Corpus) -> None:
    """The picture of 手机 shows an orange, and there is no vector of that of 月亮."""
    axes = ["橘子", "月亮", "雪"]

    def read(words: Any) -> np.ndarray:
        near = [[1.0 if axis in word or word in axis else 0.1 for axis in axes] + [0.5] for word in words]
        return np.array(near, np.float32) / np.linalg.norm(near, axis=1, keepdims=True)

    table = measure_table("clip", "0", "image_id", pa.schema({"vector": pa.list_(pa.float16(), 4)}))
    seen = {"手机": "橘子", "雪山": "雪", "一張橘子的圖片": "橘子"}
    rows = [{"image_id": digest(caption.encode()), "vector": read([word])[0]} for caption, word in seen.items()]
    kept.append(table, pa.Table.from_pylist(rows, table.schema))
    lines = found(kept, Space("clip", "0", read, table), Poetry(embedding="clip", lines=1))
    assert lines["手机"][0]["title"] == "感遇" and lines["雪山"][0]["title"] == "江雪"
    assert lines.keys() == set(CAPTIONS) - {REJECTED}


@pytest.mark.usefixtures("ray_cluster")
def test_poems_that_show_nothing_have_no_lines(corpus: Corpus) -> None:
    keep(corpus, ["月亮"], {"道": POEMS_READ["道"]})
    rows = found(corpus, space_of(Poetry(), {}, {}), Poetry())
    assert [row["text"] for row in rows["月亮"]] == [None]


def test_a_space_that_there_is_not() -> None:
    with pytest.raises(JuZhouError, match="'clip' is no CLIP among the recipe's measures"):
        space_of(Poetry(embedding="clip"), {}, {})
