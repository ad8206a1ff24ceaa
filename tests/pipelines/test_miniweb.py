"""The mini web is what its truth says, grows without changing, and leaves no server behind."""

import io
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from http.client import HTTPConnection
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from filters.picture import decode
from pipelines import miniweb
from pipelines.dirt import BLOCK, BOILERPLATE, CAPTION_DIRT, DAMAGE, EXTRAS
from pipelines.material import Pair
from pipelines.miniweb import MiniWeb, Truth
from schemas.errors import JuZhouError

SHARES = CAPTION_DIRT | DAMAGE | EXTRAS
ROOT = Path(miniweb.__file__).parents[1]


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> list[Pair]:
    """Drawn pictures, each unlike the others, each with words of its own."""
    folder = tmp_path_factory.mktemp("drawn")
    found = []
    for number in range(230):
        chance = np.random.default_rng(number)
        image = Image.fromarray(chance.integers(0, 256, (6, 6, 3), np.uint8)).resize((96, 80), Image.Resampling.BICUBIC)
        ImageDraw.Draw(image).ellipse((10, 10, 40, 60), fill=tuple(chance.integers(0, 256, 3).tolist()))
        picture = folder / f"drawn-{number}.png"
        image.save(picture)
        character = chr(0x4E00 + number)
        words = (f"图{character}", (f"类{number}",), f"圖{character}" if number % 20 else None)
        found.append(Pair(picture, *words, "tuxpaint", "MIT", "https://opensource.org/license/mit"))
    return found


@pytest.fixture(scope="module")
def web(pairs: list[Pair]) -> MiniWeb:
    return MiniWeb(pairs, 400)


def of_kind(web: MiniWeb, kind: str) -> list[Truth]:
    found = [truth for truth in web.truth() if truth.kind == kind]
    assert found
    return found


def original(web: MiniWeb, truth: Truth) -> np.ndarray:
    assert truth.pair is not None
    return decode(web.pairs[truth.pair].picture.read_bytes()).pixels


def served(web: MiniWeb, truth: Truth) -> np.ndarray:
    response = web.get(truth.picture)
    assert response.status == 200
    return decode(response.body).pixels


def difference(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(one.astype(float) - other).mean())


def sharpness(pixels: np.ndarray) -> float:
    return float(np.abs(np.diff(pixels.mean(axis=2), axis=1)).max())


def test_a_larger_web_holds_a_smaller_one_unchanged(pairs: list[Pair]) -> None:
    small, large = MiniWeb(pairs, 220), MiniWeb(pairs, 270)
    truth = small.truth()
    assert large.truth()[: len(truth)] == truth
    for path in [*(f"/page/{page}.html" for page in range(1, 221)), *(each.picture for each in truth)]:
        assert small.get(path) == large.get(path)
    assert small.get("/page/221.html").status == 404
    assert large.get("/page/221.html").status == 200


def test_each_kind_has_its_share(pairs: list[Pair]) -> None:
    counts = Counter(truth.kind for truth in MiniWeb(pairs * 10, 2000).truth())
    expected = {kind: share * 2000 // BLOCK for kind, share in SHARES.items()}
    assert {kind: counts[kind] for kind in SHARES} == expected
    assert min(expected.values()) >= 15
    assert 0.3 < sum(expected.values()) / 2000 < 0.4
    assert counts["clean"] == 2000 + sum(EXTRAS.values()) * 10 - sum(expected.values())


def test_more_pages_than_pairs_show_copies(web: MiniWeb) -> None:
    seen: set[bytes] = set()
    for truth in web.truth():
        if truth.kind in {"clean", "copy"} or truth.kind in CAPTION_DIRT:
            body = web.get(truth.picture).body
            assert truth.kind != "clean" or body not in seen
            assert truth.kind != "copy" or body in seen
            seen.add(body)


def test_each_picture_has_a_name_of_its_own(web: MiniWeb) -> None:
    names = [truth.picture for truth in web.truth()]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"(/private)?/img/20\d\d/\d\d/[0-9a-f]{10}\.(png|jpg|gif)", name) for name in names)


