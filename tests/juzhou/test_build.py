"""`juzhou build`, run as a user runs it: once, again, with more to find, and killed at any moment."""

import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipelines.corpus import Corpus
from schemas.release import Manifest

JUZHOU = [sys.executable, "-c", "from juzhou.cli import main; main()"]
ROOT = Path(__file__).parents[2]
PAGES = 200
KILLS = 10

POLICY = """
name: test
rules:
  - {name: readable, value: size.pixels, min: 1}
  - {name: near-duplicate, value: stands_for_itself, min: 1}
  - {name: banner, value: size.aspect, max: 3}
  - {name: not-chinese, value: text.han_share, min: 0.5}
  - {name: repeated, value: repeats, max: 3}
"""

VOLATILE = {"fetched_at", "found_at", "tar", "offset"}
"""What a row says of when and where, which another run may say otherwise."""

TABLES = ("pages", "candidates", "fetches", "images", "samples", "duplicates", "captions", "verdicts", "corpus")
MEASURES = ("size", "pixels", "tone", "blur", "pdq", "text")


def recipe(folder: Path, port: int, pages: int = PAGES) -> Path:
    """A small recipe in a folder of its own: the line up to the release, with measures that need no large model."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "policy.yaml").write_text(POLICY)
    path = folder / "recipe.yaml"
    path.write_text(
        "corpus: corpus\n"
        f"sources: {{web: {{kind: miniweb, port: {port}, pages: {pages}}}}}\n"
        f"measures: [{', '.join(MEASURES)}]\npolicy: policy.yaml\nrelease: test\nreport: report.html\n"
        "fetch: {networks: [127.0.0.0/8], requests_per_second: null, connections_per_host: null, retry_s: 0.2}\n"
    )
    return path


def juzhou(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [*JUZHOU, *(str(argument) for argument in arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)


def built(path: Path) -> Corpus:
    done = juzhou("build", path)
    assert done.returncode == 0, done.stderr
    return Corpus(path.parent / "corpus")


def rows(corpus: Corpus) -> dict[str, list[str]]:
    """Every table's rows without what is volatile, in an order of their own."""
    found = {}
    for table in (*TABLES, *MEASURES):
        volatile = VOLATILE | {"attempt"} if table == "pages" else VOLATILE
        kept = corpus.sql(f"FROM {table}")
        kept = kept.drop_columns([name for name in kept.column_names if name in volatile])
        found[table] = sorted(repr(row) for row in kept.to_pylist())
    found["pages"] = sorted(set(found["pages"]))  # every build asks again for those that say what is new
    return found


def release_bytes(corpus: Corpus) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((corpus.releases / "test-1").iterdir())}


@pytest.fixture(scope="module")
def port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, port: int) -> Corpus:
    """The corpus of one build that nothing disturbed."""
    return built(recipe(tmp_path_factory.mktemp("undisturbed"), port))


def test_every_candidate_ends_in_a_row(undisturbed: Corpus) -> None:
    lost = undisturbed.sql("SELECT url FROM candidates ANTI JOIN fetches USING (url_id)")
    assert lost.num_rows == 0
    unexplained = undisturbed.sql("SELECT * FROM samples ANTI JOIN verdicts USING (sample_id)")
    assert unexplained.num_rows == 0
    reasons = undisturbed.sql("SELECT * FROM verdicts WHERE kept <> (rule IS NULL) OR kept <> (len(failed) = 0)")
    assert reasons.num_rows == 0


def test_the_release_holds_what_was_kept(undisturbed: Corpus) -> None:
    release = undisturbed.releases / "test-1"
    manifest = Manifest.load(release)
    samples = pq.read_table(release / "samples.parquet")
    kept = undisturbed.sql("SELECT sample_id FROM verdicts WHERE kept ORDER BY sample_id")
    assert samples.column("sample_id").to_pylist() == kept.column("sample_id").to_pylist()
    assert manifest.samples == samples.num_rows > 50
    images = undisturbed.sql('SELECT image_id, tar, "offset", length FROM images')
    original = {
        row["image_id"]: undisturbed.read(row["tar"], row["offset"], row["length"]) for row in images.to_pylist()
    }
    for row in samples.to_pylist():
        with (release / row["shard"]).open("rb") as shard:
            shard.seek(row["offset"])
            assert shard.read(row["length"]) == original[row["image_id"]]


