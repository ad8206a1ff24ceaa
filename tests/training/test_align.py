"""A text tower learns from an English one on translated captions, and one from elsewhere can be trained further."""

import json
import shutil
import string
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, CLIPTokenizer

from schemas.errors import JuZhouError
from schemas.training import AlignSettings, Training
from tests.training.conftest import COLOURS, RECIPE, SHAPES, write_manifest
from training.align import AlignStage
from training.release import Release
from training.stage import Job, run


def english(caption: str) -> str:
    hanzi, shape = caption.split("色的")
    return f"a {COLOURS[hanzi]} {SHAPES[shape]}"


def with_originals(folder: Path, table: pa.Table, originals: pa.Array | pa.ChunkedArray | None) -> None:
    """Give the samples of a release other original captions, or none."""
    rows = table.drop_columns(["original_caption"])
    rows = rows if originals is None else rows.append_column("original_caption", originals)
    pq.write_table(rows, folder / "samples.parquet")
    write_manifest(folder, table.to_pylist())


@pytest.fixture(scope="module")
def translated(release: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The release with originals: in English but for what is red."""
    folder = tmp_path_factory.mktemp("translated") / "release"
    shutil.copytree(release, folder)
    table = pq.read_table(folder / "samples.parquet")
    captions = table["caption"].to_pylist()
    originals = [text if text.startswith("红") else english(text) for text in captions]
    with_originals(folder, table, pa.array(originals))
    return folder


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small CLIP text tower of random weights that reads letters."""
    folder = tmp_path_factory.mktemp("teacher")
    pieces = [*string.ascii_lowercase, *(f"{letter}</w>" for letter in string.ascii_lowercase)]
    pieces += ["<|startoftext|>", "<|endoftext|>"]
    CLIPTokenizer(vocab={piece: number for number, piece in enumerate(pieces)}, merges=[]).save_pretrained(folder)
    torch.manual_seed(0)
    config = CLIPTextConfig(
        vocab_size=len(pieces),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        projection_dim=24,
        bos_token_id=pieces.index("<|startoftext|>"),
        eos_token_id=pieces.index("<|endoftext|>"),
        pad_token_id=pieces.index("<|endoftext|>"),
    )
    CLIPTextModelWithProjection(config).save_pretrained(folder)
    return folder


def recipe(**settings: object) -> Training:
    align = AlignSettings.model_validate({"steps": 25, "batch": 14, "learning_rate": 1e-3, **settings})
    return RECIPE.model_copy(update={"stages": RECIPE.stages.model_copy(update={"align": align})})


def test_pairs_are_those_whose_originals_have_no_hanzi(translated: Path) -> None:
    chinese, originals = Release(translated).parallel()
    assert len(chinese) == 10 and not any(text.startswith("红") for text in chinese)
    assert [english(text) for text in chinese] == originals and chinese == sorted(chinese)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_what_the_teacher_says_is_learnt(
    translated: Path, teacher: Path, trained: dict[str, Path], tmp_path: Path, accumulate: int
) -> None:
    run(AlignStage(Job(Release(translated), recipe(teacher=str(teacher), accumulate=accumulate), trained)), tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    apart = [row["teacher"] for row in rows if "teacher" in row]
    assert len(apart) == 25 and apart[-1] < 0.5 * apart[0]


def test_a_tower_from_elsewhere_is_trained_further(release: Path, trained: dict[str, Path], tmp_path: Path) -> None:
    tower = tmp_path / "tower"
    for part in ("text_encoder", "tokenizer"):
        shutil.copytree(trained["align"] / part, tower, dirs_exist_ok=True)
    run(AlignStage(Job(Release(release), recipe(text_encoder=str(tower), adapt=True, steps=3), trained)), tmp_path)
    before, after = (load_file(folder / "model.safetensors") for folder in (tower, tmp_path / "text_encoder"))
    assert any(not torch.equal(before[name], after[name]) for name in before)


def test_what_cannot_be_learnt_is_said_in_one_line(
    release: Path, translated: Path, teacher: Path, trained: dict[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="set `adapt` too"):
        recipe(teacher=str(teacher), text_encoder="somewhere")
    bare = tmp_path / "bare"
    shutil.copytree(release, bare)
    with_originals(bare, pq.read_table(bare / "samples.parquet"), None)
    with pytest.raises(JuZhouError, match="no original captions"):
        AlignStage(Job(Release(bare), recipe(teacher=str(teacher)), trained))
    with pytest.raises(JuZhouError, match="no English CLIP text tower"):
        AlignStage(Job(Release(translated), recipe(teacher=str(tmp_path / "none")), trained))
    alike = tmp_path / "alike"
    shutil.copytree(release, alike)
    table = pq.read_table(alike / "samples.parquet")
    with_originals(alike, table, table["caption"])
    with pytest.raises(JuZhouError, match="no captions that were translated"):
        AlignStage(Job(Release(alike), recipe(teacher=str(teacher)), trained))
