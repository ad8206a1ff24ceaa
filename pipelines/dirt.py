"""What is wrong with pictures and captions of the mini web: each kind a pure function of what it spoils and a seed."""

import hashlib
import io
import unicodedata
from collections.abc import Callable, Sequence
from typing import TypeVar

from opencc import OpenCC
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from filters.picture import decode
from pipelines.material import Pair

BLOCK = 200
CAPTION_DIRT = {
    "wrong": 6,
    "advert": 4,
    "traditional": 4,
    "latin": 3,
    "boilerplate": 6,
    "filename": 4,
    "empty": 4,
}
"""Pages in every BLOCK whose own picture has such words in place of its own. `wrong`: those of another picture."""
DAMAGE = {"truncated": 2, "missing": 3, "html": 2, "watermark": 4, "blur": 3}
"""Pages in every BLOCK whose own picture is served so. `missing`: 404; `html`: a page that calls itself image/jpeg."""
EXTRAS = {"reencoded": 5, "resized": 5, "cropped": 4, "copy": 4, "tracker": 3, "banner": 2, "private": 2}
"""Pages in every BLOCK with a second picture: a copy of one on an earlier page, something that is no content, or one
that robots.txt forbids."""
BOILERPLATE = ("点击查看大图", "图片加载中", "暂无图片说明", "配图来自网络")
ADVERTS = (
    "{}图片大全，加微信 tupian{:04} 免费领取",
    "高清{}素材低价批发，电话13800138000，编号{:04}",
    "{}壁纸下载 www.example.com/vip{:04}",
    "厂家直销{}，型号{:04}，QQ：10001，微信同号 13800138000",
)
FILE_NAMES = ("IMG_{:04}.JPG", "DSC_{:04}.jpg", "微信图片_20240713{:04}.png", "屏幕截图({:04}).png")

Choice = TypeVar("Choice")


def chance(*about: str) -> bytes:
    """Bytes that look like chance and depend on nothing but what they are about."""
    return hashlib.sha256("\n".join(about).encode()).digest()


def draw(bound: int, *about: str) -> int:
    """A number from 0 to below `bound` that depends on nothing but what it is about."""
    return int.from_bytes(chance(*about)) % bound


def pick(options: Sequence[Choice], *about: str) -> Choice:
    """One of the options, by what the choice is about."""
    return options[draw(len(options), *about)]


def words(pair: Pair, seed: str) -> str:
    """The pair's own words, as one of the ways in which sites write them."""
    forms = [pair.caption, "，".join([pair.caption, *pair.tags[:4]])]
    if len(pair.caption) <= 8 and pair.caption.isalpha() and not pair.caption.startswith("一"):
        forms.append(f"一张{pair.caption}的图片")
    return pick(forms, seed, "words")


def spoiled_words(kind: str, pair: Pair, seed: str) -> str:
    """Words of a kind of CAPTION_DIRT for a pair; not for `wrong`, which needs a second one."""
    number = draw(10_000, seed, "number")
    match kind:
        case "advert":
            return pick(ADVERTS, seed, "advert").format(pair.caption, number)
        case "traditional":
            return f"一張{pair.traditional or OpenCC('s2t').convert(pair.caption)}的圖片"
        case "latin":
            return f"{_english(pair)} stock photo"
        case "boilerplate":
            return pick(BOILERPLATE, seed, "boilerplate")
        case "filename":
            return pick(FILE_NAMES, seed, "filename").format(number)
    return ""


def published(pair: Pair) -> bytes:
    """The file that the mini web shows for a pair: most as they are, some flattened on white as a site would."""
    content = pair.picture.read_bytes()
    form = published_suffix(pair)
    return content if form == pair.picture.suffix else _encode(_flat(content), form, 92)


def published_suffix(pair: Pair) -> str:
    """The suffix of what `published` gives: a twelfth become JPEG, a twelfth PNG."""
    return pick([pair.picture.suffix] * 10 + [".jpg", ".png"], pair.caption, pair.picture.name, "form")


