"""BRISQUE: the features of its paper, and a score that grows with what spoils a picture."""

import io

import numpy as np
import pytest
from PIL import Image, ImageFilter
from scipy.ndimage import correlate
from scipy.special import gamma

from filters.brisque import features, quality


def scene() -> np.ndarray:
    """Luma with the falling spectrum of photographs."""
    generator = np.random.default_rng(0)
    spectrum = np.fft.rfft2(generator.normal(size=(240, 320)))
    frequency = np.hypot(np.fft.fftfreq(240)[:, None], np.fft.rfftfreq(320)[None])
    noise = np.fft.irfft2(spectrum / np.maximum(frequency, 1 / 320) ** 1.2)
    return ((noise - noise.min()) / np.ptp(noise) * 255).astype(np.uint8)


def by_the_paper(luma: np.ndarray) -> list[float]:
    """The 18 features of one scale, as straightforward as can be."""
    place = np.arange(-3, 4)
    window = np.exp(-(place[:, None] ** 2 + place[None] ** 2) / (2 * (7 / 6) ** 2))
    window /= window.sum()
    mean = correlate(luma, window, mode="nearest")
    deviation = np.sqrt(np.abs(correlate(luma**2, window, mode="nearest") - mean**2))
    normalised = (luma - mean) / (deviation + 1)
    shapes = np.arange(0.2, 10, 0.001)
    ratios = gamma(2 / shapes) ** 2 / (gamma(1 / shapes) * gamma(3 / shapes))
    found: list[float] = []
    for shift in (None, (0, 1), (1, 0), (1, 1), (-1, 1)):
        values = normalised if shift is None else normalised * np.roll(normalised, shift, axis=(0, 1))
        left, right = (values[values < 0] ** 2).mean(), (values[values > 0] ** 2).mean()
        skew = np.sqrt(left / right)
        ratio = np.abs(values).mean() ** 2 / (values**2).mean() * (skew**3 + 1) * (skew + 1) / (skew**2 + 1) ** 2
        shape = shapes[np.argmin((ratios - ratio) ** 2)]
        mean_value = (np.sqrt(right) - np.sqrt(left)) * gamma(2 / shape) / np.sqrt(gamma(1 / shape) * gamma(3 / shape))
        found += [shape, (left + right) / 2] if shift is None else [shape, mean_value, left, right]
    return found


def test_the_features_are_those_of_the_paper() -> None:
    luma = scene()
    assert features(luma)[:18] == pytest.approx(by_the_paper(luma.astype(float)), abs=1.1e-3)
    half = np.asarray(
        Image.fromarray(luma.astype(np.float32)).resize((160, 120), Image.Resampling.BICUBIC), dtype=float
    )
    assert features(luma)[18:] == pytest.approx(by_the_paper(half), abs=0.02)


@pytest.mark.parametrize("shape", [(239, 320), (240, 319), (7, 5), (1, 1), (1, 500)])
def test_any_size_has_36_finite_features(shape: tuple[int, int]) -> None:
    found = features(scene()[: shape[0]][:, : shape[1]] if max(shape) < 321 else np.zeros(shape, np.uint8))
    assert found.shape == (36,)
    assert np.isfinite(found).all()


def test_blur_compression_and_noise_raise_the_score() -> None:
    image = Image.fromarray(scene())
    clean = quality(np.asarray(image))
    for little, much in (
        [image.filter(ImageFilter.GaussianBlur(radius)) for radius in (0.7, 2)],
        [compressed(image, level) for level in (30, 8)],
        [noisy(image, deviation) for deviation in (20, 60)],
    ):
        worse, worst = quality(np.asarray(little)), quality(np.asarray(much))
        assert worse < worst
        assert worst > clean + 10


def compressed(image: Image.Image, level: int) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=level)
    return Image.open(buffer)


def noisy(image: Image.Image, deviation: float) -> Image.Image:
    noise = np.random.default_rng(1).normal(0, deviation, image.size[::-1])
    return Image.fromarray((np.asarray(image) + noise).clip(0, 255).astype(np.uint8))
