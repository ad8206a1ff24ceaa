"""`juzhou release` as a user runs it: by a policy, on a base, compared, and asked for what cannot be."""

import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipelines.corpus import Corpus
from schemas.release import Manifest
from tests.pipelines.releases import synthetic

JUZHOU = [sys.executable, "-c", "from juzhou.cli import main; main()"]


def juzhou(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*JUZHOU, *map(str, arguments)], capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """Forty samples; v1 holds what the recipe's policy keeps, v2 adds to it what a looser one keeps."""
    folder = tmp_path_factory.mktemp("cli")
    corpus = synthetic.filled(synthetic.recipe(folder), 40, captioned=False)
    done = juzhou("release", corpus.path, "v1")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"release v1: {corpus.releases / 'v1'}"
    (folder / "loose.yaml").write_text(synthetic.POLICY.replace("110", "105"))
    done = juzhou("release", corpus.path, "v2", "--policy", folder / "loose.yaml", "--base", "v1")
    assert done.returncode == 0, done.stderr
    return corpus


def test_captions_that_lack_are_made(corpus: Corpus) -> None:
    captions = {
        name: pq.read_table(corpus.releases / name / "samples.parquet").column("caption") for name in ("v1", "v2")
    }
    assert {name: len(texts) for name, texts in captions.items()} == {"v1": 30, "v2": 35}
    assert "第10幅画" in captions["v1"].to_pylist() and "第7幅画" in captions["v2"].to_pylist()
    assert sum(shard.samples for shard in Manifest.load(corpus.releases / "v2").shards) == 5


def test_the_verdicts_are_those_of_the_policy_that_was_given(corpus: Corpus) -> None:
    assert corpus.sql("SELECT count(*) AS n FROM verdicts WHERE kept").column("n")[0].as_py() == 35


def test_two_releases_are_compared(corpus: Corpus) -> None:
    for words in (("release", "diff", corpus.path, "v1", "v2"), ("release", "diff", corpus.path, "v2", "v1")):
        done = juzhou(*words)
        assert done.returncode == 0, done.stderr
        first, second = words[-2:]
        alone = (0, 5) if first == "v1" else (5, 0)
        assert done.stdout.startswith(
            f"30 samples in both · {alone[0]} in {first} alone · {alone[1]} in {second} alone\n"
        )
        assert "size.width ≥ 110" in done.stdout and "size.width ≥ 105" in done.stdout


def test_what_cannot_be_is_one_line(corpus: Corpus, tmp_path: Path) -> None:
    for words, said in (
        (("v1", "--base", "v9"), "no release v9 to add to; there are: v1, v2"),
        (("v2", "--policy", corpus.path.parent / "policy.yaml"), "another release v2 already"),
        (("../v3",), "no name for a release"),
        (("v3", "--policy", tmp_path / "none.yaml"), "none.yaml: cannot be read"),
    ):
        done = juzhou("release", corpus.path, *words)
        assert done.returncode == 1 and said in done.stderr and done.stderr.count("\n") == 1, done.stderr
    assert {path.name for path in corpus.releases.iterdir()} == {"v1", "v2"}
    done = juzhou("release", tmp_path, "v1")
    assert done.returncode == 1 and "is not a corpus" in done.stderr


def test_the_help_has_both_commands() -> None:
    shown = juzhou("release", "--help").stdout
    assert "freeze" in shown and "diff" in shown and "juzhou release diff demo/corpus v1 v2" in shown
