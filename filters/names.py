"""Names of private persons in a caption, and the caption without them."""

import unicodedata
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from importlib.metadata import version
from math import log
from typing import Any, NamedTuple

import pyarrow as pa

from filters.characters import folds, texts
from filters.measure import Columns
from filters.segmentation import frequencies, tags, words
from schemas import identity

MASK = "某人"
"""Someone: the grammar stays, and a text encoder knows the word, while a sign made for it would have to be learnt."""

SURNAMES = frozenset(
    "王李张刘陈杨赵黄周吴徐孙胡朱高林何郭马罗梁宋郑谢韩唐冯于董萧程曹袁邓许傅沈曾彭吕苏卢蒋蔡贾丁魏薛叶阎余潘杜戴夏钟汪田任姜范方石"
    "姚谭廖邹熊金陆郝孔白崔康毛邱秦江史顾侯邵孟龙万段雷钱汤尹黎易常武乔贺赖龚文庞樊兰殷施陶洪翟安颜倪严牛温芦季俞章鲁葛伍韦申尤毕聂"
    "焦向柳邢岳齐梅莫庄辛管祝左涂谷祁耿牟卜詹关苗凌费纪靳盛童欧甄项曲成游裴席卫查屈鲍霍翁甘景单柯阮桂闵解柴华车冉房边辜吉饶刁瞿"
    "戚丘古米池滕晋苑邬臧畅宫来嵺苟全褚廉简娄盖符奚木穆党燕郎邸冀谈姬屠连郜晏栾郁商蒙计揭窦迟宇敖糜鄢冷卓花仇肖闫"
)
COMPOUND = frozenset(
    """
    欧阳 上官 司马 诸葛 东方 皇甫 尉迟 公孙 慕容 司徒 令狐 夏侯 轩辕 端木 南宫 百里 独孤
    """.split()  # noqa: SIM905
)

BEFORE = tuple(
    """
    摄影 摄影师 摄 作者 记者 通讯员 图为 新郎 新娘 同学 选手 演员 模特 歌手 教师 老师 医生 护士 村民 市民 居民 学生
    小学生 大学生 员工 职工 工人 导演 主任 经理 总经理 董事长 校长 院长 局长 书记 教练 队员 队长 民警 女孩 男孩 女生
    男生 姑娘 小伙 老人 司机 店主 老板 设计师 画家 画师 编辑 绘 绘图 供图 校友 妈妈 爸爸 儿子 女儿 妻子 丈夫 朋友
    好友 网友 闺蜜 名叫 叫做 叫 我是 姓名 联系人 志愿者 农民 战士 教授 博士 律师 工程师 主持人 主播 博主 小朋友 宝宝
    孩子 读者 嘉宾 讲师 班主任 候选人 患者 失主 受害人 嫌疑人 配音 翻译 撰文 文
    """.split()  # noqa: SIM905
)
AFTER = tuple(
    """
    先生 女士 小姐 老师 同学 教授 医生 博士 主任 经理 校长 律师 教练 师傅 阿姨 叔叔 大爷 大妈 奶奶 爷爷 摄 摄影 报道
    供图 绘 夫妇 夫妻 一家 的婚礼 婚礼 的婚纱照 婚纱照 的生日 生日 结婚 的毕业照 毕业照 证件照 的证件照 的个人 个人照
    写真 的自拍 自拍 自拍照 的女儿 的儿子 的妈妈 的爸爸 的孩子 的照片 的作品 的家 的朋友圈 小朋友 宝宝 和他 和她 在家
    正在 同志 书记 局长 院长 队长 等人 本人 告诉 介绍
    """.split()  # noqa: SIM905
)
LINKS = tuple("和与、及跟,&")
"""Between two names."""

