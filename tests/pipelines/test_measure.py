"""Passes over pictures and captions: one decode for all, a row for each, nothing measured twice."""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import pyarrow as pa
import pytest

from filters import registry
from filters.measure import Columns
from filters.picture import Picture
from pipelines import measure
from pipelines.blob import Blob
from pipelines.corpus import Corpus
from pipelines.measure import stages, tables_of
from pipelines.stage import Stage, pending
from schemas.errors import JuZhouError
from schemas.identity import digest
from schemas.recipe import Recipe
from schemas.tables import IMAGES, SAMPLES


class Height:
    """Refuses pictures of seven pixels, and remembers how many it was given at a time."""

    name = "height"
    columns = pa.schema({"height": pa.int32()})
    asked: ClassVar[list[int]] = []

    def fingerprint(self) -> str:
        return "0" * 12

    def __call__(self, pictures: Sequence[Picture]) -> Columns:
        self.asked.append(len(pictures))
        if any(picture.height == 7 for picture in pictures):
            raise RuntimeError("seven is too much for me")
        return {"height": [picture.height for picture in pictures]}


class Model(Height):
    name = "model"
    weight = 5_000_000_000


class Other(Model):
    name = "other"


class Area:
    """Follows from what others saw."""

    name = "area"
    columns = pa.schema({"area": pa.int64()})
    wants = ("height.height", "size.width")

    def fingerprint(self) -> str:
        return "1" * 12

    def __call__(self, wanted: dict[str, Sequence[Any]]) -> Columns:
        sides = zip(wanted["height.height"], wanted["size.width"], strict=True)
        return {"area": [height * width for height, width in sides]}


class Unusable(Height):
    name = "unusable"

    def __call__(self, pictures: Sequence[Picture]) -> Columns:
        raise JuZhouError("no such model")


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    Height.asked.clear()
    monkeypatch.setattr(measure, "PICTURE", registry.PICTURE | {kind.name: kind for kind in (Height, Model, Other)})
    monkeypatch.setattr(measure, "DERIVED", {"area": Area})


def fill(corpus: Corpus, *contents: bytes) -> list[bytes]:
    """Pictures with a caption each; the size that a broken one's header tells is not asked for."""
    with Blob(corpus.blobs) as blob:
        for content in contents:
            blob.add(digest(content), content)
    ids = [digest(content) for content in contents]
    images = [{"image_id": one, "width": 10, "height": 10} | blob.location(one) for one in ids]
    corpus.append(IMAGES, pa.Table.from_pylist(images, IMAGES.schema))
    samples = [{"sample_id": digest(one), "image_id": one, "caption": "一只猫"} for one in ids]
    corpus.append(SAMPLES, pa.Table.from_pylist(samples, SAMPLES.schema))
    return ids


def do(corpus: Corpus, measures: dict[str, Any]) -> None:
    """Every stage in this process."""
    corpus.adopt("{}", [*tables_of(measures).values()])
    for stage in stages(corpus, measures):
        once(corpus, stage)


def once(corpus: Corpus, stage: Stage) -> None:
    rows = pending(corpus, stage)
    if rows.num_rows:
        for table, new in stage.work()(rows):  # type: ignore[misc]
            corpus.append(table, new)


def rows(corpus: Corpus, name: str) -> dict[bytes, dict[str, Any]]:
    return {row.pop("image_id"): row for row in corpus.sql(f"FROM {name}").to_pylist()}


