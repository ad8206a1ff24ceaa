"""Intervals against published values and against chance; draws that repeat themselves; estimates by hand."""

import random

import pytest

from pipelines.audit import sampling, shelf
from pipelines.audit.ledger import Ledger, Review
from pipelines.audit.sampling import Draw, Estimate, overall, wilson
from pipelines.audit.shelf import Shelf, Shelves
from pipelines.corpus import Corpus
from schemas.policy import Policy


@pytest.mark.parametrize(
    ("hits", "trials", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_gives_the_limits_of_newcombe_1998(hits: int, trials: int, low: float, high: float) -> None:
    """R. G. Newcombe, Statistics in Medicine 17 (1998), 857–872, table I, method 3."""
    interval = wilson(hits, trials)
    assert (interval.low, interval.high) == (pytest.approx(low, abs=5e-5), pytest.approx(high, abs=5e-5))
    mirrored = wilson(trials - hits, trials)
    assert (mirrored.low, mirrored.high) == (pytest.approx(1 - high, abs=5e-5), pytest.approx(1 - low, abs=5e-5))


def test_overall_weighs_strata_by_how_many_they_hold() -> None:
    large, small = Estimate("a", 9_000, 8, 2, 0), Estimate("b", 1_000, 1, 9, 5)
    both = overall([large, small, Estimate("unseen", 10**6, 0, 0, 3)])
    assert both is not None
    assert both.share == pytest.approx(0.9 * 0.8 + 0.1 * 0.1)
    alone = overall([large])
    assert alone is not None
    assert (alone.share, alone.low, alone.high) == pytest.approx((0.8, wilson(8, 10).low, wilson(8, 10).high))
    assert overall([Estimate("a", 10, 0, 0, 4)]) is None


def test_the_interval_of_the_whole_holds_the_truth_as_often_as_it_says() -> None:
    chance, held, trials = random.Random(7), 0, 800
    strata = [(60_000, 0.95), (30_000, 0.7), (10_000, 0.2)]
    truth = sum(size * share for size, share in strata) / 100_000
    for _ in range(trials):
        drawn = []
        for size, share in strata:
            hits = sum(chance.random() < share for _ in range(25))
            drawn.append(Estimate("s", size, hits, 25 - hits, 0))
        interval = overall(drawn)
        assert interval is not None
        held += interval.low <= truth <= interval.high
    assert 0.93 <= held / trials <= 0.99


def test_a_draw_repeats_itself_and_another_seed_draws_otherwise(stocked: Corpus) -> None:
    seen = filled(stocked)
    draw = Draw(True, 3, 11)
    first = draw.samples(seen)
    assert first == draw.samples(filled(stocked))
    assert first != Draw(True, 3, 12).samples(seen)
    assert {name for _, name in first} == {"kept", "rule:blurred", "rule:near-duplicate", "rule:misaligned"}
    counts = {name: sum(one == name for _, one in first) for _, name in first}
    assert all(count == 3 for count in counts.values())
    larger = {sample_id for sample_id, _ in Draw(True, 5, 11).samples(seen)}
    assert {sample_id for sample_id, _ in first} <= larger
    alone = Draw(True, 100, 0, "blurred").samples(seen)
    assert {name for _, name in alone} == {"rule:blurred"} and len(alone) == seen.criteria["blurred"].first
    assert [name for _, name in Draw(False, 7, 0).samples(seen)] == ["random"] * 7


def test_estimates_count_the_last_opinion_on_what_was_drawn(stocked: Corpus) -> None:
    shelves = Shelves(stocked, None)
    seen = shelves.now()
    ledger = Ledger(stocked, "anna")
    drawn = Draw(True, 4, 1, "blurred").samples(seen)
    for (sample_id, drawn_by), opinion in zip(drawn, ("drop", "drop", "keep", "unsure"), strict=True):
        ledger.write(Review(sample_id, opinion, None, seen.digest, drawn_by))
    ledger.write(Review(drawn[2][0], "drop", None, seen.digest))  # changed her mind, in the grid
    ledger.write(Review(drawn[0][0], None, "a note alone", seen.digest))
    [(other, _)] = Draw(True, 1, 5, "misaligned").samples(seen)
    ledger.write(Review(other, "drop", None, seen.digest))  # came upon it
    [(old, drawn_by)] = Draw(True, 1, 6, "near-duplicate").samples(seen)
    ledger.write(Review(old, "keep", None, "another policy", drawn_by))
    found = {one.stratum: one for one in sampling.estimates(shelves.now())}
    assert found["blurred"] == Estimate("blurred", seen.criteria["blurred"].first, 3, 0, 1)
    assert found["misaligned"].opinions == found["near-duplicate"].opinions == 0
    assert sampling.other_policies(shelves.now()) == 1
    assert sum(one.population for one in found.values()) == seen.samples
    ledger.undo(drawn[3][0])
    assert {one.stratum: one for one in sampling.estimates(shelves.now())}["blurred"].unsure == 0


def filled(corpus: Corpus) -> Shelf:
    assert corpus.policy
    return shelf.fill(corpus, Policy.model_validate_json(corpus.policy))
