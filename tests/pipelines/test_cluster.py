"""Ray's start stays on this machine: no connection leaves the loopback interface."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import os, time
home = os.environ["HOME"]
from pipelines import cluster
cluster.start(1)
import ray
seen = ray.get(ray.remote(lambda: dict(os.environ)).remote())
assert seen["HOME"] == home == os.environ["HOME"] and seen["OMP_NUM_THREADS"] == "1"
time.sleep(8)
cluster.stop()
"""


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
def test_no_connection_leaves_the_machine(tmp_path: Path) -> None:
    """The usage reporter asks a few seconds after the start, hence the wait."""
    trace = tmp_path / "trace"
    home = tmp_path / "home"
    home.mkdir()
    command = ["strace", "-f", "-e", "trace=connect,sendto", "-o", str(trace), sys.executable, "-c", SCRIPT]
    root = Path(__file__).parents[2]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=root, env={"PATH": "/usr/bin:/bin", "HOME": str(home)}
    )
    assert done.returncode == 0, done.stderr
    calls = [line for line in trace.read_text().splitlines() if "AF_INET" in line]
    assert len(calls) > 10, "the trace saw nothing"
    addresses = {found for line in calls for found in re.findall(r'inet_(?:addr|pton)\((?:AF_INET6, )?"([^"]+)"', line)}
    outside = {address for address in addresses if not re.fullmatch(r"(::ffff:)?127\..*|::1", address)}
    assert not outside
    assert list(home.iterdir()) == [], "and nothing is written to the user's home"
