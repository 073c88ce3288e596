"""Whatever goes wrong costs the run that it belongs to, which says why; the batch goes on."""

from __future__ import annotations

import json
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import workbench as wb
from tests.batch import shop
from tests.batch.jobs import SHOP, batch, jobs, shell, whole, written
from tests.batch.shop import SCRATCH
from workbench import cli
from workbench.artefact import replays
from workbench.batch.events import Announcer, Event
from workbench.batch.jobfile import read_jobs
from workbench.batch.process import carry_out
from workbench.batch.runner import Batch

QUICK = {"budget": "macs=0.5", "method": "quick"}
SECONDS = 25
FAULTS = {
    "raises": ({"evaluate": f"{SHOP}:raises"}, r"RuntimeError: the labels <b>are</b> gone"),
    "nan": ({"evaluate": f"{SHOP}:nan"}, r"the evaluation 'nan' returned nan for the original model; it must return"),
    "hangs": ({"evaluate": f"{SHOP}:hangs", "time_limit": SECONDS}, rf"it took longer than time_limit = {SECONDS} s"),
    "hungry": ({"evaluate": f"{SHOP}:hungry", "memory_limit": "3GB"}, r"more memory was asked for than memory_limit ="),
    "vanished": ({"calibration": f"{SHOP}:vanished"}, r".*images.npy: No such file or directory"),
    "suicidal": ({"evaluate": f"{SHOP}:suicidal"}, r"its process was killed by SIGKILL, 2 times in the same step; see"),
    "untraceable": ({"model": f"{SHOP}:broken"}, r".*"),
    "misspelt": ({"evaluate": f"{SHOP}:scor"}, rf'"{SHOP}:scor" leads nowhere: {SHOP} has no scor; look at its spell'),
    "absent": ({"calibration": "no.such:thing"}, r'"no.such:thing" cannot be imported .*; install it, or name the f'),
    "unreachable": ({"budget": "macs=0.0001"}, r"the budget of \d+ macs is out of reach: the smallest reachable"),
}  # fmt: skip
Done = tuple[Path, pd.DataFrame, list[Event]]


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Done]:
    """All faults in one batch, with two runs that are good."""
    out = tmp_path_factory.mktemp("faults")
    changes = [{**QUICK, "name": name, **change} for name, (change, _) in FAULTS.items()]
    changes += [{**QUICK, "name": "killed", "evaluate": f"{SHOP}:killed_once"}, {**QUICK, "name": "good"}]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(SCRATCH, str(tmp_path_factory.mktemp("scratch")))
        yield out, *batch(out, *changes, workers=2)


def row(table: pd.DataFrame, name: str) -> Any:
    (found,) = [row for row in table.itertuples() if row.run.startswith(f"{name}-")]
    return found


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_the_runs_own(name: str, done: Done) -> None:
    out, table, events = done
    failed = row(table, name)
    assert failed.state == "failed"
    assert pd.Series([failed.reason]).str.match(FAULTS[name][1]).all(), failed.reason
    assert "\n" not in failed.reason
    assert Path(failed.folder).is_file()
    assert Path(failed.folder).name == "log.txt"
    told = [event for event in events if event.get("run") == failed.run and event["event"] == "run_failed"]
    assert [event["reason"] for event in told] == [failed.reason]
    assert json.loads((out / "failed" / failed.run / "failure.json").read_text())["reason"] == failed.reason


def test_the_others_are_done(done: Done) -> None:
    """Also the one whose process was killed by somebody, once."""
    out, table, events = done
    assert row(table, "good").state == row(table, "killed").state == "done"
    died = [event for event in events if event["event"] == "process_died"]
    assert [event["how"] for event in died] == ["was killed by SIGKILL"] * 2
    assert whole(out)
    assert not any((out / ".part").iterdir())


def test_failures_come_last_with_their_logs(done: Done) -> None:
    out, table, _ = done
    assert list(table["state"]) == ["done"] * 2 + ["failed"] * len(FAULTS)
    page = (out / "index.html").read_text()
    assert "the labels &lt;b&gt;are&lt;/b&gt; gone" in page
    assert "<b>are</b>" not in page
    log = Path(row(table, "raises").folder).read_text()
    assert "Traceback (most recent call last)" in log
    assert "shop.py" in log


def test_a_failed_run_is_tried_again_and_then_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SCRATCH, str(tmp_path))
    change = {**QUICK, "calibration": f"{SHOP}:vanished"}
    table, _ = batch(tmp_path / "out", change)
    assert list(table["state"]) == ["failed"]
    import numpy as np

    from tests.batch.shop import images

    np.save(tmp_path / "images.npy", images().numpy())
    table, _ = batch(tmp_path / "out", change)
    assert list(table["state"]) == ["done"]
    assert list((tmp_path / "out" / "failed").iterdir()) == []


