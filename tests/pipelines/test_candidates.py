"""What sources found becomes candidates once; what left the recipe is hidden, says so, and comes back."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa

from pipelines import candidates, decide, fetch
from pipelines.corpus import Corpus
from schemas.identity import digest
from schemas.policy import Policy
from schemas.tables import CANDIDATES, DUPLICATES, FETCHES, FILES, PAGES, duplicates_table

NOW = datetime(2026, 1, 1, tzinfo=UTC)
ANY = Policy.model_validate({"name": "any", "rules": [{"name": "whole", "value": "length", "min": 1}]})
NEAR = duplicates_table("pdq", "0123456789ab")


def shown(url: str, caption: str, page: str, **more: Any) -> dict[str, Any]:
    words = {"alt": caption, "title": None, "figcaption": None, "heading": f"关于{caption}", "context": None}
    return {
        "url": url,
        "caption": caption,
        "caption_from": "alt",
        "words": words,
        "page_url": page,
        "licence": None,
    } | more


def page(corpus: Corpus, source: str, url: str, *pictures: dict[str, Any], day: int = 0) -> None:
    about = {"page_id": digest(f"{source}{url}".encode()), "attempt": 1, "source": source, "url": url, "status": "ok"}
    row = about | {"fetched_at": NOW + timedelta(days=day), "pictures": list(pictures)}
    corpus.append(PAGES, pa.Table.from_pylist([row], PAGES.schema))


def test_a_picture_on_two_pages_is_one_candidate(corpus: Corpus) -> None:
    page(corpus, "web", "http://a.example/2", shown("http://a.example/x.jpg", "猫", "http://a.example/2"))
    page(
        corpus, "web", "http://a.example/1", shown("http://a.example/x.jpg", "猫", "http://a.example/1", licence="CC0")
    )
    page(corpus, "web", "http://a.example/3", shown("http://a.example/x.jpg", "狗", "http://a.example/3"))
    assert candidates.of_pages(corpus, ["web"], "recipe") == 2
    assert candidates.of_pages(corpus, ["web"], "recipe") == 0
    [cat] = corpus.sql("FROM candidates WHERE caption = '猫'").to_pylist()
    assert (cat["page_url"], cat["licence"], cat["source"], cat["recipe"]) == (
        "http://a.example/1",
        "CC0",
        "web",
        "recipe",
    )
    assert cat["words"]["heading"] == "关于猫"


def test_pages_of_a_source_outside_the_recipe_give_none(corpus: Corpus) -> None:
    page(corpus, "gone", "http://a.example/1", shown("http://a.example/x.jpg", "猫", "http://a.example/1"))
    assert candidates.of_pages(corpus, ["web"], "recipe") == 0
    assert candidates.of_pages(corpus, [], "recipe") == 0


def item(url: str, content: bytes, caption: str = "猫") -> dict[str, Any]:
    where = {"status": "ok", "error": None, "image_id": digest(content), "tar": "a.tar", "offset": 512, "length": 9}
    header = {"format": "png", "width": 4, "height": 3, "orientation": 1}
    return shown(url, caption, "", page_url=None) | where | header


def read(corpus: Corpus, name: str, *items: dict[str, Any], day: int = 0) -> None:
    about = {"file_id": digest(f"{name}{day}".encode()), "source": "mine", "path": name, "status": "ok"}
    row = about | {"read_at": NOW + timedelta(days=day), "pictures": list(items)}
    corpus.append(FILES, pa.Table.from_pylist([row], FILES.schema))


def test_what_files_hold_is_found_and_had(corpus: Corpus) -> None:
    broken = item("file:mine/b.png", b"b") | {"status": "permanent", "error": "not a picture", "image_id": None}
    read(corpus, "a.png", item("file:mine/a.png", b"1"))
    read(corpus, "b.png", broken)
    assert candidates.of_files(corpus, ["mine"], "recipe") == 2
    assert candidates.fetches_of_files(corpus) == 2
    assert fetch.images_of_fetches(corpus) == fetch.samples_of_images(corpus) == 1
    read(corpus, "a.png", item("file:mine/a.png", b"2"), day=1)
    assert candidates.of_files(corpus, ["mine"], "recipe") == 0
    assert candidates.fetches_of_files(corpus) == 1
    assert candidates.fetches_of_files(corpus) == 0
    attempts = corpus.sql("SELECT attempt, image_id FROM fetches WHERE url = 'file:mine/a.png' ORDER BY attempt")
    assert attempts.to_pylist() == [{"attempt": 1, "image_id": digest(b"1")}, {"attempt": 2, "image_id": digest(b"2")}]


def had(corpus: Corpus, source: str, url: str, content: bytes, caption: str = "猫", width: int = 100) -> bytes:
    """A candidate whose picture was had; gives the image_id."""
    about = {"source": source, "url": url, "url_id": digest(url.encode()), "caption": caption, "found_at": NOW}
    about |= {"candidate_id": digest(f"{source}{url}{caption}".encode())}
    corpus.append(CANDIDATES, pa.Table.from_pylist([about], CANDIDATES.schema))
    row = {"url_id": about["url_id"], "attempt": 1, "url": url, "status": "ok", "image_id": digest(content)}
    row |= {"tar": "a.tar", "offset": 512, "length": len(content), "width": width, "height": 100}
    corpus.add(FETCHES, pa.Table.from_pylist([row], FETCHES.schema))
    return digest(content)


def judged(corpus: Corpus) -> dict[str, tuple[bool, str | None]]:
    """Caption → kept, and the rule that says why not."""
    with corpus.connect() as connection:
        connection.register("judged", decide.judged(corpus, ANY))
        rows = connection.sql("SELECT caption, kept, rule FROM judged JOIN samples USING (sample_id)").fetchall()
    return {caption: (kept, rule) for caption, kept, rule in rows}


def test_a_source_that_left_the_recipe_is_hidden_and_nothing_is_deleted(corpus: Corpus) -> None:
    had(corpus, "stays", "http://a.example/1.jpg", b"one", "一")
    had(corpus, "leaves", "http://b.example/2.jpg", b"two", "二")
    had(corpus, "leaves", "http://b.example/3.jpg", b"three", "三")
    had(corpus, "stays", "http://a.example/3.jpg", b"three", "三")
    fetch.images_of_fetches(corpus)
    fetch.samples_of_images(corpus)
    assert judged(corpus) == {"一": (True, None), "二": (True, None), "三": (True, None)}
    before = decide.table_of(corpus, ANY)
    corpus.hide(["leaves"])
    assert judged(corpus) == {"一": (True, None), "二": (False, "out-of-recipe"), "三": (True, None)}
    assert decide.table_of(corpus, ANY) != before, "the old verdicts are not taken for new ones"
    [shared] = corpus.sql("SELECT source, url, in_recipe FROM corpus WHERE caption = '三'").to_pylist()
    assert shared == {"source": "stays", "url": "http://a.example/3.jpg", "in_recipe": True}
    assert corpus.sql("FROM samples").num_rows == 3
    corpus.hide([])
    assert judged(corpus)["二"] == (True, None)


def test_a_hidden_picture_stands_for_no_other_one(corpus: Corpus) -> None:
    large = had(corpus, "leaves", "http://b.example/large.jpg", b"large", "大", width=900)
    middle = had(corpus, "stays", "http://a.example/middle.jpg", b"middle", "中", width=500)
    small = had(corpus, "stays", "http://a.example/small.jpg", b"small", "小", width=100)
    fetch.images_of_fetches(corpus)
    fetch.samples_of_images(corpus)
    group = [{"image_id": one, "representative": large, "distance": 3.0} for one in (large, middle, small)]
    corpus.append(NEAR, pa.Table.from_pylist(group, DUPLICATES))
    corpus.adopt("{}", [NEAR])
    query = "SELECT caption, stands_for_itself AS stands FROM corpus ORDER BY caption"
    before = {row["caption"]: row["stands"] for row in corpus.sql(query).to_pylist()}
    assert before == {"大": True, "中": False, "小": False}
    corpus.hide(["leaves"])
    after = {row["caption"]: row["stands"] for row in corpus.sql(query).to_pylist()}
    assert after == {"大": False, "中": True, "小": False}
