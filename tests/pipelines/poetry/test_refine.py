"""A poem becomes a prompt, from the shell too; one that shows nothing says so."""

import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from pipelines.poetry.refine import refiner
from schemas.errors import JuZhouError

JUZHOU = [sys.executable, "-c", "from juzhou.cli import main; main()"]


def test_either_script_gives_the_same_prompt() -> None:
    refined = refiner()
    assert refined("千山鳥飛絕，萬徑人蹤滅。\n孤舟蓑笠翁，獨釣寒江雪。") == refined(
        "千山鸟飞绝，万径人踪灭。孤舟蓑笠翁，独钓寒江雪。"
    )
    assert refined("孤舟蓑笠翁").split(", ") == ["船", "蓑衣", "斗笠"]


def test_nothing_to_see_is_one_line() -> None:
    with pytest.raises(JuZhouError, match="nothing to see") as caught:
        refiner()("道可道，非常道")
    assert "\n" not in str(caught.value)


def test_the_prompt_alone_is_on_the_last_line_and_is_drawn(tmp_path: Path) -> None:
    said = subprocess.run([*JUZHOU, "refine", "朝辞白帝彩云间，千里江陵一日还"], capture_output=True, text=True)
    assert said.stdout.splitlines()[-1] == "清晨, 云"
    drawn = [*JUZHOU, "generate", "两岸猿声啼不住，轻舟已过万重山", "--refine", "-o", str(tmp_path / "a.png")]
    told = subprocess.run(drawn, capture_output=True, text=True)
    assert told.stdout.splitlines()[0] == "岸, 猿猴, 船, 山", told.stderr
    assert Image.open(tmp_path / "a.png").size == (64, 64)
