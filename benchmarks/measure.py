"""Pictures measured a second in one pass, against Data-Juicer with the same operators, and against a pass a measure.

    python benchmarks/measure.py            2,400 pictures, three rounds in turn
    python benchmarks/measure.py --quick    a fifth, one round, the start counted in: no figure to quote; the peer only
                                            where its environment is made already

Pictures are Tux Paint stamps and emoji on soft backgrounds, as JPEGs of 320 to 1,280 pixels a side as the web has them.
Both sides go from files on disk to numbers on disk, on two cores: a process a core, a thread a process. Ours runs as
`juzhou build` runs it, over a corpus that has the pictures already; Data-Juicer by its default executor, with nothing
dropped. Rates are of the pictures beyond the first 128, whose run is timed apart: the start of workers and the loading
of models cost both sides seconds, and nothing of a large corpus. Of theirs, only the operators are timed.

The model is a Chinese-CLIP of random weights and of the published base size (ViT-B/16), with a picture and its caption
in. Most of its time is the network's, a picture at a time on both sides: what sets the two apart is that ours computes
in bfloat16 on a CPU that can (the table says whether it could), and theirs in float32. The cheap operators compared are
those that both have: sharpness, for one, Data-Juicer lacks, and faces the two find by different detectors.
Single passes are those of all our cheap measures (--quick: of the ones compared, and no model); a model makes a pass of
its own and is not among them.
"""

import argparse
import json
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from PIL import Image
from pydantic import BaseModel

sys.path.insert(0, str(Path(__file__).parents[1]))

import data_juicer

from filters import registry
from filters.picture import read_header
from model.device import pick, scoring_precision
from pipelines import cluster, fetch, material
from pipelines.blob import Blob
from pipelines.corpus import Corpus
from pipelines.measure import stages, tables_of
from pipelines.stage import run
from schemas.identity import digest
from schemas.tables import CANDIDATES, FETCHES

CORES = 2
FIRST = 128
"""Pictures of the small run, which costs what a start costs: a batch for each worker, so that none of them waits."""

CHEAP: dict[str, dict[str, Any]] = {"size": {}, "pdq": {}}
CHEAP_THEIRS: list[dict[str, dict[str, Any]]] = [
    {"image_shape_filter": {}},
    {"image_aspect_ratio_filter": {"min_ratio": 0.001, "max_ratio": 1000}},
    {"image_deduplicator": {}},
]
"""The same of theirs: `size` is their shape and aspect ratio, `pdq` their perceptual hash, of 64 bits."""
ONE_PASS, SAME, MODEL, THEIRS = "all_cheap", "cheap", "model", ", Data-Juicer"
SLOW = {"nsfw", "lite_embedding", "ocr"}
"""Networks that need no option: what they take would hide what sharing a decoded picture saves."""

Wanted = Mapping[str, Mapping[str, Any]]
Way = Callable[..., float]
"""Seconds that pictures took."""


class Shown(NamedTuple):
    path: Path
    caption: str


