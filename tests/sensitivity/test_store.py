"""The store: killed anywhere, a search goes on; what belongs to another search, or is damaged, is refused."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from workbench import trace
from workbench.calibrate import Statistics, calibrate
from workbench.evaluation import Evaluation
from workbench.graph.trace import ChannelGraph
from workbench.select import L2
from workbench.sensitivity import Search, store
from workbench.sensitivity.store import Store

BELONGS = {"model": "m1", "metric": "accuracy"}


def fall(output: Tensor, batch: Any) -> Tensor:
    return -(output - batch[1]).square().sum(1)


def rise(output: Tensor, batch: Any) -> Tensor:
    return (output * batch[1]).sum(1)


def searching(
    folder: Path | None, *, weight: float = 1.0, first: float = 0.0, data: float = 0.0, score: Any = fall,
    **options: Any,
) -> Search:  # fmt: skip
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 3)).double()
    x, y = torch.randn(500, 6).double(), torch.randn(500, 3).double()
    with torch.no_grad():
        model[4].weight *= weight
    calibration = x[:256].clone()
    calibration[0, 0] += first
    graph = trace(model, x[:2])
    evaluate = Evaluation([(x + data, y)], score, name="score")
    return Search(graph, calibrate(graph, [calibration]), evaluate, store=folder, **options)


def text(search: Search) -> str:
    return json.dumps(search.run("measured").to_dict())


def test_a_search_goes_on_from_its_store(tmp_path: Path) -> None:
    whole = text(searching(None))
    first = searching(tmp_path)
    first.measure([("0", 8), ("2", 6)])
    first.measured.ledger.close()
    again = searching(tmp_path)
    before = set(again.measured.ledger.found)
    lines = (tmp_path / store.NAME).read_text()
    assert text(again) == whole
    assert before == {((("0", 8),), 0), ((("2", 6),), 0)}
    assert (tmp_path / store.NAME).read_text().startswith(lines)
    again.measured.ledger.close()
    units = [json.loads(line) for line in (tmp_path / store.NAME).read_text().splitlines()[1:]]
    places = [(tuple(unit["kept"].items()), unit["block"]) for unit in units]
    assert len(places) == len(set(places))


def test_a_torn_last_line_is_dropped(tmp_path: Path) -> None:
    whole = text(searching(None))
    found = searching(tmp_path)
    found.run("measured")
    found.measured.ledger.close()
    path = tmp_path / store.NAME
    content = path.read_bytes()
    for cut in (1, 40, len(content.splitlines()[-1])):
        path.write_bytes(content[:-cut])
        again = searching(tmp_path)
        assert text(again) == whole
        again.measured.ledger.close()
        assert sorted(path.read_bytes().splitlines()) == sorted(content.splitlines())


@pytest.mark.parametrize(
    ("change", "names"),
    [
        ({"weight": 1.1}, "model"), ({"first": 1.0}, "calibration data"), ({"score": rise}, "metric"),
        ({"data": 0.5}, "evaluation data"), ({"criterion": L2()}, "method"), ({"seed": 1}, "seed"),
    ],
)  # fmt: skip
def test_a_store_of_another_search_is_refused_by_name(tmp_path: Path, change: dict[str, Any], names: str) -> None:
    searching(tmp_path).measured.ledger.close()
    with pytest.raises(ValueError, match=rf"search\.jsonl belongs to another {names}: .* there, .* here; give another"):
        searching(tmp_path, **change)


def test_an_older_format_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Store(tmp_path, BELONGS).close()
    monkeypatch.setattr(store, "FORMAT", store.FORMAT + 1)
    with pytest.raises(ValueError, match=f"belongs to another format: {store.FORMAT - 1} there, {store.FORMAT} here"):
        Store(tmp_path, BELONGS)


def test_scores_come_back_to_the_last_bit(tmp_path: Path) -> None:
    scores = np.random.default_rng(0).standard_normal(100) * 10.0 ** np.arange(-50, 50)
    some = Store(tmp_path, BELONGS)
    some.add(((("a", 3),), 0), scores)
    some.add(((("b <img>", 1),), 2), "the evaluation raised ValueError: ü")
    some.close()
    again = Store(tmp_path, BELONGS)
    assert np.array_equal(again.get(((("a", 3),), 0)), scores)
    assert again.get(((("b <img>", 1),), 2)) == "the evaluation raised ValueError: ü"
    assert again.get(((("a", 3),), 1)) is None
    assert list(again.found) == [((("a", 3),), 0), ((("b <img>", 1),), 2)]


@pytest.mark.parametrize(
    "line", [b"{]", b'{"kept": 3, "block": 0, "scores": []}', b"[1]", b'"text"', b'{"kept":{"a":1},"block":0}']
)
def test_a_damaged_line_is_named(tmp_path: Path, line: bytes) -> None:
    some = Store(tmp_path, BELONGS)
    some.add(((("a", 3),), 0), np.zeros(2))
    some.close()
    with some.path.open("ab") as file:
        file.write(line + b"\n")
    with pytest.raises(ValueError, match=r"line 3 of the store .*search.jsonl is damaged \(\w+\); delete that line"):
        Store(tmp_path, BELONGS)


def test_two_searches_do_not_write_to_one_store(tmp_path: Path) -> None:
    first = Store(tmp_path, BELONGS)
    with pytest.raises(ValueError, match="is in use by another search"):
        Store(tmp_path, BELONGS)
    first.close()
    Store(tmp_path, BELONGS).close()


def test_a_full_disk_loses_no_finished_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The write of half a line, then no space: the file ends with a whole line, and one sentence says so."""
    some = Store(tmp_path, BELONGS)
    some.add(((("a", 3),), 0), np.zeros(2))
    whole = some.path.read_bytes()
    write = os.write

    def full(file: int, data: bytes) -> int:
        if len(data) < 20:
            raise OSError(28, "No space left on device")
        return write(file, data[: len(data) // 2])

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match=r"cannot be used: No space left on device; the 1 finished scores in it are kept"):
        some.add(((("a", 4),), 0), np.ones(30))
    monkeypatch.undo()
    assert some.path.read_bytes() == whole
    some.add(((("a", 4),), 0), np.ones(30))
    some.close()
    assert len(Store(tmp_path, BELONGS)) == 2


def test_a_place_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"the store .*search\.jsonl cannot be used: (Not a directory|File exists)"):
        Store(tmp_path / "file", BELONGS)


