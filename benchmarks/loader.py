"""Samples a second from a release, beside webdataset and the tars read raw; and a training step with features kept.

    python benchmarks/loader.py           4,000 pictures
    python benchmarks/loader.py --quick   800 of them

The release is of crops of real photographs (`photographs.py`), JPEG of some 500 pixels in five shapes, in tars of 200.
Every way gives the same thing: pixels cut to about 256², and a caption. We read in the order of training, at random
over all tars; webdataset reads shard after shard and shuffles in a buffer of 1,000; it decodes with our function, so
that only reading differs. The page cache is warm for all. Two threads are two of this machine's cores, if it has them.

The step is of the nano model at 64 pixels, batch 64, one thread, untrained weights: with latents and texts kept, and
with both computed anew, its own encoders being as small as they are. A large autoencoder makes the difference larger.
"""

import argparse
import hashlib
import io
import json
import sys
import tarfile
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
import webdataset
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))

from photographs import photographs

from model import text
from model.autoencoder import JuZhouAutoencoder
from model.pipeline import quiet
from schemas.identity import digest
from schemas.release import Manifest, Shard
from schemas.tables import SCHEMA_VERSION
from schemas.training import FlowSettings, Stages, Training
from training.batches import Batches
from training.features import keep
from training.flow import FlowStage
from training.release import Release, decode
from training.stage import Job

SIZE, BATCH = 256, 64
SHAPES = ((512, 512), (576, 448), (448, 576), (640, 384), (384, 640))
A_TAR = 200
STEPS = 8


