"""Lists of URLs → candidates: whatever a list is written as and wherever it lies, each row once, and none lost."""

import gzip
import json
import tempfile
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import duckdb
import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from moto.server import ThreadedMotoServer

from pipelines.corpus import Corpus
from pipelines.sources.urls import SUFFIXES, add_candidates
from schemas.errors import JuZhouError
from schemas.identity import digest
from schemas.recipe import PRESETS, Urls

ROWS = pa.table(
    {
        "link": ["http://a.example/1.jpg", " http://a.example/2.jpg\u3000\n", None, "", "http://a.example/1.jpg"],
        "words": ['红，"苹果", 一个\n两行', None, "无", "空", "红苹果"],
        "number": [1.5, 2.5, 3.5, 4.5, 5.5],
    }
)
EXPECTED = {
    ("http://a.example/1.jpg", '红，"苹果", 一个\n两行'),
    ("http://a.example/2.jpg", ""),
    ("http://a.example/1.jpg", "红苹果"),
}


def write(rows: pa.Table, path: Path) -> Path:
    """A list in the format that the name of its file says."""
    formats = {".csv": "FORMAT csv", ".tsv": "FORMAT csv, DELIMITER '\t'", ".parquet": "FORMAT parquet"}
    form = formats.get(next(suffix for suffix in path.suffixes if suffix not in (".gz", ".zst")), "FORMAT json")
    compression = {".gz": "gzip", ".zst": "zstd"}.get(path.suffix, "uncompressed")
    with duckdb.connect() as connection:
        connection.register("written", rows)
        connection.execute(f"COPY written TO '{path}' ({form}, COMPRESSION {compression})")
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder for lists, away from the corpus."""
    (tmp_path / "lists").mkdir()
    return tmp_path / "lists"


def listed(path: object, **columns: Any) -> Urls:
    return Urls(kind="urls", path=str(path), **columns)


def found(corpus: Corpus) -> set[tuple[str, str]]:
    return {(row["url"], row["caption"]) for row in corpus.sql("SELECT url, caption FROM candidates").to_pylist()}


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_format(corpus: Corpus, tmp_path: Path, started: datetime, suffix: str) -> None:
    source = listed(write(ROWS, tmp_path / f"list{suffix}"), url="link", caption="words")
    assert add_candidates(corpus, "list", source, "recipe", started) == 3
    assert found(corpus) == EXPECTED
    assert add_candidates(corpus, "list", source, "recipe", started) == 0
    assert len(corpus.parts("candidates")) == 1


def test_what_a_candidate_is(corpus: Corpus, tmp_path: Path, started: datetime) -> None:
    rows = pa.table({"url": ["http://a.example/1"], "caption": ["红"], "at": ["http://a.example/"], "terms": ["CC0"]})
    path = write(rows, tmp_path / "list.parquet")
    add_candidates(corpus, "mine", listed(path, page_url="at", licence="terms"), "recipe", started)
    add_candidates(corpus, "other", listed(path), "later", started)
    row = {
        "candidate_id": digest("mine\nhttp://a.example/1\n红".encode()),
        "source": "mine",
        "url_id": digest(b"http://a.example/1"),
        "url": "http://a.example/1",
        "caption": "红",
        "caption_from": "list",
        "words": None,
        "page_url": "http://a.example/",
        "licence": "CC0",
        "found_at": started,
        "recipe": "recipe",
    }
    other = row | {
        "candidate_id": digest("other\nhttp://a.example/1\n红".encode()),
        "source": "other",
        "page_url": None,
        "licence": None,
        "recipe": "later",
    }
    assert corpus.sql("SELECT * FROM candidates ORDER BY source").to_pylist() == [row, other]


def test_a_candidate_that_stands_twice_does_not_depend_on_their_order(
    corpus: Corpus, tmp_path: Path, started: datetime
) -> None:
    pairs = [(None, "a"), ("http://b/", "x"), ("http://a/", "z"), ("http://a/", "y")]
    for name, order in (("one", pairs), ("two", pairs[::-1])):
        rows = [{"url": "http://a.example/1", "caption": "红", "at": page, "terms": terms} for page, terms in order]
        write(pa.Table.from_pylist(rows), tmp_path / f"{name}.parquet")
        source = listed(tmp_path / f"{name}.parquet", page_url="at", licence="terms")
        assert add_candidates(corpus, name, source, "recipe", started) == 1
    chosen = corpus.sql("SELECT page_url, licence FROM candidates").to_pylist()
    assert chosen == [{"page_url": "http://a/", "licence": "y"}] * 2


def test_many_files_and_new_ones_among_them(corpus: Corpus, folder: Path, started: datetime) -> None:
    """Files of other formats, with their columns in another order, and with names that look like patterns."""
    below = folder / "url=7"
    below.mkdir()
    (below / "a1.csv").write_text("url,caption\nhttp://a.example/1,红\n")
    (below / "a[1].csv").write_text("more,caption,url\n,蓝,http://a.example/2\n")
    (below / "notes.txt").write_text("no list")
    source = listed(folder)
    assert add_candidates(corpus, "list", source, "recipe", started) == 2
    (below / "猫*?.jsonl").write_text('{"caption": "绿", "url": "http://a.example/3"}\n')
    (below / "a2.csv").write_text("url,caption\nhttp://a.example/1,红\nhttp://a.example/4,黄\n")
    assert add_candidates(corpus, "list", source, "recipe", started) == 2
    assert found(corpus) == {(f"http://a.example/{number}", word) for number, word in enumerate("红蓝绿黄", start=1)}
    assert add_candidates(corpus, "alone", listed(folder / "*" / "a1.csv"), "recipe", started) == 1


PUBLISHED: dict[str, tuple[str, dict[str, Any]]] = {
    "wukong": (".csv", {"dir": "0/1.jpg", "url": "http://i/1", "caption": "红"}),
    "zero": (
        ".jsonl",
        {
            "Url": "http://p/",
            "Title": "红",
            "Content": "",
            "ImageKey": "k",
            "ImageUrl": "http://i/1",
            "ImageQuery": "q",
        },
    ),
    "laion": (
        ".parquet",
        {"SAMPLE_ID": 1.0, "URL": "http://i/1", "TEXT": "红", "LICENSE": "?", "NSFW": "UNLIKELY", "LANGUAGE": "zh"},
    ),
    "coyo": (".parquet", {"id": 1, "url": "http://i/1", "text": "红", "width": 640, "image_phash": "f0"}),
    "danqing": (".parquet", {"url": "http://i/1", PRESETS["danqing"]["caption"]: "红"}),
}


@pytest.mark.parametrize("preset", PRESETS)
def test_published_lists(corpus: Corpus, tmp_path: Path, started: datetime, preset: str) -> None:
    suffix, row = PUBLISHED[preset]
    path = write(pa.Table.from_pylist([row]), tmp_path / f"list{suffix}")
    assert add_candidates(corpus, preset, listed(path, preset=preset), "recipe", started) == 1
    [candidate] = corpus.sql("SELECT url, caption, page_url, licence FROM candidates").to_pylist()
    assert candidate == {
        "url": "http://i/1",
        "caption": "红",
        "page_url": "http://p/" if preset == "zero" else None,
        "licence": "?" if preset == "laion" else None,
    }


@pytest.mark.parametrize(
    ("suffix", "condition", "expected"),
    [
        (".parquet", "number > 2 AND lang = 'zh'", {"3"}),
        (".jsonl", "NUMBER > 2 AND lang = 'zh'", {"3"}),
        (".csv", "number::DOUBLE > 2 AND lang = 'zh'", {"3"}),
        (".jsonl", "more.deep[2] = 1 -- and nothing after it", {"1"}),
        (".parquet", "url LIKE '%2' OR len(list_filter(more.deep, lambda x: x > 2)) > 0", {"2", "3"}),
    ],
)
def test_a_condition(
    corpus: Corpus, tmp_path: Path, started: datetime, suffix: str, condition: str, expected: set[str]
) -> None:
    rows = [
        {"url": str(number), "caption": "", "number": number, "lang": lang, "more": {"deep": [0, number]}}
        for number, lang in ((1, "zh"), (2, "en"), (3, "zh"))
    ]
    path = write(pa.Table.from_pylist(rows), tmp_path / f"list{suffix}")
    add_candidates(corpus, "list", listed(path, where=condition), "recipe", started)
    assert {url for url, _ in found(corpus)} == expected


@pytest.mark.parametrize(
    ("condition", "said"),
    [
        ("LANGUAG = 'zh'", '"LANGUAG" not found .* "LANGUAGE"'),
        ("LANGUAGE =", "not SQL: syntax error"),
        ("LANGUAGE > 3", "explicit cast"),
        ("true) OR (true", "not SQL: syntax error"),
        ("true] || [true", "one condition is wanted"),
        ("true], [true", "one condition is wanted"),
        ("true, true", "one condition is wanted"),
        ("-- nothing", "one condition is wanted"),
        ("true] FROM read_csv('/etc/passwd') WHERE [true] = [true", "one condition is wanted"),
        ("true]; DROP TABLE x; SELECT [true", "not SQL: Only SELECT"),
        ("LANGUAGE IN (FROM read_text('/etc/passwd'))", "without SELECT"),
        ("EXISTS (SELECT 1)", "without SELECT"),
        ("max(LANGUAGE) = 'zh'", "cannot contain aggregates"),
        ("LANGUAGE = ?", "one condition is wanted"),
    ],
)
def test_a_condition_that_is_none(corpus: Corpus, tmp_path: Path, started: datetime, condition: str, said: str) -> None:
    path = tmp_path / "list.csv"
    path.write_text("url,caption,LANGUAGE\nhttp://a.example/1,红,zh\n")
    with pytest.raises(JuZhouError, match=f"list.csv: where: .*{said}") as told:
        add_candidates(corpus, "list", listed(path, where=condition), "recipe", started)
    assert "\n" not in str(told.value)
    assert not found(corpus)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("list.csv", b"a,b\n1,2\n", "no column 'url'; it has a, b$"),
        ("list.csv", b"URL,caption\n1,2\n", "no column 'url'; it has URL, caption$"),
        ("list.jsonl", b'{"url": "1", "b": 2}\n', "no column 'caption'; it has url, b$"),
        ("list.csv", b"", "no column 'url'; it has none$"),
        ("list.csv", b"url,caption\n1,2\n3,4,5\n", "Line: 3 .*mend it"),
        ("list.csv", b"url,caption\n1,2\n3\n", "Line: 3 .*mend it"),
        ("list.csv", b'url,caption\n1,2\n3,"4\n5,6\n', "Line: 3 .*mend it"),
        ("list.csv", "url,caption\n1,苹果\n".encode("gb18030"), "Line: 2 .*not utf-8.*mend it"),
        ("list.jsonl", b'{"url": "1", "caption": ""}\n{"url": "2", \n', "list.jsonl.* line [23].*mend it"),
        ("list.jsonl", b'{"url": "\xff", "caption": ""}\n', "invalid UTF-8.*mend it"),
        ("list.parquet", b"PAR1 is how it should begin", "mend it"),
        ("list.csv.gz", gzip.compress(b"url,caption\n" + bytes(range(48, 58)) * 9999)[:-9], "mend it"),
    ],
)
def test_a_list_that_cannot_be_read(
    corpus: Corpus, folder: Path, started: datetime, name: str, content: bytes, said: str
) -> None:
    (folder / name).write_bytes(content)
    with pytest.raises(JuZhouError, match=f"{folder}/{name}: .*{said}") as told:
        add_candidates(corpus, "mine", listed(folder), "recipe", started)
    assert "\n" not in str(told.value)


def test_no_list_at_all(corpus: Corpus, tmp_path: Path, started: datetime) -> None:
    with pytest.raises(JuZhouError, match=r"missing\.csv: no .* is there; it is the source 'mine'"):
        add_candidates(corpus, "mine", listed(tmp_path / "missing.csv"), "recipe", started)


def test_a_broken_line_far_down_is_mended_and_nothing_is_missing(
    corpus: Corpus, folder: Path, started: datetime
) -> None:
    (folder / "a.csv").write_text("url,caption\nhttp://a.example/0,红\n")
    lines = ["url,caption", *(f"http://a.example/{number},红" for number in range(1, 30_000))]
    broken = folder / "b.csv"
    broken.write_text("\n".join([*lines, "http://a.example/30000,红,蓝"]))
    with pytest.raises(JuZhouError, match=r"b\.csv: .*Line: 30001 .*mend it and run again"):
        add_candidates(corpus, "list", listed(folder), "recipe", started)
    before = len(found(corpus))
    broken.write_text("\n".join([*lines, 'http://a.example/30000,"红,蓝"']))
    assert before + add_candidates(corpus, "list", listed(folder), "recipe", started) == 30_001
    assert found(corpus) >= {("http://a.example/0", "红"), ("http://a.example/30000", "红,蓝")}


def test_texts_that_look_like_something_else(corpus: Corpus, folder: Path, started: datetime) -> None:
    """A caption is not turned into a number or a date and back; what is none becomes its text."""
    (folder / "a.csv").write_text('url,caption\n#1,007\n2,1e3\n3,2020-01-01\n4,"NULL"\n')
    lines = [{"url": 5, "caption": "2020-01-01"}, {"url": "6", "caption": ["红", 1]}, {"url": 7}, {"caption": "x"}]
    (folder / "b.json").write_text("\n".join(map(json.dumps, lines)))
    table = {"url": [8, 9], "caption": pa.array(["红".encode(), None]), "lists": [[1], None]}
    pq.write_table(pa.table(table), folder / "c.parquet")
    (folder / "d.tsv").write_text('url\tcaption\n10\t"hello\n11\tx "y"\n12\t红\n')
    quoted_late = [f"{number}\t红" for number in range(100, 30_000)] + ['99\t"一个\t""词"""']
    (folder / "e.tsv").write_text("\n".join(["url\tcaption", *quoted_late]))
    add_candidates(corpus, "list", listed(folder), "recipe", started)
    texts = {"#1": "007", "2": "1e3", "3": "2020-01-01", "4": "NULL", "5": "2020-01-01", "6": '["红",1]', "7": ""}
    texts |= {"8": "红", "9": "", "10": '"hello', "11": 'x "y"', "12": "红", "99": '一个\t"词"'}
    assert {(url, caption) for url, caption in found(corpus) if len(url) < 3} == set(texts.items())