def test_a_picture_is_decoded_once_for_all_that_lack_it(
    corpus: Corpus, draw: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[bytes] = []
    decode = measure.decode
    monkeypatch.setattr(measure, "decode", lambda content: (decoded.append(content), decode(content))[1])
    contents = [draw(number) for number in range(5)]
    fill(corpus, *contents)
    do(corpus, registry.build({"size": {}, "pdq": {}, "blur": {}}))
    assert sorted(decoded) == sorted(contents)
    do(corpus, registry.build({"size": {}, "pdq": {}, "blur": {}}) | {"height": Height()})
    assert len(decoded) == 10
    assert Height.asked == [5]
    assert {name: corpus.sql(f"FROM {name}").num_rows for name in ("size", "pdq", "blur", "height")} == dict.fromkeys(
        ("size", "pdq", "blur", "height"), 5
    )


def test_a_broken_picture_and_one_that_a_measure_fails_on_cost_their_rows(
    corpus: Corpus, draw: Callable[..., bytes]
) -> None:
    good, seven, broken, empty = fill(corpus, draw(1), draw(2, size=(9, 7)), draw(3)[:300], b"")
    do(corpus, registry.build({"size": {}}) | {"height": Height()})
    assert rows(corpus, "height")[good] == {"height": 120, "error": None}
    assert rows(corpus, "height")[seven] == {"height": None, "error": "RuntimeError: seven is too much for me"}
    assert rows(corpus, "size")[seven]["height"] == 7
    for one in (broken, empty):
        assert "cannot be decoded" in rows(corpus, "size")[one]["error"]
        assert "cannot be decoded" in rows(corpus, "height")[one]["error"]


def test_what_follows_from_others_says_what_is_missing(corpus: Corpus, draw: Callable[..., bytes]) -> None:
    good, seven = fill(corpus, draw(1), draw(2, size=(9, 7)))
    do(corpus, registry.build({"size": {}}) | {"height": Height(), "area": Area()})
    assert rows(corpus, "area") == {
        good: {"area": 160 * 120, "error": None},
        seven: {"area": None, "error": "no height.height of its picture"},
    }


def test_models_share_a_worker_until_it_is_full(corpus: Corpus) -> None:
    names = [stage.name for stage in stages(corpus, {"height": Height(), "model": Model(), "other": Other()})]
    assert names == ["measure pictures", "measure pictures by model", "measure pictures by other"]
    light = Other()
    light.weight = 10  # type: ignore[misc]
    found = stages(corpus, {"model": Model(), "other": light})
    assert [(stage.name, stage.gpu) for stage in found] == [("measure pictures by model, other", True)]


def test_what_the_user_can_mend_ends_the_run(corpus: Corpus, draw: Callable[..., bytes]) -> None:
    fill(corpus, draw(1))
    measures = {"unusable": Unusable()}
    measure.PICTURE["unusable"] = Unusable
    with pytest.raises(JuZhouError, match="no such model"):
        do(corpus, measures)


def test_large_pictures_are_measured_in_groups_that_fit_the_memory(
    corpus: Corpus, draw: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure, "PIXELS_AT_ONCE", 250)
    fill(corpus, *(draw(number) for number in range(5)))
    do(corpus, {"height": Height()})
    assert Height.asked == [2, 2, 1]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"sizes": {}}, "there is no measure 'sizes'; did you mean 'size'?"),
        ({"size": {"side": 3}}, "the measure 'size' has no option 'side', nor any other"),
        ({"lite_alignment": {}}, "the measure 'lite_alignment' wants 'lite_embedding'"),
        ({"open_clip": {"modle": "x"}}, "the measure 'open_clip': unknown key 'modle'; did you mean 'model'?"),
        ({"open_clip_alignment": {}}, "the measure 'open_clip_alignment' wants 'open_clip'"),
    ],
)
def test_a_measure_that_cannot_be_built_is_told_in_a_line(given: dict[str, Any], message: str) -> None:
    with pytest.raises(JuZhouError) as error:
        registry.build(given)
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


def test_a_recipe_gives_options_beside_names(tmp_path: Any) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "r.yaml").write_text(
        "corpus: c\nsources: {}\npolicy: p\nrelease: r\nmeasures: [size, open_clip: {model: models}, text]\n"
    )
    recipe = Recipe.load(tmp_path / "r.yaml")
    assert recipe.measures == {"size": {}, "open_clip": {"model": str(tmp_path / "models")}, "text": {}}
