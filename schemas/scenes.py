"""The small world of composed scenes: what kinds of things there are, what a scene holds, how it is said in Chinese.

Every property of a composed scene is known, so that what a model draws for a prompt can be checked as GenEval does
(arXiv 2310.11513), in its six categories. The words are here; cut-outs and canvases in `pipelines/scenes.py`.
"""

from dataclasses import dataclass
from random import Random
from typing import Literal, get_args

from schemas.identity import digest

Category = Literal["single", "two", "counting", "colours", "position", "attribution"]
"""GenEval's: one object, two, counting, colours, position, the colour of each of two."""

Side = Literal["left", "right", "above", "below"]

CATEGORIES: tuple[Category, ...] = get_args(Category)
SIDES: tuple[Side, ...] = get_args(Side)
OPPOSITE: dict[Side, Side] = {"left": "right", "right": "left", "above": "below", "below": "above"}
SIDE_WORDS: dict[Side, tuple[str, ...]] = {
    "left": ("左边", "左侧", "左面"),
    "right": ("右边", "右侧", "右面"),
    "above": ("上面", "上方", "上边"),
    "below": ("下面", "下方", "下边"),
}
COLOURS: dict[str, tuple[int, int, int]] = {
    "红": (214, 40, 40),
    "橙": (240, 130, 25),
    "黄": (242, 205, 40),
    "绿": (50, 160, 65),
    "蓝": (40, 95, 215),
    "紫": (130, 60, 180),
    "粉": (245, 140, 180),
    "棕": (125, 80, 45),
    "黑": (45, 45, 48),
    "白": (240, 240, 240),
}
"""GenEval's colours but grey, by the hanzi that stands before 色; the RGB to which a thing is dyed."""
NUMBERS: dict[int, tuple[str, ...]] = {2: ("两", "2"), 3: ("三", "3"), 4: ("四", "4")}


@dataclass(frozen=True)
class Kind:
    """A kind of thing: its names, the usual one first, and its measure word."""

    names: tuple[str, ...]
    measure: str
    dyed: bool = False
    """Whether it is also seen in all colours."""

    @property
    def name(self) -> str:
        """The usual name, by which it is known."""
        return self.names[0]


def _kinds(rows: str) -> tuple[Kind, ...]:
    """A kind a line: names with a slash between, the measure word, `*` where it is dyed."""
    found = []
    for row in rows.split("\n"):
        names, measure, *mark = row.split()
        found.append(Kind(tuple(names.split("/")), measure, mark == ["*"]))
    return tuple(found)


KINDS = _kinds(
    """猫/猫咪/小猫 只 *
狗/小狗/狗狗 只 *
兔子/小兔/白兔子 只
熊猫/大熊猫 只
老虎/虎 只
狮子/雄狮 只
青蛙/蛙 只
猪/小猪 头
奶牛/牛 头
猴子/小猴 只
企鹅/小企鹅 只
鸭子/小鸭 只
鱼/小鱼 条 *
乌龟/龟 只
蝴蝶 只 *
大象/象 头
蜗牛 只
苹果 个 *
香蕉 根
草莓 颗
西瓜 块
葡萄 串
蘑菇/小蘑菇 个 *
生日蛋糕/蛋糕 个
汉堡/汉堡包 个
冰淇淋/雪糕 个
玫瑰/玫瑰花 朵 *
向日葵 朵
松树 棵
汽车/小汽车/轿车 辆 *
公交车/巴士 辆 *
自行车/单车 辆
飞机 架 *
帆船/小船 艘
火箭 枚
气球 个 *
雨伞/伞 把 *
礼帽/帽子 顶 *
钥匙 把
书/书本 本 *
吉他 把 *
足球 个
篮球 个
房子/小屋/房屋 座 *
椅子 把 *
杯子/茶杯 个 *
星星/五角星 颗 *
月亮/弯月 轮
爱心/心 颗 *
鞋子/运动鞋 只 *"""
)
"""What scenes are made of."""

BY_NAME = {kind.name: kind for kind in KINDS}
DYED = tuple(kind for kind in KINDS if kind.dyed)
SHARES = (0.12, 0.16, 0.2, 0.14, 0.2, 0.18)
"""How often each category is among training scenes: more where there is more to learn."""
HELD_OUT = 8
"""One in so many pairs of kinds is in no training scene."""


@dataclass(frozen=True)
class Thing:
    """One kind in a scene, as often as `count` says, in its own colours or dyed."""

    kind: Kind
    colour: str | None = None
    count: int = 1


@dataclass(frozen=True)
class Scene:
    """What is to be seen: one or two things, and where the first is, seen from the second, if that is asked."""

    category: Category
    things: tuple[Thing, ...]
    side: Side | None = None


