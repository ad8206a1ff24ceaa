"""The checkpoint that comes along draws what it is asked for, from the shell, in seconds."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from model.pipeline import SHIPPED, JuZhouPipeline
from training.evaluation.scenes import evaluate

JUZHOU = [sys.executable, "-c", "from juzhou.cli import main; main()"]


def test_it_is_small_and_says_what_it_is() -> None:
    assert sum(path.stat().st_size for path in SHIPPED.rglob("*") if path.is_file()) <= 20_000_000
    assert {"README.md", "recipe.yaml", "scores.json", "log.jsonl"} <= {path.name for path in SHIPPED.iterdir()}


def test_neither_it_nor_what_is_saved_from_it_says_where_it_was(tmp_path: Path) -> None:
    JuZhouPipeline.from_pretrained(SHIPPED).save_pretrained(tmp_path)
    for folder in (SHIPPED, tmp_path):
        assert not [path for path in folder.rglob("*.json") if "_name_or_path" in path.read_text(encoding="utf-8")]


def test_it_reaches_its_scores() -> None:
    stated = json.loads((SHIPPED / "scores.json").read_text())["overall_4"]
    scores, _ = evaluate(None, JuZhouPipeline.from_pretrained(SHIPPED), quick=True, pictures=1, say=lambda line: None)
    assert scores["4"].overall == pytest.approx(stated, abs=3 * scores["4"].error)


def test_generate_needs_no_more_than_a_prompt(tmp_path: Path) -> None:
    started = time.monotonic()
    done = subprocess.run(
        [*JUZHOU, "generate", "红苹果在猫的左边", "-o", tmp_path / "a.png"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert Image.open(tmp_path / "a.png").size == (64, 64)
    assert time.monotonic() - started < 60, "under ten seconds on a machine of its own"
