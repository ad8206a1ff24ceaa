"""The stand-in for an aesthetic score: a picture scores above its own spoilt copies, on a scale of 0 to 10."""

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter

from filters.aesthetic import WEIGHTS, LiteAesthetic, roots
from filters.embedding import DIMENSIONS, LiteEmbedding
from filters.picture import Picture
from model.device import set_threads

set_threads(1)


def scene(seed: int) -> Image.Image:
    """Coloured shapes over a gradient."""
    chance = np.random.default_rng(seed)
    image = Image.linear_gradient("L").resize((320, 240)).convert("RGB")
    draw = ImageDraw.Draw(image)
    for _ in range(12):
        x, y, radius = int(chance.integers(0, 320)), int(chance.integers(0, 240)), int(chance.integers(10, 60))
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=tuple(chance.integers(0, 256, 3).tolist()))
    return image


def spoilt(image: Image.Image) -> list[Image.Image]:
    noise = np.random.default_rng(0).normal(0, 40, (240, 320, 3))
    return [
        image.filter(ImageFilter.GaussianBlur(5)),
        ImageEnhance.Brightness(image).enhance(0.2),
        Image.blend(image, Image.new("RGB", image.size, "grey"), 0.75),
        Image.fromarray((np.asarray(image) + noise).clip(0, 255).astype(np.uint8)),
    ]


def vectors(images: list[Image.Image]) -> list[np.ndarray]:
    return list(LiteEmbedding()([Picture(np.asarray(image), 0.0) for image in images])["vector"])


def scores(rows: list[np.ndarray]) -> np.ndarray:
    return np.asarray(LiteAesthetic()({"lite_embedding.vector": rows})["score"])


def test_a_picture_scores_above_most_of_its_spoilt_copies() -> None:
    won = []
    for seed in range(4):
        own, *copies = scores(vectors([scene(seed), *spoilt(scene(seed))]))
        won += [own > copy for copy in copies]
    assert sum(won) >= 13  # of 16; a coin gets so far once in a hundred times


def test_every_vector_has_a_finite_score_on_the_scale() -> None:
    chance = np.random.default_rng(0)
    rows = [np.zeros(DIMENSIONS), np.full(DIMENSIONS, 6.0), *chance.uniform(0, 6, (20, DIMENSIONS))]
    found = scores([row.astype(np.float16) for row in rows])
    assert np.isfinite(found).all() and found.min() >= 0 and found.max() <= 10
    assert np.ptp(found) > 0.01


def test_the_same_bits_however_the_vectors_are_split() -> None:
    rows = [row.astype(np.float16) for row in np.random.default_rng(0).uniform(0, 6, (20, DIMENSIONS))]
    assert scores(rows).tobytes() == np.concatenate([scores([row]) for row in rows]).tobytes()
    assert len(scores([])) == 0


def test_roots_have_unit_length() -> None:
    assert np.allclose(np.linalg.norm(roots(np.full((2, DIMENSIONS), 3.0)), axis=1), 1)


def test_the_weights_are_small_and_loaded_by_the_first_call() -> None:
    measure = LiteAesthetic()
    assert measure.fingerprint() == LiteAesthetic().fingerprint()
    assert "_fitted" not in vars(measure)
    assert WEIGHTS.stat().st_size < 20_000
