"""A picture from anywhere becomes upright RGB, or one line that says why not."""

import io
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from filters import picture
from filters.picture import FORMATS, Header, decode, read_header

# pytest puts its own warning filters in the place of the module's.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def red(mode: str = "RGB", size: tuple[int, int] = (40, 20)) -> Image.Image:
    return Image.new("RGB", size, (255, 0, 0)).convert(mode)


@pytest.mark.parametrize(("mode", "kind"), [("RGB", "WEBP"), ("CMYK", "JPEG"), ("P", "GIF"), ("RGBA", "PNG")])
def test_every_mode_becomes_the_same_red(mode: str, kind: str) -> None:
    decoded = decode(encoded(red(mode), kind))
    assert decoded.pixels.shape == (20, 40, 3)
    assert decoded.pixels.dtype == np.uint8
    assert np.abs(decoded.pixels.mean((0, 1)) - [255, 0, 0]).max() < 4


def test_sixteen_bits_are_scaled_not_clipped() -> None:
    ramp = np.linspace(0, 65535, 256, dtype=np.uint16)[None].repeat(4, 0)
    decoded = decode(encoded(Image.fromarray(ramp)))
    assert abs(int(decoded.pixels[0, 128, 0]) - 128) <= 1
    assert decoded.pixels.max() == 255


def test_transparency_is_laid_on_white_and_counted() -> None:
    image = Image.new("RGBA", (10, 10), (0, 0, 255, 255))
    image.paste((0, 0, 0, 0), (0, 0, 10, 4))
    decoded = decode(encoded(image))
    assert decoded.transparent == pytest.approx(0.4)
    assert decoded.pixels[0, 0].tolist() == [255, 255, 255]
    assert decoded.pixels[9, 9].tolist() == [0, 0, 255]


def test_transparent_palette() -> None:
    image = Image.new("P", (4, 2), 1)
    image.putpalette([0, 0, 0, 255, 0, 0])
    image.putpixel((0, 0), 0)
    assert decode(encoded(image, transparency=0)).transparent == pytest.approx(1 / 8)


