"""Each benchmark runs, and prints the JSON that the README's figures are taken from."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

FOLDER = Path(__file__).parent.parent / "benchmarks"
BENCHMARKS = [path for path in sorted(FOLDER.glob("*.py")) if "__main__" in path.read_text()]


def load(name: str) -> ModuleType:
    """A benchmark as a module: the folder is no package."""
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("path", BENCHMARKS, ids=lambda path: path.stem)
def test_help(path: Path) -> None:
    done = subprocess.run([sys.executable, str(path), "--help"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("usage: ")


def test_accuracy(small_zoo: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "accuracy.json"
    load("accuracy").main(["--networks", "vgg", "--targets", "0.5", "0.0001", "--out", str(out), "--markdown"])
    half, nothing = json.loads(out.read_text())["rows"]
    assert half["macs_ratio"] <= 0.5
    assert half["verified"]
    assert "smallest reachable" in nothing["failed"]
    heading, _, row = capsys.readouterr().out.splitlines()
    assert heading == "| network | original | 50% of the MACs | 0% of the MACs |"
    lost = 100 * (half["after"] - half["before"])
    assert row == f"| vgg | {half['before']:.2%} | {half['after']:.2%} ({lost:+.2f}) | not reachable |"


def test_search(small_zoo: None, capsys: pytest.CaptureFixture[str]) -> None:
    load("search").main(["--candidates", "5"])
    found = json.loads(capsys.readouterr().out)
    ours, plain = found["ours"]["cpu_seconds"], found["plain"]["cpu_seconds"]
    assert found["plain"]["candidates_run"] == 5
    assert found["ratio"] == pytest.approx(plain / ours, rel=0.1)
    assert found["median_score_difference"] < 1e-3  # both fit the same channels to the same layers
