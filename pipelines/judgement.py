"""What a policy says of every sample: reasons against it, in their order, and what people said over them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa

from schemas.errors import JuZhouError
from schemas.policy import Policy, Quota, Rule
from schemas.tables import VERDICTS

SLICE = 500_000
OUT_OF_RECIPE = "out-of-recipe"
REVIEW = "review"

Column = Callable[[str], pa.ChunkedArray]
"""An expression of the policy → its values, a sample each, as `values.gather` has them."""


@dataclass(frozen=True)
class Facts:
    """What is known of the samples before a policy's expressions are asked; arrays of one value a sample."""

    out: np.ndarray
    """Truth values: no source of the recipe found it."""
    opinions: np.ndarray
    """1 where people keep it, -1 where they drop it, 0 otherwise."""
    listed: dict[str, np.ndarray]
    """List → truth values: it holds the sample."""


@dataclass(frozen=True)
class Reason:
    """What may speak against a sample: a rule, a list, a quota or a review."""

    name: str
    criterion: str
    failed: np.ndarray
    """Truth values, a sample each."""
    value: np.ndarray | float
    threshold: np.ndarray | float


@dataclass(frozen=True)
class Line:
    """A line of the funnel, in samples."""

    rule: str
    criterion: str
    alone: int
    """Those that it rejects."""
    only: int
    """Those among them that are rejected by nothing else."""
    left: int
    """Those that are left after it and all before it."""


@dataclass(frozen=True)
class Judgement:
    """A policy's answer on every sample, in the order of sample_id."""

    reasons: tuple[Reason, ...]
    wanted: np.ndarray
    """Truth values: an opinion or a list keeps the sample, whatever the rules say."""
    by: np.ndarray
    """0 where rules decide, 1 where a list does, 2 where a review does."""

    @cached_property
    def against(self) -> np.ndarray:
        """How many reasons speak against each sample."""
        counts = np.zeros(len(self.wanted), np.uint8)
        for reason in self.reasons:
            counts += reason.failed
        return counts

    @cached_property
    def kept(self) -> np.ndarray:
        """Truth values."""
        return self.wanted | (self.against == 0)

    def first(self, samples: np.ndarray | slice) -> np.ndarray:
        """The number of the first reason against each of some samples; -1 where it is kept."""
        first = np.full(len(self.wanted[samples]), -1, np.int16)
        for index in reversed(range(len(self.reasons))):
            first[self.reasons[index].failed[samples]] = index
        first[self.kept[samples]] = -1
        return first

    def funnel(self) -> list[Line]:
        """What each reason rejects alone, what it rejects that no other does, and what is left after it."""
        left = np.ones(len(self.wanted), bool)
        lines = []
        single = (self.against == 1) & ~self.kept
        for reason in self.reasons:
            rejected = reason.failed & ~self.wanted
            left &= ~rejected
            alone, only = int(rejected.sum()), int((reason.failed & single).sum())
            lines.append(Line(reason.name, reason.criterion, alone, only, int(left.sum())))
        return lines

    def rows(self, sample_ids: pa.ChunkedArray) -> pa.Table:
        """The verdicts as rows of their table."""
        names = pa.array([reason.name for reason in self.reasons], pa.string())
        parts = [self._rows(sample_ids, at, names) for at in range(0, max(1, len(sample_ids)), SLICE)]
        return pa.concat_tables(parts)

    def _rows(self, sample_ids: pa.ChunkedArray, at: int, names: pa.Array) -> pa.Table:
        some = slice(at, at + SLICE)
        first = self.first(some)
        count = len(first)
        value, threshold = np.full(count, np.nan), np.full(count, np.nan)
        failed = np.zeros((count, len(self.reasons)), bool)
        for index, reason in enumerate(self.reasons):
            failed[:, index] = reason.failed[some]
            here = first == index
            value[here] = _some(reason.value, some, here)
            threshold[here] = _some(reason.threshold, some, here)
        _, numbers = np.nonzero(failed)
        offsets = np.concatenate(([0], np.cumsum(failed.sum(axis=1))))
        columns = {
            "sample_id": sample_ids.slice(at, SLICE),
            "kept": self.kept[some],
            "by": pa.array(["rules", "list", "review"]).take(pa.array(self.by[some])),
            "rule": names.take(pa.array(first, mask=first < 0)),
            "value": pa.array(value, mask=np.isnan(value)),
            "threshold": pa.array(threshold, mask=np.isnan(threshold)),
            "failed": pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), names.take(pa.array(numbers))),
        }
        return pa.table(columns).cast(VERDICTS)


def _some(values: np.ndarray | float, some: slice, here: np.ndarray) -> np.ndarray | float:
    return values[some][here] if isinstance(values, np.ndarray) else values


