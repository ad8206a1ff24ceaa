"""CLIPs with the true architecture and layout, small and of random weights: the numbers are their libraries' own."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pyarrow as pa
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import (
    AutoTokenizer,
    BertTokenizer,
    ChineseCLIPConfig,
    ChineseCLIPImageProcessorPil,
    ChineseCLIPModel,
    PreTrainedTokenizerFast,
    XLMRobertaConfig,
)

from filters.chinese_clip import ChineseClip, ChineseClipAlignment
from filters.clip import Alignment, Clip, middle
from filters.open_clip import OpenClip, OpenClipAlignment
from filters.picture import Picture
from filters.registry import build
from model.device import set_threads
from schemas.errors import JuZhouError

set_threads(1)

CAPTIONS = ["红色的花", "一只猫在树下", "", "长" * 300, "a red flower, 12 ¥", "红色的花"]
WIDTH = 16
TOWER: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.3, 0.25)


def pictures() -> list[Picture]:
    generator = np.random.default_rng(0)
    sizes = ((90, 60), (40, 100), (64, 64), (7, 9))
    return [Picture(generator.integers(0, 256, (*size, 3), dtype=np.uint8), 0.0) for size in sizes]


def chinese(folder: Path) -> Path:
    """A Chinese-CLIP as its authors' folders are: two configurations, a vocabulary, the weights."""
    torch.manual_seed(0)
    signs = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"红色的花一只猫在树下长", "a", "red", "flower", ","]
    folder.mkdir()
    (folder / "vocab.txt").write_text("\n".join(signs), encoding="utf-8")
    BertTokenizer.from_pretrained(folder).save_pretrained(folder)
    config = ChineseCLIPConfig(
        text_config=TOWER | {"vocab_size": len(signs), "max_position_embeddings": 64},
        vision_config=TOWER | {"image_size": 48, "patch_size": 16},
        projection_dim=WIDTH,
    )
    ChineseCLIPModel(config).save_pretrained(folder)
    square = {"height": 48, "width": 48}
    ChineseCLIPImageProcessorPil(size=square, do_center_crop=False, image_mean=MEAN).save_pretrained(folder)
    return folder


def opened(folder: Path, **text: Any) -> Path:
    """A model of open_clip as it pushes them to the hub; `text` makes the captions' tower another one."""
    torch.manual_seed(0)
    own = {"context_length": 20, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}
    config = {
        "embed_dim": WIDTH,
        "quick_gelu": True,
        "vision_cfg": {"image_size": 48, "layers": 2, "width": 128, "patch_size": 16},
        "text_cfg": text or own,
    }
    folder.mkdir(exist_ok=True)
    preprocessing = {"mean": MEAN, "std": STD, "interpolation": "bicubic", "resize_mode": "shortest"}
    content = json.dumps({"model_cfg": config, "preprocess_cfg": preprocessing})
    (folder / "open_clip_config.json").write_text(content, encoding="utf-8")
    built = config | {"text_cfg": text | {"hf_model_name": str(folder / text["hf_model_name"])}} if text else config
    kind = open_clip.CustomTextCLIP if text else open_clip.CLIP
    if text:
        built["text_cfg"]["hf_model_pretrained"] = False
    save_file(kind(**built).state_dict(), folder / "open_clip_model.safetensors")
    return folder


