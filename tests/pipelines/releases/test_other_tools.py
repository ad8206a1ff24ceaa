"""A release opened by others: webdataset, datasets offline, img2dataset's reader, Croissant, and our loader."""

import io
import os
from pathlib import Path
from typing import Any

os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import webdataset
import yaml
from PIL import Image

from pipelines.corpus import Corpus
from pipelines.releases import release
from schemas.policy import Policy
from tests.pipelines.releases import synthetic
from training.release import Release, decode


@pytest.fixture(scope="module")
def frozen(tmp_path_factory: pytest.TempPathFactory, ray_cluster: None) -> tuple[Corpus, Path]:
    """A corpus, and its release of ninety pictures in several shards and two splits."""
    asked = synthetic.recipe(tmp_path_factory.mktemp("opened"), splits={"validation": 0.2})
    corpus = synthetic.filled(asked, 100)
    return corpus, release.run(corpus, asked, Policy.load(asked.policy), "v1", shard_bytes=100_000)


@pytest.fixture(scope="module")
def wanted(frozen: tuple[Corpus, Path]) -> dict[str, dict[str, Any]]:
    """By the hex of the sample_id: caption, words, pixels and split, as the corpus and samples.parquet have them."""
    corpus, folder = frozen
    split = {row["sample_id"]: row["split"] for row in pq.read_table(folder / "samples.parquet").to_pylist()}
    rows = corpus.sql("""
        SELECT sample_id, text, words, url, images.tar, images."offset", images.length FROM shown
        JOIN images USING (image_id) JOIN captions USING (sample_id) JOIN verdicts USING (sample_id) WHERE kept
    """)
    return {
        row["sample_id"].hex(): row
        | {"split": split[row["sample_id"]], "pixels": corpus.read(row["tar"], row["offset"], row["length"])}
        for row in rows.to_pylist()
    }


def pixels(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))


def test_webdataset(frozen: tuple[Corpus, Path], wanted: dict[str, dict[str, Any]]) -> None:
    for split in ("train", "validation"):
        shards = [str(path) for path in sorted(frozen[1].glob(f"{split}-*.tar"))]
        samples = webdataset.WebDataset(shards, shardshuffle=False).decode("pil")
        opened = {sample["__key__"]: sample for sample in samples}
        assert opened.keys() == {name for name, row in wanted.items() if row["split"] == split}
        for name, sample in opened.items():
            assert sample["txt"] == sample["json"]["caption"] == wanted[name]["text"]
            assert sample["json"]["alt"] == wanted[name]["words"]["alt"]
            assert (np.asarray(sample["jpg"]) == pixels(wanted[name]["pixels"])).all()


def test_datasets_of_tars(frozen: tuple[Corpus, Path], wanted: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    files = {split: str(frozen[1] / f"{split}-*.tar") for split in ("train", "validation")}
    check(datasets.load_dataset("webdataset", data_files=files, cache_dir=str(tmp_path)), wanted)


def test_datasets_of_the_folder(frozen: tuple[Corpus, Path], wanted: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    folder = str(frozen[1])
    assert datasets.get_dataset_config_names(folder) == ["pictures"]
    check(datasets.load_dataset(folder, cache_dir=str(tmp_path)), wanted)


def test_datasets_of_the_rows(frozen: tuple[Corpus, Path], wanted: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    file = str(frozen[1] / "samples.parquet")
    rows = datasets.load_dataset("parquet", data_files=file, cache_dir=str(tmp_path))["train"]
    assert [row["sample_id"].hex() for row in rows] == sorted(wanted)
    assert rows[0]["size"]["width"] >= 110


def check(opened: Any, wanted: dict[str, dict[str, Any]]) -> None:
    assert set(opened) == {"train", "validation"}
    for split, rows in opened.items():
        assert {row["__key__"] for row in rows} == {name for name, row in wanted.items() if row["split"] == split}
        for row in rows:
            sample = wanted[row["__key__"]]
            assert row["txt"] == sample["text"] and row["json"]["url"] == sample["url"]
            assert (np.asarray(row["jpg"].convert("RGB")) == pixels(sample["pixels"])).all()


def test_img2dataset_reads_the_rows_as_a_list_of_urls(
    frozen: tuple[Corpus, Path], wanted: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    from img2dataset.reader import Reader

    rows = str(frozen[1] / "samples.parquet")
    shards = Reader(rows, "parquet", "url", "caption", None, None, None, 50, set(), str(tmp_path))
    found = [row for _, path in shards for row in feather(Path(path))]
    assert sorted(found) == sorted((row["text"], row["url"]) for row in wanted.values())


def feather(path: Path) -> list[tuple[str, str]]:
    with pa.ipc.open_file(path) as file:
        rows = file.read_all()
    return list(zip(rows.column("caption").to_pylist(), rows.column("url").to_pylist(), strict=True))


def test_croissant(
    frozen: tuple[Corpus, Path], wanted: dict[str, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CROISSANT_CACHE", str(tmp_path))
    import mlcroissant
    import requests

    def no_network(*_: Any, **__: Any) -> None:
        raise AssertionError("a release is described without the web")

    monkeypatch.setattr(requests.Session, "request", no_network)
    described = mlcroissant.Dataset(jsonld=str(frozen[1] / "croissant.json"))
    assert not described.metadata.ctx.issues.errors
    rows = list(described.records("samples"))
    found = {row["samples/sample_id"].hex(): row["samples/caption"].decode() for row in rows}
    assert found == {name: row["text"] for name, row in wanted.items()}
    pictures = {row["pictures/sample_id"].decode(): row["pictures/image"] for row in described.records("pictures")}
    assert pictures.keys() == wanted.keys()
    assert all((np.asarray(picture) == pixels(wanted[name]["pixels"])).all() for name, picture in pictures.items())


def test_our_loader(frozen: tuple[Corpus, Path], wanted: dict[str, dict[str, Any]]) -> None:
    opened = Release(frozen[1])
    train = {name: row for name, row in wanted.items() if row["split"] == "train"}
    assert len(opened.samples) == len(train)
    assert set(opened.captions(opened.samples)) == {row["text"] for row in train.values()}
    by_text = {row["text"]: row["pixels"] for row in wanted.values()}
    for samples in (opened.samples, opened.held):
        for (image, *_), caption in zip(samples, opened.captions(samples), strict=True):
            assert (opened.picture(image, (32, 32)) == decode(by_text[caption], (32, 32))).all()


def test_the_card_is_yaml_and_counts_what_is_there(frozen: tuple[Corpus, Path]) -> None:
    _, front, card = (frozen[1] / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    about = yaml.safe_load(front)
    assert about["language"] == ["zh"] and about["size_categories"] == ["n<1K"]
    assert "| CC0 | 45 |" in card and "| not stated | 45 |" in card
    assert "| narrow | `size.width` | ≥ 110 | 10 | 10 | too narrow |" in card
    assert "| size.width | 90 | 110 |" in card
