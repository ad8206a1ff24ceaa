"""Pictures of composed scenes: cut-outs of known kinds on a soft ground, with where everything stands."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from random import Random
from typing import NamedTuple

import numpy as np
from PIL import Image

from pipelines.material import pairs
from schemas.scenes import COLOURS, Scene, Side, Thing

CUT_OUT = 96
"""The longer side at which cut-outs are kept; scenes shrink them further."""
GROUNDS = (
    (250, 250, 248),
    (226, 238, 246),
    (246, 236, 214),
    (226, 242, 222),
    (244, 226, 232),
    (232, 228, 244),
    (222, 222, 222),
    (250, 244, 196),
)
SPANS = {1: (0.5, 0.72), 2: (0.34, 0.46), 3: (0.3, 0.38), 4: (0.27, 0.34)}
"""Things in a scene → the longer side of each, in sides of the picture."""
GAP = 0.02
"""What lies between two things at least, in sides of the picture."""
EMOJI: dict[str, str] = {
    "猫": "1f431",
    "狗": "1f436",
    "兔子": "1f430",
    "熊猫": "1f43c",
    "老虎": "1f42f",
    "狮子": "1f981",
    "青蛙": "1f438",
    "猪": "1f437",
    "奶牛": "1f42e",
    "猴子": "1f435",
    "企鹅": "1f427",
    "鸭子": "1f986",
    "鱼": "1f420",
    "乌龟": "1f422",
    "蝴蝶": "1f98b",
    "大象": "1f418",
    "蜗牛": "1f40c",
    "苹果": "1f34e",
    "香蕉": "1f34c",
    "草莓": "1f353",
    "西瓜": "1f349",
    "葡萄": "1f347",
    "蘑菇": "1f344",
    "生日蛋糕": "1f382",
    "汉堡": "1f354",
    "冰淇淋": "1f366",
    "玫瑰": "1f339",
    "向日葵": "1f33b",
    "松树": "1f332",
    "汽车": "1f697",
    "公交车": "1f68c",
    "自行车": "1f6b2",
    "飞机": "2708-fe0f",
    "帆船": "26f5",
    "火箭": "1f680",
    "气球": "1f388",
    "雨伞": "2602-fe0f",
    "礼帽": "1f3a9",
    "钥匙": "1f511",
    "书": "1f4d5",
    "吉他": "1f3b8",
    "足球": "26bd",
    "篮球": "1f3c0",
    "房子": "1f3e0",
    "椅子": "1fa91",
    "杯子": "2615",
    "星星": "2b50",
    "月亮": "1f319",
    "爱心": "2764-fe0f",
    "鞋子": "1f45f",
}
"""A kind's picture among the Fluent emoji, by code points."""


class Box(NamedTuple):
    """Where a thing stands, in sides of the picture."""

    left: float
    top: float
    right: float
    bottom: float


class Standing(NamedTuple):
    """A thing of a scene in its place."""

    kind: str
    colour: str | None
    box: Box


def dye(cut_out: Image.Image, colour: tuple[int, int, int]) -> Image.Image:
    """The cut-out in one colour: its lightness, stretched, as a ramp from a dark shade of the colour to a light one."""
    pixels = np.asarray(cut_out, np.float32)
    alpha = pixels[..., 3]
    grey = pixels[..., :3] @ np.array([0.299, 0.587, 0.114], np.float32)
    low, middle, high = np.percentile(grey[alpha > 128], [2, 50, 98])
    steps = np.interp(grey, [low - 1, middle, high + 1], [0.0, 0.55, 1.0])
    target = np.array(colour, np.float32)
    ramp = np.stack([0.35 * target, target, 0.7 * target + 0.3 * 255])
    dyed = np.stack([np.interp(steps, [0, 0.5, 1], ramp[:, channel]) for channel in range(3)], axis=-1)
    return Image.fromarray(np.dstack([dyed, alpha]).round().clip(0, 255).astype(np.uint8), "RGBA")


