"""What X-Robots-Tag headers and metas say to us, and what they say to others."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines import optout

UA = "JuZhou/0.1 (+https://corpus.example/bot)"


@pytest.mark.parametrize(
    ("values", "refused"),
    [
        ([], None),
        ([""], None),
        (["all"], None),
        (["nofollow"], None),
        (["noai, noimageai"], "noai"),
        (["NoImageAI"], "noimageai"),
        (["nofollow", " NOINDEX "], "noindex"),
        (["max-snippet: 50, noimageindex"], "noimageindex"),
        (["none"], "none"),
        (["noindex nofollow"], "noindex"),
        (["googlebot: noindex"], None),
        (["googlebot: nofollow, noai"], None),
        (["googlebot: noai", "noindex"], "noindex"),
        (["googlebot: nofollow, JUZHOU: noai"], "noai"),
        (["juzhou: noai"], "noai"),
        (["JuZhou/0.1: noai"], "noai"),
        (["juzhoubot: noai"], None),
        (["*: noai"], "noai"),
        (["*: nofollow, otherbot: noai"], None),
        (["unavailable_after: 25 Jun 2010 15:00:00 PST"], None),
        (["unavailable_after: Sat, 25 Jun 2010 15:00:00 GMT, noai"], "noai"),
        (["unavailable_after: Saturday, 25-Jun-10 15:00:00 GMT", "noai"], "noai"),
        (["max-image-preview: none"], None),
        (["max-image-preview:none, noai"], "noai"),
        (["otherbot: unavailable_after: 25 Jun 2010 15:00:00 PST, noai"], None),
        (["juzhou: unavailable_after: 25 Jun 2010 15:00:00 PST, noai"], "noai"),
        ([":noai"], "noai"),
        (["noai:"], "noai"),
        (["noindexed, none-such"], None),
    ],
)
def test_the_first_directive_that_refuses_us(values: list[str], refused: str | None) -> None:
    assert optout.refused(values, UA) == refused


def test_links_are_left_where_nofollow_means_us() -> None:
    assert optout.unfollowed(["noai, nofollow"], UA)
    assert optout.unfollowed(["none"], UA)
    assert not optout.unfollowed(["otherbot: nofollow", "noindex"], UA)


def test_whom_a_meta_addresses() -> None:
    assert [name for name in ("robots", "ROBOTS", "juzhou", "googlebot", "") if optout.addressed(name, UA)] == [
        "robots",
        "ROBOTS",
        "juzhou",
    ]


@given(st.lists(st.text(st.sampled_from("noaijuzhu:, ;*/\t\n\0-_é吗")) | st.text()))
def test_whatever_is_said_raises_nothing(values: list[str]) -> None:
    assert optout.refused(values, UA) in (None, *optout.REFUSALS)
    assert optout.refused([*values, "noai"], UA) is not None
