"""The architecture, held by a test: nothing imports upwards."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAY_IMPORT = {
    "schemas": set(),
    "model": {"schemas"},
    "filters": {"schemas", "model"},
    "pipelines": {"schemas", "model", "filters"},
    "training": {"schemas", "model"},
    "juzhou": {"schemas", "model", "filters", "pipelines", "training"},
}


def imported(path: Path) -> set[str]:
    """The top-level packages that a file imports, wherever in it the import stands."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names.add((node.module or "").partition(".")[0])
    return names


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_nothing_imports_upwards(package: str) -> None:
    files = list((ROOT / package).rglob("*.py"))
    assert files
    for path in files:
        ours = imported(path) & MAY_IMPORT.keys() - {package}
        assert ours <= MAY_IMPORT[package], f"{path.relative_to(ROOT)} imports {sorted(ours - MAY_IMPORT[package])}"


@pytest.mark.parametrize("package", ["filters", "model", "schemas"])
def test_pure_packages_know_no_ray(package: str) -> None:
    assert not [path for path in (ROOT / package).rglob("*.py") if "ray" in imported(path)]


def test_ray_starts_in_one_place() -> None:
    starts = [
        path for package in MAY_IMPORT for path in (ROOT / package).rglob("*.py") if "ray.init(" in path.read_text()
    ]
    assert [path.relative_to(ROOT) for path in starts] == [Path("pipelines/cluster.py")]
