"""What one process of a batch does: a search, and then each run of a task.

Started as ``python -m workbench.batch.work FD`` with the task on its standard input, it writes events to the file
descriptor, one JSON object a line, and ends when its standard input does: whoever started it is gone then.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.batch.events import now
from workbench.batch.folder import EVENTS, LOG, Folder
from workbench.batch.runs import Run
from workbench.batch.task import Task

if TYPE_CHECKING:
    from workbench.result import Result
    from workbench.sensitivity import SensitivityCurves
    from workbench.study import Study

SHARED = ("trace", "calibrate", "sensitivity")  # what a run's report says of the search before it
PATIENCE = 60  # seconds in which a process that was told to end does


def main() -> None:
    """Read the task, and do it."""
    task = Task.from_json(sys.stdin.buffer.readline())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with os.fdopen(int(sys.argv[1]), "w", buffering=1) as events:
        Work(task, events).run()


def _end_with_parent() -> None:
    sys.stdin.buffer.read()
    os._exit(1)


class Work:
    """A task under way."""

    def __init__(self, task: Task, events: Any):
        self.task, self.events, self.folder = task, events, Folder(task.out)
        self.shared: list[dict[str, Any]] = []  # the events of the search, which belong to all runs

    def run(self) -> None:
        """The search; then one run after another, whatever becomes of each."""
        store = self.folder.search(self.task.search)
        with contextlib.ExitStack() as stack:
            try:
                store.mkdir(parents=True, exist_ok=True)
                stack.enter_context(_alone(store))
                study, curves = self._search(store)
            except Exception as error:  # a user's function and a model's forward raise anything
                self._failed("search_failed", error, self.task.runs)
                return
            for run in self.task.runs:
                try:
                    self._run(run, study, curves)
                except Exception as error:
                    self._failed("run_failed", error, [run], run=run.name)

    def _search(self, store: Path) -> tuple[Study, SensitivityCurves]:
        _limit_memory(max((run.memory_limit or float("inf") for run in self.task.runs), default=float("inf")))
        start = time.perf_counter()
        self._tell("search_started", search=self.task.search, runs=len(self.task.runs))
        import torch

        from workbench.allocate.budget import Budget
        from workbench.batch.parts import study_of

        torch.set_num_threads(1)
        first = self.task.runs[0]
        study = study_of(first, Path(self.task.base), store)
        curves = study.sensitivity(first.mode, [Budget(**budget) for budget in self.task.budgets])
        points = [point for curve in curves for point in curve.points]
        self._tell(
            "search_finished", search=self.task.search, seconds=_since(start), points=len(points),
            measured=sum(point.samples > 0 for point in points), failed=sum(bool(point.failed) for point in points),
        )  # fmt: skip
        return study, curves

    def _run(self, run: Run, study: Study, curves: SensitivityCurves) -> None:
        if self.folder.done(run):  # by a process that was thought to be dead
            self._tell("run_finished", run=run.name, summary=(self.folder.job(run.name) or {})["summary"])
            return
        from workbench.allocate.budget import Budget
        from workbench.limits import Limits
        from workbench.planning import make_plan, plan_in_time
        from workbench.refine import Refinement

        part, start = self.folder.begin(run.name), time.perf_counter()
        for event in self.shared:
            _append(part / EVENTS, event)
        with _logged(part / LOG):
            _limit_memory(run.memory_limit or float("inf"))
            self._tell("run_started", run=run.name, into=part)
            study.seconds = {step: study.seconds[step] for step in SHARED if step in study.seconds}
            study.refinement = Refinement(run.refinement) if run.refinement else None
            budget = Budget(**run.budget)
            if budget.latency_ms is None:
                plan = make_plan(study.graph, curves, budget)
            else:
                plan = plan_in_time(study.graph, curves, budget, None, Limits(), study.latency)
            if run.evaluations:
                plan = study.refine(plan, run.evaluations)
            self._tell("planned", run=run.name, into=part, predicted=plan.degradation)
            result = study.compress(plan)
            result.save(part)
            for kind in run.export:
                write = {"onnx": result.export_onnx, "pt2": result.export_program}[kind]
                write(part / f"small.{kind}")
            summary, seconds = summary_of(result), _since(start)
            self._tell("run_finished", run=run.name, into=part, tell=False, summary=summary, seconds=seconds)
        job = {"job": run.to_dict(), "summary": summary, "run": {"seconds": seconds, "peak_bytes": _peak()}}
        self.folder.complete(run.name, job)
        self._tell("run_finished", run=run.name, summary=summary, seconds=seconds)

    def _failed(self, event: str, error: Exception, runs: Any, **about: Any) -> None:
        with contextlib.suppress(OSError):  # of a full disk, which is the reason then
            traceback.print_exc()
            sys.stderr.flush()
        if about:  # the run's log is where people look
            with contextlib.suppress(OSError), (self.folder.part(about["run"]) / LOG).open("a") as log:
                traceback.print_exc(file=log)
        limit = max((run.memory_limit or 0 for run in runs), default=0)
        self._tell(event, reason=_reason(error, limit), **about)

    def _tell(self, event: str, *, into: Path | None = None, tell: bool = True, **about: Any) -> None:
        """To whoever started this process, and to the run's own file."""
        line = {"event": event, "time": now(), **about}
        if "search" in about:
            self.shared.append(line)
        if into is not None:
            _append(into / EVENTS, line)
        if tell:
            self.events.write(json.dumps(line) + "\n")
            self.events.flush()


