"""Pictures for a browser: decoded and encoded anew, so that no byte of a stranger's file reaches it."""

import io
import threading
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from html import escape

from PIL import Image

from filters.picture import decode
from pipelines.audit.shelf import Shelves
from pipelines.corpus import Corpus
from schemas.tables import FORGOTTEN

THUMBNAIL_PX = 208
PICTURE_PX = 1_600
CACHE_BYTES = 96_000_000
PLACES = 200_000
"""Places of pictures that are remembered."""
AT_ONCE = 2
"""Pictures that are decoded at a time, each within the bounds of `filters.picture`."""


@dataclass(frozen=True)
class Encoded:
    """A picture as JPEG, or a placeholder as SVG that says why there is none."""

    content: bytes
    kind: str
    broken: str | None = None


class Pictures:
    """Gives pictures by their image_id; safe to share among threads."""

    def __init__(self, corpus: Corpus, shelves: Shelves) -> None:
        self._corpus = corpus
        self._shelves = shelves
        self._lock = threading.Lock()
        self._decoding = threading.Semaphore(AT_ONCE)
        self._cache: OrderedDict[tuple[bytes, int], Encoded] = OrderedDict()
        self._held = 0
        self._places: OrderedDict[bytes, tuple[str, int, int]] = OrderedDict()
        self._forgotten: list[str] = []

    def expect(self, image_ids: Iterable[bytes]) -> None:
        """Look up where some pictures lie, all in one question: a page is about to ask for each."""
        with self._lock:
            wanted = {image_id for image_id in image_ids if image_id not in self._places}
        if not wanted:
            return
        among = ", ".join(f"unhex('{image_id.hex()}')" for image_id in wanted)
        rows = self._shelves.now().ask(
            f'SELECT image_id, tar, "offset", length FROM images WHERE image_id IN ({among})'
        )
        with self._lock:
            for row in rows:
                self._places[row["image_id"]] = (row["tar"], row["offset"], row["length"])
            while len(self._places) > PLACES:
                self._places.popitem(last=False)

    def get(self, image_id: bytes, longest: int) -> Encoded:
        """A picture whose longest side has so many pixels at most. What was taken down meanwhile is not remembered."""
        key = (image_id, longest)
        forgotten = self._corpus.parts(FORGOTTEN.path)
        with self._lock:
            if forgotten != self._forgotten:
                self._cache.clear()
                self._places.clear()
                self._held, self._forgotten = 0, forgotten
            if held := self._cache.get(key):
                self._cache.move_to_end(key)
                return held
        encoded = self._encoded(image_id, longest)
        with self._lock:
            if key not in self._cache:
                self._cache[key] = encoded
                self._held += len(encoded.content)
            while self._held > CACHE_BYTES:
                _, dropped = self._cache.popitem(last=False)
                self._held -= len(dropped.content)
        return encoded

    def _encoded(self, image_id: bytes, longest: int) -> Encoded:
        self.expect([image_id])
        with self._lock:
            place = self._places.get(image_id)
        if place is None:
            return _placeholder("no such picture in the corpus")
        try:
            content = self._corpus.read(*place)
            with self._decoding:
                image = Image.fromarray(decode(content).pixels)
                image.thumbnail((longest, longest), reducing_gap=3)
                sink = io.BytesIO()
                image.save(sink, "jpeg", quality=82 if longest <= THUMBNAIL_PX else 90)
        except (OSError, ValueError) as error:
            return _placeholder(" ".join(str(error).split()))
        return Encoded(sink.getvalue(), "image/jpeg")


def _placeholder(why: str) -> Encoded:
    said = "".join(sign for sign in why if sign.isprintable())[:200]
    lines = [escape(said[start : start + 28]) for start in range(0, min(len(said), 140), 28)]
    text = "".join(f'<text x="116" y="{104 + 15 * row}">{line}</text>' for row, line in enumerate(lines))
    svg = (
        '<svg xmlns="http://www.w3.org/2000/svg" width="232" height="232" viewBox="0 0 232 232">'
        '<rect width="232" height="232" fill="#8b857c" fill-opacity=".16"/>'
        '<g font-family="sans-serif" font-size="11" fill="#8b857c" text-anchor="middle">'
        f'<text x="116" y="80" font-size="13" font-weight="600">no picture</text>{text}</g></svg>'
    )
    return Encoded(svg.encode(), "image/svg+xml", said)