def test_an_export_that_fails_loses_no_result(tmp_path: Path) -> None:
    table, _ = batch(tmp_path, {**QUICK, "model": f"{SHOP}:untranslatable", "export": ["pt2", "onnx"]})
    assert list(table["state"]) == ["failed"]
    assert "bessel_j1" in table["reason"][0]
    folder = Path(table["folder"][0]).parent  # of its log
    assert folder.parent == tmp_path / "failed"
    assert {path.name for path in folder.iterdir()} > {"plan.json", "report.html", "small.pt2", "failure.json"}
    assert replays(wb.restore(shop.untranslatable(), folder), folder)


def test_an_export_that_lacks_its_extra_is_refused_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workbench.extras.ONNX", ("onnx_of_another_world",))
    with pytest.raises(ModuleNotFoundError, match=r"needs onnx_of_another_world; pip install 'workbench\[onnx\]'"):
        batch(tmp_path, {**QUICK, "export": "onnx"})
    assert not (tmp_path / "searches").exists()


def test_a_shell_is_told_by_the_exit_code(tmp_path: Path) -> None:
    changes = ({**QUICK, "name": "bad", "model": f"{SHOP}:nowhere"}, {**QUICK, "name": "good"})
    file = written(tmp_path / "jobs.toml", *changes)
    process = shell("batch", file, "--out", tmp_path / "out", "--fail-fast")
    out, err = process.communicate(timeout=300)
    assert process.returncode == cli.FAILED
    *_, failed, log, _ = out.splitlines()
    assert failed.startswith("FAILED bad-nowhere")
    assert Path(log.strip().removeprefix("log: ")).is_file()
    assert "1/2 bad-nowhere-quick-macs0.5: FAILED" in err
    assert "good-build" in out
    assert "left" in out
    assert not (tmp_path / "out" / "good-build-quick-macs0.5").exists()


def test_a_run_that_takes_too_long_costs_only_itself(tmp_path: Path) -> None:
    """Its test hangs on the small model only; the other run of the same search is done."""
    change = {**QUICK, "budget": ["macs=0.3", "macs=0.9"], "test": f"{SHOP}:later_hangs", "time_limit": SECONDS}
    table, _ = batch(tmp_path, change)
    assert dict(zip(table["run"], table["state"], strict=True)) == {
        "build-quick-macs0.3": "failed", "build-quick-macs0.9": "done",
    }  # fmt: skip
    assert "it took longer than time_limit" in table["reason"].iloc[-1]
    assert Path(table["folder"].iloc[-1]).parent == tmp_path / "failed" / "build-quick-macs0.3"


def test_a_full_disk(tmp_path: Path) -> None:
    """On a small file system of its own: one reason, nothing half done; with more room the same batch goes on."""
    disk = tmp_path / "disk"
    disk.mkdir()

    def mount(*options: str) -> int:
        command = ["mount", "-t", "tmpfs", "-o", *options, "tmpfs", str(disk)]
        return subprocess.run(command, capture_output=True, check=False).returncode

    if mount("size=48k"):
        pytest.skip("needs the right to mount a file system")
    try:
        table, _ = batch(disk / "out", QUICK)
        assert list(table["state"]) == ["failed"]
        assert "No space left on device" in table["reason"][0]
        assert whole(disk / "out")
        assert mount("remount,size=8m") == 0
        table, _ = batch(disk / "out", QUICK)
        assert list(table["state"]) == ["done"]
        assert whole(disk / "out")
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def test_an_interrupted_batch_says_how_to_go_on(tmp_path: Path) -> None:
    file, out = written(tmp_path / "jobs.toml", {**QUICK, "evaluate": f"{SHOP}:hangs"}), tmp_path / "out"
    process = shell("batch", file, "--out", out)
    deadline = time.monotonic() + 60
    while not (out / "events.jsonl").exists() or "search_started" not in (out / "events.jsonl").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == cli.INTERRUPTED
    assert err.splitlines()[-1] == "workbench: interrupted; run the same again to go on"
    assert (out / ".lock").read_text() == ""
    assert whole(out)


def test_a_task_that_is_stopped_ends_its_process(tmp_path: Path) -> None:
    task = Batch.plan(read_jobs(jobs({**QUICK, "evaluate": f"{SHOP}:hangs"})), tmp_path).tasks[0]
    stop, events = threading.Event(), []

    def listen(event: Event) -> None:
        events.append(event["event"])
        stop.set()

    carry_out(task, listen, stop)
    assert events == ["search_started"]


def test_a_tracker_that_fails_is_not_asked_again() -> None:
    told: list[str] = []

    def down(event: Event) -> None:
        told.append("down")
        raise ConnectionError("no route")

    announce = Announcer([down, lambda event: told.append(event["event"])])
    announce({"event": "one"})
    announce({"event": "two"})
    assert told == ["down", "one", "two"]
    assert len(announce.lost) == 1
    assert announce.lost[0].endswith("is told no more events: ConnectionError: no route")
