"""Folders, tars and Parquet files of pictures: original bytes, the words beside them, and a row for what is not."""

import gzip
import io
import json
import signal
import struct
import subprocess
import sys
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipelines.corpus import UNFINISHED, Corpus
from pipelines.sources import parquet
from pipelines.sources.folder import folder_stage
from pipelines.sources.items import text_of
from pipelines.sources.parquet import parquet_stage
from pipelines.sources.tar import tar_stage
from pipelines.stage import Stage, pending, run
from schemas.errors import JuZhouError
from schemas.identity import digest
from schemas.recipe import Fetch, Folder, Parquet, Tar
from schemas.tables import FILES

Members = list[tuple[str | tarfile.TarInfo, bytes]]


@pytest.fixture
def there(tmp_path: Path) -> Path:
    """Where the source's files lie, away from the corpus."""
    path = tmp_path / "there"
    path.mkdir()
    return path


def read(corpus: Corpus, stage: Stage) -> list[dict[str, Any]]:
    """Do what is pending in this process, as the runner does in its workers; the new rows by path."""
    rows = pending(corpus, stage)
    work = stage.work()
    made = []
    for start in range(0, rows.num_rows, stage.batch):
        for table, new in work(rows.slice(start, stage.batch)):
            assert table is FILES
            corpus.append(FILES, new)
            made += new.to_pylist()
    return sorted(made, key=lambda row: row["path"])


def folder(corpus: Corpus, path: Path | str, **fetch: int) -> Stage:
    return folder_stage(corpus, "mine", Folder(kind="folder", path=str(path)), Fetch(**fetch))


def tars(corpus: Corpus, path: Path, caption: str = "txt", **fetch: int) -> Stage:
    return tar_stage(corpus, "mine", Tar(kind="tar", path=str(path), caption=caption), Fetch(**fetch))


def parquets(corpus: Corpus, path: Path, **columns: str) -> Stage:
    return parquet_stage(corpus, "mine", Parquet(kind="parquet", path=str(path), **columns), Fetch())


