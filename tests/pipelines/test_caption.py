"""Captions made for kept samples: Simplified script, and lines of poems that have to do with the picture."""

import pyarrow as pa
import pytest

from filters.names import Names
from pipelines.caption import simplified_stage, triplets_stage
from pipelines.corpus import Corpus
from pipelines.stage import pending, run
from schemas.identity import digest
from schemas.tables import KEYWORDS, keywords_table, measure_table, pairs_table
from tests.pipelines.kept import REJECTED, VERDICTS, keep

POEMS_READ = {
    "静夜思": ("李白", ["床前明月光，疑是地上霜。", "举头望明月，低头思故乡。"]),
    "江雪": ("柳宗元", ["千山鸟飞绝，万径人踪灭。", "孤舟蓑笠翁，独钓寒江雪。"]),
    "感遇": ("张九龄", ["江南有丹橘，经冬犹绿林。", "岂伊地气暖，自有岁寒心。"]),
}


def silent(name: str, done: int, total: int) -> None:
    pass


@pytest.fixture
def kept(corpus: Corpus) -> Corpus:
    """Samples with captions, the last of them rejected, and three poems."""
    return keep(corpus, ["一張橘子的圖片", "月亮", "雪山", "Ａ　Ｂ", REJECTED], POEMS_READ)


def test_captions_are_simplified(kept: Corpus) -> None:
    stage = simplified_stage()
    kept.adopt("{}", [VERDICTS])
    [(_, written)] = stage.work()(pending(kept, stage))  # type: ignore[misc]
    ids = {digest(text.encode()): text for text in ("一張橘子的圖片", "月亮", "雪山", "Ａ　Ｂ")}
    found = {ids[row["sample_id"]]: row["text"] for row in written.to_pylist()}
    assert found == {"一張橘子的圖片": "一张橘子的图片", "月亮": "月亮", "雪山": "雪山", "Ａ　Ｂ": "A B"}


def test_names_of_private_persons_are_masked_where_asked(kept: Corpus) -> None:
    names = measure_table("names", "0" * 12, "sample_id", Names.columns)
    found = [("一張橘子的圖片", "某人的圖片"), ("月亮", None)]
    rows = [{"sample_id": digest(caption.encode()), "masked": masked, "count": 0} for caption, masked in found]
    kept.append(names, pa.Table.from_pylist(rows, names.schema))
    kept.adopt("{}", [VERDICTS, names])
    asked, plain = simplified_stage(names), simplified_stage()
    assert asked.outputs != plain.outputs
    [(table, written)] = asked.work()(pending(kept, asked))  # type: ignore[misc]
    assert table == asked.outputs[0]
    assert set(written.column("text").to_pylist()) == {"某人的图片", "月亮", "雪山", "A B"}


@pytest.mark.usefixtures("ray_cluster")
def test_a_picture_drawn_of_a_poem_has_its_keywords_and_the_whole_of_it(kept: Corpus) -> None:
    shown, paired = keywords_table("lite", "0"), pairs_table("0")
    stage = triplets_stage(shown)
    kept.adopt("{}", [VERDICTS, shown, paired, *stage.outputs])
    ids = {title: digest(title.encode()) for title in POEMS_READ}
    seen = [{"poem_id": poem_id, "keywords": ["雪", "山"]} for poem_id in ids.values()]
    kept.append(shown, pa.Table.from_pylist(seen, KEYWORDS))
    asked = [("江雪", "雪山"), ("静夜思", "被拒绝"), ("感遇", "雪山")]
    rows = [{"poem_id": ids[title], "rank": 1, "prompt": prompt} for title, prompt in asked]
    kept.append(paired, pa.Table.from_pylist(rows, paired.schema))
    assert run(kept, stage, silent) == 1
    found = kept.sql("SELECT kind, text, title FROM captions JOIN samples USING (sample_id) ORDER BY kind").to_pylist()
    of = min("江雪", "感遇", key=ids.__getitem__)
    assert [(row["kind"], row["text"], row["title"]) for row in found] == [
        ("keywords", "雪, 山", of),
        ("poem", "\n".join(POEMS_READ[of][1]), of),
    ]
    assert run(kept, stage, silent) == 0
