"""A task in a process of its own, watched: its events are passed on, its limits kept, its deaths survived."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace

from workbench.batch.events import Event, OnEvent
from workbench.batch.folder import LOG, Folder
from workbench.batch.runs import Run
from workbench.batch.task import Task

SEARCH = ""  # in the place of a run's name
DEATHS = 1  # of a process that are put down to chance, at the same step
BEAT = 0.2  # seconds between two looks
ENDING = 5.0  # seconds in which a process that has nothing more to say ends
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@dataclass
class Watched:
    """What is known of one process."""

    step: str = SEARCH
    settled: set[str] = field(default_factory=set)
    reason: str = ""  # why the search failed
    late: float = 0.0  # the limit that was passed
    code: int = 0


def carry_out(
    task: Task, on_event: OnEvent | None = None, stop: threading.Event | None = None, fail_fast: bool = False
) -> list[Event]:
    """Do a task; failures are events, and are kept in the folder.

    A process that dies is started again once for the same step, a run that takes too long costs only itself.

    Parameters
    ----------
    task : the search and its runs
    on_event : is called with each event, as it happens
    stop : ends the process when it is set
    fail_fast : no further run after one that failed

    Returns
    -------
    All events, for those who are too far away for ``on_event``.
    """
    keeper = _Keeper(task, on_event)
    left, deaths, stop = list(task.runs), Counter[str](), stop or threading.Event()
    while left and not stop.is_set() and not (fail_fast and keeper.failed):
        watched = _watch(replace(task, runs=tuple(left)), keeper, stop, fail_fast)
        left = [run for run in left if run.name not in watched.settled]
        watched.step = SEARCH if watched.step in watched.settled else watched.step  # between two runs
        if stop.is_set() or not left:
            break
        if not watched.reason and not watched.late:
            deaths[watched.step] += 1
            if deaths[watched.step] <= DEATHS:
                keeper.tell({"event": "process_died", "step": watched.step or "search", "how": _how(watched.code)})
                continue
        reason = watched.reason or _reason(watched, left)
        lost = [run for run in left if watched.step in (SEARCH, run.name)]
        for run in lost:
            keeper.fail(run, reason, in_search=watched.step == SEARCH)
        left = [run for run in left if run not in lost]
    return keeper.events


class _Keeper:
    """Takes events, and keeps failures."""

    def __init__(self, task: Task, on_event: OnEvent | None):
        self.folder, self.task, self.on_event = Folder(task.out), task, on_event
        self.runs = {run.name: run for run in task.runs}
        self.events: list[Event] = []
        self.failed = False

    def tell(self, event: Event) -> None:
        self.events.append({"search": self.task.search, **event})
        if self.on_event is not None:
            self.on_event(self.events[-1])

    def fail(self, run: Run, reason: str, *, in_search: bool) -> None:
        self.failed = True
        log = self.folder.search(self.task.search) / LOG if in_search else self.folder.failed(run.name) / LOG
        failure = {"job": run.to_dict(), "reason": reason, "step": "search" if in_search else "run", "log": str(log)}
        self.folder.fail(run.name, failure)
        self.tell({"event": "run_failed", "run": run.name, "reason": reason, "log": str(log)})


def _watch(task: Task, keeper: _Keeper, stop: threading.Event, fail_fast: bool) -> Watched:
    """One process from its start to its end, whoever ends it."""
    watched, limit = Watched(), _limits(task)
    log = keeper.folder.search(task.search) / LOG
    log.parent.mkdir(parents=True, exist_ok=True)
    inside, outside = os.pipe()
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "workbench.batch.work", str(outside)], stdin=subprocess.PIPE, stdout=output,
            stderr=output, pass_fds=[outside], start_new_session=True, env=_environment(task),
        )  # fmt: skip
    os.close(outside)
    try:
        with suppress(BrokenPipeError):  # it died at once
            assert process.stdin is not None
            process.stdin.write(task.to_json().encode() + b"\n")
            process.stdin.flush()
        _listen(process, inside, watched, limit, keeper, stop, fail_fast)
    finally:
        _end(process)
        os.close(inside)
    watched.code = process.returncode
    return watched


def _environment(task: Task) -> dict[str, str]:
    """Modules are found where the caller finds them; one thread, since the last bits of a sum hang on their number."""
    return {**os.environ, **dict.fromkeys(THREADS, "1"), "PYTHONPATH": os.pathsep.join(task.paths)}


def _listen(
    process: subprocess.Popen[bytes], pipe: int, watched: Watched, limit: dict[str, float], keeper: _Keeper,
    stop: threading.Event, fail_fast: bool,
) -> None:  # fmt: skip
    """Take its events until it ends, is too late, or shall stop."""
    rest, begun = b"", time.monotonic()
    while not stop.is_set() and not (fail_fast and keeper.failed):
        if select.select([pipe], [], [], BEAT)[0]:
            data = os.read(pipe, 1 << 16)
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                begun = time.monotonic() if _take(json.loads(line), watched, keeper) else begun
            if not data:  # it is about to end, with a code of its own
                with suppress(subprocess.TimeoutExpired):
                    process.wait(ENDING)
                return
        elif process.poll() is not None:
            return
        if time.monotonic() - begun > limit[watched.step]:
            watched.late = limit[watched.step]
            return


def _take(event: Event, watched: Watched, keeper: _Keeper) -> bool:
    """Note what an event says; whether a step began."""
    kind = event["event"]
    if kind == "run_failed":
        keeper.fail(keeper.runs[event["run"]], event["reason"], in_search=False)
    elif kind == "search_failed":
        watched.reason = event["reason"]
    else:
        keeper.tell(event)
    if kind in ("run_failed", "run_finished"):
        watched.settled.add(event["run"])
    if kind == "run_started":
        watched.step = event["run"]
    return kind in ("search_started", "run_started")


def _limits(task: Task) -> dict[str, float]:
    limits = {run.name: run.time_limit or float("inf") for run in task.runs}
    return limits | {SEARCH: max(limits.values())}


def _end(process: subprocess.Popen[bytes]) -> None:
    """With all that it may have started."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    if process.stdin is not None:
        with suppress(BrokenPipeError):
            process.stdin.close()


def _reason(watched: Watched, left: Sequence[Run]) -> str:
    if watched.late:
        return f"it took longer than time_limit = {watched.late:g} seconds; give it more, or less to do"
    limit = max((run.memory_limit or 0 for run in left), default=0)
    memory = f", perhaps for lack of memory (memory_limit = {limit / 1e6:,.0f} MB)" if limit else ""
    return f"its process {_how(watched.code)}, {DEATHS + 1} times in the same step{memory}; see its log"


def _how(code: int) -> str:
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"was killed by signal {-code}"