def judge(policy: Policy, facts: Facts, column: Column) -> Judgement:
    """Judge every sample.

    Before all else stands what no policy names: `out-of-recipe`, and `review`, what people drop. Then lists, rules,
    and quotas over what all of these leave.

    Raises:
        JuZhouError: a quota cannot hold.
    """
    dropped, people_keep = facts.opinions < 0, facts.opinions > 0
    denied = [entry for entry in policy.lists if entry.deny]
    allowed = _any([facts.listed[entry.name] for entry in policy.lists if entry.allow], len(facts.out))
    out_by_list = _any([facts.listed[entry.name] for entry in denied], len(facts.out))
    wanted = (people_keep | (allowed & ~out_by_list & ~dropped)) & ~facts.out
    reasons = (
        [Reason(OUT_OF_RECIPE, "no source of the recipe found it", facts.out, 0.0, 1.0)] if facts.out.any() else []
    )
    if dropped.any():
        reasons.append(Reason(REVIEW, "people drop it", dropped, np.nan, np.nan))
    reasons += [Reason(entry.name, f"denied by {entry.of}", facts.listed[entry.name], 1.0, 0.0) for entry in denied]
    reasons += [_by_rule(rule, column) for rule in policy.rules]
    left = ~_any([reason.failed for reason in reasons], len(wanted)) | wanted
    for quota in policy.quotas:
        reason = _by_quota(quota, column, left, wanted)
        left &= ~reason.failed
        reasons.append(reason)
    by = np.where(facts.out, 0, np.where(facts.opinions != 0, 2, np.where(allowed | out_by_list, 1, 0)))
    return Judgement(tuple(reasons), wanted, by)


def _any(masks: Sequence[np.ndarray], rows: int) -> np.ndarray:
    found = np.zeros(rows, bool)
    for mask in masks:
        found |= mask
    return found


def _by_rule(rule: Rule, column: Column) -> Reason:
    value = column(rule.value).to_numpy()
    counted = column(rule.where).to_numpy() > 0 if rule.where else None
    threshold: np.ndarray | float = rule.limit
    if rule.is_share:
        codes = _codes(column(f"kind: {rule.within}")) if rule.within else np.zeros(len(value), np.int32)
        threshold = _thresholds(rule, value, codes, counted)
    # A missing value is NaN, which is neither.
    passed = value >= threshold if rule.at_least else value <= threshold
    failed = ~passed if counted is None else ~passed & counted
    return Reason(rule.name, f"{rule.value} {rule.criterion}", failed, value, threshold)


def _codes(kinds: pa.ChunkedArray) -> np.ndarray:
    """A number a kind; -1 where there is none."""
    encoded = kinds.combine_chunks()
    if not pa.types.is_dictionary(encoded.type):
        encoded = encoded.dictionary_encode()
    return encoded.indices.fill_null(-1).to_numpy()


def _thresholds(rule: Rule, value: np.ndarray, codes: np.ndarray, counted: np.ndarray | None) -> np.ndarray | float:
    """The value that the rule's share reaches, among the samples of each one's kind; NaN where none has a value."""
    here = ~np.isnan(value) if counted is None else ~np.isnan(value) & counted
    rows = np.flatnonzero(here)
    order = rows[np.lexsort((value[rows], codes[rows]))]
    kinds, starts, counts = np.unique(codes[order], return_index=True, return_counts=True)
    number = np.maximum(1, np.floor(counts * rule.limit + 0.5).astype(np.int64))
    at = starts + counts - number if rule.at_least else starts + number - 1
    found = np.full(codes.max(initial=-1) + 2, np.nan, value.dtype)
    found[kinds] = value[order[at]]  # the kind -1 stands at the end
    return found[codes]


def _by_quota(quota: Quota, column: Column, left: np.ndarray, wanted: np.ndarray) -> Reason:
    """The samples without room; a sample that people want has it, and takes it from others."""
    kinds = column(f"kind: {quota.by}").combine_chunks()
    sample, code = _memberships(kinds)
    here = left[sample] & (code >= 0)
    sample, code = sample[here], code[here]
    most = quota.most or _water_level(quota, np.bincount(code), int(left.sum()) - len(np.unique(sample)))
    merit = -column(quota.first).to_numpy()[sample] if quota.first else np.zeros(len(sample), np.float32)
    order = np.lexsort((sample, np.nan_to_num(merit, nan=np.inf), ~wanted[sample], code))
    counts = np.bincount(code[order]) if len(order) else np.zeros(0, np.int64)
    starts = np.repeat(np.cumsum(counts) - counts, counts)
    place = np.full(len(left), np.inf)
    np.minimum.at(place, sample[order], np.arange(len(order)) - starts + 1)
    failed = np.isfinite(place) & (place > most) & ~wanted
    criterion = f"{quota.by} ≤ {most:,} each" if quota.most else f"{quota.by} ≤ {most:,} each, {quota.share:.0%} of all"
    return Reason(quota.name, criterion, failed, place, float(most))


def _memberships(kinds: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """Samples beside the number of each of their kinds; -1 for none."""
    if pa.types.is_list(kinds.type):
        lists = kinds.fill_null([])
        samples = np.repeat(np.arange(len(lists)), np.diff(lists.offsets.to_numpy()))
        return samples, _codes(pa.chunked_array([lists.flatten()]))
    return np.arange(len(kinds)), _codes(pa.chunked_array([kinds]))


def _water_level(quota: Quota, counts: np.ndarray, uncounted: int) -> int:
    """The most of a kind, so that each kind is at most its share of what is kept of all.

    What is kept, T(C), is concave in the cap C, so the caps that hold, C ≤ share · T(C), are those up to one.

    Raises:
        JuZhouError: so few kinds cannot each be so small a share.
    """
    assert quota.share
    low, high = 0, int(counts.max(initial=0))
    while low < high:
        cap = (low + high + 1) // 2
        if cap <= quota.share * (np.minimum(counts, cap).sum() + uncounted):
            low = cap
        else:
            high = cap - 1
    if not low and counts.any():
        kinds = np.count_nonzero(counts)
        raise JuZhouError(
            f"quota '{quota.name}': there are {kinds} kinds by {quota.by}, which cannot each be {quota.share:.0%} "
            f"at most; a share over {1 / kinds:.0%} can hold"
        )
    return low