def summary_of(result: Result) -> dict[str, Any]:
    """The figures of a result that tables show."""
    score, searched = result.score, result.searched
    return {
        "macs": result.ratio.get("macs"), "params": result.ratio.get("params"), "score": score.name,
        "before": score.before, "after": score.after, "difference": score.after - score.before,
        "interval": score.interval and list(score.interval), "samples": score.samples,
        "searched": searched.name if searched else None, "predicted_loss": result.plan.degradation,
        "real_loss": result.lost, "target_met": result.target_met, "verified": result.verification.ok,
    }  # fmt: skip


def _reason(error: Exception, limit: float) -> str:
    """One line."""
    from workbench.errors import Refused

    said = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, MemoryError) or "can't allocate memory" in said or "not enough memory" in said:
        allowed = f"memory_limit = {limit / 1e6:,.0f} MB allows" if limit else "there is"
        return f"more memory was asked for than {allowed} ({said[:200]})"
    if isinstance(error, OSError) and error.filename and error.strerror:
        return f"{error.filename}: {error.strerror}"
    if isinstance(error, Refused | ValueError | OSError):
        return said[:1000]
    return f"{type(error).__name__}: {said[:1000]}"


def _limit_memory(limit: float) -> None:
    """What this process may have of its own, in bytes; what torch only maps is not counted."""
    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    soft = resource.RLIM_INFINITY if limit == float("inf") else int(limit)
    resource.setrlimit(resource.RLIMIT_DATA, (hard if soft == resource.RLIM_INFINITY else soft, hard))


@contextlib.contextmanager
def _logged(path: Path) -> Iterator[None]:
    """What is printed meanwhile, by whomever, goes to a file."""
    sys.stdout.flush()
    sys.stderr.flush()
    before = os.dup(1), os.dup(2)
    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        os.dup2(log, 1)
        os.dup2(log, 2)
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os.dup2(before[0], 1)
        os.dup2(before[1], 2)
        for file in (log, *before):
            os.close(file)


@contextlib.contextmanager
def _alone(store: Path) -> Iterator[None]:
    """Wait until a process that had the same task, and is about to end, has ended."""
    import fcntl

    with (store / "lock").open("w") as file:
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise RuntimeError(f"another process works on {store}; wait for it, or end it") from None
                time.sleep(0.05)
        yield


def _append(path: Path, line: dict[str, Any]) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def _since(start: float) -> float:
    return round(time.perf_counter() - start, 3)


def _peak() -> int:
    """Bytes of memory that this process had at most so far."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


if __name__ == "__main__":
    main()