def test_a_second_build_does_nothing(undisturbed: Corpus) -> None:
    before = {table: undisturbed.parts(table) for table in ("fetches", "images", "measures", "duplicates", "verdicts")}
    started = time.monotonic()
    built(undisturbed.path.parent / "recipe.yaml")
    assert time.monotonic() - started < 30
    assert before == {table: undisturbed.parts(table) for table in before}
    assert [path.name for path in undisturbed.releases.iterdir()] == ["test-1"]


def test_fifty_new_pages_are_fetched_and_measured_alone(undisturbed: Corpus, port: int, tmp_path: Path) -> None:
    shutil.copytree(undisturbed.path, tmp_path / "corpus")
    grown = Corpus(tmp_path / "corpus")
    old = {table: set(grown.parts(table)) for table in ("fetches", "measures")}
    urls = grown.sql("SELECT url_id FROM fetches").num_rows
    built(recipe(tmp_path, port, PAGES + 50))
    assert all(parts < set(grown.parts(table)) for table, parts in old.items())
    asked = grown.sql(
        "SELECT max(attempt) AS most, count(DISTINCT url_id) AS urls, count(*) AS n FROM fetches"
    ).to_pylist()[0]
    assert asked["most"] == 1 and asked["urls"] == asked["n"] > urls
    for table, key in (("size", "image_id"), ("text", "sample_id")):
        counted = grown.sql(f"SELECT count(*) AS n, count(DISTINCT {key}) AS keys FROM {table}").to_pylist()[0]
        assert counted["n"] == counted["keys"]
    kept_place = grown.sql(f"""
        SELECT * FROM duplicates JOIN read_parquet('{undisturbed.tables}/duplicates/*/part-*.parquet') AS before
        USING (image_id) WHERE duplicates.representative <> before.representative
    """)
    assert kept_place.num_rows == 0
    assert sorted(path.name for path in grown.releases.iterdir()) == ["test-1", "test-2"]


def test_another_threshold_measures_nothing(undisturbed: Corpus, port: int, tmp_path: Path) -> None:
    shutil.copytree(undisturbed.path, tmp_path / "corpus")
    strict = Corpus(tmp_path / "corpus")
    measured = strict.parts("measures")
    path = recipe(tmp_path, port)
    (tmp_path / "policy.yaml").write_text(POLICY.replace("max: 3}", "max: 1.2}", 1))
    built(path)
    assert strict.parts("measures") == measured
    assert Manifest.load(strict.releases / "test-2").samples < Manifest.load(strict.releases / "test-1").samples


def test_status_and_sql(undisturbed: Corpus) -> None:
    shown = juzhou("status", undisturbed.path)
    assert shown.returncode == 0, shown.stderr
    assert "measure pictures" in shown.stdout
    asked = juzhou("sql", undisturbed.path, "SELECT count(*) AS n FROM samples", "--format", "csv")
    assert asked.stdout == f"n\n{undisturbed.sql('FROM samples').num_rows}\n"
    as_json = juzhou("sql", undisturbed.path, "SELECT image_id FROM images ORDER BY 1 LIMIT 1", "--format", "json")
    smallest = undisturbed.sql("SELECT min(image_id) AS id FROM images").column("id")[0].as_py()
    assert as_json.stdout == f'{{"image_id": "{smallest.hex()}"}}\n'


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda text: text.replace("measures", "mesures"), "unknown key 'mesures'; did you mean 'measures'?"),
        (lambda text: text.replace("blur,", "blurr,"), "there is no measure 'blurr'"),
        (lambda text: text.replace("policy.yaml", "none.yaml"), "none.yaml: cannot be read"),
        (lambda text: text.replace("corpus: corpus", "corpus: ."), "holds something else"),
    ],
)
def test_a_wrong_recipe_ends_in_one_line(tmp_path: Path, port: int, change, said: str) -> None:
    path = recipe(tmp_path, port)
    path.write_text(change(path.read_text()))
    done = juzhou("build", path)
    assert done.returncode == 1
    assert said in done.stderr
    assert done.stderr.count("\n") == 1 and done.stderr.startswith("juzhou: ")


