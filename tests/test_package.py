"""What a user installs: a wheel that works outside the checkout, with the data and the networks in it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel of the checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        ".",
        "--no-deps",
        "--no-build-isolation",
        "--wheel-dir",
        str(folder),
    ]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    (path,) = folder.glob("*.whl")
    return path


@pytest.mark.slow
def test_wheel_holds_every_file_that_is_not_python(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if name.startswith("workbench/")}
        sizes = {file.filename: file.file_size for file in archive.infolist()}
    tracked = subprocess.run(["git", "ls-files", "workbench"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert set(tracked.stdout.split()) <= packed
    assert any(name.startswith("workbench/_core.") and name.endswith(".so") for name in packed)
    assert sizes["workbench/data/fashion_mnist.npz"] <= 6.5e6
    assert sum(size for name, size in sizes.items() if name.endswith(".safetensors")) <= 8e6


@pytest.mark.slow
def test_demo_runs_from_the_wheel_outside_the_checkout(wheel: Path, tmp_path: Path) -> None:
    home = tmp_path / "venv"
    venv.create(home, with_pip=True)
    python = home / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--no-deps", wheel], check=True)
    site = sysconfig.get_path("purelib", vars={"base": str(home)})
    # torch and the other dependencies come from this environment: they need not be downloaded again
    Path(site, "dependencies.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    outside = tmp_path / "outside"
    outside.mkdir()
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def run(*command: str | Path) -> str:
        done = subprocess.run(command, cwd=outside, env=clean, capture_output=True, text=True, timeout=900, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert site in run(python, "-c", "import workbench; print(workbench.__file__)")
    summary = json.loads(run(home / "bin" / "workbench", "demo", "--json", "--quiet"))
    assert summary["macs_ratio"] <= 0.5
    assert (outside / summary["report"]).is_file()
