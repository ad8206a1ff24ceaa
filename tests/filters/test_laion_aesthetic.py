"""LAION's heads with random weights in their published layout: the numbers are those of the published networks."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from filters.laion_aesthetic import VISION, LaionAesthetic
from filters.registry import build
from schemas.errors import JuZhouError

L14 = {"embed_dim": 768, "quick_gelu": True, "vision_cfg": VISION, "text_cfg": {"context_length": 77}}


class Published(nn.Module):
    """improved-aesthetic-predictor's network; the numbers of its linear layers are those of the published file."""

    def __init__(self) -> None:
        super().__init__()
        wide = [nn.Linear(768, 1024), nn.Dropout(0.2), nn.Linear(1024, 128), nn.Dropout(0.2)]
        narrow = [nn.Linear(128, 64), nn.Dropout(0.1), nn.Linear(64, 16), nn.Linear(16, 1)]
        self.layers = nn.Sequential(*wide, *narrow)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.layers(features)
        return scores


def head(kind: type[nn.Module] = Published) -> nn.Module:
    """A head whose scores spread by about 1 on unit vectors, as the published ones do."""
    torch.manual_seed(0)
    made = kind() if kind is Published else nn.Linear(768, 1)
    vectors = unit(200)
    with torch.inference_mode():
        last = made.layers[-1] if isinstance(made, Published) else made
        last.weight.mul_(1 / made.eval()(vectors).std())
        last.bias.add_(5 - made(vectors).mean())
    return made.eval()


def unit(count: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return nn.functional.normalize(torch.randn(count, 768, generator=generator), dim=-1)


def measure(folder: Path, weights: Path, config: dict[str, object] = L14) -> LaionAesthetic:
    folder.mkdir(exist_ok=True)
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config}))
    (folder / "open_clip_model.safetensors").write_bytes(b"")
    recipe = {"open_clip": {"model": str(folder)}, "laion_aesthetic": {"weights": str(weights)}}
    found: LaionAesthetic = build(recipe)["laion_aesthetic"]
    return found


@pytest.mark.parametrize("kind", [Published, nn.Linear])
@pytest.mark.parametrize("file", ["head.pth", "head.safetensors"])
def test_scores_are_those_of_the_published_network(kind: type[nn.Module], file: str, tmp_path: Path) -> None:
    own, vectors = head(kind), unit(50)
    if file.endswith("pth"):
        torch.save(own.state_dict(), tmp_path / file)
    else:
        save_file(own.state_dict(), tmp_path / file)
    with torch.inference_mode():
        expected = own(vectors)[:, 0].numpy()
    found = measure(tmp_path / "l14", tmp_path / file)
    whole = np.asarray(found({"open_clip.vector": list(vectors.numpy())})["score"])
    halved = np.asarray(found({"open_clip.vector": list(vectors.half().numpy())})["score"])
    assert expected.std() > 0.5
    assert np.abs(whole - expected).max() < 1e-4
    assert np.abs(halved - expected).max() < 2e-3


def test_the_same_bits_however_the_vectors_are_split(tmp_path: Path) -> None:
    torch.save(head().state_dict(), tmp_path / "head.pth")
    found, vectors = measure(tmp_path / "l14", tmp_path / "head.pth"), list(unit(20).half().numpy())
    apart = [found({"open_clip.vector": [vector]})["score"][0] for vector in vectors]
    assert np.asarray(found({"open_clip.vector": vectors})["score"]).tobytes() == np.asarray(apart).tobytes()


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"embed_dim": 512}, "wants OpenAI's ViT-L/14 at 224"),
        ({"vision_cfg": VISION | {"image_size": 336}}, "wants OpenAI's ViT-L/14 at 224"),
        ({"quick_gelu": False}, "whose configuration says quick_gelu: true"),
    ],
)
def test_another_model_is_refused(change: dict[str, object], line: str, tmp_path: Path) -> None:
    torch.save(head().state_dict(), tmp_path / "head.pth")
    with pytest.raises(JuZhouError, match=line):
        measure(tmp_path / "other", tmp_path / "head.pth", L14 | change).fingerprint()


def test_a_file_that_is_no_head_is_one_clear_line(tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(1, 512), "bias": torch.zeros(1)}, tmp_path / "other.pth")
    torch.save(head(), tmp_path / "code.pth")
    for file in ("other.pth", "code.pth"):
        with pytest.raises(JuZhouError, match="no head of LAION's aesthetic score") as caught:
            measure(tmp_path / "l14", tmp_path / file)({"open_clip.vector": list(unit(2).numpy())})
        assert "\n" not in str(caught.value)
    with pytest.raises(JuZhouError, match="cannot be read"):
        measure(tmp_path / "l14", tmp_path / "none.pth").fingerprint()


def test_the_fingerprint_follows_the_weights_and_the_model(tmp_path: Path) -> None:
    torch.save(head().state_dict(), tmp_path / "one.pth")
    torch.save(head(nn.Linear).state_dict(), tmp_path / "two.pth")
    first = measure(tmp_path / "l14", tmp_path / "one.pth").fingerprint()
    assert first != measure(tmp_path / "l14", tmp_path / "two.pth").fingerprint()
    assert first != measure(tmp_path / "other", tmp_path / "one.pth", L14 | {"text_cfg": {}}).fingerprint()
