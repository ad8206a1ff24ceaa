"""Models of others: what their digest covers, and whose fault an error is."""

import subprocess
import sys
from pathlib import Path

import pytest

from filters.weights import model_digest
from pipelines.models import each
from schemas.errors import JuZhouError


def made(folder: Path, **files: str) -> str:
    for name, content in files.items():
        path = folder / name.replace("__", "/").replace("_json", ".json").replace("_md", ".md")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return str(folder)


def test_a_digest_is_of_names_and_contents(tmp_path: Path) -> None:
    model = model_digest(made(tmp_path / "a", config_json="{}", unet__weights_json="1"))
    assert len(model) == 12 and int(model, 16) >= 0
    assert model == model_digest(made(tmp_path / "b", config_json="{}", unet__weights_json="1", README_md="new"))
    assert model == model_digest(made(tmp_path / "c", config_json="{}", unet__weights_json="1", **{".cache__x": "y"}))
    assert model != model_digest(made(tmp_path / "d", config_json="{}", unet__weights_json="2"))
    assert model != model_digest(made(tmp_path / "e", config_json="{}", vae__weights_json="1"))


def test_no_model(tmp_path: Path) -> None:
    with pytest.raises(JuZhouError, match="an empty folder"):
        model_digest(made(tmp_path, README_md="words"))
    with pytest.raises(JuZhouError, match="no such folder, and no model that the hub gives"):
        model_digest(f"{tmp_path}/none")


def test_a_hub_id_stands_for_this_machines_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = made(tmp_path / "copy", config_json="{}")
    monkeypatch.setattr("huggingface_hub.snapshot_download", {"someone/teacher": copy}.__getitem__)
    assert model_digest("someone/teacher") == model_digest(copy)
    with pytest.raises(JuZhouError, match="no model that the hub gives"):
        model_digest("someone/nothing")


def halved(items: list[int]) -> list[int]:
    if 7 in items or len(items) > 3:
        raise ValueError(f"cannot do {len(items)}")
    return [item * 2 for item in items]


def test_what_fails_together_is_done_one_by_one() -> None:
    assert each(halved, [1, 2, 3], 0) == [2, 4, 6]
    assert each(halved, [1, 2, 3, 4], 0) == [2, 4, 6, 8]
    first, failed, last = each(halved, [1, 7, 3], 0)
    assert (first, last) == (2, 6)
    assert isinstance(failed, ValueError) and str(failed) == "cannot do 1"


def test_what_the_user_can_mend_is_raised() -> None:
    def work(items: list[int]) -> list[int]:
        raise JuZhouError("set the key")

    with pytest.raises(JuZhouError, match="set the key"):
        each(work, [1, 2], 0)


def test_a_process_that_fails_at_the_control_ends() -> None:
    program = "from pipelines.models import each; each(lambda items: [1 // 0], [1], 0); print('went on')"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, cwd=Path(__file__).parents[2])
    assert (ended.returncode, ended.stdout) == (1, b"")
