"""Prices and sales talk, which tell of an offer rather than of a picture."""

import re

PRICE = re.compile(
    r"(?:[¥$€£]|(?<![a-z])(?:rmb|cny|usd|hkd|eur|us\$|hk\$|nt\$))\s?\d"
    r"|\d\s?(?:万|千|百|亿)?(?:元(?![素旦宵代朝月年件组音方明])|块钱|块\d|美元|美金|港币|港元|欧元|日元|英镑|人民币|rmb(?![a-z])|usd(?![a-z]))"
    r"|[一二两三四五六七八九十百千万]块[一二三四五六七八九钱]"
)

WORDS = tuple(
    """
    包邮 免邮 邮费 运费 顺丰 快递 发货 现货 有货 货源 货到付款 批发 零售 代理 加盟 招商 代购 代销 团购 拼团 拼单 秒杀
    直销 直营 厂家 厂价 出厂价 供应商 供货 订购 订制 定购 抢购 热卖 热销 爆款 促销 特价 特惠 优惠 优惠券 折扣 打折
    满减 立减 清仓 甩卖 大减价 降价 低价 底价 超值 性价比 价格 报价 询价 比价 售价 原价 现价 单价 市场价 批发价
    会员价 价钱 多少钱 面议 联系电话 咨询 咨询热线 热线 客服 欢迎选购 欢迎咨询 欢迎订购 来电 免费送货 送货上门
    上门安装 售后 售后服务 质保 保修 正品 行货 专柜 专柜正品 官方旗舰店 旗舰店 专卖店 专营店 淘宝 天猫 京东 拼多多
    阿里巴巴 网购 网店 微商 下单 立即购买 点击购买 在线购买 购买 哪里买 买一送一 买一赠一 赠品 送礼 包退 包换
    七天无理由 无理由退换 假一赔十 全国联保 亏本 赔本 跳楼价 限时 限量 限购 新品上市 库存 二手 转让 出售 出租 求购
    回收 收购 租售 首付 月供 分期付款 起批 混批 支持定制 来图定制 加工定制 厂家直销 一件代发 品牌排行榜 生产厂家 扫码
    加微信 关注公众号 公众号 领券 红包 返现 免费领取 点击领取 内部价
    """.split()  # noqa: SIM905
)
"""Simplified. Each one also stands in innocent captions; several in one caption hardly do."""


def price(text: str, numerals: int) -> bool:
    """A sum of money, a banknote's value too: ¥199, 99元, 九块九. `numerals`: its digits and Chinese numerals."""
    return (numerals > 0 or "块" in text) and PRICE.search(text) is not None
