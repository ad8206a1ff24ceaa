"""What is read from a page: right characters, whole URLs, words where they stand, and nothing that hurts."""

import time
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.page import MAX_ENTRIES, MAX_WORDS, Page, read_page
from schemas.tables import FOUND

UA = "JuZhou/0.1 (+https://corpus.example/bot)"
URL = "http://a.example/dir/page"
CC = "https://creativecommons.org/licenses/by/4.0/"

PAGE = """<!doctype html><html><head><meta charset="{charset}"><link rel="license" href="/licence"></head><body>
<a href="/next#part">下</a> <a href="/next">again</a>
<a href="http://elsewhere.example/">x</a> <a href="mailto:a@b.c">y</a>
<a href="http://[broken">z</a> <img src="http://[broken">
<img src="/a.png" alt=" {apple[0]} {apple[1]}
"> <img src="b.png" title="{flower}" alt="">
<figure><img src="c.png"><figcaption>{cat[0]}<b>{cat[1]}</b></figcaption></figure>
<img src="d.png"><img src="data:image/gif;base64,R0lGODlhAQABAAAAACw="><img alt="x">
</body></html>"""
SIMPLIFIED = {"apple": ("红", "苹果"), "flower": "蓝花", "cat": ("一只", "猫")}
TRADITIONAL = {"apple": ("紅", "蘋果"), "flower": "藍花", "cat": ("一隻", "貓")}


def read(html: str, url: str = URL) -> Page:
    return read_page(html.encode(), url, "text/html; charset=utf-8", UA)


def pictures(html: str) -> list[dict[str, Any]]:
    return read(html).pictures


def urls(html: str) -> list[str]:
    """Of the pictures, below the folder of the page where they are."""
    return [picture["url"].removeprefix("http://a.example/dir/") for picture in pictures(html)]


def captions(html: str) -> list[tuple[str, str]]:
    return [(picture["caption"], picture["caption_from"]) for picture in pictures(html)]


@pytest.mark.parametrize(
    ("charset", "words"),
    [
        ("utf-8", SIMPLIFIED),
        ("gb18030", SIMPLIFIED),
        ("gb2312", SIMPLIFIED),
        ("big5", TRADITIONAL),
        ("utf-16", SIMPLIFIED),
    ],
    ids=lambda value: str(value)[:7],
)
@pytest.mark.parametrize("declared", ["header", "page", "nowhere"])
def test_what_a_page_shows(charset: str, words: dict[str, str], declared: str) -> None:
    if (charset, declared) == ("big5", "nowhere"):
        declared = "page"  # undeclared, its bytes could as well be GB18030
    content = PAGE.format(charset=charset if declared == "page" else "", **words).encode(charset)
    page = read_page(content, URL, f"text/html; charset={charset}" if declared == "header" else "text/html", UA)
    assert page.links == ["http://a.example/next", "http://elsewhere.example/"]
    assert [(picture["url"], picture["caption"], picture["caption_from"]) for picture in page.pictures] == [
        ("http://a.example/a.png", " ".join(words["apple"]), "alt"),
        ("http://a.example/dir/b.png", words["flower"], "title"),
        ("http://a.example/dir/c.png", "".join(words["cat"]), "figcaption"),
        ("http://a.example/dir/d.png", "", "none"),
    ]
    assert {picture["licence"] for picture in page.pictures} == {"http://a.example/licence"}
    assert {picture["page_url"] for picture in page.pictures} == {URL}
    assert page.refusal is None