def test_most_clean_pictures_are_the_original_bytes(web: MiniWeb) -> None:
    clean = of_kind(web, "clean")
    same = sum(web.get(each.picture).body == web.pairs[each.pair or 0].picture.read_bytes() for each in clean)
    assert 0.7 < same / len(clean) < 1
    assert all(difference(served(web, each), original(web, each)) < 5 for each in clean)


def test_content_types_are_those_of_the_bytes(web: MiniWeb) -> None:
    for truth in web.truth():
        response = web.get(truth.picture)
        if truth.kind in {"missing", "html", "truncated"}:
            continue
        with Image.open(io.BytesIO(response.body)) as image:
            assert response.content_type == Image.MIME[image.format or ""]


def test_copies_look_like_what_they_copy(web: MiniWeb) -> None:
    for kind in ("reencoded", "copy", "private"):
        for each in of_kind(web, kind):
            assert difference(served(web, each), original(web, each)) < 12, kind
    for each in of_kind(web, "resized"):
        height, width, _ = served(web, each).shape
        assert 0.38 <= width / 96 <= 2.02 and 0.38 <= height / 80 <= 2.02 and width != 96
    for each in of_kind(web, "cropped"):
        height, width, _ = served(web, each).shape
        assert 0.9 <= width / 96 < 1 and 0.9 <= height / 80 < 1


def test_damage_is_damage(web: MiniWeb) -> None:
    for each in of_kind(web, "truncated"):
        response = web.get(each.picture)
        assert response.status == 200
        with pytest.raises(ValueError, match="cannot be decoded"):
            decode(response.body)
    for each in of_kind(web, "missing"):
        assert web.get(each.picture).status == 404
    for each in of_kind(web, "html"):
        response = web.get(each.picture)
        assert (response.status, response.content_type) == (200, "image/jpeg")
        assert response.body.startswith(b"<!doctype html>")
    for each in of_kind(web, "watermark"):
        assert difference(served(web, each)[30:50], original(web, each)[30:50]) > 12
    for each in of_kind(web, "blur"):
        assert sharpness(served(web, each)) < 0.5 * sharpness(original(web, each))


def test_what_is_no_content(web: MiniWeb) -> None:
    for each in of_kind(web, "tracker"):
        assert served(web, each).shape == (1, 1, 3)
        assert (each.caption, each.pair) == ("", None)
    for each in of_kind(web, "banner"):
        assert served(web, each).shape == (97, 970, 3)


def test_captions_are_what_their_kind_says(web: MiniWeb) -> None:
    for each in web.truth():
        if each.pair is None:
            continue
        right = str(each.true_caption) in each.caption
        if each.kind in CAPTION_DIRT:
            assert right == (each.kind == "advert"), each
            assert web.pairs[each.pair].tags[0] not in each.caption
        else:
            assert right, each
    assert all(re.search(r"\d{7}|www\.|微信", each.caption) for each in of_kind(web, "advert"))
    assert all("張" in each.caption and "圖" in each.caption for each in of_kind(web, "traditional"))
    assert all(each.caption.isascii() and each.caption for each in of_kind(web, "latin"))
    assert {each.caption for each in of_kind(web, "boilerplate")} <= set(BOILERPLATE)
    assert all(re.search(r"\d{4}\)?\.(JPG|jpg|png)$", each.caption) for each in of_kind(web, "filename"))
    assert {each.caption for each in of_kind(web, "empty")} == {""}


def test_pages_hold_exactly_their_truth(web: MiniWeb) -> None:
    by_page: dict[str, list[Truth]] = {}
    for each in web.truth():
        by_page.setdefault(each.page, []).append(each)
    places: Counter[str] = Counter()
    for page, expected in by_page.items():
        html = web.get(page).body.decode()
        assert re.findall(r'<img src="([^"]+)"', html) == [each.picture for each in expected]
        assert '<a rel="license" href="https://opensource.org/license/mit">' in html
        for each in expected:
            tag = next(line for line in html.splitlines() if each.picture in line)
            found = re.findall(r'(alt|title)="([^"]+)"|<(figcaption)>([^<]+)<', tag)
            assert [(alt or caption) for _, alt, _, caption in found] == ([each.caption] if each.caption else [])
            places.update(name or element for name, _, element, _ in found)
    assert min(places[place] for place in ("alt", "title", "figcaption")) > 50