def main() -> None:
    """Measure every way and print a table and one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="800 pictures")
    count = 800 if parser.parse_args().quick else 4000
    torch.set_num_threads(1)
    quiet()
    with tempfile.TemporaryDirectory() as folder:
        release = Path(folder) / "photographs"
        release.mkdir()
        freeze(release, count)
        started = time.perf_counter()
        opened = Release(release)
        print(f"{count:,} pictures; the release opened in {time.perf_counter() - started:.2f} s")
        ways: dict[str, Callable[[], Iterator[int]]] = {
            "tars, bytes alone": lambda: raw(release, decoded=False),
            "tars, decoded": lambda: raw(release, decoded=True),
            "webdataset": lambda: of_webdataset(release),
            "ours, 1 thread": lambda: ours(opened, 1),
            "ours, 2 threads": lambda: ours(opened, 2),
        }
        rates = {name: rate(way) for name, way in ways.items()}
        steps = flow_steps(opened, Path(folder))
    print(f"\n{'samples a second':24} {'':>9} {'of webdataset':>14}")
    for name, found in rates.items():
        print(f"{name:24} {found:9,.0f} {found / rates['webdataset']:13.2f}×")
    print(f"\n{'a step of nano':24} {'ms':>9} {'of it loading':>14}")
    for name, (step, load) in steps.items():
        print(f"{name:24} {step:9,.0f} {load:14,.1f}")
    told: dict[str, Any] = {name.replace(",", "").replace(" ", "_"): round(found, 1) for name, found in rates.items()}
    told["ours_over_webdataset"] = round(rates["ours, 1 thread"] / rates["webdataset"], 3)
    told["ours_over_tars_decoded"] = round(rates["ours, 1 thread"] / rates["tars, decoded"], 3)
    told |= {f"step_ms_{name.split()[1]}": round(step, 1) for name, (step, _) in steps.items()}
    told["step_anew_over_kept"] = round(steps["features anew"][0] / steps["features kept"][0], 3)
    print(json.dumps(told))


def freeze(release: Path, count: int) -> None:
    """Crops of photographs as a release: tars, samples.parquet and a manifest."""
    pictures = [Image.open(path).convert("RGB") for path in photographs()[:100]]
    rows, shards = [], []
    for first in range(0, count, A_TAR):
        tar = release / f"train-{first // A_TAR:05}.tar"
        with tarfile.open(tar, "w") as file:
            for number in range(first, min(first + A_TAR, count)):
                width, height = SHAPES[number % len(SHAPES)]
                source = pictures[number % len(pictures)]
                left, top = number * 7 % max(1, source.width - width), number * 5 % max(1, source.height - height)
                buffer = io.BytesIO()
                source.crop((left, top, left + width, top + height)).save(buffer, "JPEG", quality=90)
                content, caption = buffer.getvalue() + bytes([number % 256, number // 256]), f"第{number}张照片"
                image_id = digest(content)
                offset = {}
                for ending, part in (("jpg", content), ("txt", caption.encode())):
                    entry = tarfile.TarInfo(f"{number:06}.{ending}")
                    entry.size = len(part)
                    offset[ending] = file.offset + tarfile.BLOCKSIZE
                    file.addfile(entry, io.BytesIO(part))
                rows.append(
                    {
                        "sample_id": digest(image_id + caption.encode()),
                        "image_id": image_id,
                        "split": "train",
                        "release": release.name,
                        "shard": tar.name,
                        "offset": offset["jpg"],
                        "length": len(content),
                        "caption": caption,
                        "size": {"width": width, "height": height},
                    }
                )
        sha256 = hashlib.sha256(tar.read_bytes()).hexdigest()
        shards.append(Shard(name=tar.name, split="train", sha256=sha256, bytes=tar.stat().st_size, samples=A_TAR))
    table = pa.Table.from_pylist(rows)
    pq.write_table(table, release / "samples.parquet")
    manifest = Manifest(
        name=release.name,
        schema_version=SCHEMA_VERSION,
        selection="",
        recipe="",
        policy="",
        variants={},
        samples=count,
        images=count,
        splits={"train": count},
        samples_sha256=hashlib.sha256((release / "samples.parquet").read_bytes()).hexdigest(),
        shards=tuple(shards),
    )
    (release / "manifest.json").write_text(manifest.text(), encoding="utf-8")


def rate(way: Callable[[], Iterator[int]]) -> float:
    """Samples a second, the first ones left out."""
    counts = way()
    next(counts)
    started = time.perf_counter()
    seen = sum(counts)
    return seen / (time.perf_counter() - started)


def raw(release: Path, decoded: bool) -> Iterator[int]:
    """One tar after another, entry by entry."""
    for path in sorted(release.glob("*.tar")):
        with tarfile.open(path) as tar:
            for entry in tar:
                file = tar.extractfile(entry)
                assert file
                content = file.read()
                if entry.name.endswith(".jpg"):
                    if decoded:
                        decode(content, (SIZE, SIZE))
                    yield 1


def of_webdataset(release: Path) -> Iterator[int]:
    """As its users write it."""
    shards = [str(path) for path in sorted(release.glob("*.tar"))]
    samples = webdataset.WebDataset(shards, shardshuffle=False).shuffle(1000, initial=100)
    pictures = samples.to_tuple("jpg", "txt").map_tuple(lambda jpg: decode(jpg, (SIZE, SIZE)), bytes.decode)
    for images, _ in pictures.batched(BATCH, collation_fn=lambda pairs: tuple(zip(*pairs, strict=True))):
        yield len(torch.stack(images))


def ours(release: Release, threads: int) -> Iterator[int]:
    """An epoch in the order of training."""
    batches = Batches(release, 0, SIZE, BATCH)

    def load(step: int) -> int:
        images, texts, shape = batches.batch(step, {"simplified": 1.0})
        release.texts.take(texts.numpy()).to_pylist()
        return len(release.read(images, shape))

    with ThreadPoolExecutor(threads) as pool:
        waiting = deque(pool.submit(load, step) for step in range(len(release.samples) // BATCH))
        while waiting:
            yield waiting.popleft().result()


def flow_steps(release: Release, folder: Path) -> dict[str, tuple[float, float]]:
    """Milliseconds of a step of the flow, and of loading for it, with features kept and anew."""
    recipe = Training(size=64, stages=Stages(flow=FlowSettings(batch=BATCH)))
    torch.manual_seed(0)
    places = {name: folder / name for name in ("autoencoder", "align", "latents", "texts")}
    JuZhouAutoencoder.preset("nano").save_pretrained(places["autoencoder"] / "autoencoder")
    tokenizer = text.nano_tokenizer()
    text.nano_encoder(tokenizer).save_pretrained(places["align"] / "text_encoder")
    tokenizer.save_pretrained(places["align"] / "tokenizer")
    for name in ("latents", "texts"):
        places[name].mkdir()
        keep(name, release, recipe, places, places[name], slice(0, None))
    anew = {name: places[name] for name in ("autoencoder", "align")}
    stages = {
        name: FlowStage(Job(release, recipe, given))
        for name, given in (("features kept", places), ("features anew", anew))
    }
    best = dict.fromkeys(stages, (float("inf"), 0.0))
    for step in range(STEPS):
        for name, stage in stages.items():
            started = time.perf_counter()
            batch = stage.load(step)
            loaded = time.perf_counter()
            stage.step(step, batch)
            ended = time.perf_counter()
            best[name] = min(best[name], (1e3 * (ended - started), 1e3 * (loaded - started)))
    return best


if __name__ == "__main__":
    main()
