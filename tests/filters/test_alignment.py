"""Sentence vectors, and a score that is higher where the caption fits."""

import io
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from filters import e5
from filters.alignment import LiteAlignment
from filters.embedding import LiteEmbedding
from filters.picture import decode
from model.device import set_threads

set_threads(1)


def drawn(name: str) -> bytes:
    """A plain drawing of a thing."""
    image = Image.new("RGB", (256, 256), "white")
    draw = ImageDraw.Draw(image)
    if name == "flag":
        for row, colour in enumerate(("black", "red", "gold")):
            draw.rectangle((16, 50 + 52 * row, 240, 102 + 52 * row), fill=colour)
    else:
        draw.ellipse((20, 20, 236, 236), fill="gold", outline="black", width=4)
        draw.ellipse((75, 80, 100, 115), fill="black")
        draw.ellipse((156, 80, 181, 115), fill="black")
        draw.arc((70, 90, 186, 190), 20, 160, fill="black", width=8)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def vectors() -> list[np.ndarray]:
    return list(LiteEmbedding()([decode(drawn("flag")), decode(drawn("smile"))])["vector"])


def test_the_right_caption_scores_higher(vectors: list[np.ndarray]) -> None:
    captions = ["旗: 德国", "笑脸", "笑脸", "旗: 德国"]
    wanted = {"lite_embedding.vector": [vectors[0], vectors[1], vectors[0], vectors[1]]}
    flag, smile, wrong_smile, wrong_flag = LiteAlignment()(captions, wanted)["score"]
    assert flag > wrong_smile
    assert smile > wrong_flag


def test_the_same_bits_however_the_captions_are_split(vectors: list[np.ndarray]) -> None:
    captions = ["旗帜", "一张笑脸", "狗", "", "\0", "长" * 2000, "旗帜"]
    rows = [vectors[number % 2] for number in range(len(captions))]
    measure = LiteAlignment()
    together = np.asarray(measure(captions, {"lite_embedding.vector": rows})["score"])
    apart = [
        measure([caption], {"lite_embedding.vector": [row]})["score"][0]
        for caption, row in zip(captions, rows, strict=True)
    ]
    assert together.tobytes() == np.asarray(apart).tobytes()
    assert np.abs(together).max() <= 1
    assert measure([], {"lite_embedding.vector": []})["score"] == []


def test_a_picture_of_nothing_scores_without_a_warning() -> None:
    score = LiteAlignment()(["猫"], {"lite_embedding.vector": [np.zeros(1280, np.float16)]})["score"][0]
    assert -1 <= score <= 1


def test_fingerprints_load_no_model() -> None:
    measure = LiteAlignment()
    assert measure.fingerprint() == LiteAlignment().fingerprint()
    assert "_fitted" not in vars(measure)


def test_the_weights_are_small() -> None:
    spec = find_spec("filters")
    assert spec is not None and spec.origin is not None
    assert (Path(spec.origin).parent / "weights" / "lite_alignment.safetensors").stat().st_size < 600_000


def test_sentence_vectors_are_unit_and_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(e5, "REMEMBERED", 2)
    first = e5.vectors(["一只狗", "a dog", "量子力学", "一只狗"])
    assert first.shape == (4, e5.DIMENSIONS)
    assert np.allclose(np.linalg.norm(first, axis=1), 1, atol=1e-5)
    assert np.array_equal(first[0], first[3])
    assert first[0] @ first[1] > first[0] @ first[2]
    assert np.array_equal(e5.vectors(["量子力学"])[0], first[2])
    assert len(e5._remembered) <= 2
    assert e5.vectors([]).shape == (0, e5.DIMENSIONS)
    assert np.isfinite(e5.vectors(["", "\ud800"])).all()