def rotated(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "AVIF", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_set_upright(kind: str, orientation: int) -> None:
    image = red()
    image.paste("blue", (0, 0, 10, 20))
    as_stored = encoded(image, kind, exif=rotated(orientation))
    if kind == "TIFF":
        as_stored = encoded(image, kind, tiffinfo={0x0112: orientation})
    side = {1: "left", 2: "right", 3: "right", 4: "left", 5: "top", 6: "top", 7: "bottom", 8: "bottom"}[orientation]
    decoded = decode(as_stored)
    assert (decoded.width, decoded.height) == ((20, 40) if side in ("top", "bottom") else (40, 20))
    at = {"left": (10, 2), "right": (10, 37), "top": (2, 10), "bottom": (37, 10)}[side]
    red_green_blue = decoded.pixels.astype(int)
    assert red_green_blue[at][2] > 200 and red_green_blue[at][0] < 60
    assert (red_green_blue[..., 2] > 128).mean() == pytest.approx(0.25, abs=0.03)
    header = read_header(as_stored)
    sides = (header.width, header.height)
    assert (sides[::-1] if header.orientation > 4 else sides) == (decoded.width, decoded.height)


def test_an_animation_is_its_first_frame() -> None:
    frames = [red(), Image.new("RGB", (40, 20), "blue")]
    decoded = decode(encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]))
    assert decoded.pixels[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("content", [b"", b"<html>not found</html>", b"\x89PNG\r\n\x1a\n" + b"\0" * 40])
def test_what_is_no_picture_is_one_line(content: bytes) -> None:
    with pytest.raises(ValueError, match=r"^cannot be decoded: [^\n]+$"):
        decode(content)


def test_truncated_is_one_line() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    for kind in ("PNG", "JPEG", "WEBP"):
        content = encoded(Image.fromarray(noise), kind)
        with pytest.raises(ValueError, match=r"^cannot be decoded: [^\n]+$"):
            decode(content[: len(content) // 2])


def test_too_many_pixels_are_refused_before_they_are_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(picture, "MAX_PIXELS", 799)
    with pytest.raises(ValueError, match="40×20 is more than 799 pixels"):
        decode(encoded(red()))


def test_a_jpeg_of_endless_scans_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    content = encoded(red(), "JPEG", progressive=True)
    last = content[content.rindex(b"\xff\xda") : -2]
    monkeypatch.setattr(picture, "MAX_SCANNED", 40 * 20 * 20)
    assert decode(content).pixels.shape == (20, 40, 3)
    with pytest.raises(ValueError, match=r"10\d scans of 40×20 pixels are too many"):
        decode(content[:-2] + last * 90 + content[-2:])


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "L", "I;16"])
def test_strips_make_no_difference(monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
    levels = np.random.default_rng(0).integers(0, 256, (37, 23, 4), dtype=np.uint8)
    image = Image.fromarray(levels[:, :, :3] if mode == "RGB" else levels)
    if mode not in ("RGB", "RGBA"):
        image = (
            image.convert("RGB").convert(mode)
            if mode != "I;16"
            else Image.fromarray(levels[:, :, 0].astype("<u2") * 256)
        )
    content = encoded(image, "PNG", **({"transparency": 7} if mode == "P" else {}))
    whole = decode(content)
    monkeypatch.setattr(picture, "STRIP", 23 * 5)
    strips = decode(content)
    assert np.array_equal(whole.pixels, strips.pixels)
    assert whole.transparent == strips.transparent


@pytest.mark.parametrize("kind", [*FORMATS, "MPO"])
def test_a_header_of_each_format(kind: str) -> None:
    name = "jpeg" if kind == "MPO" else kind.lower()
    several = {"save_all": True, "append_images": [red()]} if kind == "MPO" else {}
    assert read_header(encoded(red(), kind, **several)) == Header(name, 40, 20, 1)


@pytest.mark.parametrize("kind", ["PPM", "TGA", "ICO", "PCX", "SGI", "PDF", "EPS", "JPEG2000"])
def test_other_formats_are_no_pictures(kind: str) -> None:
    content = encoded(red(), kind)
    with pytest.raises(ValueError, match="not a picture"):
        read_header(content)
    with pytest.raises(ValueError, match="cannot be decoded"):
        decode(content)


def test_what_is_no_picture_is_told_by_its_beginning() -> None:
    with pytest.raises(ValueError, match=r"^not a picture: 22 bytes that begin with b'<html>not fo'$"):
        read_header(b"<html>not found</html>")
    with pytest.raises(ValueError, match=r"^not a picture: 0 bytes that begin with b''$"):
        read_header(b"")


def png(width: int, height: int, *chunks: tuple[bytes, bytes]) -> bytes:
    """A grey PNG whose header may say anything."""
    header = (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in (header, *chunks, (b"IEND", b""))
    )


def test_a_header_is_read_without_a_pixel() -> None:
    no_pixels = png(16_000, 10_500, (b"IDAT", b"no such thing"))
    assert read_header(no_pixels, 168_000_000) == Header("png", 16_000, 10_500, 1)
    with pytest.raises(ValueError, match=r"^16000×10500 is more than 60,000,000 pixels$"):
        read_header(no_pixels)
    with pytest.raises(ValueError, match=r"^2147483647×2147483647 is more than "):
        read_header(png(2**31 - 1, 2**31 - 1, (b"IDAT", b"")))


def test_exif_behind_the_pixels_is_not_looked_for() -> None:
    behind = png(
        40, 20, (b"IDAT", zlib.compress(bytes(20 * 41))), (b"eXIf", rotated(6).tobytes().removeprefix(b"Exif\0\0"))
    )
    assert read_header(behind) == Header("png", 40, 20, 1)
    assert decode(behind).pixels.shape == (20, 40, 3)


@pytest.mark.parametrize(
    "exif", [b"Exif\0\0", b"Exif\0\0broken", b"Exif\0\0MM\0*\xff\xff\xff\xff", b"II*\0\x08\0\0\0\xff\xff"]
)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_broken_exif_leaves_the_picture(exif: bytes, kind: str) -> None:
    content = encoded(red(), kind, exif=exif)
    assert read_header(content).orientation == 1
    assert decode(content).pixels.shape == (20, 40, 3)


@pytest.mark.parametrize("orientation", [0, 9, 255])
def test_an_orientation_that_there_is_none_of(orientation: int) -> None:
    assert read_header(encoded(red(), "JPEG", exif=rotated(orientation))).orientation == 1


WHOLE = [
    *(encoded(red(), kind) for kind in FORMATS),
    *(encoded(red(), kind, exif=rotated(6)) for kind in ("JPEG", "PNG", "WEBP", "AVIF", "TIFF")),
    *(
        encoded(red(), kind, save_all=True, append_images=[red()])
        for kind in ("MPO", "PNG", "WEBP", "GIF", "AVIF", "TIFF")
    ),
]
"""A file of each format, with EXIF, with several frames."""


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_a_damaged_file_is_a_picture_or_one_line(data: st.DataObject) -> None:
    content = bytearray(data.draw(st.sampled_from(WHOLE)))
    for _ in range(data.draw(st.integers(1, 8))):
        at = data.draw(st.integers(0, min(len(content), data.draw(st.sampled_from([32, 256, 10_000]))) - 1))
        content[at : at + data.draw(st.integers(0, 4))] = data.draw(st.binary(max_size=4))
        content = content or bytearray(b"\0")
    content = content[: data.draw(st.integers(0, len(content)))]
    try:
        header = read_header(bytes(content), max_pixels=10_000)
    except ValueError as error:
        assert str(error) and "\n" not in str(error)
    else:
        assert header.format.upper() in FORMATS
        assert 1 <= header.width * header.height <= 10_000
        assert 1 <= header.orientation <= 8


def test_nothing_is_said_aside() -> None:
    """No warning and no line of a log, whatever the file."""
    contents = [
        png(10_000, 9_000, (b"IDAT", b"")),
        png(40, 20, (b"acTL", b"\0" * 8), (b"IDAT", b"")),
        encoded(red(), "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\xff"),
        encoded(red(), "TIFF").replace(b"\x15\x01\x03\0\x01\0\0\0\x03", b"\x15\x01\x03\0\x01\0\0\0\x7f"),
    ]
    script = f"""
from filters.picture import decode, read_header
for content in {contents!r}:
    for read in (read_header, decode):
        try:
            read(content)
        except ValueError:
            pass
"""
    said = subprocess.run([sys.executable, "-W", "always", "-c", script], capture_output=True, text=True, check=True)
    assert said.stdout + said.stderr == ""