# --- killed


SCRIPT = """
import sys, time, torch
torch.set_num_threads(1)
sys.path.insert(0, sys.argv[2])
from tests.sensitivity.test_store import slow_search
import json
from pathlib import Path
search = slow_search(Path(sys.argv[1]))
print("ready", flush=True)
start = time.perf_counter()
print(json.dumps(search.run("measured").to_dict()))
print(time.perf_counter() - start)
"""


class Slow(nn.Module):
    """Enough work for a search of some seconds."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 12, 3), nn.ReLU(), nn.Conv2d(12, 8, 3), nn.ReLU()
        )
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layers(x).mean((2, 3)))


def slow_search(folder: Path) -> Search:
    return Search(*slow_parts(), store=folder)


def slow_parts() -> tuple[ChannelGraph, Statistics, Evaluation]:
    torch.manual_seed(0)
    model, x = Slow(), torch.randn(1500, 1, 14, 14)
    graph = trace(model, x[:2])
    labels = torch.arange(1500) % 4
    evaluate = Evaluation([(x, labels)], lambda o, b: -F.cross_entropy(o, b[1], reduction="none"), name="likelihood")
    return graph, calibrate(graph, [x[:64]], rows=2000), evaluate


def killed_once(folder: Path, seconds: float) -> tuple[bool, str]:
    """Run the search in a process of its own; whether it was killed, and what it printed."""
    root = str(Path(__file__).parents[2])
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(folder), root], stdout=subprocess.PIPE, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    try:
        printed, _ = process.communicate(timeout=seconds)
        return False, printed
    except subprocess.TimeoutExpired:
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        return True, ""


def checked(path: Path, before: bytes) -> bool:
    """That nothing was repeated; whether the search had been killed in the middle."""
    assert path.read_bytes().startswith(before[: before.rfind(b"\n") + 1])
    units = [json.loads(line) for line in path.read_text().splitlines()[1:]]
    places = [(tuple(unit["kept"].items()), unit["block"]) for unit in units]
    assert len(places) == len(set(places))
    return 0 < before.count(b"\n") - 1 < len(units)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, float]:
    """The curves of a search that nobody killed, and the seconds it took."""
    killed, printed = killed_once(tmp_path_factory.mktemp("whole"), 300)
    assert not killed
    *_, curves, seconds = printed.splitlines()
    return curves, float(seconds)


def test_killed_it_goes_on_to_the_same_curves(tmp_path: Path, whole: tuple[str, float]) -> None:
    """Killed at a random moment and started again, a search prints the same and has repeated nothing."""
    draw = random.Random(3)
    moments = [draw.uniform(0.02, 0.95) * whole[1] for _ in range(3)]

    def once(number: int) -> bool:
        folder = tmp_path / str(number)
        killed, printed = killed_once(folder, moments[number])
        path = folder / store.NAME
        before = path.read_bytes()
        if killed:
            killed, printed = killed_once(folder, 300)
        assert not killed
        assert printed.splitlines()[0] == whole[0]
        return checked(path, before)

    with ThreadPoolExecutor(2) as pool:
        stopped = list(pool.map(once, range(3)))
    assert any(stopped)  # in the middle


FORKS = """
import json, os, signal, sys, threading, time, torch
from tqdm import tqdm
torch.set_num_threads(1)
sys.path.insert(0, sys.argv[2])
from pathlib import Path
from tests.sensitivity.test_store import checked, slow_parts
from workbench.sensitivity import Search
parts, folder = slow_parts(), Path(sys.argv[1])

def run(name, after=None):
    pid = os.fork()
    if pid == 0:
        tqdm.set_lock(threading.RLock())  # its own is shared by all forks, and stays locked where its holder is killed
        try:
            found = json.dumps(Search(*parts, store=folder / name).run("measured").to_dict())
            (folder / f"{name}.json").write_text(found)
        finally:
            os._exit(0)
    if after is not None:
        time.sleep(after)
        os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)

start = time.perf_counter()
run("whole")
seconds = time.perf_counter() - start
middle = 0
for number in range(50):
    name = str(number)
    run(name, seconds * (number + 0.5) / 50)
    path = folder / name / "search.jsonl"
    before = path.read_bytes() if path.exists() else b""
    run(name)
    assert (folder / f"{name}.json").read_text() == (folder / "whole.json").read_text(), number
    middle += checked(path, before)
print(middle)
"""


@pytest.mark.slow
def test_killed_at_fifty_moments_it_goes_on_to_the_same_curves(tmp_path: Path) -> None:
    """Each in a process forked from one that has done the tracing, which the quick test does anew."""
    done = subprocess.run(
        [sys.executable, "-c", FORKS, str(tmp_path), str(Path(__file__).parents[2])], capture_output=True, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 10
