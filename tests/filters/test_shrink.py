"""Area averaging is the mean of what a new pixel covers."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from filters.picture import Picture
from filters.shrink import shrunk


def covered(old: int, new: int) -> np.ndarray:
    """new × old: the part of each old pixel that a new one covers, over all that it covers."""
    start = np.arange(new)[:, None] * old / new
    lowest, highest = np.maximum(start, np.arange(old)), np.minimum(start + old / new, np.arange(old) + 1)
    return np.maximum(highest - lowest, 0) * new / old


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 90), st.integers(1, 90), st.integers(1, 64), st.sampled_from([1, 3]), st.integers(0, 2**31))
def test_each_new_pixel_is_the_mean_of_its_area(rows: int, columns: int, side: int, channels: int, seed: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (rows, columns, channels), dtype=np.uint8)
    found = shrunk(pixels, side)
    if max(rows, columns) <= side:
        assert found is pixels
        return
    assert max(found.shape[:2]) == side
    down, across = covered(rows, found.shape[0]), covered(columns, found.shape[1])
    expected = np.einsum("yr,xc,rck->yxk", down, across, pixels.astype(float))
    assert np.abs(found - expected).max() < 0.51


@pytest.mark.parametrize("level", [0, 1, 254, 255])
def test_a_plain_picture_stays_plain(level: int) -> None:
    assert (shrunk(np.full((777, 613, 3), level, np.uint8), 256) == level).all()


def test_views_have_their_side_and_never_blow_up() -> None:
    large, small = (Picture(np.zeros((*size, 3), np.uint8), 0.0) for size in ((600, 1200), (9, 4)))
    assert (large.rgb_256.shape, large.luma_512.shape, large.luma_256.shape) == ((128, 256, 3), (256, 512), (128, 256))
    assert (small.rgb_256.shape, small.luma_512.shape, small.luma_256.shape) == ((9, 4, 3), (9, 4), (9, 4))
