"""Copies and look-alikes in a corpus: who stands for whom, and that what came first keeps its place."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines import dedupe, semantic
from pipelines.corpus import Corpus
from pipelines.views import RELEASED
from schemas.recipe import Dedupe, Semantic
from schemas.tables import IMAGES, measure_table
from tests.pipelines.test_hamming import alike
from tests.pipelines.test_leaders import by_hand

MEASURES = {
    "pdq": pa.schema({"hash": pa.binary(32), "quality": pa.int16()}),
    "pixels": pa.schema({"digest": pa.binary(16)}),
    "lite_aesthetic": pa.schema({"score": pa.float32()}),
    "lite_embedding": pa.schema({"vector": pa.list_(pa.float16(), 8)}),
}
TABLES = {name: measure_table(name, "0" * 12, "image_id", columns) for name, columns in MEASURES.items()}
COPIES = dedupe.table_of(Dedupe(), TABLES)


def name(number: int) -> bytes:
    return number.to_bytes(16, "big")


def picture(number: int, **about: Any) -> dict[str, Any]:
    """A picture whose hash, pixels and vector are like no other's, unless said."""
    random = np.random.default_rng(number)
    usual = {
        "width": 10,
        "height": 10,
        "hash": random.bytes(32),
        "quality": 100,
        "digest": random.bytes(16),
        "score": 5.0,
        "vector": random.normal(size=8),
    }
    return {"image_id": name(number)} | usual | about


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    corpus = Corpus.create(tmp_path)
    corpus.adopt("{}", [*TABLES.values(), COPIES])
    return corpus


def arrive(corpus: Corpus, *pictures: dict[str, Any]) -> None:
    """Pictures with their measures, as new parts; then the copies among them."""
    rows = [row | {"vector": np.asarray(row["vector"], np.float16)} for row in pictures]
    for table in (IMAGES, *TABLES.values()):
        columns = [{key: row[key] for key in table.schema.names if key in row} for row in rows]
        corpus.append(table, pa.Table.from_pylist(columns, table.schema))
    dedupe.run(corpus, Dedupe(), COPIES, [*TABLES], lambda *told: None)


def found(corpus: Corpus) -> dict[int, tuple[int, float | None, str | None]]:
    rows = corpus.sql("SELECT image_id, representative, distance, method FROM duplicates").to_pylist()
    return {
        int.from_bytes(row["image_id"]): (int.from_bytes(row["representative"]), row["distance"], row["method"])
        for row in rows
    }


def flipped(content: bytes, bits: int) -> bytes:
    return (int.from_bytes(content) ^ (1 << bits) - 1).to_bytes(len(content))


def test_the_larger_then_the_finer_then_the_first_by_name_stands_for_its_copies(corpus: Corpus) -> None:
    same = picture(1)["hash"]
    arrive(corpus, picture(1, hash=same), picture(2, hash=flipped(same, 3), width=20))
    arrive(corpus, *(picture(number, hash=bytes(32), score=score) for number, score in ((3, 1.0), (4, 9.0), (5, 2.0))))
    ends = bytes([255] * 32)
    arrive(corpus, picture(7, hash=ends), picture(6, hash=ends))
    assert found(corpus) == {
        1: (2, 3, "pdq"),
        2: (2, 0, None),
        3: (4, 0, "pdq"),
        4: (4, 0, None),
        5: (4, 0, "pdq"),
        6: (6, 0, None),
        7: (6, 0, "pdq"),
    }


def test_equal_pixels_are_copies_where_a_hash_says_too_little(corpus: Corpus) -> None:
    plain = picture(1)["digest"]
    arrive(corpus, picture(1, digest=plain, quality=3, width=20), picture(2, digest=plain, quality=3))
    arrive(corpus, picture(3, digest=plain, quality=3), picture(4, quality=0, hash=None), picture(5, digest=None))
    assert found(corpus) == {
        1: (1, None, None),
        2: (1, 0, "pixels"),
        3: (1, 0, "pixels"),
        4: (4, None, None),
        5: (5, 0, None),
    }


def test_a_twin_by_pixels_goes_where_its_twin_goes(corpus: Corpus) -> None:
    one = picture(1, width=90)
    twin = {"hash": flipped(one["hash"], 9), "digest": bytes(16)}
    arrive(corpus, one, picture(2, **twin), picture(3, **twin, width=20))
    assert found(corpus) == {1: (1, 0, None), 2: (1, 9, "pdq"), 3: (1, 9, "pdq")}


def test_what_came_first_keeps_its_place_though_a_larger_copy_comes(corpus: Corpus) -> None:
    one = picture(1)
    arrive(corpus, one)
    arrive(corpus, picture(2, hash=one["hash"], width=500))
    assert found(corpus) == {1: (1, 0, None), 2: (1, 0, "pdq")}
    arrive(corpus)
    assert corpus.sql("FROM duplicates").num_rows == 2


def test_what_a_release_holds_keeps_its_place_when_all_is_compared_anew(corpus: Corpus) -> None:
    one = picture(1)
    arrive(corpus, one)
    arrive(corpus, picture(2, hash=flipped(one["hash"], 20), width=500))
    (corpus.releases / "r-1").mkdir()
    columns = {field.name: pa.nulls(1, field.type) for field in RELEASED}
    held = pa.table(columns | {"image_id": pa.array([name(1)], pa.binary(16))})
    pq.write_table(held, corpus.releases / "r-1/samples.parquet")
    wider = Dedupe(radius=40)
    table = dedupe.table_of(wider, TABLES)
    corpus.adopt("{}", [*TABLES.values(), table])
    dedupe.run(corpus, wider, table, [*TABLES], lambda *told: None)
    assert found(corpus) == {1: (1, 0, None), 2: (1, 20, "pdq")}


