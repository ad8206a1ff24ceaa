"""Real photographs for benchmarks and fits: those in Debian's packages, fetched once into a user cache.

About 290 are of GCompris (animals, buildings, tools, paintings; CC BY-SA, CC0 and public domain, listed in the
package), some 30 wallpapers of Lomiri and MATE (CC BY-SA). They are read here alone, never committed.
"""

import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import platformdirs
from PIL import Image

PACKAGES = ("gcompris-qt-data", "lomiri-wallpapers-16.04", "lomiri-wallpapers-20.04", "mate-backgrounds")
FONTS = ("fonts-wqy-microhei", "fonts-wqy-zenhei", "fonts-dejavu-core")
ACTIVITIES = ("categorization", "details", "erase", "explore_*", "clickgame", "paintings")
LONGEST = 1280


def photographs() -> list[Path]:
    """Photographs and a few drawn wallpapers, WebP or JPEG, in an order that never changes."""
    return sorted((cache() / "photographs").iterdir())


def fonts() -> list[Path]:
    """Fonts, the Chinese ones first."""
    return sorted((cache() / "fonts").iterdir(), key=lambda path: (path.name[0].isupper(), path.name))


def cache() -> Path:
    """Where the packages' pictures and fonts lie, fetched on the first call.

    Raises:
        subprocess.CalledProcessError: apt-get cannot fetch them.
    """
    folder = platformdirs.user_cache_path("juzhou") / "photographs"
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as work:
            root, found = Path(work, "root"), Path(work, "found")
            for package in (*PACKAGES, *FONTS):
                subprocess.run(["apt-get", "download", package], cwd=work, check=True, capture_output=True)
            for archive in Path(work).glob("*.deb"):
                subprocess.run(["dpkg-deb", "-x", archive, root], check=True)
            (found / "photographs").mkdir(parents=True)
            (found / "fonts").mkdir()
            for activity in ACTIVITIES:
                for resource in sorted(root.glob(f"usr/share/gcompris-qt/rcc/{activity}.rcc")):
                    _carve(resource, found / "photographs")
            for path in sorted((root / "usr/share/backgrounds").rglob("*.jpg")):
                _shrink(path, found / "photographs")
            for path in (root / "usr/share/fonts").rglob("*.tt[cf]"):
                shutil.copy(path, found / "fonts")
            os.replace(found, folder)
    return folder


def _carve(resource: Path, folder: Path) -> None:
    """The opaque WebP files of at least 200 pixels in a Qt resource file, which holds them as they are."""
    content = resource.read_bytes()
    for number, match in enumerate(re.finditer(rb"RIFF(....)WEBP", content, re.DOTALL)):
        path = folder / f"{resource.stem}-{number:03d}.webp"
        path.write_bytes(content[match.start() : match.start() + 8 + int.from_bytes(match[1], "little")])
        try:
            with Image.open(path) as image:
                wanted = image.mode == "RGB" and min(image.size) >= 200
        except OSError:
            wanted = False
        if not wanted:
            path.unlink()


def _shrink(path: Path, folder: Path) -> None:
    if path.is_symlink():
        return
    with Image.open(path) as image:
        small = image.convert("RGB")
    small.thumbnail((LONGEST, LONGEST), Image.Resampling.LANCZOS)
    small.save(folder / f"wallpaper-{path.stem}.jpg", quality=92)
