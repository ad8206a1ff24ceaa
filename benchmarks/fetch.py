"""How fast pictures are fetched with all protections on, against plain img2dataset, and the memory that this takes.

    python benchmarks/fetch.py            20,000 URLs, three rounds each in turn, then the memory at 20,000 and 200,000
    python benchmarks/fetch.py --quick    2,000 URLs, one round, no memory: less than 50 seconds

One server on 127.0.0.1, a process of its own, answers both with the same pictures, and both keep the bytes as they are.
Ours runs as `juzhou build` runs it: robots.txt, opt-outs, addresses checked on the connection, caps on time, size and
pixels, a row a URL; only the limits of a host are off, since there is but one. img2dataset runs with what suits it best
here: a process a core, the same threads, no re-encoding, WebDataset tars. Images a second are counted by the server,
from the first request to the last; the ratio with start counts the whole call, with the start of the workers but not
with Ray's own, which is before it.
"""

import argparse
import asyncio
import io
import json
import multiprocessing
import multiprocessing.connection
import os
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))

from pipelines import cluster, fetch
from pipelines.corpus import Corpus
from pipelines.sources import urls
from pipelines.stage import run
from schemas.recipe import Fetch, Urls

PICTURES = 64
"""Different ones; each URL's is made its own by its number behind the end of the file."""
THREADS = 32
CORES = 2