def emoji(progress: Callable[[str], None]) -> dict[str, Path]:
    """The picture of each kind; fetched on the first call.

    Raises:
        JuZhouError: as `pipelines.material.pairs`.
    """
    files = {pair.picture.stem: pair.picture for pair in pairs(progress) if pair.source == "fluent-emoji"}
    return {kind: files[points] for kind, points in EMOJI.items()}


class Cutouts:
    """The pictures of the kinds, trimmed, in their own colours or dyed."""

    def __init__(self, files: Mapping[str, Path]) -> None:
        self._files = files
        self._found: dict[tuple[str, str | None], Image.Image] = {}

    def __call__(self, kind: str, colour: str | None) -> Image.Image:
        """RGBA, its longer side `CUT_OUT`."""
        if (kind, colour) not in self._found:
            if colour:
                made = dye(self(kind, None), COLOURS[colour])
            else:
                with Image.open(self._files[kind]) as opened:
                    picture = opened.convert("RGBA")
                made = picture.crop(picture.getchannel("A").point(lambda a: 255 * (a > 16)).getbbox())
                scale = CUT_OUT / max(made.size)
                width, height = (max(1, round(side * scale)) for side in made.size)
                made = made.resize((width, height), Image.Resampling.LANCZOS)
            self._found[kind, colour] = made
        return self._found[kind, colour]


def compose(scene: Scene, cutouts: Cutouts, size: int, random: Random) -> tuple[Image.Image, list[Standing]]:
    """A picture of the scene, size × size, and where everything stands in it; things never overlap."""
    singles = [Thing(thing.kind, thing.colour) for thing in scene.things for _ in range(thing.count)]
    while not (placed := _placed(singles, scene.side, cutouts, random)):
        pass
    picture = _ground(size, random)
    for standing in placed:
        cut = cutouts(standing.kind, standing.colour)
        left, top, right, bottom = (round(edge * size) for edge in standing.box)
        shrunk = cut.resize((max(1, right - left), max(1, bottom - top)), Image.Resampling.LANCZOS)
        picture.paste(shrunk, (left, top), shrunk)
    return picture, placed


def _ground(size: int, random: Random) -> Image.Image:
    """One soft colour, or two that run into each other from top to bottom."""
    top = np.array(random.choice(GROUNDS), np.float32)
    bottom = np.array(random.choice(GROUNDS), np.float32) if random.random() < 0.3 else top
    down = np.linspace(0, 1, size, dtype=np.float32)[:, None]
    rows = (1 - down) * top + down * bottom
    return Image.fromarray(np.broadcast_to(rows[:, None], (size, size, 3)).round().astype(np.uint8))


def _placed(things: Iterable[Thing], side: Side | None, cutouts: Cutouts, random: Random) -> list[Standing] | None:
    """One try at places for all; None where they come to overlap or stand wrongly to each other."""
    things = list(things)
    placed: list[Standing] = []
    for thing in things:
        shape = cutouts(thing.kind.name, thing.colour).size
        span = random.uniform(*SPANS[len(things)]) / max(shape)
        width, height = (side * span for side in shape)
        left, top = random.uniform(0.01, 0.99 - width), random.uniform(0.01, 0.99 - height)
        box = Box(left, top, left + width, top + height)
        if any(_overlap(box, other.box) for other in placed):
            return None
        placed.append(Standing(thing.kind.name, thing.colour, box))
    if side and not stands(placed[0].box, placed[1].box, side):
        return None
    return placed


def _overlap(one: Box, other: Box) -> bool:
    return (
        one.left < other.right + GAP
        and other.left < one.right + GAP
        and one.top < other.bottom + GAP
        and other.top < one.bottom + GAP
    )


def stands(one: Box, other: Box, side: Side) -> bool:
    """Whether `one` is clearly on that side of `other`: its centre lies that way more than any other way."""
    x = (one.left + one.right - other.left - other.right) / 2
    y = (one.top + one.bottom - other.top - other.bottom) / 2
    along, across = {"left": (-x, y), "right": (x, y), "above": (-y, x), "below": (y, x)}[side]
    return along > 0.15 and along > 1.5 * abs(across)