def pictures(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The pictures of all rows by URL, each once."""
    found = [picture for row in rows for picture in row["pictures"]]
    assert sum(row["count"] for row in rows) == len(found)
    by_url = {picture["url"]: picture for picture in found}
    assert len(by_url) == len(found)
    return by_url


def content(corpus: Corpus, picture: dict[str, Any]) -> bytes:
    """A picture's bytes out of our tar."""
    assert picture["status"] == "ok" and picture["error"] is None
    kept = corpus.read(picture["tar"], picture["offset"], picture["length"])
    assert digest(kept) == picture["image_id"]
    return kept


def packed(members: Members, kind: int = tarfile.GNU_FORMAT) -> bytes:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w", format=kind) as archive:
        for name, body in members:
            member = tarfile.TarInfo(name) if isinstance(name, str) else name
            member.size = len(body) or member.size
            archive.addfile(member, io.BytesIO(body))
    return sink.getvalue()


def huge_png() -> bytes:
    """168 megapixels in half a megabyte."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 16_000, 10_500, 1, 0, 0, 0, 0)
    rows = zlib.compress(bytes(10_500 * 2_001))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


class TestFolder:
    def test_words_beside_a_picture(self, corpus: Corpus, there: Path, draw: Callable[..., bytes]) -> None:
        root = there / "图 库"
        (root / "a" / "b").mkdir(parents=True)
        names = ["txt.jpg", "gbk.JPG", "json.jpg", "both.jpg", "a/near.jpg", "a/b/far.jpg", "a/b/bare.jpg"]
        for seed, name in enumerate(names):
            (root / name).write_bytes(draw(seed))
        (root / "txt.txt").write_text("﻿红苹果\n", encoding="utf-8")
        (root / "gbk.txt").write_bytes("一只老虎".encode("gb18030"))
        record = {"text": "月亮", "url": "http://a.example/page", "license": "CC0"}
        (root / "json.json").write_text(json.dumps(record))
        (root / "both.txt").write_text("文字", encoding="utf-8")
        (root / "both.json").write_text(
            json.dumps({"caption": "不是", "page_url": "ftp://a.example/", "licence": "MIT"})
        )
        (root / "metadata.csv").write_text("file_name,text\na/near.jpg,远\na/b/far.jpg,上\ntxt.jpg,别的\n", "utf-8")
        (root / "a" / "metadata.jsonl").write_text(
            '{"file_name": "./near.jpg", "caption": "近", "license": "BY"}\n', "utf-8"
        )

        rows = read(corpus, folder(corpus, root))
        assert {row["status"] for row in rows} == {"ok"}
        assert [row["path"] for row in rows] == sorted(names)
        found = pictures(rows)
        said = {
            url.removeprefix("file:mine/"): (one["caption"], one["caption_from"], one["page_url"], one["licence"])
            for url, one in found.items()
        }
        assert said == {
            "txt.jpg": ("红苹果", "txt", None, None),
            "gbk.JPG": ("一只老虎", "txt", None, None),
            "json.jpg": ("月亮", "json", "http://a.example/page", "CC0"),
            "both.jpg": ("文字", "txt", None, "MIT"),
            "a/near.jpg": ("近", "metadata", None, "BY"),
            "a/b/far.jpg": ("上", "metadata", None, None),
            "a/b/bare.jpg": ("", "none", None, None),
        }
        for seed, name in enumerate(names):
            one = found[f"file:mine/{name}"]
            assert content(corpus, one) == draw(seed)
            assert (one["format"], one["width"], one["height"], one["orientation"]) == ("jpeg", 160, 120, 1)

    def test_urls_are_quoted(self, corpus: Corpus, there: Path, draw: Callable[..., bytes]) -> None:
        (there / "库").mkdir()
        (there / "库" / "红 苹果#1?.png").write_bytes(draw(1, "png"))
        [url] = pictures(read(corpus, folder(corpus, there / "库")))
        assert url == "file:mine/%E7%BA%A2%20%E8%8B%B9%E6%9E%9C%231%3F.png"

    def test_what_is_new_or_changed_is_read_alone(
        self, corpus: Corpus, there: Path, draw: Callable[..., bytes]
    ) -> None:
        for seed in range(4):
            (there / f"{seed}.jpg").write_bytes(draw(seed))
            (there / f"{seed}.txt").write_text(f"{seed}")
        metadata = there / "metadata.csv"
        metadata.write_text("file_name,text,licence\n3.jpg,一,CC0\n")
        assert len(read(corpus, folder(corpus, there))) == 4
        assert read(corpus, folder(corpus, there)) == []
        (there / "1.txt").write_text("another")
        [changed] = read(corpus, folder(corpus, there))
        assert changed["pictures"][0]["caption"] == "another"
        metadata.write_text("file_name,text,licence\n3.jpg,一,MIT\n")
        [changed] = read(corpus, folder(corpus, there))
        assert changed["pictures"][0]["licence"] == "MIT"
        (there / "5.jpg").write_bytes(draw(5))
        (there / "2.jpg").write_bytes(draw(6, size=(161, 120)))
        assert [row["path"] for row in read(corpus, folder(corpus, there))] == ["2.jpg", "5.jpg"]

    def test_a_picture_that_is_none_costs_itself(self, corpus: Corpus, there: Path, draw: Callable[..., bytes]) -> None:
        (there / "empty.jpg").touch()
        (there / "html.png").write_bytes(b"<html>not found</html>")
        (there / "huge.png").write_bytes(huge_png())
        (there / "large.bmp").write_bytes(bytes(600_001))
        (there / "good.jpg").write_bytes(draw(1))
        (there / "wordy.jpg").write_bytes(draw(2))
        (there / "wordy.txt").write_text("字" * 10_000, encoding="utf-8")
        (there / "half.jpg").write_bytes(draw(3))
        (there / "half.json").write_text('{"caption": "\\ud83d", "licence": 3}')
        rows = read(corpus, folder(corpus, there, max_bytes=600_000))
        found = {url.removeprefix("file:mine/"): picture for url, picture in pictures(rows).items()}
        assert {name: picture["error"] for name, picture in found.items()} == {
            "empty.jpg": "not a picture: 0 bytes that begin with b''",
            "html.png": "not a picture: 22 bytes that begin with b'<html>not fo'",
            "huge.png": "16000×10500 is more than 60,000,000 pixels",
            "large.bmp": "600,001 bytes are more than 600,000",
            "good.jpg": None,
            "wordy.jpg": "10,000 characters are said of it",
            "half.jpg": None,
        }
        assert {name for name, picture in found.items() if picture["status"] == "permanent"} == {
            "empty.jpg",
            "html.png",
            "huge.png",
            "large.bmp",
            "wordy.jpg",
        }
        assert {row["status"] for row in rows} == {"ok"}
        assert content(corpus, found["good.jpg"]) == draw(1)
        assert found["half.jpg"]["caption"] == "?"

    def test_a_file_that_cannot_be_opened(self, corpus: Corpus, there: Path, draw: Callable[..., bytes]) -> None:
        for name in ("gone.jpg", "there.jpg", "lost.jpg"):
            (there / name).write_bytes(draw(1))
        (there / "lost.txt").write_text("字")
        stage = folder(corpus, there)
        (there / "gone.jpg").unlink()
        (there / "lost.txt").unlink()
        rows = {row["path"]: row for row in read(corpus, stage)}
        assert {path: row["status"] for path, row in rows.items()} == {
            "gone.jpg": "permanent",
            "there.jpg": "ok",
            "lost.jpg": "permanent",
        }
        assert "No such file" in rows["gone.jpg"]["error"] and rows["gone.jpg"]["pictures"] == []

    @pytest.mark.parametrize(
        ("name", "body", "message"),
        [
            ("metadata.csv", "name,text\na.jpg,一\n", "row 1 needs a 'file_name'; it has name, text"),
            ("metadata.jsonl", '{"file_name": "a.jpg"}\n[1]\n', "row 2 needs a 'file_name'; it has nothing"),
            ("metadata.parquet", "no such thing", "magic bytes"),
        ],
    )
    def test_metadata_that_cannot_be_used(
        self, corpus: Corpus, there: Path, draw: Callable[..., bytes], name: str, body: str, message: str
    ) -> None:
        (there / "a.jpg").write_bytes(draw(1))
        (there / name).write_text(body)
        with pytest.raises(JuZhouError, match=rf"{name}: .*{message}") as caught:
            folder(corpus, there)
        assert "\n" not in str(caught.value)

    def test_metadata_as_parquet_through_a_uri_and_a_glob(
        self, corpus: Corpus, there: Path, draw: Callable[..., bytes]
    ) -> None:
        (there / "train").mkdir()
        (there / "train" / "a.jpg").write_bytes(draw(1))
        (there / "train" / "b.png").write_bytes(draw(1, "png"))
        pq.write_table(pa.table({"file_name": ["a.jpg"], "text": ["城堡"]}), there / "train" / "metadata.parquet")
        found = pictures(read(corpus, folder(corpus, f"file://{there}/*.jpg")))
        assert {url: picture["caption"] for url, picture in found.items()} == {"file:mine/train/a.jpg": "城堡"}

    def test_a_folder_without_pictures(self, corpus: Corpus, there: Path) -> None:
        (there / "a.txt").touch()
        with pytest.raises(JuZhouError, match="it is the source 'mine'"):
            folder(corpus, there)


class TestTar:
    @pytest.mark.parametrize("name", ["a.tar", "a.tar.gz", "a.tgz"])
    def test_samples(self, corpus: Corpus, there: Path, draw: Callable[..., bytes], name: str) -> None:
        about = {"caption": "不是", "url": "https://a.example/1.jpg", "license": "CC0"}
        members: Members = [
            ("d/1.jpg", draw(1)),
            ("d/1.json", json.dumps(about).encode()),
            ("d/1.txt", "红苹果".encode("gb18030")),
            ("d/2.seg.png", draw(9, "png")),
            ("d/2.txt", "月亮".encode()),
            ("d/2.PNG", draw(2, "png")),
            ("d/._2.jpg", b"of another system"),
            ("e/2.webp", draw(3, "webp")),
            ("e/3.txt", b"alone"),
            ("README", b"no sample"),
        ]
        content_of = packed(members)
        (there / name).write_bytes(content_of if name.endswith(".tar") else gzip.compress(content_of))
        [row] = read(corpus, tars(corpus, there))
        assert (row["status"], row["error"], row["path"]) == ("ok", None, name)
        found = {url.removeprefix(f"file:mine/{name}#"): one for url, one in pictures([row]).items()}
        assert {
            member: (one["caption"], one["caption_from"], one["page_url"], one["licence"], one["error"])
            for member, one in found.items()
        } == {
            "d/1.jpg": ("红苹果", "txt", "https://a.example/1.jpg", "CC0", None),
            "d/2.PNG": ("月亮", "txt", None, None, None),
            "e/2.webp": ("", "none", None, None, None),
            "e/3": ("alone", "txt", None, None, "no picture lies beside the caption"),
        }
        assert content(corpus, found["d/1.jpg"]) == draw(1)
        assert content(corpus, found["d/2.PNG"]) == draw(2, "png")
        assert content(corpus, found["e/2.webp"]) == draw(3, "webp")
        assert len(list(corpus.blobs.iterdir())) == 1
        assert read(corpus, tars(corpus, there)) == []

    def test_a_caption_in_json(self, corpus: Corpus, there: Path, draw: Callable[..., bytes]) -> None:
        members: Members = [
            ("1.jpg", draw(1)),
            ("1.json", '{"zh": "老虎", "caption": "tiger"}'.encode()),
            ("2.jpg", draw(2)),
            ("2.json", b"{broken"),
            ("3.jpg", draw(3)),
            ("3.json", b"[" * 100_000),
        ]
        (there / "a.tar").write_bytes(packed(members))
        [row] = read(corpus, tars(corpus, there, "json:zh"))
        said = [(one["caption"], one["caption_from"], one["status"]) for one in row["pictures"]]
        assert said == [("老虎", "json", "ok"), ("", "none", "ok"), ("", "none", "ok")]

    def test_names_are_words_in_a_url_and_no_more(
        self, corpus: Corpus, there: Path, draw: Callable[..., bytes]
    ) -> None:
        names = ["/etc/passwd.jpg", "../../up.jpg", "x\udcff.jpg", "图.jpg", "l" * 300 + ".jpg"]
        for kind in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
            body = packed([(name, draw(seed)) for seed, name in enumerate(names)], kind)
            (there / f"{kind}.tar").write_bytes(body)
        before = sorted(there.parent.rglob("*.jpg"))
        rows = read(corpus, tars(corpus, there))
        assert sorted(there.parent.rglob("*.jpg")) == before
        for row in rows:
            urls = [url.partition("#")[2] for url in pictures([row])]
            assert urls == ["/etc/passwd.jpg", "../../up.jpg", "x%FF.jpg", "%E5%9B%BE.jpg", "l" * 300 + ".jpg"]
        assert {path.name for path in corpus.blobs.iterdir()} == {one["tar"] for row in rows for one in row["pictures"]}

    def test_members_that_are_no_files(self, corpus: Corpus, there: Path, draw: Callable[..., bytes]) -> None:
        def special(name: str, kind: bytes, link: str = "/etc/passwd") -> tuple[tarfile.TarInfo, bytes]:
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, link
            return member, b""

        kinds = {
            "symlink": tarfile.SYMTYPE,
            "link": tarfile.LNKTYPE,
            "device": tarfile.CHRTYPE,
            "pipe": tarfile.FIFOTYPE,
        }
        members: Members = [special(f"{name}.jpg", kind) for name, kind in kinds.items()]
        sparse = tarfile.TarInfo("sparse.jpg")
        sparse.pax_headers = {"GNU.sparse.major": "0", "GNU.sparse.minor": "1", "GNU.sparse.size": "99999999999"}
        sparse.pax_headers["GNU.sparse.map"] = "0,1"
        members += [(sparse, b"x"), special("folder.jpg", tarfile.DIRTYPE), ("good.jpg", draw(1))]
        (there / "a.tar").write_bytes(packed(members, tarfile.PAX_FORMAT))
        [row] = read(corpus, tars(corpus, there))
        errors = {url.partition("#")[2]: one["error"] for url, one in pictures([row]).items()}
        assert errors == dict.fromkeys([f"{kind}.jpg" for kind in [*kinds, "sparse"]], "it is no regular file") | {
            "good.jpg": None
        }
        assert row["error"] is None

    def test_a_picture_that_is_too_large_is_not_read(
        self, corpus: Corpus, there: Path, draw: Callable[..., bytes]
    ) -> None:
        members: Members = [("1.jpg", bytes(2_000_001)), ("1.txt", b"one"), ("2.png", huge_png()), ("3.jpg", draw(3))]
        (there / "a.tgz").write_bytes(gzip.compress(packed(members)))
        [row] = read(corpus, tars(corpus, there, max_bytes=2_000_000))
        errors = [one["error"] for one in row["pictures"]]
        large = "2,000,001 bytes are more than 2,000,000"
        assert errors == [large, "16000×10500 is more than 60,000,000 pixels", None]
        assert row["pictures"][0]["caption"] == "one"

    def test_a_name_that_stands_twice(self, corpus: Corpus, there: Path, draw: Callable[..., bytes]) -> None:
        members: Members = [
            ("1.jpg", draw(1)),
            ("1.txt", b"one"),
            ("2.jpg", draw(2)),
            ("1.JPG", draw(3)),
            ("1.txt", b"3"),
        ]
        (there / "a.tar").write_bytes(packed(members))
        [row] = read(corpus, tars(corpus, there))
        assert row["status"] == "permanent"
        assert row["error"] == "ReadError: 1 pictures bear the name of an earlier one, and were left out"
        assert [(one["caption"], one["image_id"]) for one in row["pictures"] if one["status"] == "ok"] == [
            ("one", digest(draw(1))),
            ("", digest(draw(2))),
        ]

    @pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
    def test_a_truncated_archive_gives_what_can_be_read(
        self, corpus: Corpus, there: Path, draw: Callable[..., bytes], pack: Callable[[bytes], bytes]
    ) -> None:
        whole = pack(packed([(f"{seed}.jpg", draw(seed)) for seed in range(5)]))
        suffix = "tar" if pack is bytes else "tgz"
        for cut in (700, len(whole) // 2, len(whole) - (12_000 if pack is bytes else 2_000)):
            (there / f"{cut:06}.{suffix}").write_bytes(whole[:cut])
        rows = read(corpus, tars(corpus, there))
        assert [row["status"] for row in rows] == ["permanent"] * 3
        assert all(row["error"] and "\n" not in row["error"] for row in rows)
        assert [0 < row["count"] < 5 for row in rows] == [False, True, True]
        for row in rows:
            for seed, one in enumerate(row["pictures"]):
                assert content(corpus, one) == draw(seed)

    def test_an_archive_without_its_end(self, corpus: Corpus, there: Path, draw: Callable[..., bytes]) -> None:
        body = packed([("1.jpg", draw(1)), ("1.txt", b"one")]).rstrip(b"\0")
        body += bytes(-len(body) % 512)
        (there / "end.tar").write_bytes(body)
        (there / "garbage.tar").write_bytes(body + b"garbage" * 100)
        rows = read(corpus, tars(corpus, there))
        assert [row["error"].partition(" after ")[0] for row in rows] == ["ReadError: it breaks off"] * 2
        assert [row["status"] for row in rows] == ["permanent"] * 2

    @pytest.mark.parametrize(
        "body",
        [b"", b"no archive", b"x" * 5_000, gzip.compress(b"y" * 5_000), b"\x1f\x8b broken"],
        ids=["empty", "short", "text", "gzip of text", "broken gzip"],
    )
    @pytest.mark.parametrize("name", ["a.tar", "a.tgz"])
    def test_what_is_no_archive(self, corpus: Corpus, there: Path, name: str, body: bytes) -> None:
        (there / name).write_bytes(body)
        [row] = read(corpus, tars(corpus, there))
        assert row["status"] == "permanent" and row["error"] and row["count"] == 0
        assert read(corpus, tars(corpus, there)) == []

    def test_headers_that_claim_too_much(self, corpus: Corpus, there: Path, draw: Callable[..., bytes]) -> None:
        def header(name: str, kind: bytes, size: int) -> bytes:
            member = tarfile.TarInfo(name)
            member.type, member.size = kind, size
            return member.tobuf(tarfile.GNU_FORMAT)

        good = packed([("1.jpg", draw(1)), ("1.txt", b"one")]).rstrip(b"\0")
        good += bytes(-len(good) % 512)
        end = bytes(10_240)
        claims = {
            "long": header("././@LongLink", tarfile.GNUTYPE_LONGNAME, 10**12),
            "pax": header("pax", tarfile.XHDTYPE, 10**12),
            "name": packed([("n" * 5_000 + ".jpg", draw(1))]),
            "back": header("2.bin", tarfile.REGTYPE, -2_048),
            "less": header("2.jpg", tarfile.REGTYPE, -2_048),
            "size": header("2.jpg", tarfile.REGTYPE, 10**15),
        }
        for name, claim in claims.items():
            (there / f"{name}.tar").write_bytes(good + claim + end)
        rows = {row["path"].removesuffix(".tar"): row for row in read(corpus, tars(corpus, there))}
        assert {name: row["status"] for name, row in rows.items()} == dict.fromkeys(claims, "permanent")
        assert rows["long"]["error"] == "ReadError: a header claims 1,000,000,000,000 bytes"
        assert rows["back"]["error"] == "ReadError: a header leads backwards"
        assert rows["less"]["error"] == "ReadError: a header claims -2,048 bytes"
        assert rows["name"]["error"] == "ReadError: a name of 5,004 characters"

    @settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(st.data())
    def test_a_damaged_archive_is_a_row(
        self, corpus: Corpus, there: Path, draw: Callable[..., bytes], data: st.DataObject
    ) -> None:
        members: Members = [
            ("1.jpg", draw(1, size=(8, 8))),
            ("1.txt", b"one"),
            ("n" * 200 + ".jpg", draw(2, size=(8, 8))),
        ]
        body = bytearray(packed(members, data.draw(st.sampled_from([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]))))
        for _ in range(data.draw(st.integers(1, 6))):
            block = data.draw(st.integers(0, 8)) * 512
            at = block + data.draw(st.one_of(st.integers(100, 160), st.integers(0, 511)))
            body[at] = data.draw(st.sampled_from([*b"\0 07x5LgS\xff\x80"]))
            if data.draw(st.booleans()):
                checksum = 256 + sum(body[block : block + 148]) + sum(body[block + 156 : block + 512])
                body[block + 148 : block + 156] = b"%06o\0 " % checksum
        (there / "a.tar").write_bytes(body[: data.draw(st.integers(0, len(body)))])
        stage = tars(corpus, there, max_bytes=100_000)
        [(_, rows)] = stage.work()(pending(corpus, stage))
        assert rows.num_rows == 1
        assert rows.cast(FILES.schema).column("status")[0].as_py() in ("ok", "permanent")


class TestParquet:
    @staticmethod
    def write(path: Path, images: list[Any], texts: list[Any], kind: pa.DataType | None = None, **options: Any) -> None:
        kind = kind or pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        pq.write_table(
            pa.table({"image": pa.array(images, kind), "text": pa.array(texts, pa.string())}), path, **options
        )

    def test_pictures_as_the_hub_keeps_them(self, corpus: Corpus, there: Path, draw: Callable[..., bytes]) -> None:
        images = [
            {"bytes": draw(1), "path": "1.jpg"},
            {"bytes": draw(2), "path": "2.jpg"},
            {"bytes": draw(1), "path": "1.jpg"},
            {"bytes": draw(1), "path": "1.jpg"},
            {"bytes": None, "path": "5.jpg"},
            None,
            {"bytes": b"", "path": None},
            {"bytes": huge_png(), "path": None},
        ]
        self.write(there / "a.parquet", images, ["一", None, "一", "又", "五", "六", "七", "八"])
        [row] = read(corpus, parquets(corpus, there))
        assert (row["status"], row["count"]) == ("ok", 7)
        found = row["pictures"]
        assert [(one["caption"], one["error"]) for one in found] == [
            ("一", None),
            ("", None),
            ("又", None),
            ("五", "no bytes"),
            ("六", "no bytes"),
            ("七", "not a picture: 0 bytes that begin with b''"),
            ("八", "16000×10500 is more than 60,000,000 pixels"),
        ]
        assert [one["caption_from"] for one in found[:2]] == ["column", "none"]
        assert content(corpus, found[0]) == content(corpus, found[2]) == draw(1)
        assert found[0]["url"] == found[2]["url"] == f"file:mine/a.parquet#{digest(draw(1)).hex()}"
        assert len({one["url"] for one in found}) == 6
        assert read(corpus, parquets(corpus, there)) == []

    @pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary(), pa.binary_view()], ids=str)
    def test_pictures_as_plain_bytes(
        self, corpus: Corpus, there: Path, draw: Callable[..., bytes], kind: pa.DataType
    ) -> None:
        rows = {
            "jpg": pa.array([draw(1), None], kind),
            "zh": ["一", "二"],
            "page": ["http://a.example/", "x"],
            "n": [1, 2],
        }
        pq.write_table(pa.table(rows | {"by": pa.array(["CC0", None]).dictionary_encode()}), there / "a.parquet")
        columns = {"image": "jpg", "caption": "zh", "page_url": "page", "licence": "by"}
        [row] = read(corpus, parquets(corpus, there, **columns))
        assert [(one["caption"], one["page_url"], one["licence"], one["error"]) for one in row["pictures"]] == [
            ("一", "http://a.example/", "CC0", None),
            ("二", None, None, "no bytes"),
        ]

    def test_a_caption_that_is_not_utf_8(self, corpus: Corpus, there: Path, draw: Callable[..., bytes]) -> None:
        said = pa.array(["一只老虎".encode("gb18030"), b"two"])
        texts = pa.StringArray.from_buffers(2, said.buffers()[1], said.buffers()[2])
        pq.write_table(pa.table({"image": [draw(1), draw(2)], "text": texts}), there / "a.parquet")
        [row] = read(corpus, parquets(corpus, there))
        assert [one["caption"] for one in row["pictures"]] == ["一只老虎", "two"]

    def test_slices_of_row_groups(
        self, corpus: Corpus, there: Path, draw: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(parquet, "SLICE", 5)
        monkeypatch.setattr(parquet, "READ", 2)
        contents = [draw(seed, size=(20, 20)) for seed in range(23)]
        kind = pa.binary()
        self.write(there / "a.parquet", contents[:16], [""] * 16, kind, row_group_size=13)
        rows = read(corpus, parquets(corpus, there))
        assert sorted(row["count"] for row in rows) == [3, 3, 5, 5]
        assert {digest(one) for one in contents[:16]} == {one["image_id"] for one in pictures(rows).values()}
        self.write(there / "b.parquet", contents[16:], [""] * 7, kind)
        self.write(there / "empty.parquet", [], [], kind)
        rows = read(corpus, parquets(corpus, there))
        assert [(row["path"], row["status"]) for row in rows] == [
            ("b.parquet", "ok"),
            ("b.parquet", "ok"),
            ("empty.parquet", "ok"),
        ]
        assert {digest(one) for one in contents[16:]} == {one["image_id"] for one in pictures(rows).values()}

    @pytest.mark.parametrize(
        ("columns", "message"),
        [
            ({"image": "img"}, r"a\.parquet: no column 'img'; it has image, text"),
            ({"caption": "zh"}, r"a\.parquet: no column 'zh'; it has image, text"),
            ({"image": "text"}, r"a\.parquet: column 'text' is string; name one of bytes"),
            ({"caption": "image"}, r"a\.parquet: column 'image' is struct.*; name one of text"),
        ],
    )
    def test_columns_that_are_not_there(
        self, corpus: Corpus, there: Path, draw: Callable[..., bytes], columns: dict[str, str], message: str
    ) -> None:
        self.write(there / "a.parquet", [{"bytes": draw(1), "path": None}], ["一"])
        with pytest.raises(JuZhouError, match=message):
            parquets(corpus, there, **columns)

    def test_a_broken_file_costs_itself(self, corpus: Corpus, there: Path, draw: Callable[..., bytes]) -> None:
        (there / "none.parquet").write_bytes(b"PAR1 no such thing")
        self.write(there / "good.parquet", [draw(1)], ["一"], pa.binary())
        contents = [draw(seed) for seed in range(64)]
        self.write(
            there / "torn.parquet", contents, ["一"] * 64, pa.binary(), use_dictionary=False, data_page_size=10_000
        )
        body = bytearray((there / "torn.parquet").read_bytes())
        body[len(body) // 2 : -2_000] = bytes(len(body) - 2_000 - len(body) // 2)
        (there / "torn.parquet").write_bytes(body)
        rows = {row["path"]: row for row in read(corpus, parquets(corpus, there))}
        assert [(path, row["status"], row["count"]) for path, row in rows.items() if path != "torn.parquet"] == [
            ("good.parquet", "ok", 1),
            ("none.parquet", "permanent", 0),
        ]
        assert rows["none.parquet"]["error"].startswith("OSError: ")
        assert rows["torn.parquet"]["status"] == "permanent"


KILLED = """
import os, signal, sys
from pathlib import Path
from pipelines.blob import Blob
from pipelines.corpus import Corpus
from pipelines.sources.tar import tar_stage
from pipelines.stage import pending
from schemas.recipe import Fetch, Tar

class Fatal(Blob):
    def add(self, image_id, content):
        super().add(image_id, content)
        if len(self._places) == 3:
            os.kill(os.getpid(), signal.SIGKILL)

import pipelines.sources.items
pipelines.sources.items.Blob = Fatal
corpus = Corpus(Path(sys.argv[1]))
stage = tar_stage(corpus, "mine", Tar(kind="tar", path=sys.argv[2]), Fetch())
stage.work()(pending(corpus, stage))
"""


@pytest.mark.usefixtures("ray_cluster")
def test_a_killed_run_leaves_nothing_half(corpus: Corpus, there: Path, draw: Callable[..., bytes]) -> None:
    body = packed([(f"{seed}.jpg", draw(seed)) for seed in range(6)])
    (there / "a.tar").write_bytes(body)
    killed = subprocess.run([sys.executable, "-c", KILLED, str(corpus.path), str(there)], timeout=60, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert [path.name.startswith(UNFINISHED) for path in corpus.blobs.iterdir()] == [True]
    with corpus.writing():
        assert run(corpus, tars(corpus, there), lambda *_: None) == 1
        assert run(corpus, tars(corpus, there), lambda *_: None) == 0
    [row] = corpus.sql("SELECT * FROM files").to_pylist()
    assert [content(corpus, one) for one in row["pictures"]] == [draw(seed) for seed in range(6)]
    assert [path.name for path in corpus.blobs.iterdir()] == [row["pictures"][0]["tar"]]


@pytest.mark.usefixtures("ray_cluster")
def test_workers_read_folders_and_parquet(corpus: Corpus, there: Path, draw: Callable[..., bytes]) -> None:
    (there / "a.jpg").write_bytes(draw(1))
    pq.write_table(pa.table({"image": [draw(2)], "text": ["二"]}), there / "b.parquet")
    assert run(corpus, folder(corpus, there), lambda *_: None) == 1
    assert run(corpus, parquets(corpus, there), lambda *_: None) == 1
    rows = corpus.sql("SELECT * FROM files ORDER BY path").to_pylist()
    assert [content(corpus, one) for one in pictures(rows).values()] == [draw(1), draw(2)]


def test_a_file_that_takes_its_process_down_has_its_row(corpus: Corpus, there: Path) -> None:
    (there / "a.tar").touch()
    stage = tars(corpus, there)
    [(table, rows)] = stage.work().lost(pending(corpus, stage), "took its process down")
    corpus.append(table, rows)
    [row] = corpus.sql("SELECT path, status, error, count FROM files").to_pylist()
    assert row == {"path": "a.tar", "status": "permanent", "error": "took its process down", "count": 0}
    assert pending(corpus, stage).num_rows == 0


@given(st.text(st.characters(min_codepoint=0x4E00, max_codepoint=0x9FA5), min_size=1))
def test_text_in_either_charset(text: str) -> None:
    assert text_of(text.encode("utf-8")) == text_of(text.encode("utf-8-sig") + b"\r\n") == text
    assert text_of((text + "一只老虎").encode("gb18030")) == text + "一只老虎"