@pytest.mark.parametrize(
    ("content", "content_type", "caption"),
    [
        (b"\xef\xbb\xbf<img src=a alt='" + "猫".encode() + b"'>", "text/html; charset=gbk", "猫"),
        ("<meta charset=gb2312><img src=a alt='镕堃'>".encode("gb18030"), None, "镕堃"),
        ("<meta charset=big5><img src=a alt='香港嘅貓'>".encode("big5hkscs"), None, "香港嘅貓"),
        ("<img src=a alt='一只很大的猫".encode() + b"\xe4'>", None, "一只很大的猫\ufffd"),
        ("<img src=a alt='一只".encode("gb18030") + b"\xff'>", "text/html; charset=gbk", "一只\ufffd"),
        ("<meta charset=punycode><img src=a alt='猫'>".encode(), None, "猫"),
        ("<meta charset=nonsense><img src=a alt='红苹果'>".encode("gb18030"), "text/html; charset=hex", "红苹果"),
    ],
)
def test_charsets_as_they_are_declared(content: bytes, content_type: str | None, caption: str) -> None:
    [picture] = read_page(content, URL, content_type, UA).pictures
    assert picture["caption"] == caption


def test_links_to_follow() -> None:
    html = """<a href="a b.html">1</a><a href="x" rel="NoFollow noopener">2</a><map><area href="/map"></map>
    <a href="//b.example/猫?k=狗#f">3</a><a href="#top">self</a><a href="javascript:void(0)">4</a><a>5</a>
    <a href="http://:80/">6</a><a href="http://a.example:99999/">7</a><a href="ftp://a.example/">8</a>
    <link rel="stylesheet" href="style.css">"""
    assert read(html).links == [
        "http://a.example/dir/a%20b.html",
        "http://a.example/map",
        "http://b.example/%E7%8C%AB?k=%E7%8B%97",
        URL,
    ]
    assert read("<a href='/early'></a><base href='https://cdn.example/x/'><img src=a.png><a href=b></a>") == Page(
        ["https://cdn.example/early", "https://cdn.example/x/b"],
        pictures("<base href='https://cdn.example/x/'><img src=a.png>"),
        None,
    )


@pytest.mark.parametrize(
    ("image", "chosen"),
    [
        ("<img src=a.jpg>", ["a.jpg"]),
        ("<img src=' a.jpg\n'>", ["a.jpg"]),
        ("<img src=s.jpg srcset='s1.jpg 100w, s2.jpg 900w,s3.jpg 500w'>", ["s2.jpg"]),
        ("<img src=s.jpg srcset='t1.jpg, t2.jpg 1.5x, t3.jpg 2x'>", ["t3.jpg"]),
        ("<img src=s.jpg srcset='t,1.jpg 2x,  '>", ["t,1.jpg"]),
        ("<img src=s.jpg srcset='data:image/png;base64,AAAA 900w'>", ["s.jpg"]),
        ("<img src=s.jpg srcset=', , 2x'>", ["s.jpg"]),
        ("<picture><source srcset='b.webp 2x'><source srcset='c.webp'><img src=a.jpg></picture>", ["b.webp"]),
        ("<picture><source srcset='a.webp'><img src=a.jpg></picture>", ["a.jpg"]),
        ("<picture><source srcset='a.webp 2x'></picture><img src=other.jpg>", ["other.jpg"]),
        ("<video><source src=film.mp4></video><img src=a.jpg>", ["a.jpg"]),
        ("<img src='data:image/gif;base64,R0' data-src=a.jpg>", ["a.jpg"]),
        ("<img src=/img/blank.gif?v=2 data-original=a.jpg>", ["a.jpg"]),
        ("<img src=loading.gif data-lazy=true data-lazy-src=a.jpg>", ["a.jpg"]),
        ("<img src=small.jpg data-actualsrc=a.jpg>", ["a.jpg"]),
        ("<img src=1x1.png data-echo=a.jpg>", ["a.jpg"]),
        ("<img src=low.jpg srcset='low.jpg 32w' data-srcset='a.jpg 320w, b.jpg 640w' data-src=a.jpg>", ["b.jpg"]),
        ("<img src=real.jpg data-src=spacer.gif>", ["real.jpg"]),
        ("<img src=none.gif zoomfile=full.jpg file=thumb.jpg>", ["full.jpg"]),
        ("<img src=none.gif file=only.jpg>", ["only.jpg"]),
        ("<img src='http://[broken' srcset='good.jpg'>", ["good.jpg"]),
        ("<img src=loading.gif>", ["loading.gif"]),
        ("<img src='data:image/png;base64,AAAA'>", []),
        ("<img src='mailto:a@b.c'><img src=''><img>", []),
        ("<img src=beacon.gif width=1 height=1>", []),
        ("<img src=a.jpg><img src=a.jpg>", ["a.jpg"]),
        ("<img src=a.jpg alt=1><img src=a.jpg alt=2>", ["a.jpg", "a.jpg"]),
        ("<img src=blank.gif data-src=a.jpg><noscript><img src=a.jpg alt=x></noscript>", ["a.jpg"]),
        ("<noscript><img src=a.jpg alt=x></noscript><img src=blank.gif data-src=a-300.jpg alt=x>", ["a-300.jpg"]),
        ("<noscript><img src=a.jpg></noscript>", ["a.jpg"]),
        ("<template><img src=a.jpg></template>", ["a.jpg"]),
    ],
)
def test_the_picture_that_an_image_means(image: str, chosen: list[str]) -> None:
    assert urls(f"<p>{image}</p>") == chosen


