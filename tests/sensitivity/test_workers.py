"""Workers: the same curves to the last bit, whatever dies or raises on the way."""

from __future__ import annotations

import importlib
import json
import math
import os
import signal
import threading
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.sensitivity.test_store import fall
from workbench import Refused, trace
from workbench.batch.dask import dask_executor
from workbench.calibrate import calibrate
from workbench.evaluation import Evaluation, Fidelity
from workbench.sensitivity import Search
from workbench.sensitivity.workers import FOLDER

SHARES = (0.25, 0.5, 0.75)


class Net(nn.Module):
    """A convolution, and groups normalised together, whose op means something else once channels leave."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm = nn.Conv2d(3, 12, 3, padding=1), nn.GroupNorm(4, 12)
        self.b, self.head = nn.Conv2d(12, 8, 3), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.b(self.encode(x))).mean((2, 3)))

    def encode(self, x: Tensor) -> Tensor:
        return F.relu(self.norm(self.a(x)))


def searching(score: Any = fall, **options: Any) -> Search:
    """Of an evaluation with a score a sample; of a function of the model where that is none."""
    torch.manual_seed(0)
    model = Net()
    x = torch.randn(300, 3, 6, 6)
    y = torch.randn(300, 5)
    graph = trace(model, x[:2])
    evaluate = (
        score if isinstance(score, Whole) else Evaluation(list(zip(x.split(64), y.split(64), strict=True)), score)
    )
    return Search(graph, calibrate(graph, [x[:128]]), evaluate, shares=SHARES, **options)


def text(search: Search) -> str:
    return json.dumps(search.run("measured").to_dict())


@dataclass(frozen=True)
class Whole:
    """Minus the sum of all outputs; at one width of the second convolution something happens first."""

    folder: str = ""
    gone: int = -1  # of the eight channels that the head reads
    times: int = 0  # that it happens
    how: str = "raise"
    x: Tensor = field(default_factory=lambda: torch.linspace(-1, 1, 4 * 3 * 36).view(4, 3, 6, 6))

    def __call__(self, model: nn.Module) -> float:
        model.eval()
        weight = dict(model.named_parameters())["head.weight"]
        if int((weight == 0).all(0).sum()) == self.gone and len(list(Path(self.folder).iterdir())) < self.times:
            (Path(self.folder) / f"{len(list(Path(self.folder).iterdir()))}").touch()
            if self.how == "raise":
                raise RuntimeError("no more")
            if self.how == "nan":
                return math.nan
            os.kill(os.getpid(), signal.SIGKILL)
        with torch.no_grad():
            return -model(self.x).square().mean().item()


@pytest.fixture(scope="module")
def here() -> str:
    return text(searching())


def test_a_pool_gives_the_same_bytes(here: str, tmp_path: Path) -> None:
    found = searching(workers=2, store=tmp_path)
    assert text(found) == here
    found.measured.ledger.close()  # type: ignore[attr-defined]  # a store's
    again = searching(workers=2, store=tmp_path)
    assert text(again) == here
    again.measured.ledger.close()  # type: ignore[attr-defined]


def test_any_executor_will_do(here: str) -> None:
    with ThreadPoolExecutor(2) as executor:
        assert text(searching(workers=executor)) == here
        assert text(searching(Whole(), workers=executor)) == text(searching(Whole()))


def test_threads_of_this_process_do_not_matter() -> None:
    search = searching()
    chunk = search.measured.candidates.of([(("a", kept),) for kept in (1, 2, 3)])
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            found.append([scores for _, scores in search.measured.scorer.scored([chunk], 0)])
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert np.array_equal(found[0], found[1])


def test_fidelity_can_be_sent() -> None:
    torch.manual_seed(0)
    model, x = Net(), torch.randn(64, 3, 6, 6)
    graph = trace(model, x[:2])
    with ThreadPoolExecutor(1) as executor:
        found = [
            Search(graph, calibrate(graph, [x]), Fidelity([x]), shares=SHARES, workers=workers).run().to_dict()
            for workers in (None, executor)
        ]
    assert found[0] == found[1]


@pytest.mark.parametrize("how", ["raise", "nan", "die"])
@pytest.mark.parametrize(("times", "fails"), [(1, False), (9, True)])
def test_what_goes_wrong_at_one_point(how: str, times: int, fails: bool, tmp_path: Path) -> None:
    whole = json.loads(text(searching(Whole())))
    with ThreadPoolExecutor(2) as threads:  # of which none can die
        found = json.loads(text(searching(Whole(str(tmp_path), 4, times, how), workers=2 if how == "die" else threads)))
    for expected, group in zip(whole["groups"], found["groups"], strict=True):
        for one, other in zip(expected["points"], group["points"], strict=True):
            if fails and (group["group"], one["kept"]) == ("b", 4):
                assert {"raise": "RuntimeError: no more", "nan": "nan", "die": "its worker died"}[how] in other[
                    "failed"
                ]
            else:
                assert one["degradation"] == other["degradation"]
    # twice, but who dies in company is done once more alone
    assert len(list(tmp_path.iterdir())) in ({2, 3} if fails else {1})


def test_retries_are_counted_here_too(tmp_path: Path) -> None:
    searching(Whole(str(tmp_path), 4, 9), retries=3).run()
    assert len(list(tmp_path.iterdir())) == 4


def test_a_store_knows_how_often_it_was_tried(tmp_path: Path) -> None:
    marks = tmp_path / "marks"
    marks.mkdir()
    for retries, tried in ((1, 2), (1, 2), (2, 3)):
        search = searching(Whole(str(marks), 4, 3), store=tmp_path, retries=retries)
        curve = search.run()["b"]
        assert [point.failed is None for point in curve.points] == [True, False, True]
        assert len(list(marks.iterdir())) == tried
        search.measured.ledger.close()  # type: ignore[attr-defined]
    search = searching(Whole(str(marks), 4, 3), store=tmp_path, retries=3)
    assert all(point.failed is None for point in search.run()["b"].points)
    search.measured.ledger.close()  # type: ignore[attr-defined]


def test_a_broken_executor_of_the_users_is_said_to_be(tmp_path: Path) -> None:
    with (
        ProcessPoolExecutor(1, get_context("spawn")) as executor,
        pytest.raises(RuntimeError, match="the executor that was given as workers= is broken"),
    ):
        searching(Whole(str(tmp_path), 4, 9, "die"), workers=executor).run()


def test_what_cannot_be_sent_is_refused() -> None:
    with pytest.raises(Refused, match=r"workers: the evaluation cannot be sent to another process .*top of a module"):
        searching(lambda output, batch: output.sum(1), workers=1)


def by_mode(model: nn.Module) -> float:
    """Another number for another class."""
    return 1.0 if isinstance(model, Net) else 2.0


def by_layer(model: Any) -> float:
    """Something that only the class can do."""
    with torch.no_grad():
        return model.encode(torch.ones(1, 3, 6, 6)).mean().item()


@pytest.mark.parametrize(("evaluate", "words"), [
    (by_mode, "gives 2 for the exported model and 1 for yours"),
    (by_layer, r"AttributeError: .*let it use no more of the model than its forward"),
])  # fmt: skip
def test_an_evaluation_must_say_the_same_of_the_exported_model(evaluate: Any, words: str) -> None:
    torch.manual_seed(0)
    x = torch.randn(64, 3, 6, 6)
    graph = trace(Net(), x[:2])
    with ThreadPoolExecutor(1) as executor, pytest.raises(Refused, match=words):
        Search(graph, calibrate(graph, [x]), evaluate, workers=executor)


def test_only_what_the_search_made_is_cleared_away(tmp_path: Path) -> None:
    (tmp_path / "workers-mine").mkdir()
    (tmp_path / FOLDER / "left").mkdir(parents=True)
    with ThreadPoolExecutor(1) as executor:
        search = searching(workers=executor, store=tmp_path)
    assert (tmp_path / "workers-mine").exists()
    assert not (tmp_path / FOLDER / "left").exists()
    search.measured.ledger.close()  # type: ignore[attr-defined]


def test_where_a_candidate_s_forward_raises_only_its_point_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    module = importlib.import_module("workbench.sensitivity.run")
    rerun = module._rerun

    def raising(program: Any, candidate: Any, values: Any) -> Any:
        if candidate.widths == (("b", 4),):
            raise IndexError("out of the table")
        return rerun(program, candidate, values)

    whole = searching().run()
    monkeypatch.setattr(module, "_rerun", raising)
    with ThreadPoolExecutor(2) as executor:
        for workers in (None, executor):
            for one, other in zip(whole, searching(workers=workers).run(), strict=True):
                for point, found in zip(one.points, other.points, strict=True):
                    if (one.group, point.kept) == ("b", 4):
                        assert found.failed == "the evaluation raised IndexError: out of the table"
                    else:
                        assert point.degradation == found.degradation


def test_a_score_of_another_length_fails() -> None:
    calls: list[int] = []

    def counting(output: Tensor, batch: Any) -> Tensor:
        calls.append(1)
        return fall(output, batch)[: len(output) if len(calls) < 6 else 3]  # five batches are the original's

    points = [point for curve in searching(counting).run() for point in curve.points]
    assert all("scores, and" in (point.failed or "") for point in points)


@pytest.mark.parametrize("retries", [-1, 1.5, "1", None])
def test_retries_are_a_number(retries: Any) -> None:
    with pytest.raises(ValueError, match="must be a whole number, 0 or more"):
        searching(retries=retries)


@pytest.mark.parametrize(("workers", "error", "words"), [
    (True, TypeError, "not bool"),
    (0, ValueError, "workers=0 must be at least 1"), ("two", TypeError, "give client.get_executor"),
])  # fmt: skip
def test_workers_that_are_none(workers: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        searching(workers=workers)


class Interrupting(ThreadPoolExecutor):
    """Interrupts who hands out the second task."""

    def submit(self, *given: Any, **more: Any) -> Any:
        self.count = getattr(self, "count", 0) + 1
        if self.count == 3:
            raise KeyboardInterrupt
        return super().submit(*given, **more)


def test_an_interrupt_says_how_to_go_on(here: str, tmp_path: Path) -> None:
    with Interrupting(1) as executor:
        search = searching(Whole(), workers=executor, store=tmp_path)
        with pytest.raises(KeyboardInterrupt) as stopped:
            search.run()
        assert "goes on there" in stopped.value.__notes__[0]
        assert str(tmp_path) in stopped.value.__notes__[0]


def test_dask_and_a_killed_worker(here: str, tmp_path: Path) -> None:
    with dask_executor("local", 2) as executor:
        search = searching(workers=executor, store=tmp_path)
        pid = executor.submit(os.getpid).result()
        threading.Timer(0.05, os.kill, (pid, signal.SIGKILL)).start()
        assert text(search) == here
        search.measured.ledger.close()  # type: ignore[attr-defined]


class Products(nn.Module):
    """Queries and keys, whose product no tensor of the model can mask."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.head = nn.Linear(6, 8), nn.Linear(6, 8), nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head((self.q(x) @ self.k(x).mT).softmax(-1) @ self.v(x)).mean(1)


def test_a_worker_knows_what_leaves_between_the_layers() -> None:
    torch.manual_seed(0)
    x = torch.randn(64, 5, 6)
    graph = trace(Products(), x[:2])
    assert graph.provenance.atoms.products
    evaluate = Evaluation([(x, torch.randn(64, 3))], fall)
    with ThreadPoolExecutor(1) as executor:
        found = [
            Search(graph, calibrate(graph, [x]), evaluate, shares=SHARES, workers=workers).run().to_dict()
            for workers in (None, executor)
        ]
    assert {group["group"] for group in found[0]["groups"]} >= {"q"}
    assert found[0] == found[1]
