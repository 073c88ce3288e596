"""The C++ unit tests, built with the address and undefined-behaviour sanitizers and run."""

from __future__ import annotations

import os
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2] / "cpp"
FLAGS = ["-std=c++17", "-g", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-fno-omit-frame-pointer"]
SANITIZE = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]


def sources() -> list[Path]:
    """What knows nothing of Python, and the tests."""
    logic = [path for path in ROOT.glob("*.cpp") if path.name != "module.cpp" and not path.name.startswith("bind_")]
    return sorted(logic) + sorted((ROOT / "tests").glob("*.cpp"))


def test_cpp_under_sanitizers(tmp_path: Path) -> None:
    compiler = shutil.which("clang++") or shutil.which("g++")
    if compiler is None:
        pytest.skip("there is no C++ compiler: apt install clang")

    def compiled(source: Path) -> Path:
        target = tmp_path / f"{source.stem}.o"
        check([compiler, *FLAGS, *SANITIZE, "-c", str(source), "-o", str(target)])
        return target

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(compiled, sources()))
    program = tmp_path / "cpp_tests"
    check([compiler, *SANITIZE, *map(str, objects), "-o", str(program)])
    assert "all C++ tests passed" in check([str(program)])


def check(command: list[str]) -> str:
    """What the command prints; its errors, if it fails, become the test's."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command[:1])} failed:\n{done.stdout}{done.stderr}"
    return done.stdout
