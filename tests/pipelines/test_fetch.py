"""Candidates → bytes: every URL ends in a row, the bytes are the original ones, nothing is asked twice after `ok`."""

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines import crawl, fetch
from pipelines.corpus import Corpus
from pipelines.fetch import read_header, write_blob
from pipelines.stage import run
from schemas.identity import digest
from schemas.recipe import Fetch, Urls


class Web:
    """A real server with one path a fault; it counts what it was asked."""

    def __init__(self, picture: bytes, robots: str = "User-agent: *\nDisallow: /secret/\n") -> None:
        self.picture = picture
        self.robots = robots
        self.asked: Counter[str] = Counter()
        self.agents: set[str] = set()

    @contextmanager
    def served(self) -> Iterator[str]:
        web = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                web.asked[self.path] += 1
                web.agents.add(self.headers["User-Agent"])
                status, headers, body = web.answer(self.path)
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            server.server_close()
            thread.join()

    def answer(self, path: str) -> tuple[int, dict[str, str], bytes]:
        jpeg = {"Content-Type": "image/jpeg"}
        answers: dict[str, tuple[int, dict[str, str], bytes]] = {
            "/robots.txt": (200, {"Content-Type": "text/plain"}, self.robots.encode()),
            "/404.jpg": (404, {}, b""),
            "/410.jpg": (410, {}, b""),
            "/429.jpg": (429, {}, b""),
            "/html.jpg": (200, jpeg, b"<!doctype html><p>not a picture"),
            "/empty.jpg": (200, jpeg, b""),
            "/noai.jpg": (200, jpeg | {"X-Robots-Tag": "noai"}, self.picture),
            "/503-once.jpg": (503, {}, b"") if self.asked[path] == 1 else (200, jpeg, self.picture + b"\0"),
        }
        return answers.get(path, (200, jpeg, self.picture))


def silent(name: str, done: int, total: int) -> None:
    pass


def listed(corpus: Corpus, folder: Path, urls: list[str]) -> None:
    path = folder / "list.csv"
    path.write_text("url,caption\n" + "".join(f"{url},词\n" for url in urls), encoding="utf-8")
    crawl.candidates_of_urls(corpus, "list", Urls(kind="urls", path=path), "recipe", datetime.now(UTC))


@pytest.mark.usefixtures("ray_cluster")
def test_what_becomes_of_each_url(corpus: Corpus, tmp_path: Path, draw: Callable[..., bytes]) -> None:
    web = Web(draw(1))
    with web.served() as site:
        wanted = {
            f"{site}/a.jpg": ("ok", 200),
            f"{site}/b.jpg": ("ok", 200),
            f"{site}/404.jpg": ("permanent", 404),
            f"{site}/410.jpg": ("permanent", 410),
            f"{site}/429.jpg": ("transient", 429),
            f"{site}/503-once.jpg": ("transient", 503),
            f"{site}/html.jpg": ("permanent", 200),
            f"{site}/empty.jpg": ("permanent", 200),
            f"{site}/noai.jpg": ("disallowed", 200),
            f"{site}/secret/a.jpg": ("disallowed", None),
            "file:///etc/hostname": ("permanent", None),
            "http://127.0.0.1:9/a.jpg": ("transient", None),
            "http://[bad/a.jpg": ("permanent", None),
            "not a url": ("permanent", None),
        }
        listed(corpus, tmp_path, list(wanted))
        run(corpus, fetch.fetch_stage(corpus, Fetch(user_agent="Tester/1", attempts=2), datetime.now(UTC)), silent)
        rows = corpus.sql("SELECT * FROM fetches").to_pylist()
        assert {row["url"]: (row["status"], row["http_code"]) for row in rows} == wanted
        assert all(row["error"] for row in rows if row["status"] != "ok")
        assert web.agents == {"Tester/1"}

        before = web.asked.copy()
        run(corpus, fetch.fetch_stage(corpus, Fetch(attempts=2), datetime.now(UTC)), silent)
        again = web.asked - before
        del again["/robots.txt"]
        assert again == {"/429.jpg": 1, "/503-once.jpg": 1}, "only what was transient is asked again"
        run(corpus, fetch.fetch_stage(corpus, Fetch(attempts=2), datetime.now(UTC)), silent)
        assert web.asked["/429.jpg"] == 2, "and no more often than the recipe allows"
        assert web.asked["/secret/a.jpg"] == 0

    assert fetch.images_of_fetches(corpus) == 2
    assert fetch.samples_of_images(corpus) == 2
    for row in corpus.sql("SELECT * FROM images").to_pylist():
        content = corpus.read(row["tar"], row["offset"], row["length"])
        assert digest(content) == row["image_id"]
        assert content.rstrip(b"\0") == web.picture
        assert (row["format"], row["width"], row["height"], row["orientation"]) == ("jpeg", 160, 120, 1)


@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize(("robots_status", "allowed"), [(404, True), (503, False)])
def test_robots_that_cannot_be_had(
    corpus: Corpus, tmp_path: Path, draw: Callable[..., bytes], robots_status: int, allowed: bool
) -> None:
    web = Web(draw(1))
    answer = web.answer
    web.answer = lambda path: (robots_status, {}, b"") if path == "/robots.txt" else answer(path)  # type: ignore[method-assign]
    with web.served() as site:
        listed(corpus, tmp_path, [f"{site}/a.jpg"])
        run(corpus, fetch.fetch_stage(corpus, Fetch(), datetime.now(UTC)), silent)
    assert web.asked["/a.jpg"] == allowed
    assert corpus.sql("SELECT status FROM fetches").column(0).to_pylist() == ["ok" if allowed else "transient"]


def test_a_blob_gives_back_every_byte(corpus: Corpus) -> None:
    contents = [(digest(bytes([n])), bytes([n]) * (n * 300)) for n in range(8)]
    locations = write_blob(corpus.blobs, contents)
    for image_id, content in contents:
        assert corpus.read(**locations[image_id]) == content


@given(st.binary(max_size=200) | st.builds(lambda tail: b"\xff\xd8\xff\xe0" + tail, st.binary(max_size=100)))
def test_garbage_is_refused_in_one_line(content: bytes) -> None:
    with pytest.raises(ValueError, match="not a picture") as caught:
        read_header(content)
    assert "\n" not in str(caught.value)


def test_orientation_is_read(draw: Callable[..., bytes]) -> None:
    import io

    from PIL import ExifTags, Image

    sink = io.BytesIO()
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    Image.open(io.BytesIO(draw(2))).save(sink, "jpeg", exif=exif)
    assert read_header(sink.getvalue())["orientation"] == 6
