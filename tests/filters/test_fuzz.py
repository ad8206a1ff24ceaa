"""Broken and hostile picture files cost their row, and nothing else. All 10,000 are for benchmarks/fuzz.py."""

import re
import time
from typing import Any

import numpy as np
import pytest
from pydantic import BaseModel

from filters import registry
from filters.picture import MAX_PIXELS, Picture, decode, read_header
from tests.filters.mutants import FORMATS, HOSTILE, mutant, originals

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")

NETWORKS = {"nsfw", "lite_embedding"}
"""They see a picture of one size, whatever the file was."""
SMALL = [name for name in HOSTILE if not re.search(r"\d megapixels|59,000,000", name)]


def decoded(content: bytes) -> Picture | None:
    """The picture, or None where it is refused as it should be: a ValueError of one line."""
    for read in (read_header, decode):
        try:
            picture = read(content)
        except ValueError as error:
            assert str(error) and "\n" not in str(error)
            if read is decode:
                return None
    return picture


@pytest.fixture(scope="module")
def measures() -> dict[str, Any]:
    """Measures of a picture that need no option, networks aside."""
    kinds = {name: kind for name, kind in registry.PICTURE.items() if not issubclass(kind, BaseModel)}
    return {name: kind() for name, kind in kinds.items() if name not in NETWORKS}


@pytest.mark.parametrize("kind", FORMATS)
def test_files_that_mutate_are_good_ones_at_first(kind: str) -> None:
    for content in originals(kind):
        assert (decoded(content) is None) == (kind == "ICO")


def test_a_mutant_is_the_same_file_whenever_it_is_made() -> None:
    assert [mutant(number) for number in range(40)] == [mutant(number) for number in range(40)]


@pytest.mark.parametrize("kind", FORMATS)
def test_every_mutant_has_values_or_one_line_that_says_why_not(kind: str, measures: dict[str, Any]) -> None:
    seen = 0
    for number in range(FORMATS.index(kind), 60 * len(FORMATS), len(FORMATS)):
        picture = decoded(mutant(number).content)
        if picture is None:
            continue
        seen += 1
        assert 0 < picture.width * picture.height <= MAX_PIXELS
        if picture.width * picture.height > 1_000_000:
            continue
        for name, measure in measures.items():
            for column, [value] in measure([picture]).items():
                assert np.isfinite(value).all() if isinstance(value, float) else value is not None, (
                    number,
                    name,
                    column,
                )
    assert (seen > 2) == (kind != "ICO"), "mutants that no decoder lets through test no measure"


@pytest.mark.parametrize("name", SMALL)
def test_a_small_file_made_to_hurt_takes_no_time(name: str) -> None:
    content = HOSTILE[name]()
    started = time.process_time()
    decoded(content)
    assert time.process_time() - started < 5