def drawn(folder: Path, count: int) -> list[Shown]:
    """Different pictures, each of its own size; the captions are the material's."""
    chance = np.random.default_rng(0)
    pairs = random.Random(0).sample(found := material.pairs(print), k=len(found))
    shown = []
    for number in range(count):
        pair = pairs[number % len(pairs)]
        long, aspect = int(2 ** chance.uniform(np.log2(320), np.log2(1280))), chance.uniform(0.6, 1.0)
        size = (long, int(long * aspect)) if number % 2 else (int(long * aspect), long)
        soft = Image.fromarray(chance.integers(60, 240, (9, 9, 3), dtype=np.uint8))
        picture = soft.resize(size, Image.Resampling.BICUBIC)
        with Image.open(pair.picture) as thing:
            scale = 0.8 * min(size[0] / thing.width, size[1] / thing.height)
            front = thing.convert("RGBA").resize((max(1, int(thing.width * scale)), max(1, int(thing.height * scale))))
        picture.paste(front, ((size[0] - front.width) // 2, (size[1] - front.height) // 2), front)
        shown.append(Shown(folder / f"{number:06}.jpg", pair.caption))
        picture.save(shown[-1].path, quality=88)
    return shown


def corpus_of(folder: Path, shown: Sequence[Shown]) -> Corpus:
    """A corpus that has the pictures and their captions, as fetching leaves it."""
    corpus = Corpus.create(folder)
    fetches, candidates = [], []
    with Blob(corpus.blobs) as blob:
        for path, caption in shown:
            content = path.read_bytes()
            image_id, url_id = digest(content), digest(path.name.encode())
            blob.add(image_id, content)
            had = {"url_id": url_id, "attempt": 1, "status": "ok", "image_id": image_id}
            fetches.append(had | blob.location(image_id) | vars(read_header(content)))
            candidates.append(
                {"candidate_id": url_id, "caption": caption, "source": "s", "url_id": url_id, "url": path.name}
            )
    corpus.append(FETCHES, pa.Table.from_pylist(fetches, FETCHES.schema))
    corpus.append(CANDIDATES, pa.Table.from_pylist(candidates, CANDIDATES.schema))
    fetch.images_of_fetches(corpus)
    fetch.samples_of_images(corpus)
    return corpus


def clip(folder: Path, captions: Sequence[str]) -> Path:
    """A Chinese-CLIP of random weights, ViT-B/16 and RoBERTa-base, as transformers saves one."""
    import torch
    from transformers import (
        BertTokenizer,
        ChineseCLIPConfig,
        ChineseCLIPImageProcessor,
        ChineseCLIPModel,
        ChineseCLIPProcessor,
    )

    torch.manual_seed(0)
    config = ChineseCLIPConfig(text_config={}, vision_config={"patch_size": 16}, projection_dim=512)
    ChineseCLIPModel(config).save_pretrained(folder)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *sorted(set("".join(captions)))]
    (folder / "vocab.txt").write_text("\n".join(words), encoding="utf-8")
    tokenizer = BertTokenizer(str(folder / "vocab.txt"))
    ChineseCLIPProcessor(ChineseCLIPImageProcessor(), tokenizer).save_pretrained(folder)
    return folder


def ours(shown: Sequence[Shown], wanted: Wanted) -> float:
    """Seconds to measure pictures that no measure has seen."""
    with tempfile.TemporaryDirectory() as folder:
        corpus = corpus_of(Path(folder) / "corpus", shown)
        measures = registry.build(wanted)
        tables = tables_of(measures)
        corpus.adopt("{}", list(tables.values()))
        started = time.monotonic()
        for stage in stages(corpus, measures):
            run(corpus, stage, lambda *_: None)
        seconds = time.monotonic() - started
        for name in tables:
            [rows] = corpus.sql(f"SELECT count(*) AS rows, count(error) AS errors FROM {name}").to_pylist()
            assert rows == {"rows": len(shown), "errors": 0}, (name, rows)
    return seconds


def theirs(shown: Sequence[Shown], operators: Sequence[dict[str, dict[str, Any]]], **settings: Any) -> float:
    """Seconds of Data-Juicer's operators."""
    rows = [{"text": f"<__dj__image>{caption}", "images": [str(path)]} for path, caption in shown]
    with tempfile.TemporaryDirectory() as folder:
        return data_juicer.process(rows, operators, Path(folder), CORES, **settings).operators_s


def rates(shown: Sequence[Shown], ways: Mapping[str, Way], rounds: int, first: int = FIRST) -> dict[str, float]:
    """Pictures a second of each way, in turn, the start left out: the pictures beyond the first few over the seconds
    that they take beyond those; the median of the rounds. With no first ones the start counts."""
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(rounds):
        for way, measure in ways.items():
            start = measure(shown[:first]) if first else 0.0
            seconds[way].append(measure(shown) - start)
            print(f"  {way:40}{start:6.1f} s for the first {first}, {seconds[way][-1]:6.1f} s beyond", flush=True)
    return {way: (len(shown) - first) / statistics.median(found) for way, found in seconds.items()}


def figures(found: Mapping[str, float], single: Sequence[str]) -> dict[str, float]:
    """What is printed last; the ratios to Data-Juicer only where it ran.

    `ratio_data_juicer` is of the seconds that a picture takes in both passes, the cheap one and the model's.
    """
    told = {
        "images_per_s": found[ONE_PASS],
        "ratio_single_passes": found[ONE_PASS] * sum(1 / found[f"{name} alone"] for name in single),
    }
    both = [way for way in (SAME, MODEL) if f"{way}{THEIRS}" in found]
    for way in both:
        told[f"{way}_images_per_s"] = found[way]
        told[f"{way}_data_juicer_images_per_s"] = found[f"{way}{THEIRS}"]
        told[f"{way}_ratio_data_juicer"] = found[way] / found[f"{way}{THEIRS}"]
    if both:
        theirs_s, ours_s = sum(1 / found[f"{way}{THEIRS}"] for way in both), sum(1 / found[way] for way in both)
        told["ratio_data_juicer"] = theirs_s / ours_s
    return told


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few pictures and measures, one round")
    quick = parser.parse_args().quick
    count, rounds = (480, 1) if quick else (2_400, 3)
    if not quick:
        data_juicer.make()
    cheap = [name for name, kind in registry.PICTURE.items() if not issubclass(kind, BaseModel) and name not in SLOW]
    single = list(CHEAP) if quick else cheap
    with tempfile.TemporaryDirectory() as place:
        shown = drawn(Path(place), count)
        ways: dict[str, Way] = {f"{name} alone": partial(ours, wanted={name: {}}) for name in single}
        ways[ONE_PASS] = partial(ours, wanted={name: {} for name in single})
        if data_juicer.is_there():
            ways |= {SAME: partial(ours, wanted=CHEAP), f"{SAME}{THEIRS}": partial(theirs, operators=CHEAP_THEIRS)}
        cluster.start(CORES)
        found = rates(shown, ways, rounds, 0 if quick else FIRST)
        if not quick:
            network = str(clip(Path(place) / "clip", [caption for _, caption in shown]))
            model = {"chinese_clip": {"model": network}, "chinese_clip_alignment": {}}
            model_theirs = [{"image_text_similarity_filter": {"hf_clip": network, "min_score": -1.0}}]
            models: dict[str, Way] = {MODEL: partial(ours, wanted=model)}
            models[f"{MODEL}{THEIRS}"] = partial(theirs, operators=model_theirs)
            found |= rates(shown[: 3 * FIRST], models, rounds)
        cluster.stop()
    print(f"\nour models compute in {scoring_precision(pick())} here")
    print(f"\n{'':40}{'pictures/s':>12}")
    for way, speed in found.items():
        print(f"{way:40}{speed:12,.1f}")
    print(json.dumps({name: round(value, 2) for name, value in figures(found, single).items()}), flush=True)
    # Ray's threads outlive the interpreter's teardown, in which DuckDB's bindings would print pages.
    os._exit(0)


if __name__ == "__main__":
    main()
