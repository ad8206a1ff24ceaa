"""The pages of the audit over HTTP: what they show, what they refuse, and that they change nothing but reviews."""

import io
import json
import re
import threading
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import uvicorn
from PIL import Image
from starlette.testclient import TestClient

from pipelines import decide, forget
from pipelines.audit import questions, shelf
from pipelines.audit.app import app
from pipelines.audit.guard import Guard, is_loopback
from pipelines.corpus import Corpus
from schemas.identity import digest
from schemas.policy import Policy

from .conftest import BROKEN, EXIF, HOSTILE, POLYGLOT, ROWS

HOME = "http://127.0.0.1:8710"
JSON = {"Origin": HOME, "Content-Type": "application/json"}


def own(number: int) -> str:
    return digest(f"sample {number}".encode()).hex()


@pytest.fixture(scope="module")
def audit(shop: Corpus) -> TestClient:
    """Of a corpus that no test changes."""
    return TestClient(app(shop, None, "anna"), base_url=HOME)


@pytest.fixture
def fresh(stocked: Corpus) -> TestClient:
    """Of a corpus of one's own."""
    return TestClient(app(stocked, None, "anna"), base_url=HOME)


def shown(page: str) -> list[str]:
    return re.findall(r'<article[^>]* data-sample="([0-9a-f]{32})"', page)


def say(audit: TestClient, number: int, **said: Any) -> Any:
    return audit.post("/reviews", json={"sample_id": own(number)} | said, headers=JSON)


