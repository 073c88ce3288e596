"""The whole tree holds to the linter, the type checker and both compilers' warnings."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def run(*command: str, **environment: str) -> None:
    """Fail with what the command printed where it fails."""
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}{done.stderr}"


@pytest.mark.parametrize("command", [("ruff", "check", "."), ("mypy",)], ids=["ruff", "mypy"])
def test_python(command: tuple[str, ...]) -> None:
    run(sys.executable, "-m", *command)


@pytest.mark.parametrize(("c", "cpp"), [("gcc", "g++"), ("clang", "clang++")])
def test_core_compiles_without_warnings(c: str, cpp: str, tmp_path: Path) -> None:
    if not shutil.which(cpp):
        pytest.skip(f"needs {cpp}: apt-get install -y {cpp.replace('clang++', 'clang')}")
    build = (
        "setup.py",
        "build_ext",
        "--force",
        "--build-lib",
        str(tmp_path),
        "--build-temp",
        str(tmp_path / "objects"),
    )
    run(sys.executable, *build, CC=c, CXX=cpp, WORKBENCH_WERROR="1", WORKBENCH_BUILD_JOBS=str(os.cpu_count()))
    assert list(tmp_path.glob("workbench/_core.*"))
