"""Names of private persons: found and masked in captions that were written for it, half of them never looked at."""

import random
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from filters.names import MASK, Names
from filters.segmentation import frequencies

# A name that is to be found stands in brackets. The first half was used to choose the rules, the second was not.
TUNED = """
摄影:[张建国]
新郎[李明]和新娘[王芳]的婚纱照
小学生[王小明]在操场上跑步
[陈晓燕]老师给孩子们上课
记者[刘志强]摄
[赵丽华]女士在花园里浇花
图为村民[孙大海]正在收割水稻
我和闺蜜[周雨欣]的自拍
[吴俊杰]小朋友的生日蛋糕
[郑文博]毕业照
模特[林雅婷]穿红色连衣裙
医生[黄志明]为病人检查
[徐佳怡]和[马浩然]的婚礼现场
校长[何国栋]在开学典礼上讲话
作者[高翔宇] 水彩画
[罗美玲]在海边散步
[梁子涵]同学获得一等奖
市民[宋佳]在公园跳舞
教练[韩雪峰]指导队员训练
司机[唐永胜]站在卡车旁
[冯小雨]的照片
画家[董文华]在画室作画
[陳美玲]小姐在咖啡店
攝影師[張志豪]的作品
[欧阳雪梅]在图书馆看书
学生[曹思远]在做实验
[邓佳琪]写真
快递员[许志刚]在送货
[沈梦洁]弹钢琴
[彭宇航]在踢足球
一只橘猫趴在窗台上晒太阳
李白醉酒图
杜甫草堂的秋天
黄山云海日出
金色的麦田和蓝天
白马在草原上奔跑
石桥下的小河
红色连衣裙的女孩
马路边的梧桐树
高楼大厦的夜景
孙悟空大闹天宫剪纸
林黛玉葬花工笔画
周杰伦演唱会现场
齐白石虾图
江南水乡的小船
田野里的油菜花
花瓶里的百合花
王先生在喝茶
老王家的包子铺
安静的小镇街道
龙舟比赛
雷雨中的城市
夏天的荷塘
熊猫吃竹子
牛肉面配青菜
方形木桌和四把椅子
钟楼在夕阳下
米饭和红烧肉
诸葛亮草船借箭插画
毛绒玩具小熊
万里长城雪景
秦始皇兵马俑
白云飘过山顶
常见的多肉植物
温暖的阳光照进房间
"""

UNSEEN = """
摄影师[周建平]在雪山下
新娘[刘婷婷]穿着白色婚纱
[王志远]先生与[李秀英]女士的结婚照
班主任[张秀兰]和学生合影
通讯员[陈立新]摄
[杨晓东]正在修理自行车
小女孩[林诗涵]抱着布娃娃
[朱婉清]的证件照
护士[何晓玲]给老人量血压
[郭子轩]宝宝满月照
[谢文静]在舞台上唱歌
农民[马德福]站在果园里
设计师[苏雨晴]的新作品
[卢伟东]骑山地车
[蒋雪莹]和[蔡明轩]在草地上野餐
民警[丁国庆]帮助迷路儿童
[魏晨曦]画的向日葵
[薛志鹏]教授在讲课
[叶子萱]自拍
女生[潘晓琳]在樱花树下
退休工人[杜长林]下象棋
[戴安琪]个人照
[夏雨荷]在湖边写生
队长[钟志伟]举起奖杯
[范思琪]小朋友在堆雪人
[林志偉]老師在黑板前
[黃淑芬]的全家福
[司马晓云]女士
总经理[姜海涛]出席活动
[余欢]在跑马拉松
黑猫坐在屋顶上
苏轼赤壁怀古书法
王羲之兰亭序拓片
金鱼在水中游动
高铁驶过大桥
白色瓷碗里的汤圆
黄色向日葵特写
花木兰动画海报
刘德华电影剧照
姚明投篮瞬间
关羽雕像
石狮子守在门口
梅花在雪中开放
江边的渔船
方便面和鸡蛋
马拉松比赛起点
万圣节南瓜灯
田园风格的客厅
古镇的石板路
李子树上结满果子
桃花盛开的山谷
杨柳依依的河岸
张灯结彩的街道
成都火锅
武汉长江大桥夜景
康乃馨花束
张老师在办公室
叶子上的露珠
安全帽和手套
文房四宝
林间小路洒满阳光
龙凤呈祥剪纸
温泉酒店
柳树下的长椅
明月照在湖面上
贾宝玉和林黛玉剪影
"""


