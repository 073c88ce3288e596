"""``run``: a whole batch, from the job file to the index page."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import CancelledError, Executor, Future, ThreadPoolExecutor, as_completed
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench import extras
from workbench.batch import index, table
from workbench.batch.events import Announcer, Event, JsonLines, OnEvent
from workbench.batch.folder import EVENTS, LOG, Folder
from workbench.batch.jobfile import Jobs, read_jobs
from workbench.batch.lock import locked
from workbench.batch.process import carry_out
from workbench.batch.runs import Run, runs_of
from workbench.batch.task import Task, tasks_of
from workbench.whole import write_text

if TYPE_CHECKING:
    import pandas as pd

CSV, PAGE = "runs.csv", "index.html"


@dataclass(frozen=True)
class Batch:
    """What is to be done: all runs, and those that are not finished, as tasks that share what can be shared."""

    jobs: Jobs
    folder: Folder
    runs: tuple[Run, ...]
    tasks: tuple[Task, ...]

    @classmethod
    def plan(cls, jobs: Jobs, out: str | os.PathLike[str], resume: bool = True) -> Batch:
        """Look at what is finished.

        Raises
        ------
        ValueError
            Runs do not fit together, or something else has the name of one.
        ModuleNotFoundError
            What is to be exported needs an extra.
        """
        folder, runs = Folder(out), runs_of(jobs)
        left = [run for run in runs if not (resume and folder.done(run))]
        if any("onnx" in run.export for run in left):
            extras.need('export = "onnx"', extras.ONNX, "onnx")
        return cls(jobs, folder, tuple(runs), tuple(tasks_of(jobs, runs, left, folder.out)))

    def __repr__(self) -> str:
        left = sum(len(task.runs) for task in self.tasks)
        return f"Batch({len(self.runs)} runs, {left} left in {len(self.tasks)} searches, {self.folder.out})"

    def told(self) -> str:
        """What would be done, one line a search and a run."""
        left = {run.name for task in self.tasks for run in task.runs}
        lines = [f"{len(self.runs)} runs into {self.folder.out}; {len(self.runs) - len(left)} are finished"]
        for task in self.tasks:
            lines.append(f"search {task.search}: one trace, one calibration, one set of curves, {_limits(task.runs)}")
            lines += [f"  {run.name}" for run in task.runs]
        return "\n".join(lines)


def _limits(runs: Sequence[Run]) -> str:
    times = [run.time_limit for run in runs]
    memory = [run.memory_limit for run in runs]
    time = "any time" if None in times else f"at most {max(filter(None, times)):g} s a step"
    return f"{time}, " + ("any memory" if None in memory else f"at most {max(filter(None, memory)) / 1e6:,.0f} MB")


def run(
    jobs: str | Path | Mapping[str, Any], *, out: str | os.PathLike[str], workers: int = 1,
    executor: Executor | None = None, overrides: Sequence[str] = (), resume: bool = True, fail_fast: bool = False,
    user_code: bool = True, on_event: OnEvent | Sequence[OnEvent] = (), progress: bool = True,
) -> pd.DataFrame:  # fmt: skip
    """Do all that a job file asks for and that is not done; killed at any moment, the same call goes on.

    Every search runs in a process of its own with one thread, so that plans, weights and reports come out the same,
    byte for byte, whoever makes them and however often that was interrupted.

    Parameters
    ----------
    jobs : the path of a job file, or a dict of the same content
    out : the folder; nothing is written elsewhere
    workers : processes at a time
    executor : who starts these processes instead, as a ``concurrent.futures.Executor`` (of Dask, what
        ``client.get_executor()`` gives); ``out`` must be a folder that all of them see
    overrides : ``a.b=c`` for the content of the job file
    resume : leave finished runs as they are; otherwise they are made anew
    fail_fast : stop at the first failure; what is finished is kept
    user_code : whether the jobs may name ``package.module:function``
    on_event : called with a dict for all that happens, see ``workbench.batch.events``
    progress : show a bar

    Returns
    -------
    One row a run: ``state`` is ``done``, ``missed`` (larger than its budget, or not verified), ``failed`` or ``left``.

    Raises
    ------
    BadJobs
        Something in the job file is wrong; nothing was started.
    ValueError
        The folder is in use by another batch, or holds other runs of the same names.

    Examples
    --------
    >>> import tempfile, workbench as wb
    >>> wb.batch.run({"jobs": []}, out=tempfile.mkdtemp())
    Traceback (most recent call last):
    workbench.batch.schema.BadJobs: the jobs has 1 fault, nothing was started:
      jobs: is [], which is not allowed; give at least one table [[jobs]]
    """
    if not isinstance(workers, int) or workers < 1:
        raise ValueError(f"workers={workers!r} must be a whole number, 1 or more")
    listeners = [on_event] if callable(on_event) else list(on_event)
    batch = Batch.plan(read_jobs(jobs, overrides, user_code=user_code), out, resume)
    return carried_out(batch, workers, executor, fail_fast, listeners, progress=progress)


def carried_out(
    batch: Batch, workers: int, executor: Executor | None, fail_fast: bool, listeners: Sequence[OnEvent],
    progress: bool = False,
) -> pd.DataFrame:  # fmt: skip
    """Do a planned batch; see ``run``."""
    import pandas as pd
    from tqdm.auto import tqdm

    with ExitStack() as stack:
        stale = stack.enter_context(locked(batch.folder.out))
        _make_room(batch)
        bar = stack.enter_context(tqdm(total=len(batch.runs), unit="run", disable=not progress))
        bar.update(len(batch.runs) - sum(len(task.runs) for task in batch.tasks))

        def advance(event: Event) -> None:
            bar.update(event["event"] in ("run_finished", "run_failed"))

        announce = Announcer([JsonLines(batch.folder.out / EVENTS), *listeners, advance])
        announce({"event": "batch_started", "runs": [run.to_dict() for run in batch.runs], "note": stale})
        own = executor is None
        pool = executor or stack.enter_context(ThreadPoolExecutor(workers))
        _do(batch.tasks, pool, announce, fail_fast, own)
        found = _found(batch)
        for name, text in ((CSV, table.to_csv(found)), (PAGE, index.render(found))):
            try:
                write_text(batch.folder.out / name, text)
            except OSError as error:  # the disk is full: what came of the runs is told in any case
                announce.lost.append(f"{batch.folder.out / name} cannot be written: {error.strerror}")
        states = [one["state"] for one in found]
        counts = {state: states.count(state) for state in (table.DONE, table.MISSED, table.FAILED, table.LEFT)}
        announce({"event": "batch_finished", **counts})
    frame = pd.DataFrame(found, columns=list(table.COLUMNS))
    frame.attrs["lost"] = announce.lost
    return frame


def _make_room(batch: Batch) -> None:
    """What is to be made anew goes."""
    for task in batch.tasks:
        for one in task.runs:
            if batch.folder.job(one.name) is not None:
                shutil.rmtree(batch.folder.run(one.name))


def _do(tasks: Sequence[Task], pool: Executor, announce: OnEvent, fail_fast: bool, own: bool) -> None:
    """All tasks; those of our own threads tell as they go, others when they are done."""
    stop = threading.Event()
    do: Callable[[Task], list[Event]] = partial(carry_out, fail_fast=fail_fast)
    if own:
        do = partial(carry_out, on_event=announce, stop=stop, fail_fast=fail_fast)
    futures = {pool.submit(do, task): task for task in tasks}
    try:
        for future in as_completed(futures):
            events, told = _events(future, futures[future])
            for event in () if own and told else events:
                announce(event)
            if fail_fast and any(event["event"] == "run_failed" for event in events):
                _cancel(futures, stop)
    except BaseException:
        _cancel(futures, stop)
        raise


def _events(future: Future[list[Event]], task: Task) -> tuple[list[Event], bool]:
    """What happened, and whether it is the task that says so."""
    try:
        return future.result(), True
    except CancelledError:
        return [], True
    except Exception as error:  # of the executor: a worker that cannot import, a scheduler that is gone
        reason, folder = f"its worker raised {type(error).__name__}: {error}", Folder(task.out)
        about = {"reason": reason, "log": str(folder.search(task.search) / LOG)}
        for run in task.runs:
            folder.fail(run.name, {"job": run.to_dict(), "step": "search", **about})
        return [{"event": "run_failed", "run": run.name, **about} for run in task.runs], False


def _cancel(futures: Iterable[Future[Any]], stop: threading.Event) -> None:
    stop.set()
    for future in futures:
        future.cancel()


def _found(batch: Batch) -> list[table.Row]:
    """A row for every run, in the order of the job file, failed ones last."""
    found = {one["run"]: one for one in table.rows(batch.folder, [run.name for run in batch.runs])}
    rest = [table.unknown(run.to_dict()) for run in batch.runs if run.name not in found]
    return sorted([*found.values(), *rest], key=lambda one: one["state"] == table.FAILED)