PUBLIC = frozenset(
    """
    李白 杜甫 王维 白居易 苏轼 苏东坡 李清照 陶渊明 孟浩然 李商隐 王之涣 王昌龄 刘禹锡 柳宗元 韩愈 杜牧 温庭筠 岑参
    高适 贾岛 孟郊 元稹 张九龄 贺知章 骆宾王 王勃 陈子昂 陆游 辛弃疾 王安石 欧阳修 曾巩 柳永 秦观 黄庭坚 范仲淹 晏殊
    岳飞 文天祥 李煜 纳兰性德 曹操 曹植 曹雪芹 施耐庵 罗贯中 吴承恩 蒲松龄 王羲之 颜真卿 柳公权 张择端 顾恺之 吴道子
    阎立本 唐寅 唐伯虎 文徵明 沈周 仇英 徐渭 郑板桥 齐白石 徐悲鸿 张大千 黄宾虹 吴冠中 傅抱石 李可染 潘天寿 林风眠
    黄公望 马远 夏圭 李唐 范宽 郭熙 董其昌 石涛 孔子 孟子 老子 庄子 孙子 秦始皇 武则天 李世民 朱元璋 康熙 乾隆 林则徐
    孙中山 毛泽东 周恩来 邓小平 鲁迅 老舍 巴金 茅盾 冰心 钱学森 袁隆平 屠呦呦 杨利伟 王亚平 莫言 余华 金庸 古龙
    刘慈欣 马云 马化腾 任正非 雷军 姚明 刘翔 李宁 郎平 苏炳添 谷爱凌 全红婵 马龙 张继科 林丹 李娜 孙杨 丁俊晖 成龙
    李小龙 李连杰 甄子丹 刘德华 张学友 郭富城 黎明 周杰伦 王菲 邓丽君 周星驰 周润发 梁朝伟 张国荣 梅艳芳 巩俐 章子怡
    范冰冰 李冰冰 赵薇 周迅 杨幂 刘诗诗 刘亦菲 赵丽颖 杨紫 迪丽热巴 胡歌 霍建华 黄晓明 吴京 沈腾 黄渤 徐峥 葛优
    陈道明 姜文 张艺谋 陈凯歌 冯小刚 王家卫 李安 吴亦凡 鹿晗 易烊千玺 王俊凯 王源 王一博 肖战 蔡徐坤 李宇春 张靓颖
    邓紫棋 林俊杰 陈奕迅 孙燕姿 蔡依林 周深 毛不易 薛之谦 华晨宇 孙悟空 贾宝玉 林黛玉 薛宝钗 王熙凤 刘备 关羽 张飞
    诸葛亮 赵云 孙权 周瑜 吕布 貂蝉 司马懿 宋江 武松 林冲 鲁智深 李逵 白素贞 许仙 祝英台 梁山伯 花木兰 穆桂英 包青天
    包拯 钟馗 郭靖 黄蓉 杨过 张无忌 令狐冲 王昭君 杨贵妃 杨玉环 西施 张三丰 叶问 霍元甲 黄飞鸿 方世玉 白雪公主 熊大
    熊二 雷锋 黄继光 邱少云
    """.split()  # noqa: SIM905
)
"""People and figures that everyone knows: their names say what a picture shows. What jieba knows well is public too."""

KNOWN = 30
"""jieba's frequency from which a person's name is public: 刘德华 has 37, and the many that nobody knows 2 to 5."""

ENOUGH = 4.5
"""The evidence, in natural logarithms, from which a run of characters is a name."""


class Odds(NamedTuple):
    """How much likelier a character is in a name than in other words, as a natural logarithm."""

    surname: dict[str, float]
    given: dict[str, float]


@lru_cache(maxsize=1)
def odds() -> Odds:
    """From jieba's dictionary: its persons' names against the characters of all its other words."""
    surnames: Counter[str] = Counter()
    given: Counter[str] = Counter()
    others: Counter[str] = Counter()
    for word, (frequency, tag) in frequencies().items():
        first = _surname(word)
        if tag == "nr" and first and 1 <= len(word) - len(first) <= 2:
            surnames[first[0]] += 1
            given.update(word[len(first) :])
        else:
            for character in word:
                others[character] += frequency
    return Odds(_log_ratio(surnames, others), _log_ratio(given, others))


def _log_ratio(these: Counter[str], others: Counter[str]) -> dict[str, float]:
    few, many = these.total(), others.total()
    return {
        character: max(-4.0, min(4.0, log((count + 0.5) / few) - log((others[character] + 20) / many)))
        for character, count in these.items()
    }


def _surname(text: str) -> str:
    """The surname that a text begins with, or an empty text."""
    if text[:2] in COMPOUND:
        return text[:2]
    return text[:1] if text[:1] in SURNAMES else ""