def cases(block: str) -> list[tuple[str, str, int]]:
    """Caption, what it should become, and how many names it has."""
    found = []
    for line in block.split("\n"):
        if line:
            masked, rest = "", line
            while "[" in rest:
                head, _, rest = rest.partition("[")
                masked, rest = masked + head + MASK, rest.partition("]")[2]
            found.append((line.replace("[", "").replace("]", ""), masked + rest, line.count("[")))
    return found


def precision_and_recall(block: str) -> tuple[float, float]:
    """A name is right where its whole caption came out as it should."""
    gold = cases(block)
    columns = Names()([caption for caption, _, _ in gold], {})
    found, names = sum(columns["count"]), sum(count for _, _, count in gold)
    right = 0
    for (caption, wanted, count), masked in zip(gold, columns["masked"], strict=True):
        right += count if (masked or caption) == wanted else 0
    return right / found, right / names


@pytest.mark.parametrize(("block", "precision", "recall"), [(TUNED, 0.98, 0.98), (UNSEEN, 0.93, 0.90)])
def test_names_are_found_as_well_as_the_documentation_says(block: str, precision: float, recall: float) -> None:
    measured = precision_and_recall(block)
    assert measured[0] >= precision and measured[1] >= recall, measured


def test_there_are_captions_enough_to_say_so() -> None:
    assert len(cases(TUNED)) + len(cases(UNSEEN)) >= 120
    assert not {caption for caption, _, _ in cases(TUNED)} & {caption for caption, _, _ in cases(UNSEEN)}


def test_what_stands_around_a_name_stays() -> None:
    assert Names()(["ＡＢ 新郎李明和新娘王芳的婚纱照", "李白", ""], {}) == {
        "count": [2, 0, 0],
        "masked": [f"AB 新郎{MASK}和新娘{MASK}的婚纱照", None, None],
    }


def test_a_mask_is_no_name() -> None:
    masked = [masked for _, masked, _ in cases(TUNED + UNSEEN)]
    twice = Names()(masked, {})
    assert sum(twice["count"]) <= 2


def test_ghosts_are_rare_among_dictionary_words() -> None:
    """Strings of common nouns, verbs, adjectives and idioms hold no one."""
    kinds = {kind: [] for kind in "nvail"}
    for word, (frequency, tag) in frequencies().items():
        if frequency >= 20 and (tag == "n" or tag[0] in "vail"):
            kinds[tag[0]].append(word)
    rng = random.Random(1)
    captions = [
        "".join(rng.choice(kinds[kind]) for kind in rng.choice(["an", "nvn", "ani", "lnn"])) for _ in range(2000)
    ]
    assert sum(count > 0 for count in Names()(captions, {})["count"]) <= 20


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.text(max_size=20) | st.text(st.sampled_from("王李张伟小明芳丽和的、摄影先生 a\n"), max_size=12), max_size=6
    )
)
def test_a_caption_gives_the_same_row_whatever_the_batch(captions: list[str]) -> None:
    together = Names()(captions, {})
    for index, caption in enumerate(captions):
        alone = Names()([caption], {})
        assert (together["count"][index], together["masked"][index]) == (alone["count"][0], alone["masked"][0])


@pytest.mark.parametrize("piece", ["王", "李明", "摄影:张伟", "王王和", "龘"])
def test_long_runs_of_surnames_end(piece: str) -> None:
    Names()([""], {})
    begun = time.process_time()
    Names()([piece * (20_000 // len(piece))], {})
    assert time.process_time() - begun < 2