def test_the_picture_that_a_page_is_shared_with() -> None:
    html = """<title> 题 目 </title><meta name="twitter:image" content="/t.jpg">
    <meta property="og:image" content="/1.jpg"><meta property="og:image:secure_url" content="/s.jpg">
    <meta property="og:image:alt" content="第一"><meta property="og:image" content="2.jpg">"""
    assert urls(html) == ["http://a.example/1.jpg", "2.jpg"]
    assert captions(html) == [("第一", "alt"), ("题 目", "title")]
    assert captions(html + '<meta property="og:title" content="分享">')[1] == ("分享", "title")
    assert urls('<meta property="og:image:secure_url" content="s.jpg"><meta name="twitter:image" content="t.jpg">') == [
        "s.jpg"
    ]
    twitter = '<meta name="twitter:image" content="t.jpg"><meta name="twitter:image:alt" content="鸟">'
    assert (urls(twitter), captions(twitter)) == (["t.jpg"], [("鸟", "alt")])
    assert urls('<meta property="og:image" content="data:image/png;base64,AAAA">') == []


def test_captions_and_words() -> None:
    html = """<h1>春 天</h1><figure><img src=1 alt=" 桃\n花 " title="t"><p>x</p>
    <figcaption>图 <i>一</i></figcaption></figure>
    <figure><figcaption></figcaption><img src=2 title="杏花"></figure>
    <figure><figcaption>外</figcaption><figure><img src=3><figcaption>内</figcaption></figure></figure>
    <img src=4>"""
    assert captions(html) == [("桃 花", "alt"), ("杏花", "title"), ("内", "figcaption"), ("", "none")]
    assert pictures(html)[0]["words"] == {
        "alt": "桃 花",
        "title": "t",
        "figcaption": "图 一",
        "heading": "春 天",
        "context": "x 图 一",
    }
    assert pictures("<img src=5>")[0]["words"] == dict.fromkeys(("alt", "title", "figcaption", "heading", "context"))


def test_the_heading_is_of_the_pictures_own_section() -> None:
    html = """<img src=0><h1>书</h1><img src=1><section><h2>章<br>一</h2><h3></h3><img src=2><aside><h4>旁</h4></aside>
    <img src=3></section><img src=4><h2>猫<img src=5></h2>"""
    headings = [picture["words"]["heading"] for picture in pictures(html)]
    assert headings == [None, "书", "章 一", "章 一", "书", "猫"]


def test_the_context_is_what_stands_around() -> None:
    def context(html: str) -> str | None:
        return pictures(html)[-1]["words"]["context"]

    assert context("<p>远</p><div>近<div><span><img src=1></span></div>处</div>") == "近 处"
    assert context("<div>外<p><img src=1 alt=桃花>桃花</p></div>") == "外 桃花", "the caption alone tells nothing more"
    assert context("<p>一<script>x()</script><style>y</style><b>二</b><img src=1>三</p>") == "一二三"
    long = context(f"<p>{'前' * 500}<img src=1>{'后' * 500}</p>")
    assert long == "前" * 100 + "后" * 100
    assert context(f"<p>{'前' * 500}<img src=1>后</p>") == "前" * 199 + "后"
    assert context(f"<p><img src=1>{'后' * 500}</p>") == "后" * 200