def multilingual(folder: Path) -> Path:
    """A model of open_clip whose captions go through XLM-R: its configuration in a folder of its name."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    folder.mkdir()
    signs = {sign: at for at, sign in enumerate(["<s>", "<pad>", "</s>", "<unk>", *"红色的花一只猫在树下长"])}
    words = Tokenizer(models.WordLevel(signs, "<unk>"))
    words.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    words.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    special = {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    PreTrainedTokenizerFast(tokenizer_object=words, **special).save_pretrained(folder)
    XLMRobertaConfig(**TOWER, vocab_size=len(signs), max_position_embeddings=80).save_pretrained(folder / "xlm-r/small")
    names = {"hf_model_name": "xlm-r/small", "hf_tokenizer_name": "xlm-r/small", "hf_pooler_type": "mean_pooler"}
    return opened(folder, **names)


MAKERS: dict[str, Callable[[Path], Path]] = {"chinese": chinese, "openai": opened, "xlm-r": multilingual}


@pytest.fixture(scope="module", params=MAKERS)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    return request.param, MAKERS[request.param](tmp_path_factory.mktemp("models") / request.param)


def measures(made: tuple[str, Path]) -> tuple[Clip, Alignment]:
    name, folder = made
    picture = "chinese_clip" if name == "chinese" else "open_clip"
    built = build({picture: {"model": str(folder)}, f"{picture}_alignment": {}})
    return built[picture], built[f"{picture}_alignment"]


def own_vectors(made: tuple[str, Path]) -> tuple[torch.Tensor, torch.Tensor]:
    """What the library itself makes of the pictures and captions, all at once."""
    name, folder = made
    images = [Image.fromarray(picture.pixels) for picture in pictures()]
    with torch.inference_mode():
        if name == "chinese":
            model = ChineseCLIPModel.from_pretrained(folder).eval()
            processor = ChineseCLIPImageProcessorPil.from_pretrained(folder)
            length = {"padding": "max_length", "truncation": True, "max_length": 52}
            words = AutoTokenizer.from_pretrained(folder)(CAPTIONS, **length, return_tensors="pt")
            seen = model.get_image_features(**processor(images, return_tensors="pt")).pooler_output
            read = model.get_text_features(**words).pooler_output
        else:
            config = json.loads((folder / "open_clip_config.json").read_text())["model_cfg"]
            if name == "xlm-r":
                tower = {"hf_model_name": str(folder / "xlm-r/small"), "hf_model_pretrained": False}
                config["text_cfg"] |= tower
            own = {"text_cfg": config["text_cfg"]}
            model, prepare = open_clip.create_model_from_pretrained(f"local-dir:{folder}", **own)
            model.eval()
            seen = model.encode_image(torch.stack([prepare(image) for image in images]))
            read = model.encode_text(open_clip.get_tokenizer(f"local-dir:{folder}")(CAPTIONS))
    return torch.nn.functional.normalize(seen, dim=-1), torch.nn.functional.normalize(read, dim=-1)


def table(measure: Clip, chosen: list[Picture]) -> pa.Table:
    return pa.table(dict(measure(chosen)), schema=measure.columns)


@pytest.mark.parametrize(("precision", "tolerance"), [(torch.float32, 3e-4), (torch.bfloat16, 0.02)])
def test_vectors_and_cosines_are_the_library_s_own(
    made: tuple[str, Path], precision: torch.dtype, tolerance: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("model.device.scoring_precision", lambda device: precision)
    clip, alignment = measures(made)
    seen, read = own_vectors(made)
    vectors = np.asarray(clip(pictures())["vector"])
    assert vectors.dtype == np.float16 and vectors.shape == (len(pictures()), WIDTH)
    assert np.abs(vectors - seen.numpy()).max() < tolerance
    assert np.ptp(seen.numpy(), axis=0).max() > 0.01  # the pictures are told apart
    of_captions = [number % len(pictures()) for number in range(len(CAPTIONS))]
    scores = np.asarray(alignment(CAPTIONS, {alignment.wants[0]: [vectors[at] for at in of_captions]})["score"])
    assert np.abs(scores - (seen[of_captions] * read).sum(dim=1).numpy()).max() < tolerance
    assert np.ptp(scores) > 0.01
    assert alignment([], {alignment.wants[0]: []})["score"] == []


def test_the_same_bits_however_pictures_and_captions_are_split(made: tuple[str, Path]) -> None:
    clip, alignment = measures(made)
    together = table(clip, pictures())
    assert together.equals(pa.concat_tables(table(clip, [one]) for one in pictures()).combine_chunks())
    vector = together.column("vector").to_pylist()[0]
    scores = np.asarray(alignment(CAPTIONS, {alignment.wants[0]: [vector] * len(CAPTIONS)})["score"])
    apart = [alignment([caption], {alignment.wants[0]: [vector]})["score"][0] for caption in CAPTIONS]
    assert scores.tobytes() == np.asarray(apart).tobytes()
    assert scores[0] == scores[-1]


def test_hostile_pictures_have_unit_vectors(made: tuple[str, Path]) -> None:
    shapes = ((1, 1), (1, 5000), (5000, 1), (300, 300))
    hostile = [Picture(np.full((*shape, 3), 255, np.uint8), 0.0) for shape in shapes]
    vectors = np.asarray(measures(made)[0](hostile)["vector"], dtype=np.float32)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-3)


def test_columns_and_fingerprints_load_no_model_and_travel(made: tuple[str, Path]) -> None:
    clip, alignment = measures(made)
    again = pickle.loads(pickle.dumps(alignment))
    assert clip.columns.field("vector").type == pa.list_(pa.float16(), WIDTH)
    assert clip.weight > 10_000
    assert len({clip.fingerprint(), alignment.fingerprint()}) == 2
    assert again.fingerprint() == alignment.fingerprint()
    assert "_towers" not in vars(clip) and "_towers" not in vars(alignment.clip)


def test_other_weights_have_another_fingerprint(tmp_path: Path) -> None:
    before = OpenClip(model=str(opened(tmp_path / "one")))
    other = opened(tmp_path / "two")
    save_file({"logit_scale": torch.zeros(1)}, other / "open_clip_model.safetensors")
    assert before.fingerprint() != OpenClip(model=str(other)).fingerprint()


def test_a_long_picture_gives_its_middle_and_others_stay_whole() -> None:
    pixels = np.arange(5000, dtype=np.uint16)[None, :, None].repeat(2, 0).repeat(3, 2).astype(np.uint8)
    assert np.array_equal(np.asarray(middle(Picture(pixels, 0.0))), pixels[:, 2484:2516])
    assert middle(pictures()[0]).size == (60, 90)


def test_a_folder_that_holds_no_model_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(JuZhouError, match=r"no model for chinese_clip.*config\.json"):
        _ = ChineseClip(model=str(tmp_path)).columns
    with pytest.raises(JuZhouError, match=r"no model for open_clip.*open_clip_config\.json"):
        _ = OpenClip(model=str(tmp_path)).columns
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(JuZhouError, match="of the type bert"):
        _ = ChineseClip(model=str(tmp_path)).columns


def test_weights_that_are_missing_or_broken_are_one_clear_line(tmp_path: Path) -> None:
    lacking = chinese(tmp_path / "chinese")
    model = ChineseCLIPModel.from_pretrained(lacking)
    kept = {name: tensor.contiguous() for name, tensor in model.state_dict().items() if "visual_projection" not in name}
    save_file(kept, lacking / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(JuZhouError, match=r"lacks 1 weights of a Chinese-CLIP, visual_projection\.weight") as caught:
        ChineseClip(model=str(lacking))(pictures())
    assert "\n" not in str(caught.value)
    broken = opened(tmp_path / "open")
    for content in (b"no tensors", None):
        if content is None:
            (broken / "open_clip_model.safetensors").unlink()
        else:
            (broken / "open_clip_model.safetensors").write_bytes(content)
        with pytest.raises(JuZhouError, match="no model for open_clip") as caught:
            OpenClip(model=str(broken))(pictures())
        assert "\n" not in str(caught.value)


def test_torch_files_are_read_where_they_hold_tensors_alone(tmp_path: Path) -> None:
    folder = opened(tmp_path / "model")
    before = np.asarray(OpenClip(model=str(folder))(pictures())["vector"])
    tensors = load_file(folder / "open_clip_model.safetensors")
    (folder / "open_clip_model.safetensors").unlink()
    torch.save(tensors, folder / "open_clip_pytorch_model.bin")
    assert np.array_equal(before, np.asarray(OpenClip(model=str(folder))(pictures())["vector"]))
    torch.save(tensors | {"code": Path}, folder / "open_clip_pytorch_model.bin")
    with pytest.raises(JuZhouError, match="no model for open_clip"):
        OpenClip(model=str(folder))(pictures())


def test_an_alignment_wants_its_model_in_the_recipe() -> None:
    with pytest.raises(JuZhouError, match="wants 'open_clip'"):
        build({"open_clip_alignment": {}})
    assert OpenClipAlignment.wants == ("open_clip.vector",)
    assert ChineseClipAlignment.wants == ("chinese_clip.vector",)
