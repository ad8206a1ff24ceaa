"""Our PDQ gives the bits of Meta's C++."""

import numpy as np
import pdqhash
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFilter

from filters.pdq import pdq


def theirs(luma: np.ndarray) -> tuple[bytes, int]:
    bits, quality = pdqhash.compute(np.ascontiguousarray(np.stack([luma] * 3, axis=2)))
    return np.packbits(bits.astype(np.uint8)).tobytes(), int(quality)


@settings(max_examples=100, deadline=None)
@given(st.integers(5, 512), st.integers(5, 512), st.integers(0, 40), st.integers(0, 2**31))
def test_the_same_bits_and_quality_as_pdqhash(rows: int, columns: int, softness: int, seed: int) -> None:
    noise = np.random.default_rng(seed).integers(0, 256, (rows, columns), dtype=np.uint8)
    luma = np.asarray(Image.fromarray(noise).filter(ImageFilter.BoxBlur(softness)))
    assert pdq(luma) == theirs(luma)


@pytest.mark.parametrize("size", [(512, 384), (384, 512), (64, 64), (5, 512)])
def test_gradients_have_the_same_bits_too(size: tuple[int, int]) -> None:
    luma = np.asarray(Image.radial_gradient("L").resize(size))
    assert pdq(luma) == theirs(luma)


def test_what_is_too_small_has_no_hash() -> None:
    assert pdq(np.full((4, 300), 7, np.uint8)) == (bytes(32), 0)