def licences(html: str) -> list[str | None]:
    return [picture["licence"] for picture in pictures(html)]


def test_the_nearest_licence_holds() -> None:
    html = f"""<link rel=license href=/page><article><img src=1><p>text under <a href="{CC}">CC</a></p></article>
    <figure><img src=2><figcaption><a rel="external license" href="own">x</a></figcaption></figure><p><img src=3></p>"""
    assert licences(html) == [CC, "http://a.example/dir/own", "http://a.example/page"]


def test_a_pictures_licence_is_none_of_its_neighbours() -> None:
    assert licences(f"<ul><li><img src=1><a href='{CC}'>CC</a></li><li><img src=2></li></ul>") == [CC, None]


@pytest.mark.parametrize(
    ("statement", "licence"),
    [
        (f"<p><a href='{CC}'>CC</a></p>", CC),
        ("<a href='https://creativecommons.org/about/'>CC</a>", None),
        ("<footer><img src=/logo alt=logo><a rel=license href=/l>l</a></footer>", "http://a.example/l"),
        (f"<p><a rel=license href='{CC}'><img src=/88x31.png></a></p>", CC),
        ("<a rel=license href='javascript:x'>l</a>", None),
        ("<meta name='DC.rights' content=' (c)\n某人 '>", "(c) 某人"),
        ("<meta property='dcterms.license' content='https://l.example/'>", "https://l.example/"),
        (f"<meta name=copyright content='{'长' * 400}'>", "长" * 300),
        ("<meta name=copyright content=me><a rel=license href=/l>l</a>", "http://a.example/l"),
        ('<script type="application/ld+json">{"@graph": [{"license": "https://l.example/"}]}</script>', "https://l.example/"),
        ('<script type="application/ld+json">{"license": {"@id": "https://l.example/"}}</script>', "https://l.example/"),
        ('<script type="application/ld+json">{"license": "\\ud800"}</script>', "?"),
        (
            '<script type="application/ld+json">{"contentUrl": "p.jpg", "license": "https://p.example/"}</script>'
            "<link rel=license href=/page>",
            "https://p.example/",
        ),
        ('<script type="application/ld+json">{"contentUrl": "q.jpg", "license": "https://q.example/"}</script>', None),
        ('<script type="application/ld+json">{"license": </script>', None),
        ('<script type="application/ld+json">' + '{"license":' * 100_000 + "</script>", None),
    ],
)  # fmt: skip
def test_licences_of_a_page(statement: str, licence: str | None) -> None:
    [picture] = [one for one in pictures(f"<div><img src=p.jpg></div>{statement}") if one["url"].endswith("p.jpg")]
    assert picture["licence"] == licence
    pa.array([picture], FOUND)


@pytest.mark.parametrize(
    ("meta", "refusal", "linked"),
    [
        ('<meta name="robots" content="noai, noimageai">', "noai", True),
        ('<META NAME="Robots" CONTENT="NOINDEX,NOFOLLOW">', "noindex", False),
        ('<meta name="juzhou" content="none">', "none", False),
        ('<meta name="googlebot" content="noindex">', None, True),
        ('<meta name="robots" content="nofollow">', None, False),
        ('<meta name="robots" content="max-image-preview:none">', None, True),
    ],
)
def test_what_robots_metas_refuse(meta: str, refusal: str | None, linked: bool) -> None:
    page = read(f"<head>{meta}</head><a href=/x>x</a><img src=1>")
    assert page.refusal == refusal
    assert bool(page.links) == linked
    assert bool(page.pictures) == (refusal is None)


@pytest.mark.parametrize("content", [b"", b" \n", b"<!-- -->", b"\xef\xbb\xbf"])
def test_nothing_to_read(content: bytes) -> None:
    with pytest.raises(ValueError, match="no HTML"):
        read_page(content, URL, None, UA)