def pictures() -> list[bytes]:
    """JPEGs of 6 to 60 KB, as lists of the web hold them."""
    made = []
    for number in range(PICTURES):
        chance = np.random.default_rng(number)
        side = int(chance.integers(160, 640))
        rough = chance.integers(0, 256, (side // 8, side // 8, 3), dtype=np.uint8)
        sink = io.BytesIO()
        Image.fromarray(rough).resize((side, side), Image.Resampling.BICUBIC).save(sink, "jpeg", quality=85)
        made.append(sink.getvalue())
    return made


async def _serve(port_to: multiprocessing.connection.Connection) -> None:
    made = pictures()
    asked_at: list[float] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line = await reader.readuntil(b"\r\n\r\n")
        path = line.split(b" ", 2)[1]
        if path == b"/span":
            body = f"{asked_at[-1] - asked_at[0]}".encode()
            asked_at.clear()
        elif path == b"/robots.txt":
            body = b"User-agent: *\nDisallow: /private/\n"
        else:
            asked_at.append(time.monotonic())
            body = made[int(path[1:-4]) % PICTURES] + path
        kind = b"image/jpeg" if path.endswith(b".jpg") else b"text/plain"
        head = b"HTTP/1.1 200 OK\r\nContent-Type: %b\r\nContent-Length: %d\r\nConnection: close\r\n\r\n"
        writer.write(head % (kind, len(body)) + body)
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0, backlog=512)
    port_to.send(server.sockets[0].getsockname()[1])
    await server.serve_forever()


def _server(port_to: multiprocessing.connection.Connection) -> None:
    asyncio.run(_serve(port_to))


@contextmanager
def served() -> Iterator[str]:
    """The server's address."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_server, args=(theirs,), daemon=True)
    process.start()
    try:
        yield f"http://127.0.0.1:{ours.recv()}"
    finally:
        process.terminate()
        process.join()


def written(folder: Path, site: str, count: int) -> Path:
    """A list of URLs in no order that helps anyone."""
    numbers = list(range(count))
    random.Random(0).shuffle(numbers)
    path = folder / "list.parquet"
    table = pa.table({"url": [f"{site}/{number}.jpg" for number in numbers], "caption": ["词"] * count})
    pq.write_table(table, path)
    return path


def listed(folder: Path, path: Path) -> Corpus:
    """An empty corpus that knows the list's URLs."""
    corpus = Corpus.create(folder / "corpus")
    urls.add_candidates(corpus, "list", Urls(kind="urls", path=str(path)), "benchmark", datetime.now(UTC))
    return corpus


def ours(folder: Path, path: Path) -> float:
    """Seconds from the first look at the candidates to the last row on disk, the start of the workers included."""
    corpus = listed(folder, path)
    limits = {"requests_per_second": None, "connections_per_host": None, "networks": ["127.0.0.0/8"]}
    settings = Fetch.model_validate(limits | {"threads": THREADS})
    started = time.monotonic()
    done = run(corpus, fetch.fetch_stage(corpus, ["list"], settings, datetime.now(UTC)), lambda *_: None)
    seconds = time.monotonic() - started
    [rows] = corpus.sql(
        "SELECT count(*) AS n, count(DISTINCT image_id) AS i FROM fetches WHERE status = 'ok'"
    ).to_pylist()
    assert rows == {"n": done, "i": done}, rows
    return seconds


THEIRS = """
import sys, time
from img2dataset import download
path, output, cores, threads = sys.argv[1:]
if __name__ == "__main__":
    started = time.monotonic()
    download(
        url_list=path, input_format="parquet", url_col="url", caption_col="caption", output_folder=output,
        output_format="webdataset", processes_count=int(cores), thread_count=int(threads), timeout=10, retries=0,
        disable_all_reencoding=True, compute_hash="sha256", number_sample_per_shard=1000, enable_wandb=False,
        max_shard_retry=0,
    )
    print("seconds", time.monotonic() - started)
"""


def img2dataset(folder: Path, path: Path, count: int) -> float:
    """Seconds of its `download`, the start of its processes included."""
    script = folder / "theirs.py"
    script.write_text(THEIRS)
    output = folder / "theirs"
    command = [sys.executable, str(script), str(path), str(output), str(CORES), str(THREADS)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    kept = sum(json.loads(stats.read_text())["successes"] for stats in output.glob("*_stats.json"))
    assert kept == count, f"{kept} of {count}: {done.stdout[-500:]}"
    return float(done.stdout.split("seconds ")[-1])


class Memory:
    """The most memory that this process and all that it started hold at once, shared pages counted once, in GB."""

    def __init__(self) -> None:
        self.peak_gb = 0.0
        self._over = threading.Event()

    def __enter__(self) -> "Memory":
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(1.0):
            self.peak_gb = max(self.peak_gb, sum(map(held_gb, family())))


def family() -> list[int]:
    """This process and those that it started, and they, but not the server."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text()
            except OSError:
                continue
            parents.setdefault(int(stat.rpartition(")")[2].split()[1]), []).append(int(entry.name))
    found, left = [], [os.getpid()]
    servers = {process.pid for process in multiprocessing.active_children()}
    while left:
        found.append(left.pop())
        left += [child for child in parents.get(found[-1], []) if child not in servers]
    return found


def held_gb(process: int) -> float:
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 2**20


def compared(site: str, count: int, rounds: int) -> dict[str, float | int]:
    """Images a second of both, in turn, and the ratios of their medians, without and with the start of the workers."""
    running: dict[str, list[float]] = {"ours": [], "img2dataset": []}
    whole: dict[str, list[float]] = {"ours": [], "img2dataset": []}
    for number in range(rounds):
        for who in sorted(running, reverse=number % 2 == 0):
            with tempfile.TemporaryDirectory() as place:
                path = written(Path(place), site, count)
                seconds = ours(Path(place), path) if who == "ours" else img2dataset(Path(place), path, count)
            with urllib.request.urlopen(f"{site}/span") as span:
                running[who].append(count / float(span.read()))
            whole[who].append(count / seconds)
            print(f"  round {number + 1} {who:12} {running[who][-1]:8.1f} images/s, {seconds:.1f} s in all", flush=True)
    median = {who: statistics.median(speeds) for who, speeds in running.items()}
    return {
        "ours_images_s": median["ours"],
        "img2dataset_images_s": median["img2dataset"],
        "ratio": median["ours"] / median["img2dataset"],
        "ratio_with_start": statistics.median(whole["ours"]) / statistics.median(whole["img2dataset"]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a small list, one round")
    quick = parser.parse_args().quick
    count, rounds = (2_000, 1) if quick else (20_000, 3)
    cluster.start(CORES)
    with served() as site:
        figures: dict[str, float | int] = {"urls": count, "rounds": rounds, **compared(site, count, rounds)}
        for size in () if quick else (20_000, 200_000):
            with tempfile.TemporaryDirectory() as place, Memory() as memory:
                ours(Path(place), written(Path(place), site, size))
            figures[f"peak_gb_{size}"] = memory.peak_gb
    cluster.stop()
    print(f"\n{'':22}{'figure':>12}")
    for name, value in figures.items():
        print(f"{name:22}{value:12,.2f}")
    print(json.dumps({name: round(value, 3) for name, value in figures.items()}), flush=True)
    # Ray's threads outlive the interpreter's teardown, in which DuckDB's bindings would print pages.
    os._exit(0)


if __name__ == "__main__":
    main()