def test_columns_of_any_name(corpus: Corpus, tmp_path: Path, started: datetime) -> None:
    rows = pa.table({'a"b': ["http://a.example/1"], "说明 '": ["红"], "": ["x"]})
    for suffix in (".csv", ".tsv.gz", ".jsonl", ".parquet"):
        source = listed(write(rows, tmp_path / f"list{suffix}"), url='a"b', caption="说明 '")
        assert add_candidates(corpus, suffix, source, "recipe", started) == 1


def test_lines_that_each_have_a_key_of_their_own(corpus: Corpus, tmp_path: Path, started: datetime) -> None:
    lines = [json.dumps({"url": str(number), "caption": "红", f"key {number}": "x"}) for number in range(500)]
    (tmp_path / "list.jsonl").write_text("\n".join(lines))
    assert add_candidates(corpus, "list", listed(tmp_path / "list.jsonl"), "recipe", started) == 500


TEXTS = st.none() | st.text(max_size=30) | st.sampled_from(["\0", "\r\n", "http://a.example/\x7f", "x" * 9000])


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(st.tuples(TEXTS, TEXTS), max_size=8))
def test_whatever_texts_stand_in_parquet(started: datetime, rows: list[tuple[str | None, str | None]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        corpus = Corpus.create(Path(folder) / "corpus")
        columns = {"url": [url for url, _ in rows], "caption": [caption for _, caption in rows]}
        schema = pa.schema({"url": pa.string(), "caption": pa.string()})
        pq.write_table(pa.table(columns, schema=schema), Path(folder) / "list.parquet")
        added = add_candidates(corpus, "源", listed(f"{folder}/list.parquet"), "recipe", started)
        blank = " \t\n\r\v\f\u00a0\u3000"
        expected = {(url.strip(blank), caption or "") for url, caption in rows if url and url.strip(blank)}
        assert found(corpus) == expected
        ids = corpus.sql("SELECT candidate_id, url_id, url, caption FROM candidates").to_pylist()
        assert added == len(ids) == len(expected)
        for row in ids:
            assert row["url_id"] == digest(row["url"].encode())
            assert row["candidate_id"] == digest(f"源\n{row['url']}\n{row['caption']}".encode())


@pytest.fixture(scope="module")
def store() -> Iterator[str]:
    """An object store on loopback; the query of URIs to it. Nothing else may be asked, for credentials neither."""
    with pytest.MonkeyPatch.context() as environment:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            environment.setenv(name, "of-no-account")
        environment.setenv("AWS_EC2_METADATA_DISABLED", "true")
        server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        server.start()
        host, port = server.get_host_and_port()
        yield f"endpoint_override=http://{host}:{port}&scheme=http"
        server.stop()


@pytest.fixture
def bucket(store: str) -> tuple[pafs.FileSystem, str]:
    """An empty folder of a bucket, and the query of URIs to it."""
    filesystem, path = pafs.FileSystem.from_uri(f"s3://bucket/lists?allow_bucket_creation=true&{store}")
    filesystem.create_dir("bucket")
    for info in filesystem.get_file_info(pafs.FileSelector(path, recursive=True, allow_not_found=True)):
        filesystem.delete_file(info.path)
    return filesystem, store


def test_every_format_in_an_object_store(
    corpus: Corpus, tmp_path: Path, started: datetime, bucket: tuple[pafs.FileSystem, str]
) -> None:
    filesystem, query = bucket
    for suffix in SUFFIXES:
        local = write(ROWS, tmp_path / f"list{suffix}")
        with filesystem.open_output_stream(f"bucket/lists/苹 果#[1]{suffix}", compression=None) as remote:
            remote.write(local.read_bytes())
        source = listed(f"s3://bucket/lists/{quote('*果*', safe='*')}{suffix}?{query}", url="link", caption="words")
        assert add_candidates(corpus, suffix, source, "recipe", started) == 3, suffix
    whole = listed(f"s3://bucket/lists?{query}", url="link", caption="words")
    assert add_candidates(corpus, "whole", whole, "recipe", started) == 3
    assert found(corpus) == EXPECTED


def test_errors_in_an_object_store(corpus: Corpus, started: datetime, bucket: tuple[pafs.FileSystem, str]) -> None:
    filesystem, query = bucket
    with filesystem.open_output_stream("bucket/lists/a.csv") as remote:
        remote.write(b"url,caption\n1,2\n3,4,5\n")
    with pytest.raises(JuZhouError, match=r"bucket/lists/a\.csv: .*Line: 3 "):
        add_candidates(corpus, "list", listed(f"s3://bucket/lists?{query}"), "recipe", started)
    with pytest.raises(JuZhouError, match="is there; it is the source 'list'"):
        add_candidates(corpus, "list", listed(f"s3://bucket/lists/*.parquet?{query}"), "recipe", started)
