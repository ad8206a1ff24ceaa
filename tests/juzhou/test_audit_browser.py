"""`juzhou audit` in a real browser: a reviewer's session from the grid to the exported reviews, and hostile words."""

import csv
import importlib.util
import io
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.corpus import Corpus

pytest.importorskip("playwright", reason="playwright is not installed: no browser to look with")
from playwright.sync_api import Browser, Page, sync_playwright

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed: no browser to look with")

ROOT = Path(__file__).parents[2]
_stock = importlib.util.spec_from_file_location("audit_stock", ROOT / "tests/pipelines/audit/conftest.py")
assert _stock and _stock.loader
stock = importlib.util.module_from_spec(_stock)
_stock.loader.exec_module(stock)
shop, stocked = stock.shop, stock.stocked


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


class Server:
    """`juzhou audit` as a user starts it."""

    def __init__(self, corpus: Corpus) -> None:
        command = [sys.executable, "-c", "from juzhou.cli import main; main()", "audit", str(corpus.path)]
        command += ["--port", "0", "--reviewer", "安娜"]
        self.process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout
        self.address = self.process.stdout.readline().split()[-1]
        assert self.address.startswith("http://127.0.0.1:"), self.address


@pytest.fixture
def server(stocked: Corpus) -> Iterator[Server]:
    server = Server(stocked)
    yield server
    server.process.kill()
    server.process.wait()


@pytest.fixture
def page(browser: Browser, server: Server) -> Iterator[Page]:
    """A page that fails the test where the console complains, a dialog opens, or a request leaves this machine."""
    context = browser.new_context(viewport={"width": 1440, "height": 900}, accept_downloads=True)
    page = context.new_page()
    problems: list[str] = []
    page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("dialog", lambda dialog: (problems.append(f"dialog {dialog.message}"), dialog.dismiss()))
    inside = server.address
    page.on("request", lambda asked: None if asked.url.startswith(inside) else problems.append(f"left: {asked.url}"))
    yield page
    context.close()
    assert not problems


def stored(page: Page, key: str) -> None:
    """Press a key and wait until the row is on the disk."""
    with page.expect_response(lambda answer: answer.url.endswith("/reviews") and answer.status == 200):
        page.keyboard.press(key)


def test_a_session_from_the_grid_to_the_exported_reviews(page: Page, server: Server, stocked: Corpus) -> None:
    page.goto(server.address)
    assert page.locator("article").count() == 48
    page.select_option("select[name=rule]", "blurred")
    page.wait_for_url("**rule=blurred*")
    assert page.locator("article").count() == 10
    page.goto(f"{server.address}draws")
    page.fill("input[name=size]", "3")
    page.fill("input[name=seed]", "5")
    page.click("text=Begin")
    page.wait_for_url("**/review**")
    pressed: list[tuple[str, str, str]] = []
    for number, key in enumerate("dkddukddkd"):
        box = page.locator("[data-walk]")
        sample_id, drawn_by = box.get_attribute("data-sample"), box.get_attribute("data-drawn-by")
        assert sample_id and drawn_by
        at = re.search(r"at=(\d+)", page.url)
        assert int(at[1] if at else 1) == number + 1
        pressed.append((sample_id, {"k": "keep", "d": "drop", "u": "unsure"}[key], drawn_by))
        with page.expect_navigation():
            stored(page, key)
    noted = page.locator("[data-walk]").get_attribute("data-sample")
    noted_by = page.locator("[data-walk]").get_attribute("data-drawn-by")
    page.keyboard.press("n")
    page.keyboard.type("a note, 带逗号")
    with page.expect_response("**/reviews"):
        page.keyboard.press("Control+Enter")
    with page.expect_navigation():  # the last opinion was on the sample before
        stored(page, "z")
    assert page.locator("[data-walk]").get_attribute("data-sample") == pressed[-1][0]
    page.keyboard.press("?")
    assert page.locator("#help").is_visible()
    page.keyboard.press("Escape")
    page.click("#finish")
    page.wait_for_url("**/estimates")
    judged = [one for one in pressed[:-1] if one[1] != "unsure"]
    numbers = [int(cell) for cell in page.locator("tbody td:nth-child(3)").all_inner_texts()]
    assert sum(numbers) == len(judged)
    assert "unsure" in page.locator("#by-rule").inner_text() and "%" in page.locator("main").inner_text()
    with page.expect_download() as download:
        page.click("text=CSV")
    lines = list(csv.DictReader(io.StringIO(Path(download.value.path()).read_text(encoding="utf-8"))))
    expected = [*pressed, (noted, "", noted_by), (pressed[-1][0], "unsure", pressed[-1][2])]
    assert [(line["sample_id"], line["opinion"], line["drawn_by"]) for line in lines] == expected
    assert [line["note"] for line in lines] == [""] * 10 + ["a note, 带逗号", "undone"]
    os.kill(server.process.pid, signal.SIGKILL)
    rows = stocked.sql("FROM reviews ORDER BY reviewed_at").to_pylist()
    assert [(row["sample_id"].hex(), row["opinion"] or "", row["drawn_by"] or "") for row in rows] == expected
    assert {row["reviewer"] for row in rows} == {"安娜"}


