"""What is taken for a sitemap, which URLs it names, and that none can hurt."""

import gzip
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.page import MAX_ENTRIES
from pipelines.sitemap import MAX_BYTES, read_sitemap

URL = "http://a.example/sitemap.xml"
NAMESPACE = "http://www.sitemaps.org/schemas/sitemap/0.9"
URLSET = f"""<?xml version="1.0" encoding="UTF-8"?>
<!-- ours --><urlset xmlns="{NAMESPACE}" xmlns:image="http://www.google.com/schemas/sitemap-image/1.1">
<url><loc> http://a.example/猫?x=1&amp;y=2#part </loc><lastmod>2026-01-01</lastmod>
<image:image><image:loc>http://a.example/cat.jpg</image:loc></image:image></url>
<url><loc><![CDATA[http://a.example/?x=1&y=2]]></loc></url><url><loc>http://a.example/?x=1&y=2</loc></url>
<url><loc>http://a.example/?x=1&copy=2</loc></url><url><loc>ftp://a.example/</loc></url><url><loc/></url></urlset>"""
NAMED = ["http://a.example/%E7%8C%AB?x=1&y=2", "http://a.example/?x=1&y=2", "http://a.example/?x=1&copy=2"]


@pytest.mark.parametrize(
    ("xml", "named"),
    [
        (URLSET, NAMED),
        (URLSET.replace(f' xmlns="{NAMESPACE}"', ""), NAMED),
        (URLSET.replace(' xmlns:image="http://www.google.com/schemas/sitemap-image/1.1"', ""), NAMED),
        ("\ufeff\n " + URLSET, NAMED),
        (URLSET[: URLSET.index("<url><loc><![CDATA")], NAMED[:1]),
        (
            "<sitemapindex><sitemap><loc>http://a.example/1.xml.gz</loc></sitemap></sitemapindex>",
            ["http://a.example/1.xml.gz"],
        ),
        (
            "<rss><channel><link>http://a.example/</link><item><title>x</title><link>http://a.example/1</link></item>"
            "</channel></rss>",
            ["http://a.example/1"],
        ),
        (
            "<feed xmlns='http://www.w3.org/2005/Atom'><link href='/'/><entry><link href='/1'/>"
            "<link rel='enclosure' href='/1.mp3'/></entry></feed>",
            ["http://a.example/1"],
        ),
        ("<urlset></urlset>", []),
        ("<!doctype html><html><body><url><loc>http://a.example/1</loc></url></body></html>", None),
        ("<svg><url><loc>http://a.example/1</loc></url></svg>", None),
        ("http://a.example/1", None),
        ("{}", None),
        ("", None),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_what_a_sitemap_names(xml: str, named: list[str] | None, packed: bool) -> None:
    content = gzip.compress(xml.encode()) if packed else xml.encode()
    assert read_sitemap(content, URL) == named


def test_the_declared_encoding_counts() -> None:
    for encoding in ("gb2312", "big5", "utf-8"):
        xml = f"<?xml version='1.0' encoding='{encoding}'?><urlset><url><loc>/山</loc></url></urlset>"
        assert read_sitemap(xml.encode(encoding), URL) == ["http://a.example/%E5%B1%B1"]


def test_plain_lists() -> None:
    content = b"\xef\xbb\xbfhttp://a.example/1\r\n\r\n http://a.example/2\nhttp://a.example/1\nand so on"
    for url in ("http://a.example/sitemap.txt", "http://a.example/SITEMAP.TXT.gz?v=1"):
        assert read_sitemap(content, url) == ["http://a.example/1", "http://a.example/2"]
    assert read_sitemap(b"User-agent: *\nSitemap: http://a.example/s.xml\n", "http://a.example/robots.txt") is None


def test_a_broken_packing_gives_what_can_be_had() -> None:
    urls = [f"http://a.example/{number * 7919 % 10007}" for number in range(5_000)]
    packed = gzip.compress("".join(["<urlset>", *(f"<url><loc>{url}</loc></url>" for url in urls)]).encode())
    named = read_sitemap(packed[: len(packed) // 2], URL)
    assert named and named == urls[: len(named)]
    assert read_sitemap(packed[:20], URL) is None
    assert read_sitemap(b"\x1f\x8bnonsense", URL) is None


SECRET = "<!ENTITY b SYSTEM 'file:///etc/hostname'>"
LAUGHS = "<!ENTITY a 'aaaaaaaaaa'>" + "".join(
    f"<!ENTITY {name} '{f'&{before};' * 10}'>" for before, name in zip("abcdefghi", "bcdefghij", strict=True)
)


@pytest.mark.parametrize("declared", [SECRET, LAUGHS, "<!ENTITY % p \"<!ENTITY b 'x'>\"> %p;"])
def test_entities_of_its_own_are_not_resolved(declared: str) -> None:
    loc = "<urlset><url><loc>http://a.example/&b;z</loc></url><url><loc>/&j;z</loc></url></urlset>"
    named = read_sitemap(f"<!DOCTYPE urlset [{declared}]>{loc}".encode(), URL)
    assert named == ["http://a.example/&b;z", "http://a.example/&j;z"]
    feed = "<feed><entry><link href='/&b;z'/></entry></feed>"
    assert read_sitemap(f"<!DOCTYPE feed [{declared}]>{feed}".encode(), URL) == ["http://a.example/&b;z"]
    hidden = f"<?xml version='1.0' encoding='utf-7'?><!DOCTYPE urlset [{declared}]>{loc}".replace("&", "+ACY-")
    assert sum(map(len, read_sitemap(hidden.encode(), URL) or ())) < 1_000
    outside = "<!DOCTYPE urlset SYSTEM 'file:///etc/hostname'><urlset><url><loc>/1</loc></url></urlset>"
    assert read_sitemap(outside.encode(), URL) == ["http://a.example/1"]


@pytest.mark.parametrize(
    "content",
    [
        b"<urlset>" + b"<a>" * 2_000_000,
        b"<urlset>" + b"&" * 2_000_000,
        b"<urlset>" + b"<![CDATA[" * 500_000,
        b"<urlset><url><loc>" + b"&a;" * 1_000_000,
        b"<urlset><url><loc>" + b"x" * 5_000_000 + b"</loc></url>",
        b"<urlset " + b" ".join(b"xmlns:a%d='1'" % number for number in range(50_000)) + b">",
        b"<urlset>" + b"<url><loc>1</loc></url>" * 200_000,
        gzip.compress(b"<urlset>" + b" " * (2 * MAX_BYTES), 1),
        gzip.compress(b"<") * 20_000,
    ],
    ids=range(9),
)
def test_hostile_sitemaps(content: bytes) -> None:
    start = time.monotonic()
    assert read_sitemap(content, URL) in ([], ["http://a.example/1"], None)
    assert time.monotonic() - start < 5


def test_more_than_a_sitemap_may_name_is_left() -> None:
    content = "".join(["<urlset>", *(f"<url><loc>/{number}</loc></url>" for number in range(MAX_ENTRIES + 1000))])
    named = read_sitemap(content.encode(), URL)
    assert named and (len(named), named[-1]) == (MAX_ENTRIES, f"http://a.example/{MAX_ENTRIES - 1}")


@given(
    st.lists(
        st.sampled_from(["<urlset>", "<url>", "<loc>", "/猫", "</loc>", "</url>", "&", "]]>"]) | st.text(max_size=3)
    )
)
def test_whatever_a_sitemap_is_made_of(pieces: list[str]) -> None:
    content = "".join(pieces).encode("utf-8", "replace")
    for url in (URL, "http://a.example/s.txt"):
        assert all(one.startswith("http") for one in read_sitemap(content, url) or ())
