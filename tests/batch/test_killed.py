"""Killed at any moment, a batch goes on to the same bytes, repeats nothing that is finished and leaves nothing half."""

from __future__ import annotations

import random
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.batch.jobs import compared, shell, whole, written
from workbench import cli

JOBS = ({"method": ["brief", "plain"], "budget": ["macs=0.8", "macs=0.5"]},)


def started(file: Path, out: Path) -> subprocess.Popen[str]:
    return shell("batch", file, "--out", out, "--quiet")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, bytes], float]:
    """A job file, what comes of it when nobody interferes, and the seconds that takes."""
    folder = tmp_path_factory.mktemp("undisturbed")
    file, start = written(folder / "jobs.toml", *JOBS), time.perf_counter()
    process = started(file, folder / "out")
    _, err = process.communicate(timeout=600)
    assert process.returncode == cli.DONE, err
    found = compared(folder / "out")
    assert len(found) == 4 * 6
    return file, found, time.perf_counter() - start


def killed_and_resumed(file: Path, out: Path, seconds: float, expected: dict[str, bytes]) -> bool:
    """Whether it was killed in the middle of its work; checks all else."""
    process = started(file, out)
    try:
        process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    stopped = process.returncode == -signal.SIGKILL
    out.mkdir(exist_ok=True)
    assert whole(out)
    finished = {path: path.stat().st_mtime_ns for path in out.glob("build-*/*")}
    scores = {path: path.read_bytes() for path in out.glob("searches/*/search.jsonl")}
    process = started(file, out)
    _, err = process.communicate(timeout=600)
    assert process.returncode == cli.DONE, err
    assert compared(out) == expected
    assert whole(out)
    assert not any((out / ".part").glob("*"))
    assert all(path.stat().st_mtime_ns == when for path, when in finished.items())
    for path, before in scores.items():
        assert path.read_bytes().startswith(before[: before.rfind(b"\n") + 1])
        lines = path.read_text().splitlines()
        assert len(set(lines)) == len(lines)
    return stopped and (bool(finished) or any(before.count(b"\n") > 1 for before in scores.values()))


def test_killed_it_goes_on_to_the_same_bytes(
    tmp_path: Path, undisturbed: tuple[Path, dict[str, bytes], float]
) -> None:
    file, expected, seconds = undisturbed
    draw = random.Random(5)
    moments = [draw.uniform(0.3, 0.9) * seconds for _ in range(2)]
    middle = [killed_and_resumed(file, tmp_path / str(n), moment, expected) for n, moment in enumerate(moments)]
    assert any(middle)


@pytest.mark.slow
def test_killed_at_thirty_moments_it_goes_on_to_the_same_bytes(
    tmp_path: Path, undisturbed: tuple[Path, dict[str, bytes], float]
) -> None:
    file, expected, seconds = undisturbed
    draw = random.Random(6)
    moments = [draw.uniform(0.02, 1.0) * seconds for _ in range(30)]
    middle = [killed_and_resumed(file, tmp_path / str(n), moment, expected) for n, moment in enumerate(moments)]
    assert sum(middle) > 10