def test_keys_move_about_the_grid_and_mark_what_was_said(page: Page, server: Server) -> None:
    page.goto(server.address)
    page.keyboard.press("j")
    first = page.locator(".card.current").get_attribute("data-sample")
    page.keyboard.press("ArrowDown")
    below = page.locator(".card.current").bounding_box()
    above = page.locator(f"[data-sample='{first}']").bounding_box()
    assert below and above and below["y"] > above["y"] and abs(below["x"] - above["x"]) < 5
    page.keyboard.press("ArrowUp")
    stored(page, "d")
    assert page.locator(f"[data-sample='{first}']").get_attribute("data-opinion") == "drop"
    assert page.locator(".card.current").get_attribute("data-sample") != first
    stored(page, "z")
    assert page.locator(f"[data-sample='{first}']").get_attribute("data-opinion") == ""
    page.keyboard.press("Enter")
    page.wait_for_url(f"**/samples/{first}")
    page.click("[data-say=keep]")
    page.locator("#saved", has_text="stored").wait_for()
    page.reload()
    assert page.locator("[data-alone]").get_attribute("data-opinion") == "keep"


def test_the_slider_tells_at_once_who_enters_and_leaves(page: Page, server: Server) -> None:
    page.goto(f"{server.address}rules/misaligned")
    assert page.locator("p.enter b").inner_text() == "0"
    with page.expect_response("**/what-if*"):
        page.locator("#threshold").evaluate("one => { one.value = 0.2; one.dispatchEvent(new Event('input')) }")
    page.locator("h2.enter").wait_for()
    assert int(page.locator("p.enter b").inner_text()) > 0 and page.locator("p.leave b").inner_text() == "0"
    assert "name: misaligned" in page.locator("#line").inner_text()
    page.fill("#exact", "0.45")
    page.keyboard.press("Tab")
    page.locator("h2.leave").wait_for()
    assert "min: 0.45" in page.locator("#line").inner_text()
    page.click("#reset")
    page.locator("h2.leave").wait_for(state="detached")


def test_sql_shows_its_answer_and_its_errors(page: Page, server: Server) -> None:
    page.goto(f"{server.address}sql")
    page.fill("#query", "SELECT '<img src=x onerror=window.hit=1>' AS \"<b>x</b>\", count(*) FROM samples")
    page.keyboard.press("Control+Enter")
    page.locator("#answer td").first.wait_for()
    assert page.locator("#answer td").first.inner_text().startswith("<img") and page.locator("#answer img").count() == 0


def test_hostile_words_do_nothing(page: Page, server: Server, stocked: Corpus) -> None:
    samples = [stock.digest(f"sample {number}".encode()).hex() for number in (*stock.HOSTILE, 57, 58, 59)]
    paths = ["", "?text=script", "rules", "rules/misaligned", "duplicates", "estimates", "review?by=all&size=60"]
    paths += ["?text=%22%3E%3Cscript%3Ewindow.hit%3D1%3C%2Fscript%3E"]
    for path in [*paths, *(f"samples/{sample_id}" for sample_id in samples)]:
        page.goto(server.address + path)
        page.mouse.move(500, 400)
        for _ in range(3):
            page.keyboard.press("Tab")
        assert page.evaluate("() => window.hit") is None, path
        assert page.locator("iframe, object, embed").count() == 0
        hrefs = page.evaluate("() => [...document.links].map((one) => one.protocol)")
        assert set(hrefs) <= {"http:", "https:"}, path


def test_an_inline_script_that_got_in_would_not_run(browser: Browser, server: Server) -> None:
    page = browser.new_page()
    page.goto(server.address)
    page.evaluate("""() => {
        const script = document.createElement("script");
        script.textContent = "window.hit = 1";
        document.body.append(script);
        document.body.insertAdjacentHTML("beforeend", "<img src='/nowhere' onerror='window.hit = 2'>");
        document.body.insertAdjacentHTML("beforeend", "<img src='http://192.0.2.1/leak'>");
    }""")
    page.wait_for_timeout(200)
    assert page.evaluate("() => window.hit") is None
    page.close()