def held_out(one: str, other: str) -> bool:
    """Whether two kinds, in any order, stand together in no training scene."""
    return digest(" ".join(sorted((one, other))).encode())[0] % HELD_OUT == 0


def unseen(scene: Scene) -> bool:
    """Whether a scene has two kinds that training scenes must not show together."""
    kinds = [thing.kind.name for thing in scene.things]
    return len(kinds) == 2 and held_out(*kinds)


def draw(category: Category, random: Random) -> Scene:
    """A scene of a category by chance; the colours that its things may bear beyond what is asked included.

    In a position every third thing that can be dyed is, so that 红苹果在猫的左边 is in the world too.
    """
    if category == "single":
        return Scene(category, (Thing(random.choice(KINDS)),))
    if category == "counting":
        return Scene(category, (Thing(random.choice(KINDS), count=random.choice(list(NUMBERS))),))
    if category == "colours":
        return Scene(category, (_dyed(random.choice(DYED), random),))
    if category == "attribution":
        one, other = random.sample(DYED, 2)
        first, second = random.sample(list(COLOURS), 2)
        return Scene(category, (Thing(one, first), Thing(other, second)))
    one, other = random.sample(KINDS, 2)
    if category == "two":
        return Scene(category, (Thing(one), Thing(other)))
    chances = [(kind, kind.dyed and random.random() < 1 / 3) for kind in (one, other)]
    things = tuple(_dyed(kind, random) if dyed else Thing(kind) for kind, dyed in chances)
    return Scene(category, things, random.choice(SIDES))


def _dyed(kind: Kind, random: Random) -> Thing:
    return Thing(kind, random.choice(list(COLOURS)))


def caption(scene: Scene, random: Random) -> str:
    """A scene said in Chinese, by one of many templates and synonyms."""
    first, *rest = scene.things
    if not rest:
        template = random.choice(("{}", "{}", "图中有{}", "{}的图片", "画面里是{}", "这是{}"))
        return template.format(_counted(first, random))
    second = rest[0]
    if scene.side is None:
        one, other = (_counted(thing, random) for thing in random.sample(scene.things, 2))
        template = random.choice(("{}和{}", "{}与{}", "{}跟{}", "图中有{}和{}", "{}，{}", "有{}，也有{}"))
        return template.format(one, other)
    side, opposite = (random.choice(SIDE_WORDS[where]) for where in (scene.side, OPPOSITE[scene.side]))
    plain, other = _named(first, random), _named(second, random)
    counted, other_counted = _counted(first, random), _counted(second, random)
    return random.choice(
        (
            f"{plain}在{other}的{side}",
            f"{plain}在{other}{side}",
            f"{counted}在{other_counted}的{side}",
            f"{other}的{side}有{counted}",
            f"{other}{side}是{plain}",
            f"{other}在{plain}的{opposite}",
            f"{side}是{plain}，{opposite}是{other}",
        )
    )


def _named(thing: Thing, random: Random) -> str:
    """A thing's name, with its colour: 红苹果, 红色的苹果."""
    name = random.choice((thing.kind.name, *thing.kind.names))
    return f"{_coloured(thing.colour, random)}{name}" if thing.colour else name


def _coloured(colour: str, random: Random) -> str:
    return random.choice((f"{colour}色的", f"{colour}色", colour if colour not in "棕" else f"{colour}色的"))


def _counted(thing: Thing, random: Random) -> str:
    """A thing with its number and measure word; a single one often without: 一个苹果, 苹果, 三个苹果."""
    if thing.count == 1:
        number = random.choice(("", f"一{thing.kind.measure}"))
    else:
        number = random.choice(NUMBERS[thing.count]) + thing.kind.measure
    return number + _named(thing, random)


def prompts(category: Category, count: int, seed: int = 0) -> list[tuple[Scene, str]]:
    """Scenes to be asked for and how, always the same for a seed; no text twice.

    Two kinds are always a pair that no training scene shows.
    """
    random = Random(f"{category} {seed}")
    asked: dict[str, Scene] = {}
    while len(asked) < count:
        scene = draw(category, random)
        if category == "position":
            scene = Scene(category, tuple(Thing(thing.kind) for thing in scene.things), scene.side)
        if len(scene.things) == 1 or unseen(scene):
            asked.setdefault(caption(scene, random), scene)
    return [(scene, text) for text, scene in asked.items()]


def training(seed: int, number: int) -> tuple[Scene, str]:
    """The training scene of a number and its caption; none shows what is held out."""
    random = Random(f"training {seed} {number}")
    scene = draw(random.choices(CATEGORIES, SHARES)[0], random)
    while unseen(scene):
        scene = draw(random.choices(CATEGORIES, SHARES)[0], random)
    return scene, caption(scene, random)