def test_a_policy_that_names_what_is_not_there(undisturbed: Corpus, port: int, tmp_path: Path) -> None:
    shutil.copytree(undisturbed.path, tmp_path / "corpus")
    path = recipe(tmp_path, port)
    (tmp_path / "policy.yaml").write_text(POLICY.replace("size.aspect", "size.aspekt"))
    done = juzhou("build", path)
    assert done.returncode == 1
    assert "rule 'banner'" in done.stderr and "did you mean 'size.aspect'?" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("file systems cannot be mounted here")
    yield disk
    subprocess.run(["umount", disk], check=True)


def test_a_full_disk_is_one_line_and_loses_nothing(undisturbed: Corpus, port: int, small_disk: Path) -> None:
    path = recipe(small_disk, port)
    done = juzhou("build", path)
    assert done.returncode == 1
    assert "the disk is full" in done.stderr and done.stderr.count("\n") == 1, done.stderr
    subprocess.run(["mount", "-o", "remount,size=200m", small_disk], check=True)
    corpus = built(path)
    assert rows(corpus) == rows(undisturbed)
    assert release_bytes(corpus) == release_bytes(undisturbed)


def test_killed_at_ten_random_moments(undisturbed: Corpus, port: int, tmp_path: Path) -> None:
    wanted_rows, wanted_bytes = rows(undisturbed), release_bytes(undisturbed)
    dice = random.Random(os.environ.get("JUZHOU_KILL_SEED", "1"))
    kills = trial = 0
    while kills < KILLS:
        trial += 1
        path = recipe(tmp_path / str(trial), port)
        while kills < KILLS:
            process = subprocess.Popen(
                [*JUZHOU, "build", str(path)],
                cwd=ROOT,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
            try:
                process.communicate(timeout=dice.uniform(2, 14))
                assert process.returncode == 0, process.stderr
                break
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.communicate()
                kills += 1
        corpus = built(path)
        found = rows(corpus)
        for table, expected in wanted_rows.items():
            assert found[table] == expected, table
        assert release_bytes(corpus) == wanted_bytes


def test_a_damaged_part_is_named_in_one_line(undisturbed: Corpus, tmp_path: Path) -> None:
    shutil.copytree(undisturbed.path, tmp_path / "corpus")
    damaged = Corpus(tmp_path / "corpus")
    part = damaged.tables / damaged.parts("images")[0]
    part.write_bytes(part.read_bytes()[:100])
    done = juzhou("sql", damaged.path, "SELECT count(*) FROM corpus")
    assert done.returncode == 1
    assert part.name in done.stderr and done.stderr.count("\n") == 1


def test_nothing_found_says_where_to_look(tmp_path: Path, port: int) -> None:
    path = recipe(tmp_path, port)
    (tmp_path / "list.csv").write_text("url,caption\nhttp://127.0.0.1:9/a.jpg,猫\n", encoding="utf-8")
    path.write_text(
        path.read_text().replace(f"{{kind: miniweb, port: {port}, pages: {PAGES}}}", "{kind: urls, path: list.csv}")
    )
    done = juzhou("build", path)
    assert done.returncode == 1
    assert "no source gave a picture" in done.stderr and done.stderr.count("\n") == 1
    rows = Corpus(tmp_path / "corpus").sql("SELECT status, error FROM fetches").to_pylist()
    assert rows == [
        {
            "status": "transient",
            "error": "robots.txt cannot be had: ConnectionRefusedError: [Errno 111] Connection refused",
        }
    ]