IMAGE = "<img src='p.jpg' alt='猫'>"


@pytest.mark.parametrize(
    "html",
    [
        "<div>" * 100_000 + IMAGE,
        "<section><figure><h1>x" * 30_000 + IMAGE,
        "<b><p>" * 50_000 + IMAGE,
        IMAGE + "\0" * 2_000_000,
        "<\0img src=x>" + IMAGE,
        IMAGE + "<" * 1_000_000,
        IMAGE + "&" * 1_000_000 + "&#xD800;&#99999999999;&nonsense;",
        IMAGE + "<a href='" + "x" * 2_000_000 + "'>",
        f"<base href='http://b.example/{'y' * 1_000_000}'>" + "<a href=1>" * 10_000 + IMAGE,
        IMAGE + "<img src=x width=1 height=1 alt='" + "x" * 2_000_000 + "'>",
        "<meta name=robots content='" + "max-" * 500_000 + "'>" + IMAGE,
        "<img srcset='" + "_lazy" * 400_000 + " 2x' src='p.jpg' alt='猫'>",
        "<img srcset='" + "a.jpg 1w," * 200_000 + "' data-src='p.jpg' alt='猫'>",
        "<img " + " ".join(f"a{number}" for number in range(100_000)) + " src='p.jpg' alt='猫'>",
        "</div></p></figure></h1></a></noscript></script>" * 10_000 + IMAGE,
    ],
    ids=range(15),
)  # fmt: skip
def test_hostile_pages(html: str) -> None:
    start = time.monotonic()
    found = pictures(html)
    assert time.monotonic() - start < 5
    assert [(picture["url"], picture["caption"]) for picture in found] == [("http://a.example/dir/p.jpg", "猫")]


def test_ten_megabytes_and_twenty_thousand_pictures() -> None:
    item = "<li><h3>题{0}</h3><figure><img data-src=/{0}.jpg src=/blank.gif alt='{0}'><figcaption>{1}</figure>"
    html = "".join(item.format(number, "说明 " * 60) for number in range(20_000)).encode()
    assert len(html) > 10_000_000
    start = time.monotonic()
    found = read_page(html, URL, None, UA).pictures
    assert time.monotonic() - start < 10
    assert len(found) == 20_000
    assert found[-1]["words"]["heading"] == "题19999"


def test_what_a_page_can_multiply_is_bounded() -> None:
    html = f"<h1>{'题' * 500_000}</h1><figure><figcaption>{'图' * 500_000}</figcaption>" + "".join(
        f"<a href={number}><img src={number}>" for number in range(MAX_ENTRIES + 1_000)
    )
    page = read(html)
    assert len(page.links) == len(page.pictures) == MAX_ENTRIES
    assert {len(page.pictures[-1]["words"][name]) for name in ("heading", "figcaption")} == {MAX_WORDS}


TAGS = [
    "a href=/x", "img src=/p.png alt=猫", "figure", "figcaption", "h1", "section", "p", "div", "noscript",
    "title", "picture", "source srcset=/q.png", "table", "td", "script", "base href=/b/",
    "meta name=robots content=noai",
]  # fmt: skip
SOUP = st.lists(
    st.sampled_from(
        [f"<{tag}>" for tag in TAGS] + [f"</{tag.split()[0]}>" for tag in TAGS] + ["猫 ", "\0", "&lt", "<!--"]
    )
    | st.text(max_size=5)
)


@given(SOUP.map("".join).map(lambda text: text.encode("utf-8", "replace")) | st.binary())
@settings(max_examples=300, deadline=None)
def test_whatever_a_page_is_made_of(content: bytes) -> None:
    try:
        page = read_page(content, URL, None, UA)
    except ValueError:
        return
    assert len(set(page.links)) == len(page.links)
    for picture in page.pictures:
        assert picture["url"].startswith("http://a.example/")
        assert picture["caption"] == (picture["words"].get(picture["caption_from"]) or "")
    assert pa.array(page.pictures, FOUND).to_pylist() == page.pictures
