"""Metrics and pictures reach the files that trackers read, each step once."""

import json
import struct
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image
from tensorboardX.proto.event_pb2 import Event

from schemas.training import Training
from training.log import EVENTS, Log


def events(folder: Path) -> list[Event]:
    """All events of all files, in the order of writing: length, its checksum, the event, its checksum."""
    found = []
    for path in sorted((folder / EVENTS).iterdir()):
        content = path.read_bytes()
        while content:
            [length] = struct.unpack("<Q", content[:8])
            found.append(Event.FromString(content[12 : 12 + length]))
            content = content[16 + length :]
    return found


def test_scalars_and_pictures_are_in_tensorboards_files(tmp_path: Path) -> None:
    log = Log(tmp_path, Training(), 0)
    for step in range(3):
        log.scalars(step, {"loss": 1.0 / (step + 1), "grad_norm": 2.0})
    log.picture(2, "samples", Image.new("RGB", (8, 4), "red"))
    log.close()
    values = [(event.step, value) for event in events(tmp_path) for value in event.summary.value]
    assert [(step, value.simple_value) for step, value in values if value.tag == "loss"] == [
        (step, pytest.approx(1 / (step + 1))) for step in range(3)
    ]
    [(step, picture)] = [(step, value.image) for step, value in values if value.tag == "samples"]
    assert (step, picture.width, picture.height) == (2, 8, 4)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert rows[1] == {"step": 1, "loss": 0.5, "grad_norm": 2.0}


def test_a_run_that_goes_on_drops_what_was_written_after_its_state(tmp_path: Path) -> None:
    first = Log(tmp_path, Training(), 0)
    for step in range(5):
        first.scalars(step, {"loss": 0.0})
    first.close()
    again = Log(tmp_path, Training(), 3)
    for step in range(3, 6):
        again.scalars(step, {"loss": 1.0})
    again.close()
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(row["step"], row["loss"]) for row in rows] == [(0, 0), (1, 0), (2, 0), (3, 1), (4, 1), (5, 1)]
    restarts = [event.step for event in events(tmp_path) if event.session_log.status == 1]
    assert restarts == [3], "TensorBoard drops what lies before a restart and bears a later step"


def test_no_tracker_writes_the_rows_alone(tmp_path: Path) -> None:
    log = Log(tmp_path, Training(trackers=()), 0)
    log.scalars(0, {"loss": 0.0})
    log.picture(0, "samples", Image.new("RGB", (4, 4)))
    log.close()
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]
    assert Counter(json.loads((tmp_path / "metrics.jsonl").read_text())) == {"step": 0, "loss": 0.0}