def evidence(text: str, start: int, end: int, tagged: bool) -> float:
    """How much speaks for `text[start:end]` as a private person's name, in natural logarithms.

    Args:
        text: in Simplified script.
        tagged: whether jieba takes it for a name.
    """
    name = text[start:end]
    surname = _surname(name)
    given = name[len(surname) :]
    frequency, tag = frequencies().get(name, (0, ""))
    if given in AFTER:  # a surname with a title
        return -100.0
    if name in PUBLIC or (frequency and (not tag.startswith("nr") or frequency >= KNOWN)):
        return -100.0
    value = 3.0 if len(surname) == 2 else odds().surname.get(surname, -4.0)
    value += sum(odds().given.get(character, -4.0) for character in given)
    value += 1.5 * tagged
    if len(given) == 2 and given[0] == given[1]:
        value += 1.0
    word_frequency, word_tag = frequencies().get(given, (0, ""))
    if len(given) == 2 and word_frequency and not word_tag.startswith("nr"):
        value -= 3.0
    opening_frequency, opening_tag = frequencies().get(name[:2], (0, ""))
    if len(name) > 2 and (
        name[:2] in PUBLIC or opening_frequency >= KNOWN or (opening_frequency and opening_tag != "nr")
    ):
        value -= 4.0
    before, after = text[max(0, start - 10) : start].rstrip(" :·/(-—_|"), text[end : end + 10]
    if before.endswith(BEFORE):
        value += 3.5
    if after.lstrip(" )").startswith(AFTER):
        value += 3.0
    if len(given) == 1:
        value -= 1.0
    return value


def names(text: str, tokens: Sequence[tuple[int, int, str]]) -> list[tuple[int, int]]:
    """Where private persons' names stand in a text in Simplified script, from the left.

    Args:
        tokens: jieba's words as start, end and tag.
    """
    edges = {0, len(text)}
    nr = set()
    for start, end, tag in tokens:
        dictionary = text[start:end] in frequencies()
        edges |= {start, end} if dictionary else set(range(start, end + 1))
        if tag == "nr":
            nr.add((start, end))
    candidates: list[tuple[float, bool, int, int]] = []
    for start in sorted(edges):
        surname = _surname(text[start : start + 2])
        for length in (1, 2) if surname else ():
            end = start + len(surname) + length
            if text[start:end].isalpha() and (end in edges or (end < len(text) and end - 1 in edges)):
                value = evidence(text, start, end, (start, end) in nr) - (0.0 if end in edges else 2.0)
                linked = text[max(0, start - 1) : start] in LINKS or text[end : end + 1] in LINKS
                candidates.append((value, linked, start, end))
    candidates.sort(key=lambda candidate: (-candidate[0], candidate[2]))
    taken: list[tuple[int, int]] = []
    free = [True] * len(text)
    for bonus in (0.0, 2.0):  # beside a name, a weaker one is believed
        for value, linked, start, end in candidates:
            if value + (bonus if linked and taken else 0.0) >= ENOUGH and all(free[start:end]):
                taken.append((start, end))
                free[start:end] = [False] * (end - start)
    return sorted(taken)


class Names:
    """How many private persons a caption names, and the caption, after `normalised`, with each name as `MASK`.

    `masked` is null where there is none. Names are Chinese, a surname with one or two characters; who is in `PUBLIC`,
    or well known to jieba, is not private, nor is a surname with a title.
    """

    name = "names"
    columns = pa.schema({"count": pa.int32(), "masked": pa.string()})
    wants: tuple[str, ...] = ()

    def fingerprint(self) -> str:
        return identity.fingerprint(
            name=self.name,
            version=1,
            unicode=unicodedata.unidata_version,
            jieba=version("jieba"),
            opencc=version("opencc-python-reimplemented"),
        )

    def __call__(self, captions: Sequence[str], wanted: dict[str, Sequence[Any]]) -> Columns:
        batch = texts(captions)
        folded = folds()[batch.codes]
        tokens: list[list[tuple[int, int, str]]] = [[] for _ in captions]
        starts, ends, kinds = words(folded)
        places = batch.bounds.searchsorted(starts, side="right") - 1
        firsts = batch.bounds[places]
        of_kind = tags()
        for place, start, end, kind in zip(
            places.tolist(), (starts - firsts).tolist(), (ends - firsts).tolist(), kinds.tolist(), strict=True
        ):
            tokens[place].append((start, end, of_kind[kind]))
        joined = folded.tobytes().decode("utf-32-le", "surrogatepass")
        bounds = batch.bounds.tolist()
        counts: list[int] = []
        captions_masked: list[str | None] = []
        for place, string in enumerate(batch.strings):
            spans = names(joined[bounds[place] : bounds[place + 1] - 1], tokens[place])
            masked, last = "", 0
            for start, end in spans:
                masked += string[last:start] + MASK
                last = end
            counts.append(len(spans))
            captions_masked.append(masked + string[last:] if spans else None)
        return {"count": counts, "masked": captions_masked}
