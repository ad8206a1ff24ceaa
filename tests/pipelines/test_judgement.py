"""Judging, against the plainest code: shares within a kind, conditions, quotas and what balances them."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.judgement import Facts, Judgement, judge
from schemas.errors import JuZhouError
from schemas.policy import Policy

KINDS = st.sampled_from(["a", "b", "c", None])
NUMBERS = st.one_of(st.none(), st.integers(-3, 3), st.floats(-1, 1))


def judged(rules: dict[str, object], keep: list[int] | None = None, **columns: list[object]) -> Judgement:
    rows = len(next(iter(columns.values())))
    table = {}
    for name, values in columns.items():
        if name in ("number", "order", "where"):
            table[name] = pa.chunked_array(
                [pa.array([np.nan if value is None else float(value) for value in values], pa.float64())]
            )
        else:
            table[f"kind: {name}"] = pa.chunked_array([pa.array(values)])
    opinions = np.zeros(rows, np.int8)
    opinions[keep or []] = 1
    facts = Facts(out=np.zeros(rows, bool), opinions=opinions, listed={})
    return judge(Policy.model_validate({"name": "p", **rules}), facts, table.__getitem__)


def rule(**about: object) -> dict[str, object]:
    return {"rules": [{"name": "r", "value": "number", **about}]}


def quota(**about: object) -> dict[str, object]:
    return {"quotas": [{"name": "q", "by": "source", **about}]}


def test_a_missing_value_fails_and_a_condition_that_is_not_met_passes() -> None:
    found = judged(rule(max=2, where="where"), number=[1, 3, None, None, 3], where=[1, 1, 1, 0, None])
    assert found.kept.tolist() == [True, False, False, True, True]


def test_a_share_is_of_what_has_the_same_kind_and_meets_the_condition() -> None:
    rules = rule(top=0.5, within="source", where="where")
    number = [1, 2, 3, 4, 10, 20, 99, None]
    source = ["a", "a", "a", "a", "b", "b", "b", "a"]
    found = judged(rules, number=number, source=source, where=[1, 1, 1, 1, 1, 1, 0, 1])
    assert found.kept.tolist() == [False, False, True, True, False, True, True, False]
    [reason] = found.reasons
    assert reason.threshold[:7].tolist() == [3, 3, 3, 3, 20, 20, 20]  # type: ignore[index]


@given(st.lists(st.tuples(NUMBERS, KINDS), min_size=1, max_size=40), st.floats(0.01, 0.99), st.booleans())
def test_a_share_is_reached_in_each_kind(rows: list[tuple[float | None, str | None]], share: float, top: bool) -> None:
    numbers, kinds = map(list, zip(*rows, strict=True))
    bound = {"top": share} if top else {"bottom": share}
    found = judged(rule(**bound, within="source"), number=numbers, source=kinds)
    for kind in set(kinds):
        values = sorted(
            (number for number, other in rows if other == kind and number is not None), key=float, reverse=top
        )
        number = max(1, int(np.floor(len(values) * share + 0.5)))
        for (value, other), kept in zip(rows, found.kept, strict=True):
            if other == kind:
                wanted = value is not None and (value >= values[number - 1] if top else value <= values[number - 1])
                assert kept == wanted


@given(st.lists(st.tuples(KINDS, NUMBERS), min_size=1, max_size=40), st.integers(1, 5), st.data())
def test_a_quota_keeps_the_first_of_each_kind(
    rows: list[tuple[str | None, float | None]], most: int, data: st.DataObject
) -> None:
    keep = data.draw(st.lists(st.integers(0, len(rows) - 1), max_size=3))
    kinds, numbers = map(list, zip(*rows, strict=True))
    found = judged(quota(most=most, first="order"), keep, source=kinds, order=numbers)
    for kind in set(kinds) - {None}:
        here = [index for index, other in enumerate(kinds) if other == kind]
        here.sort(key=lambda index: (index not in keep, np.inf if numbers[index] is None else -numbers[index], index))
        room = [index for place, index in enumerate(here) if place < most or index in keep]
        assert sorted(room) == [index for index in sorted(here) if found.kept[index]]
    assert all(found.kept[index] for index, kind in enumerate(kinds) if kind is None)


def test_a_sample_of_several_kinds_needs_room_in_one_of_them() -> None:
    words = [["山", "水"], ["山"], ["山", "月"], [], ["水"], ["水", "山"]]
    found = judged(quota(most=1), source=words)
    assert found.kept.tolist() == [True, False, True, True, False, False]
    [reason] = found.reasons
    assert reason.value[5] == 3, "its best place, third among those with 水"  # type: ignore[index]


@settings(max_examples=60)
@given(st.lists(st.integers(0, 30), min_size=1, max_size=6), st.integers(0, 20), st.floats(0.05, 0.95))
def test_a_share_quota_holds_and_no_larger_cap_does(counts: list[int], others: int, share: float) -> None:
    kinds = [str(kind) for kind, count in enumerate(counts) for _ in range(count)] + [None] * others
    if not kinds:
        return

    def holds(cap: int) -> bool:
        return cap <= share * (sum(min(count, cap) for count in counts) + others)

    caps = [cap for cap in range(max(counts) + 1) if holds(cap)]
    if max(caps) == 0 and any(counts):
        with pytest.raises(JuZhouError, match=r"quota 'q': there are \d kinds by source, which cannot each be"):
            judged(quota(share=share), source=pa.array(kinds, pa.string()).to_pylist())
        return
    found = judged(quota(share=share), source=kinds)
    left = [
        sum(kept for kept, kind in zip(found.kept, kinds, strict=True) if kind == str(k)) for k in range(len(counts))
    ]
    assert left == [min(count, max(caps)) for count in counts]


def test_a_later_quota_counts_what_the_first_left() -> None:
    quotas = [{"name": "one", "by": "source", "most": 2}, {"name": "two", "by": "style", "most": 1}]
    found = judged({"quotas": quotas}, source=["a", "a", "a", "b"], style=["x", "y", "z", "x"])
    assert [None if index < 0 else found.reasons[index].name for index in found.first(slice(None))] == [
        None, None, "one", "two",
    ]  # fmt: skip


def test_no_samples_at_all() -> None:
    found = judged(rule(top=0.3, within="source") | quota(share=0.4), number=[], source=[])
    assert found.rows(pa.chunked_array([pa.array([], pa.binary(16))])).num_rows == 0
