"""Data-Juicer, a peer, in a virtual environment of its own: made once in the user's cache folder, about 750 MB.

torch, transformers and OpenCV it finds in our environment, behind its own packages: both sides compute with the same.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import platformdirs

VERSION = "1.6.1"
UNTOLD = ("aiohttp",)
"""What it imports and does not ask for."""
BARE = ("imagededup==0.3.3.post2", "PyWavelets", "joblib", "scikit-learn", "scipy", "threadpoolctl")
"""What its image operators want besides; by their own wishes they would bring a second torch."""


CHILD = """
import pathlib, sys, time
from data_juicer.config import init_configs
from data_juicer.core import DefaultExecutor
if __name__ == "__main__":
    executor = DefaultExecutor(init_configs(["--config", sys.argv[1]]))
    started = time.monotonic()
    executor.run()
    pathlib.Path("seconds").write_text(str(time.monotonic() - started))
"""
OPERATORS_DONE = re.compile(r"All OPs are done in ([\d.]+)s")


@dataclass(frozen=True)
class Run:
    """The rows that were kept, their stats under `__dj__stats__`, and the seconds of its executor: `run_s` from the
    first look at the rows to the last stat on disk, and of these `operators_s` in the operators themselves, without the
    import of their libraries, the reading of the rows and the writing of the answer."""

    rows: list[dict[str, Any]]
    run_s: float
    operators_s: float


def home() -> Path:
    return Path(os.environ.get("JUZHOU_CACHE") or platformdirs.user_cache_dir("juzhou")) / f"data-juicer-{VERSION}"


def is_there() -> bool:
    """Whether the environment was made already."""
    return home().exists()


def make() -> None:
    """Make the environment unless it is there: half a minute, and a package registry within reach.

    Raises:
        subprocess.CalledProcessError: pip or venv failed; what they say is on the terminal.
    """
    if is_there():
        return
    partial = home().with_name(f"{home().name}-partial")
    shutil.rmtree(partial, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", partial], check=True)
    pip = [str(partial / "bin/python"), "-m", "pip", "install", "--quiet"]
    subprocess.run(
        [*pip, f"py-data-juicer=={VERSION}", "aiohttp"], check=True
    )  # imported, yet not among its requirements
    subprocess.run([*pip, "--no-deps", *BARE], check=True)
    [packages] = partial.glob("lib/python*/site-packages")
    (packages / "behind.pth").write_text(sysconfig.get_path("purelib") + "\n")
    partial.rename(home())


def process(
    rows: Sequence[Mapping[str, Any]],
    operators: Sequence[Mapping[str, Mapping[str, Any]]],
    folder: Path,
    workers: int = 2,
    **settings: Any,
) -> Run:
    """Run its default executor over rows, as its configuration file would have it; one thread a worker.

    Args:
        rows: with `text`, and `images` as a list of paths.
        operators: as under `process` in its configuration.
        folder: an empty one, for the rows, its caches and its output.
        settings: other keys of its configuration.

    Raises:
        RuntimeError: it failed; the message is the end of what it said.
    """
    (folder / "rows.jsonl").write_text("".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows), "utf-8")
    configuration = {
        "project_name": "benchmark",
        "dataset_path": str(folder / "rows.jsonl"),
        "export_path": str(folder / "out" / "out.jsonl"),
        "work_dir": str(folder / "work"),
        "ds_cache_dir": str(folder / "cache"),
        "np": workers,
        "keep_stats_in_res_ds": True,
        "process": list(operators),
    }
    (folder / "recipe.yaml").write_text(json.dumps(configuration | settings), "utf-8")  # JSON is YAML
    (folder / "child.py").write_text(CHILD)
    offline = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "hub"), "PYTHONWARNINGS": "ignore"}
    one_thread = {"OMP_NUM_THREADS": "1", "OPENCV_FOR_THREADS_NUM": "1"}
    done = subprocess.run(
        [home() / "bin/python", folder / "child.py", folder / "recipe.yaml"],
        env=os.environ | offline | one_thread,
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"Data-Juicer: {done.stderr[-2000:]}")
    kept = [json.loads(line) for line in (folder / "out" / "out.jsonl").read_text("utf-8").splitlines()]
    [operators_s] = OPERATORS_DONE.findall(done.stderr)
    return Run(kept, float((folder / "seconds").read_text()), float(operators_s))