def spoiled_picture(kind: str, content: bytes, seed: str) -> bytes:
    """A picture file spoiled in a way of DAMAGE or EXTRAS; JPEG, but for `truncated`, which cuts the file as it is."""
    if kind == "truncated":
        return content[: len(content) * (40 + draw(30, seed, "cut")) // 100]
    image = _flat(content)
    if kind == "reencoded":
        return _encode(image, ".jpg", 40 + draw(51, seed, "quality"))
    return _encode(SPOILERS[kind](image, seed), ".jpg", 88)


def tracker() -> bytes:
    """The one pixel with which sites count their readers."""
    return _encode(Image.new("P", (1, 1)), ".gif", 0)


def banner(seed: str) -> bytes:
    """An advertisement of 970 × 97 pixels."""
    ground = Image.linear_gradient("L").rotate(90).resize((970, 97)).convert("RGB")
    colour = Image.new("RGB", ground.size, f"hsl({draw(360, seed, 'hue')}, 90%, 45%)")
    image = Image.blend(ground, colour, 0.7)
    text = f"SALE {10 * (1 + draw(9, seed, 'sale'))}% OFF   www.example.com   CLICK HERE"
    ImageDraw.Draw(image).text((485, 48), text, "white", ImageFont.load_default(40), anchor="mm")
    return _encode(image, ".png", 0)


def _resized(image: Image.Image, seed: str) -> Image.Image:
    """From 0.4 to 2 times the size, but never about the same size."""
    percent = pick([*range(40, 81), *range(125, 201)], seed, "scale")
    size = (max(1, image.width * percent // 100), max(1, image.height * percent // 100))
    return image.resize(size, Image.Resampling.LANCZOS)


def _cropped(image: Image.Image, seed: str) -> Image.Image:
    """Without 4–10 % of the width and of the height, shared between the two sides by chance."""
    width, height = (side - side * (4 + draw(7, seed, "crop")) // 100 for side in image.size)
    left, top = draw(image.width - width + 1, seed, "left"), draw(image.height - height + 1, seed, "top")
    return image.crop((left, top, left + width, top + height))


def _watermarked(image: Image.Image, seed: str) -> Image.Image:
    """With a band of Latin text across the middle, and the site's name in a corner."""
    text = f"www.example.com  NO.{draw(10_000, seed, 'number'):04}"
    size = max(8, image.width // 16)
    font = ImageFont.load_default(size)
    layer = Image.new("RGBA", image.size)
    pen = ImageDraw.Draw(layer)
    middle = image.height // 2
    pen.rectangle((0, middle - size, image.width, middle + size), fill=(0, 0, 0, 110))
    pen.text((image.width / 2, middle), text, (255, 255, 255, 230), font, anchor="mm")
    pen.text((image.width - 4, image.height - 4), "EXAMPLE 2024", (128, 128, 128, 200), font, anchor="rs")
    return Image.alpha_composite(image.convert("RGBA"), layer).convert("RGB")


def _blurred(image: Image.Image, seed: str) -> Image.Image:
    """So heavily that the shape alone is left."""
    return image.filter(ImageFilter.GaussianBlur(max(image.size) * (5 + draw(5, seed, "blur")) / 100))


SPOILERS: dict[str, Callable[[Image.Image, str], Image.Image]] = {
    "resized": _resized,
    "cropped": _cropped,
    "watermark": _watermarked,
    "blur": _blurred,
}


def _flat(content: bytes) -> Image.Image:
    return Image.fromarray(decode(content).pixels)


def _encode(image: Image.Image, suffix: str, quality: int) -> bytes:
    file = io.BytesIO()
    image.save(file, Image.registered_extensions()[suffix], quality=quality)
    return file.getvalue()


def _english(pair: Pair) -> str:
    """The Unicode name of an emoji, the file's name as words for a stamp."""
    stem = pair.picture.stem
    if pair.source == "fluent-emoji":
        return unicodedata.name(chr(int(stem.partition("-")[0], 16)), "Emoji").capitalize()
    return stem.replace("_", " ").replace("-", " ").capitalize()