def test_the_grid_pages_through_every_sample_once_and_back(audit: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(questions, "PAGE_ROWS", 7)
    for query in ("", "?score=lite_alignment.score&order=down", "?score=blur.sharpness&order=up"):
        page, pages = audit.get(f"/{query}").text, []
        while True:
            pages.append(shown(page))
            following = re.search(r'rel="next" href="([^"]+)"', page)
            if not following:
                break
            page = audit.get(following[1].replace("&amp;", "&")).text
        seen = [one for some in pages for one in some]
        assert len(seen) == len(set(seen)) == ROWS - ("blur" in query)
        for some in reversed(pages[:-1]):
            page = audit.get(re.search(r'rel="prev" href="([^"]+)"', page)[1].replace("&amp;", "&")).text  # type: ignore[index]
            assert shown(page) == some
        assert 'rel="prev"' not in page
    best = shown(audit.get("/?score=lite_alignment.score&order=down").text)
    assert best == [own(number) for number in range(ROWS - 1, ROWS - 8, -1)]


@pytest.mark.parametrize(
    ("query", "numbers"),
    [
        ("rule=blurred", range(10)),
        ("rule=misaligned", range(10, 18)),
        ("rule=misaligned&how=any", range(18)),
        ("source=zero", [number for number in range(ROWS) if number % 3 == 0 and number != 54]),
        ("score=lite_alignment.score&low=0.5&high=0.61", range(30, 37)),
        ("verdict=rejected&score=blur.sharpness&low=20", [29, 39, 49, 59]),
        ("text=第1", [1, *range(10, 20)]),
        ("text=简化5", [5, *range(50, 60)]),
        ("text=%25", []),
        ("opinion=drop", []),
    ],
)
def test_filters_show_what_they_say(audit: TestClient, query: str, numbers: list[int]) -> None:
    assert sorted(shown(audit.get(f"/?{query}").text)) == sorted(own(number) for number in numbers)


@pytest.mark.parametrize(
    "query", ["rule=none", "score=x", "verdict=x", "release=x", "score=blur.sharpness&low=abc", "after=zz"]
)
def test_what_is_not_there_is_told_in_one_line(audit: TestClient, query: str) -> None:
    answer = audit.get(f"/?{query}")
    assert answer.status_code == 400 and "That did not work" in answer.text and "Traceback" not in answer.text


def moved(path: Path, name: str, **bound: float) -> Policy:
    """The policy with another bound for one rule."""
    policy = Policy.load(path)
    rules = [rule.model_copy(update=bound) if rule.name == name else rule for rule in policy.rules]
    return policy.model_copy(update={"rules": tuple(rules)})


def told(page: str, way: str) -> int:
    """How many samples a page says would enter or leave."""
    found = re.search(rf'<p class="{way}"><b class="num">([\d,]+)', page)
    assert found
    return int(found[1].replace(",", ""))


def test_a_threshold_tells_who_enters_and_who_leaves(audit: TestClient, shop: Corpus, policy_path: Path) -> None:
    for threshold in (0.2, 0.3, 0.45):
        page = audit.get(f"/rules/misaligned/what-if?threshold={threshold}").text
        other = decide.compare(shop, Policy.load(policy_path), moved(policy_path, "misaligned", min=threshold))
        assert told(page, "enter") == sum(change.samples for change in other.enter)
        assert told(page, "leave") == sum(change.samples for change in other.leave)
        assert f"min: {threshold:g}, why: &#34;words, not of it&#34;}}" in page


@pytest.mark.parametrize("share", [0.5, 0.9, 0.95])
def test_a_share_is_moved_as_the_policy_would(audit: TestClient, shop: Corpus, policy_path: Path, share: float) -> None:
    page = audit.get(f"/rules/plain/what-if?threshold={share}").text
    other = decide.compare(shop, Policy.load(policy_path), moved(policy_path, "plain", top=share))
    assert told(page, "enter") == sum(change.samples for change in other.enter)
    assert told(page, "leave") == sum(change.samples for change in other.leave)


def test_both_sides_of_a_threshold_stand_nearest_first(audit: TestClient) -> None:
    page = audit.get("/rules/misaligned").text
    fails, passes = page.partition("passes</h3>")[0].partition("fails</h3>")[2], page.partition("passes</h3>")[2]
    assert shown(fails) == [own(number) for number in range(17, 1, -1)]
    assert shown(passes) == [own(number) for number in range(18, 34)]
    assert "stand-in" in page


def test_a_sample_is_told_from_url_to_verdict(audit: TestClient, shop: Corpus) -> None:
    page = audit.get(f"/samples/{own(19)}").text
    for said in ("第19张图片", "简化19", "http://a.example/19.jpg", "wukong", "CC0", "near-duplicate", "2026-01-02",
                 "transient", "sharpness", "stand-in", "A copy of", "In no release", "0.3167"):  # fmt: skip
        assert said in page, said
    assert "http: &lt;b&gt;503" in page
    broken = audit.get(f"/samples/{own(BROKEN)}").text
    assert "cannot be decoded" in broken
    assert "&lt;b&gt;broken&lt;/b&gt;" in audit.get(f"/samples/{own(0)}").text
    assert audit.get(f"/samples/{'0' * 32}").status_code == audit.get("/samples/x").status_code == 404


def test_copies_stand_side_by_side_with_their_distance(audit: TestClient) -> None:
    page = audit.get("/duplicates").text
    assert page.count('<section class="group">') == 6
    assert page.count("stands for all") == 6 and page.count('<b class="num">6</b>') == 6 and "pdq" in page
    group = re.search(r'href="(/duplicates/[0-9a-f]+)"', page)
    assert group and audit.get(group[1]).text.count("<figure") == 2


def test_pictures_are_never_the_original_bytes(audit: TestClient, shop: Corpus) -> None:
    places = {row["image_id"]: row for row in shop.sql("FROM images").to_pylist()}
    images = {row["sample_id"].hex(): row["image_id"] for row in shop.sql("FROM samples").to_pylist()}
    for number in (0, POLYGLOT, EXIF):
        place = places[images[own(number)]]
        original = shop.read(place["tar"], place["offset"], place["length"])
        for folder in ("thumbnails", "pictures"):
            answer = audit.get(f"/{folder}/{images[own(number)].hex()}")
            assert answer.headers["content-type"] == "image/jpeg" and "immutable" in answer.headers["cache-control"]
            assert b"script" not in answer.content and answer.content != original
            assert Image.open(io.BytesIO(answer.content)).getexif() == {}
    answer = audit.get(f"/thumbnails/{images[own(BROKEN)].hex()}")
    assert answer.headers["content-type"] == "image/svg+xml" and b"no picture" in answer.content
    assert b"no such picture" in audit.get(f"/thumbnails/{'0' * 32}").content


class Tags(HTMLParser):
    """Every tag with its attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def test_what_strangers_wrote_never_becomes_markup(audit: TestClient) -> None:
    paths = ["/", "/?text=script", "/rules", "/rules/misaligned", "/duplicates", "/sql", "/estimates", "/draws"]
    paths += [f"/samples/{own(number)}" for number in (*HOSTILE, POLYGLOT, BROKEN, EXIF)]
    paths += [f"/review?by=all&size=60&seed=1&at={at}" for at in range(1, 61, 7)]
    paths += ['/?text="><script>window.hit=1</script>', "/sql?query=</textarea><script>window.hit=1</script>"]
    for path in paths:
        answer = audit.get(path)
        tags = Tags()
        tags.feed(answer.text)
        for tag, attributes in tags.found:
            assert (
                tag not in ("iframe", "object", "embed", "style", "base", "meta")
                or "charset" in attributes
                or (attributes.get("name") in ("viewport", "color-scheme"))
            ), (path, tag)
            assert not [name for name in attributes if name.startswith("on") or name == "style"], (path, attributes)
            if tag == "script":
                assert (attributes["src"] or "").startswith("/static/")
            if tag == "img":
                assert re.match(r"/(thumbnails|pictures)/[0-9a-f]{32}$", attributes["src"] or "")
            href = attributes.get("href") or ""
            assert href.startswith(("/", "http://", "https://", "")), href
            assert not re.match(r"\s*(javascript|data|vbscript):", href, re.I), href
            if tag == "a" and href.startswith("http"):
                assert attributes["rel"] == "noopener noreferrer"
    assert "javascript:window.hit = 3" in audit.get(f"/samples/{own(52)}").text


def test_every_answer_says_what_a_page_may_do(audit: TestClient) -> None:
    for path in ("/", "/static/review.js", "/nowhere", "/?score=x", "/reviews.csv", f"/thumbnails/{'0' * 32}"):
        headers = audit.get(path).headers
        assert headers["content-security-policy"] == (
            "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
            "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
        )
        assert headers["x-content-type-options"] == "nosniff" and headers["referrer-policy"] == "no-referrer"


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8710", "127.0.0.1.evil.example", "", "127.0.0.1@evil.example"]
)
def test_another_name_for_this_machine_gets_nothing(audit: TestClient, host: str) -> None:
    assert audit.get("/", headers={"Host": host}).status_code == 421


@pytest.mark.parametrize("host", ["127.0.0.1:9", "localhost", "localhost:8710", "[::1]:8710"])
def test_this_machine_may_be_called_by_its_names(audit: TestClient, host: str) -> None:
    assert audit.get("/rules", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Type": "application/json"},
        {"Origin": "http://evil.example", "Content-Type": "application/json"},
        {"Origin": "null", "Content-Type": "application/json"},
        {"Origin": HOME, "Content-Type": "text/plain"},
        {"Origin": HOME + ".evil.example", "Content-Type": "application/json"},
    ],
)
def test_a_post_of_another_page_changes_nothing(fresh: TestClient, stocked: Corpus, headers: dict[str, str]) -> None:
    body = f'{{"sample_id": "{own(1)}", "opinion": "drop"}}'
    assert fresh.post("/reviews", content=body, headers=headers).status_code == 403
    assert fresh.post("/sql", content='{"query": "SELECT 1"}', headers=headers).status_code == 403
    assert fresh.get(f"/reviews?sample_id={own(1)}&opinion=drop").status_code == 405
    assert stocked.sql("FROM reviews").num_rows == 0


def test_a_token_is_wanted_where_others_can_reach_the_port(stocked: Corpus) -> None:
    pages = app(stocked, None, "anna", "0.0.0.0", "secret")
    there = {"base_url": "http://192.0.2.7:8710", "follow_redirects": False}
    stranger, friend = TestClient(pages, **there), TestClient(pages, **there)  # type: ignore[arg-type]
    assert stranger.get("/").status_code == stranger.get("/?token=wrong").status_code == 401
    assert stranger.get("/", headers={"Cookie": "juzhou-audit=guess"}).status_code == 401
    headers = {"Origin": "http://192.0.2.7:8710", "Content-Type": "application/json"}
    assert stranger.post("/reviews", json={}, headers=headers).status_code == 401
    welcome = friend.get("/?rule=blurred&token=secret")
    assert (welcome.status_code, welcome.headers["location"]) == (303, "/?rule=blurred")
    assert re.search(r"HttpOnly; SameSite=Strict", welcome.headers["set-cookie"])
    assert friend.get("/").status_code == 200
    assert friend.get("/", headers={"Host": "some.name"}).status_code == 421
    assert not is_loopback("0.0.0.0") and not is_loopback("example.org") and is_loopback("127.0.0.1")
    assert isinstance(pages, Guard)


def test_reviews_are_stored_shown_and_exported(fresh: TestClient, stocked: Corpus) -> None:
    drawn = {"drawn_by": "rule:blurred"}
    assert say(fresh, 3, opinion="drop", **drawn).json()["opinion"] == "drop"
    assert say(fresh, 4, opinion="keep", note="sharp, =1+1").status_code == 200
    assert say(fresh, 4, note='a "note" alone').json()["opinion"] is None
    assert say(fresh, 3, undo=True).json()["opinion"] is None
    assert shown(fresh.get("/?opinion=keep").text) == [own(4)]
    assert len(shown(fresh.get("/?opinion=none&rule=blurred").text)) == 9
    rows = stocked.sql("FROM reviews ORDER BY reviewed_at").to_pylist()
    assert [(row["opinion"], row["note"]) for row in rows] == [
        ("drop", None), ("keep", "sharp, =1+1"), (None, 'a "note" alone'), ("unsure", "undone"),
    ]  # fmt: skip
    assert {row["reviewer"] for row in rows} == {"anna"} and len({row["policy"] for row in rows}) == 1
    assert pq.read_table(io.BytesIO(fresh.get("/reviews.parquet").content)).to_pylist() == rows
    lines = fresh.get("/reviews.csv").text.splitlines()
    assert lines[0].startswith("sample_id,reviewed_at,reviewer,opinion") and len(lines) == 5
    assert "a &#34;note&#34; alone" in fresh.get(f"/samples/{own(4)}").text


@pytest.mark.parametrize(
    ("said", "status"),
    [
        ({"opinion": "maybe"}, 400),
        ({}, 400),
        ({"opinion": ["keep"]}, 400),
        ({"opinion": "keep", "drawn_by": "rule:none"}, 400),
        ({"opinion": "keep", "note": "n" * 3000}, 400),
        ({"opinion": "keep", "note": "n" * 100_000}, 400),
        ({"undo": True}, 400),
        ({"sample_id": "0" * 32, "opinion": "keep"}, 404),
        ({"sample_id": "' OR 1", "opinion": "keep"}, 404),
    ],
)
def test_what_is_no_review_is_refused_in_words(
    audit: TestClient, shop: Corpus, said: dict[str, Any], status: int
) -> None:
    answer = say(audit, 1, **said)
    assert answer.status_code == status and answer.json()["error"]
    assert shop.sql("FROM reviews").num_rows == 0


def ask(audit: TestClient, query: str) -> Any:
    return audit.post("/sql", json={"query": query}, headers=JSON)


def test_sql_is_answered_within_bounds(audit: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "misaligned" in ask(audit, "SELECT verdict.rule, count(*) FROM corpus GROUP BY ALL").text
    assert ask(audit, "SELECT sample_id FROM samples").text.count("<tr>") == ROWS + 1
    assert own(3).upper() in ask(audit, "SELECT sample_id FROM samples").text
    many = ask(audit, "SELECT * FROM range(100000)").text
    assert many.count("<tr>") == 1_001 and "there are more" in many
    assert "&lt;b&gt;" in ask(audit, "SELECT '<b>' AS \"<i>\"").text
    assert "<b>" not in ask(audit, "SELECT '<b>' AS \"<i>\"").text
    assert "samples" in ask(audit, "SHOW TABLES").text and "column_name" in ask(audit, "DESCRIBE corpus").text
    assert ask(audit, "EXPLAIN SELECT 1").status_code == 200
    assert len(ask(audit, "SELECT repeat('x', 10000000)").content) < 10_000
    for query in ("DROP VIEW samples", "SELECT 1; SELECT 2", "COPY samples TO '/tmp/x.csv'", "SET threads = 1", "",
                  "SELECT * FROM read_text('/etc/passwd')", "SELECT * FROM self", "SELECT * FROM duckdb", 7,
                  "SELECT * FROM range(10000000000) AS a ORDER BY hash(a.range)"):  # fmt: skip
        monkeypatch.setattr(questions, "SQL_S", 1.0)
        answer = ask(audit, query)  # type: ignore[arg-type]
        assert answer.status_code == 400 and answer.json()["error"] and "Traceback" not in answer.text, query


def test_one_question_at_a_time_for_a_session(audit: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(questions, "SQL_S", 1.5)
    audit.get("/sql")
    heavy = "SELECT count(*) FROM range(100000000) AS a, range(1000) AS b WHERE hash(a.range + b.range) = 1"
    slow = threading.Thread(target=ask, args=(audit, heavy))
    slow.start()
    threading.Event().wait(0.4)
    assert "still being answered" in ask(audit, "SELECT 1").json()["error"]
    slow.join()
    assert ask(audit, "SELECT 1").status_code == 200


def strip(corpus: Corpus, *what: str) -> None:
    """Let a corpus forget its policy, its verdicts, or both."""
    path = corpus.path / "current.json"
    current = json.loads(path.read_text())
    if "verdicts" in what:
        current["variants"] = [name for name in current["variants"] if not name.startswith("verdicts/")]
    if "policy" in what:
        del current["policy"]
    path.write_text(json.dumps(current))


PAGES = (
    "/",
    "/rules",
    "/duplicates",
    "/draws",
    "/estimates",
    "/sql",
    "/review?by=all&size=3",
    "/review",
    "/reviews.csv",
)


def test_an_empty_corpus_and_one_without_verdicts_can_be_looked_at(
    corpus: Corpus, stocked: Corpus, tmp_path: Path
) -> None:
    bare = Corpus.create(tmp_path / "bare")
    strip(stocked, "policy", "verdicts")
    for one, samples in ((bare, 0), (stocked, ROWS)):
        audit = TestClient(app(one, None, "anna"), base_url=HOME)
        for path in PAGES:
            assert audit.get(path).status_code == 200, path
        assert len(shown(audit.get("/").text)) == min(samples, questions.PAGE_ROWS)
        assert "no verdicts yet" in audit.get("/").text
    assert audit.get(f"/samples/{own(2)}").status_code == 200


def test_without_a_policy_the_verdicts_tell_of_the_rules(stocked: Corpus) -> None:
    strip(stocked, "policy")
    audit = TestClient(app(stocked, None, "anna"), base_url=HOME)
    assert "No policy file" in audit.get("/rules").text
    page = audit.get("/rules/misaligned/what-if?threshold=0.2").text
    assert re.search(r'<p class="enter"><b class="num">6</b>', page)
    assert "what would leave cannot be told" in audit.get("/rules/misaligned").text


def test_new_rows_are_seen_without_a_restart(
    stocked: Corpus, monkeypatch: pytest.MonkeyPatch, policy_path: Path
) -> None:
    monkeypatch.setattr(shelf, "CHECKED_S", 0.0)
    monkeypatch.setattr(shelf, "PATIENCE", 0)
    audit = TestClient(app(stocked, None, "anna"), base_url=HOME)
    assert len(shown(audit.get("/?rule=misaligned").text)) == 8
    policy_path.write_text(policy_path.read_text().replace("min: 0.3", "min: 0.5"))
    decide.adopt(stocked, Policy.load(policy_path))
    for _ in range(200):
        if len(shown(audit.get("/?rule=misaligned").text)) > 8:
            break
        threading.Event().wait(0.02)
    assert len(shown(audit.get("/?rule=misaligned").text)) == 18


@pytest.fixture
def served(stocked: Corpus) -> Iterator[str]:
    """The address of a real server."""
    server = uvicorn.Server(uvicorn.Config(app(stocked, None, "anna"), port=0, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        threading.Event().wait(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join()


def test_many_browsers_at_once_get_what_they_ask(served: str) -> None:
    import httpx

    problems: list[str] = []

    def browse(number: int) -> None:
        with httpx.Client(base_url=served, timeout=30) as client:
            page = client.get("/?verdict=kept")
            for one in re.findall(r'src="(/thumbnails/[0-9a-f]+)"', page.text)[number::8]:
                if client.get(one).status_code != 200:
                    problems.append(one)
            headers = {"Origin": served}
            answer = client.post("/reviews", json={"sample_id": own(20 + number), "opinion": "keep"}, headers=headers)
            if answer.status_code != 200:
                problems.append(answer.text)

    threads = [threading.Thread(target=browse, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not problems
    assert httpx.get(f"{served}/reviews.csv").text.count("\n") == 9


def test_what_is_taken_down_is_not_shown_again(fresh: TestClient, stocked: Corpus) -> None:
    image_id = stocked.sample(bytes.fromhex(own(3)))["image_id"]  # type: ignore[index]
    assert fresh.get(f"/pictures/{image_id.hex()}").headers["content-type"] == "image/jpeg"
    with stocked.writing():
        forget.forget(stocked, [forget.Request.of_image(image_id.hex())])
    assert fresh.get(f"/pictures/{image_id.hex()}").headers["content-type"] == "image/svg+xml"