def test_every_page_is_linked_and_no_link_is_dead(web: MiniWeb) -> None:
    seen, todo = {"/"}, ["/"]
    while todo:
        response = web.get(todo.pop())
        assert response.status == 200
        for path in re.findall(r'<a href="(/[^"]*)"', response.body.decode()):
            if path not in seen:
                seen.add(path)
                todo.append(path)
    assert {f"/page/{page}.html" for page in range(1, 401)} | {f"/list/{number}.html" for number in range(1, 9)} <= seen
    private = [path for path in seen if path.startswith("/private/")]
    assert len(private) == EXTRAS["private"] * 2
    assert web.get("/list/9.html").status == web.get("/private/999.html").status == web.get("/other").status == 404


def test_robots_and_sitemap(web: MiniWeb) -> None:
    assert web.get("/robots.txt").body.decode().startswith("User-agent: *\nDisallow: /private/\n")
    found = re.findall("<loc>([^<]+)</loc>", web.get("/sitemap.xml", "http://127.0.0.1:1234").body.decode())
    assert found == [f"http://127.0.0.1:1234/page/{page}.html" for page in range(1, 401)]


def test_the_server_keeps_connections_and_logs_each_request(web: MiniWeb, tmp_path: Path) -> None:
    log = tmp_path / "requests.log"
    missing, picture = of_kind(web, "missing")[0].picture, of_kind(web, "clean")[0].picture
    began = time.monotonic()
    with web.serve(log=log) as site:
        connection = HTTPConnection(site.removeprefix("http://"), timeout=10)
        for path in ("/page/1.html", picture, missing):
            connection.request("GET", path)
            socket = connection.sock
            response = connection.getresponse()
            expected = web.get(path)
            assert (response.status, response.read()) == (expected.status, expected.body)
            assert response.headers["Content-Type"] == expected.content_type
            assert connection.sock is socket
        connection.request("HEAD", picture)
        assert connection.getresponse().read() == b""
        connection.request("GET", "/robots.txt")
        assert f"Sitemap: {site}/sitemap.xml".encode() in connection.getresponse().read()
        assert time.monotonic() - began < 3
    assert log.read_text().splitlines() == [
        "GET 200 /page/1.html",
        f"GET 200 {picture}",
        f"GET 404 {missing}",
        f"HEAD 200 {picture}",
        "GET 200 /robots.txt",
    ]
    with pytest.raises(ConnectionRefusedError):
        HTTPConnection(site.removeprefix("http://"), timeout=10).connect()


def test_a_busy_port_or_a_log_that_cannot_be_written_is_one_line(web: MiniWeb, tmp_path: Path) -> None:
    with web.serve() as site:
        port = int(site.rpartition(":")[2])
        with pytest.raises(JuZhouError, match=f"port {port} .*choose another port"), web.serve(port):
            pass
    with pytest.raises(JuZhouError, match="request log cannot be written"), web.serve(log=tmp_path / "no" / "log"):
        pass


def test_the_server_ends_when_its_parent_is_killed(pairs: list[Pair]) -> None:
    code = (
        "import time; from pathlib import Path\n"
        "from pipelines.material import Pair; from pipelines.miniweb import MiniWeb\n"
        f"pair = Pair(Path({str(pairs[0].picture)!r}), '图', (), None, 'tuxpaint', 'MIT', '')\n"
        "with MiniWeb([pair], 1).serve() as site: print(site, flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout
        host = parent.stdout.readline().strip().removeprefix("http://")
        connection = HTTPConnection(host, timeout=10)
        connection.request("GET", "/")
        assert connection.getresponse().status == 200
        os.kill(parent.pid, signal.SIGKILL)
    for _ in range(100):
        try:
            HTTPConnection(host, timeout=10).connect()
        except ConnectionRefusedError:
            return
        time.sleep(0.05)
    pytest.fail("the server outlived its parent by five seconds")