@settings(deadline=None, max_examples=3)
@given(seed=st.integers(0, 10**6), cuts=st.sets(st.integers(1, 39), max_size=3))
def test_by_and_by_is_as_from_scratch_in_the_order_of_arrival(
    tmp_path_factory: pytest.TempPathFactory, seed: int, cuts: set[int]
) -> None:
    hashes = alike(40, seed)
    corpus = Corpus.create(tmp_path_factory.mktemp("corpus"))
    corpus.adopt("{}", [*TABLES.values(), COPIES])
    ends = [*sorted(cuts), 40]
    for begin, end in zip([0, *ends], ends, strict=False):
        arrive(corpus, *(picture(row, hash=hashes[row].tobytes()) for row in range(begin, end)))
    assert [found(corpus)[row][:2] for row in range(40)] == by_hand(hashes, 0)


WANTED = Semantic(embedding="lite_embedding", similarity=0.9, clusters=3)
CENTRES = semantic.centres_of(WANTED, TABLES["lite_embedding"])
ALIKE = semantic.table_of(WANTED, CENTRES, COPIES)


def look(corpus: Corpus) -> dict[int, dict[str, Any]]:
    corpus.adopt("{}", [*TABLES.values(), COPIES, CENTRES, ALIKE])
    semantic.run(corpus, WANTED, CENTRES, ALIKE, [*TABLES], lambda *told: None)
    rows = corpus.sql("SELECT * EXCLUDE (image_id, error), image_id FROM semantic ORDER BY image_id").to_pylist()
    return {int.from_bytes(row["image_id"]): row | {"leader": int.from_bytes(row["leader"])} for row in rows}


def around(corpus: Corpus, first: int, count: int) -> list[dict[str, Any]]:
    """Pictures whose vectors lie about three directions, the width giving the rank."""
    rows = []
    for number in range(first, first + count):
        direction = np.eye(8)[number % 3] * 4
        vector = direction + np.random.default_rng(number).normal(size=8) * (0.1 if number % 2 else 2)
        rows.append(picture(number, vector=vector, width=1000 - number))
    return rows


def test_look_alikes_are_those_of_a_brute_force_search_in_each_cluster(corpus: Corpus) -> None:
    pictures = around(corpus, 0, 150)
    arrive(corpus, *pictures)
    rows = look(corpus)
    unit = np.stack([np.asarray(row["vector"], np.float16).astype(np.float64) for row in pictures])
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    assert {row["cluster"] for row in rows.values()} == {0, 1, 2}
    leaders: dict[int, list[int]] = {0: [], 1: [], 2: []}
    for number in range(150):  # the order of the rank
        row = rows[number]
        near = [head for head in leaders[row["cluster"]] if unit[number] @ unit[head] >= 0.9]
        best = max(near, key=lambda head: unit[number] @ unit[head], default=number)
        if not near:
            leaders[row["cluster"]].append(number)
        assert (row["leader"], row["leads"]) == (best, not near)
        assert row["similarity"] == pytest.approx(unit[number] @ unit[best], abs=1e-5)
        assert row["place"] == (None if near else len(leaders[row["cluster"]]))
    assert 3 < sum(row["leads"] for row in rows.values()) < 140


def test_later_look_alikes_leave_the_first_in_their_places(corpus: Corpus) -> None:
    arrive(corpus, *around(corpus, 0, 130))
    before = look(corpus)
    assert look(corpus) == before
    arrive(corpus, *around(corpus, 130, 60))
    after = look(corpus)
    assert {number: after[number] for number in before} == before
    assert len(after) == 190
    for cluster in range(3):
        places = [row["place"] for row in after.values() if row["cluster"] == cluster and row["leads"]]
        assert sorted(places) == list(range(1, len(places) + 1))


@pytest.mark.usefixtures("ray_cluster")
def test_look_alikes_over_ray_are_the_same(corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    arrive(corpus, *around(corpus, 0, 130))
    here = look(corpus)
    shutil.rmtree(corpus.tables / ALIKE.path)
    monkeypatch.setattr(semantic, "ON_RAY", 1)
    monkeypatch.setattr(semantic, "VECTORS_AT_ONCE", 30)
    assert look(corpus) == here


def test_a_copy_has_what_its_representative_has(corpus: Corpus) -> None:
    arrive(corpus, *around(corpus, 0, 20))
    copied = picture(50, hash=picture(7)["hash"], vector=np.ones(8))
    look(corpus)
    arrive(corpus, copied)
    rows = look(corpus)
    same = ("cluster", "leader", "similarity", "leads", "place")
    assert [rows[50][key] for key in same] == [rows[7][key] for key in same]
    arrive(corpus, *around(corpus, 60, 40))
    rows = look(corpus)
    for cluster in range(3):
        places = [row["place"] for number, row in rows.items() if row["cluster"] == cluster and row["leader"] == number]
        assert sorted(places) == list(range(1, len(places) + 1)), "a copy takes no place of its own"
