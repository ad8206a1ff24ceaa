"""Picture files that went wrong: good ones of eight formats, mutated, and some that are made to hurt.

`mutant(7)` is the same file wherever and whenever it is made.
"""

import io
import random
import struct
import zlib
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "AVIF", "BMP", "TIFF", "ICO")
"""All that we read, and one whose parser must never see a stranger's bytes."""
EXTREMES = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


class Mutant(NamedTuple):
    """A file, and how it came to be: the format that it began as and what was done to it, `flipped+truncated`."""

    format: str
    how: str
    content: bytes


def mutant(number: int) -> Mutant:
    """One of as many as are asked for; formats take turns."""
    chance = random.Random(number)
    kind = FORMATS[number % len(FORMATS)]
    content = chance.choice(originals(kind))
    done = []
    for mutate in chance.sample(MUTATIONS, chance.choice((1, 1, 1, 2))):
        content = mutate(content, chance)
        done.append(mutate.__name__)
    if chance.random() < 0.5:  # else a PNG is refused for its check sums, and what reads its insides never sees them
        content = summed(content)
    return Mutant(kind, "+".join(done), content)


def drawn(mode: str = "RGB", size: tuple[int, int] = (48, 36), seed: int = 0) -> Image.Image:
    """Soft colours with some noise, so that every coder has something to do."""
    chance = np.random.default_rng(seed)
    noise = Image.fromarray(chance.integers(0, 256, (size[1] // 6, size[0] // 6, 4), dtype=np.uint8), "RGBA")
    soft = noise.resize(size, Image.Resampling.BICUBIC)
    if mode == "I;16":
        return Image.fromarray(np.asarray(soft.convert("L"), dtype=np.uint16) * 257)
    return soft.convert("RGB").convert(mode) if mode != "RGBA" else soft


def saved(kind: str, mode: str = "RGB", frames: int = 1, **options: Any) -> bytes:
    sink = io.BytesIO()
    more = {"save_all": True, "append_images": [drawn(mode, seed=seed) for seed in range(1, frames)]}
    drawn(mode).save(sink, kind, **options, **(more if frames > 1 else {}))
    return sink.getvalue()


@cache
def originals(kind: str) -> tuple[bytes, ...]:
    """Good files of a format: its modes, compressions, metadata, and more than one frame where it has them."""
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a picture"
    about: dict[str, Any] = {"exif": exif, "icc_profile": bytes(range(128)) * 8}
    wanted: dict[str, list[dict[str, Any]]] = {
        "JPEG": [
            {},
            {"progressive": True},
            {"mode": "CMYK"},
            {"mode": "L", "restart_marker_blocks": 2},
            {"subsampling": 2, "comment": b"words" * 20, **about},
        ],
        "PNG": [
            {**about},
            {"mode": "RGBA", "frames": 3},
            {"mode": "P", "transparency": 3},
            {"mode": "I;16"},
            {"mode": "1"},
            {"mode": "LA"},
        ],
        "WEBP": [{**about}, {"lossless": True}, {"mode": "RGBA"}, {"mode": "RGBA", "frames": 3}],
        "GIF": [{"mode": "P"}, {"mode": "P", "frames": 4, "duration": 50}, {"mode": "P", "transparency": 3}],
        "AVIF": [{"speed": 10, **about}, {"mode": "RGBA", "speed": 10}, {"frames": 2, "speed": 10}],
        "BMP": [{}, {"mode": "P"}, {"mode": "1"}, {"mode": "RGBA"}],
        "TIFF": [
            {},
            {"mode": "RGBA", "compression": "tiff_lzw"},
            {"mode": "P", "compression": "tiff_adobe_deflate"},
            {"compression": "jpeg"},
            {"mode": "1", "compression": "group4"},
            {"mode": "I;16", "compression": "packbits"},
            {"mode": "CMYK", "frames": 3},
            {"mode": "LAB", "icc_profile": about["icc_profile"]},
            {"mode": "F"},
        ],
        "ICO": [{}, {"sizes": [(16, 16), (32, 32)], "bitmap_format": "bmp"}],
    }
    files = [saved(kind, **options) for options in wanted[kind]]
    if kind == "JPEG":
        files.append(saved("MPO", frames=2))
    return tuple(files)


def flipped(content: bytes, chance: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(2 ** chance.randrange(5)):
        changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
    return bytes(changed)


def flipped_in_front(content: bytes, chance: random.Random) -> bytes:
    """Where the headers are."""
    front = min(len(content), 128)
    return flipped(content[:front], chance) + content[front:]


def truncated(content: bytes, chance: random.Random) -> bytes:
    return content[: chance.randrange(1, len(content) + 1)]


def spliced(content: bytes, chance: random.Random) -> bytes:
    """The front of one file and the end of another, of any format."""
    other = chance.choice(originals(chance.choice(FORMATS)))
    return content[: chance.randrange(1, len(content) + 1)] + other[chance.randrange(len(other)) :]


def lengthened(content: bytes, chance: random.Random) -> bytes:
    """Garbage in the midst of it."""
    at = chance.randrange(len(content) + 1)
    return content[:at] + chance.randbytes(2 ** chance.randrange(12)) + content[at:]


def shortened(content: bytes, chance: random.Random) -> bytes:
    start, end = sorted(chance.randrange(len(content) + 1) for _ in range(2))
    return content[:start] + content[end:] if end - start < len(content) else content


def repeated(content: bytes, chance: random.Random) -> bytes:
    """A stretch many times over."""
    start, end = sorted(chance.randrange(len(content) + 1) for _ in range(2))
    return content[:end] + content[start:end] * chance.choice((1, 2, 50)) + content[end:]


def swapped(content: bytes, chance: random.Random) -> bytes:
    """Two neighbouring stretches the other way round."""
    start, middle, end = sorted(chance.randrange(len(content) + 1) for _ in range(3))
    return content[:start] + content[middle:end] + content[start:middle] + content[end:]


def extreme(content: bytes, chance: random.Random) -> bytes:
    """Integers of 1, 2 or 4 bytes with values at the end of their ranges: sizes, counts and offsets among them."""
    changed = bytearray(content)
    for _ in range(chance.choice((1, 1, 2, 4))):
        width, order = chance.choice((1, 2, 4)), chance.choice(("little", "big"))
        at = chance.randrange(min(len(changed), chance.choice((64, 512, len(changed)))))
        value = chance.choice(EXTREMES) % 256**width
        changed[at : at + width] = value.to_bytes(width, order)
    return bytes(changed)


def resized(content: bytes, chance: random.Random) -> bytes:
    """Every place that may state the width or height states another; a PNG's check sums are set right again."""
    order = chance.choice((">", "<"))
    width, height = (chance.choice((0, 1, 47, 49, 5_000, 9_999, 0x7FFF, 0xFFFF)) for _ in range(2))
    for letter in "HI":
        content = content.replace(struct.pack(f"{order}{letter}", 48), struct.pack(f"{order}{letter}", width), 3)
        content = content.replace(struct.pack(f"{order}{letter}", 36), struct.pack(f"{order}{letter}", height), 3)
    return summed(content)


def reordered(content: bytes, chance: random.Random) -> bytes:
    """A PNG's chunks in another order, some twice, some missing; any other file in stretches of 64 bytes."""
    parts = chunks(content) or [content[at : at + 64] for at in range(0, len(content), 64)]
    start = content[:8] if chunks(content) else b""
    return start + b"".join(chance.choices(parts, k=len(parts)))


MUTATIONS: tuple[Callable[[bytes, random.Random], bytes], ...] = (
    flipped,
    flipped_in_front,
    truncated,
    spliced,
    lengthened,
    shortened,
    repeated,
    swapped,
    extreme,
    resized,
    reordered,
)


def chunks(content: bytes) -> list[bytes]:
    """A PNG's chunks, as far as they can be told apart; none of another file."""
    found, at = [], 8
    while content.startswith(b"\x89PNG") and at + 12 <= len(content):
        end = at + 12 + int.from_bytes(content[at : at + 4], "big")
        found.append(content[at:end])
        at = end
    return found


def summed(content: bytes) -> bytes:
    """A PNG whose chunks have the check sums of what they hold; any other file as it is."""
    parts = [part[:-4] + struct.pack(">I", zlib.crc32(part[4:-4])) for part in chunks(content)]
    return content[:8] + b"".join(parts) if parts else content


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, depth: int, colour: int, pixels: bytes, between: bytes = b"") -> bytes:
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + between + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def zeros(count: int) -> bytes:
    """So many zeros, deflated."""
    squeeze, block = zlib.compressobj(1), bytes(1 << 20)
    parts = [squeeze.compress(block[: min(len(block), count - at)]) for at in range(0, count, len(block))]
    return b"".join(parts) + squeeze.flush()


def tiff(*directories: tuple[int, list[tuple[int, int, int, int]]], tail: bytes = b"") -> bytes:
    """A little-endian TIFF of directories, one behind the other from byte 8 on.

    Args:
        directories: the offset of the one that is read next, and entries of tag, type, count and value.
        tail: what follows them.
    """
    parts = [struct.pack("<2sHI", b"II", 42, 8)]
    for following, entries in directories:
        parts.append(struct.pack("<H", len(entries)))
        parts += [struct.pack("<HHII", *entry) for entry in entries]
        parts.append(struct.pack("<I", following))
    return b"".join(parts) + tail


def grey(width: int, height: int, **other: int) -> list[tuple[int, int, int, int]]:
    """The entries of a plain grey TIFF."""
    tags = {256: width, 257: height, 258: 8, 259: 1, 262: 1, 273: 200, 277: 1, 278: height, 279: width * height}
    tags |= {int(tag[1:]): value for tag, value in other.items()}
    return [(tag, 4, 1, value) for tag, value in sorted(tags.items())]


def plain(kind: str, size: tuple[int, int], mode: str = "RGB", **options: Any) -> bytes:
    sink = io.BytesIO()
    Image.new(mode, size).save(sink, kind, **options)
    return sink.getvalue()


def scans(times: int, size: tuple[int, int]) -> bytes:
    """A progressive JPEG whose last scan comes many times: each goes over all of the picture."""
    content = plain("JPEG", size, "L", progressive=True)
    last = content.rindex(b"\xff\xda")
    return content[:-2] + content[last:-2] * times + b"\xff\xd9"


def frames(count: int) -> bytes:
    """A GIF of many frames."""
    head = b"GIF89a" + struct.pack("<HHBBB", 8, 8, 0x80, 0, 0) + bytes(6)
    frame = b"," + struct.pack("<HHHHB", 0, 0, 8, 8, 0) + b"\x02\x03\x44\x02\x05\x00"
    return head + frame * count + b";"


def runs(width: int, height: int) -> bytes:
    """A BMP whose every pixel is a run of its own."""
    data = (b"\x01\x02" * width + b"\x00\x00") * height + b"\x00\x01"
    head = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, len(data), 0, 0, 256, 0)
    return b"BM" + struct.pack("<IHHI", 54 + 1024 + len(data), 0, 0, 54 + 1024) + head + bytes(1024) + data


HOSTILE: dict[str, Callable[[], bytes]] = {
    "PNG, 59 megapixels of 1 bit": lambda: png(7_700, 7_700, 1, 0, zeros(7_700 * 964)),
    "PNG, 59 megapixels with transparency": lambda: png(7_700, 7_700, 8, 6, zeros(7_700 * 30_801)),
    "PNG, 59 megapixels of 16 bits": lambda: png(7_700, 7_700, 16, 0, zeros(7_700 * 15_401)),
    "PNG, 59,000,000 × 1": lambda: png(59_000_000, 1, 1, 0, zeros(7_375_001)),
    "PNG, 1 × 59,000,000": lambda: png(1, 59_000_000, 1, 0, zeros(118_000_000)),
    "PNG, more pixels than allowed": lambda: png(0x7FFFFFFF, 0x7FFFFFFF, 8, 6, zeros(1000)),
    "PNG, more bytes than pixels": lambda: png(8, 8, 8, 0, zeros(500_000_000)),
    "PNG, text of 300 MB": lambda: png(8, 8, 8, 0, zeros(72), chunk(b"zTXt", b"words\0\0" + zeros(300_000_000))),
    "PNG, profile of 300 MB": lambda: png(8, 8, 8, 0, zeros(72), chunk(b"iCCP", b"name\0\0" + zeros(300_000_000))),
    "PNG, 200,000 texts": lambda: png(8, 8, 8, 0, zeros(72), chunk(b"tEXt", b"a\0b") * 200_000),
    "JPEG, 59 megapixels": lambda: plain("JPEG", (7_700, 7_700)),
    "JPEG, 16 megapixels in 500 scans": lambda: scans(500, (4_000, 4_000)),
    "JPEG, 59 megapixels in 100 scans": lambda: scans(100, (7_700, 7_700)),
    "WEBP, 59 megapixels": lambda: plain("WEBP", (16_383, 3_600), "RGBA", lossless=True, quality=0, method=0),
    "AVIF, 59 megapixels": lambda: plain("AVIF", (7_700, 7_700), speed=10),
    "GIF, 59 megapixels": lambda: plain("GIF", (7_700, 7_700), "P"),
    "GIF, 100,000 frames": lambda: frames(100_000),
    "BMP, 8 megapixels in runs of one": lambda: runs(4_000, 2_000),
    "TIFF, 59 megapixels deflated": lambda: plain("TIFF", (7_700, 7_700), "L", compression="tiff_adobe_deflate"),
    "TIFF, directories in a circle": lambda: tiff((8, grey(4, 4)), tail=bytes(200)),
    "TIFF, 50,000 directories": lambda: tiff(
        *((8 + (number + 1) * 114, grey(4, 4)) for number in range(50_000)), tail=bytes(200)
    ),
    "TIFF, its directory as its EXIF": lambda: tiff((0, [*grey(4, 4), (34665, 4, 1, 8)]), tail=bytes(200)),
    "TIFF, strips of no height": lambda: tiff((0, grey(7_999, 7_999, t278=0)), tail=bytes(200)),
    "TIFF, an entry of 4 GB": lambda: tiff((0, [*grey(4, 4), (700, 1, 0xFFFFFFFF, 8)]), tail=bytes(200)),
}
"""Files made to take time or memory, each small enough to be fetched."""
