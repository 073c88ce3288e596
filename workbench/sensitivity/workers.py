"""Where candidates are scored: in this process, or by the workers of a ``concurrent.futures.Executor``."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import tempfile
import weakref
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import (
    FIRST_COMPLETED,
    BrokenExecutor,
    CancelledError,
    Executor,
    Future,
    ProcessPoolExecutor,
    wait,
)  # fmt: skip
from pathlib import Path
from typing import Protocol

import numpy as np

from workbench.errors import Refused
from workbench.graph.trace import ChannelGraph
from workbench.sensitivity import worker
from workbench.sensitivity.candidate import Candidate
from workbench.sensitivity.run import Scores, score, score_whole
from workbench.sensitivity.sample import Sample

FOLDER = ".workbench-workers"  # in the store
CHUNK = 16  # candidates that are finished together
ANY = 32  # workers that an executor of the user's may have: so many tasks are kept at hand for them, twice

Scored = Iterator[tuple[Candidate, Scores]]


class Scorer(Protocol):
    """Scores candidates, and yields each with its scores once these are finished."""

    def size(self, points: int) -> int: ...  # of a chunk, when so many points are to be scored

    def scored(self, chunks: Iterable[Sequence[Candidate]], block: int) -> Scored: ...


class Here:
    """In this process."""

    def __init__(self, graph: ChannelGraph, judge: worker.Judge, memory: int):
        self.graph, self.judge, self.memory = graph, judge, memory

    def size(self, points: int) -> int:
        """Some together share the original's run."""
        return min(CHUNK, points) if isinstance(self.judge, Sample) else 1

    def scored(self, chunks: Iterable[Sequence[Candidate]], block: int) -> Scored:
        for chunk in chunks:
            yield from zip(chunk, self._scores(chunk, block), strict=True)

    def _scores(self, chunk: Sequence[Candidate], block: int) -> list[Scores]:
        if isinstance(self.judge, Sample):
            return score(self.graph.program, chunk, self.judge.evaluate, self.judge.batches(block), self.memory)
        return score_whole(self.graph.model, chunk, self.judge)


class Workers:
    """By the processes of a pool of our own, or by whatever an executor of the user's has.

    When a worker dies or a task raises, what was under way is done again one by one, so that it is known whose fault
    that is.

    Parameters
    ----------
    workers : how many processes, or an executor
    dense : what the judge says of the original
    store : the folder in which they find the model; None for a temporary one, which other machines do not see

    Raises
    ------
    Refused
        The model cannot be exported to a file, or the evaluation cannot be imported by another process.
    """

    def __init__(
        self, graph: ChannelGraph, judge: worker.Judge, dense: np.ndarray, workers: int | Executor,
        store: str | os.PathLike[str] | None,
    ):  # fmt: skip
        if isinstance(workers, bool) or not isinstance(workers, int | Executor):
            raise TypeError(
                f"workers is a number of processes or a concurrent.futures.Executor, not {type(workers).__name__}; "
                "of a Dask client, give client.get_executor()"
            )
        if isinstance(workers, int) and workers < 1:
            raise ValueError(f"workers={workers} must be at least 1; leave it out to stay in this process")
        self.own = workers if isinstance(workers, int) else 0
        self.executor: Executor = _pool(self.own) if self.own else workers  # type: ignore[assignment]  # no int here
        inside = None if store is None else Path(store).resolve() / FOLDER
        if inside is not None:
            shutil.rmtree(inside, ignore_errors=True)  # of a search that was killed
            inside.mkdir(parents=True)
        self.folder = Path(tempfile.mkdtemp(prefix="workbench-", dir=inside))
        weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)
        self.several = isinstance(judge, Sample)
        worker.write(self.folder, graph, judge)
        try:
            there = self.executor.submit(worker.ready, str(self.folder)).result()
        except BrokenExecutor as error:
            raise Refused(
                "workers", "", "the first one died when it was started", "call this under `if __name__ == "
                "'__main__':`, since each worker imports your script, and see what it wrote above",
            ) from error  # fmt: skip
        except Exception as error:  # an import raises anything, and so does a function of the user's
            raise Refused(
                "workers", "", f"they cannot load the model and its evaluation ({type(error).__name__}: {error})",
                "define the evaluation in a module that they can import, let it use no more of the model than its "
                "forward, as traced, and give a store= that they see",
            ) from error  # fmt: skip
        if there is not None and not (there.shape == dense.shape and np.allclose(there, dense, rtol=1e-3, atol=1e-6)):
            raise Refused(
                "workers", "", f"the evaluation gives {there.mean():.6g} for the exported model and {dense.mean():.6g} "
                "for yours", "let it use no more of the model than its forward, or leave workers= out",
            )  # fmt: skip

    def size(self, points: int) -> int:
        """So many that every worker has some."""
        return min(CHUNK, -(-points // (2 * (self.own or ANY)))) if self.several else 1

    def scored(self, chunks: Iterable[Sequence[Candidate]], block: int) -> Scored:
        under_way: UnderWay = {}
        try:
            for chunk in chunks:
                under_way[self._submit(chunk, block)] = chunk
                if len(under_way) >= 2 * (self.own or ANY):
                    yield from self._finished(under_way, block)
            while under_way:
                yield from self._finished(under_way, block)
        finally:
            if under_way:  # interrupted
                self._stop(under_way)

    def _submit(self, chunk: Sequence[Candidate], block: int) -> Future[list[Scores]]:
        names = [worker.write_candidate(self.folder, candidate) for candidate in chunk]
        try:
            return self.executor.submit(worker.run, str(self.folder), names, block)
        except BrokenExecutor as error:  # since the last look
            broken: Future[list[Scores]] = Future()
            broken.set_exception(error)
            return broken

    def _finished(self, under_way: UnderWay, block: int) -> Scored:
        """What is done by now, one task at least."""
        done = wait(under_way, return_when=FIRST_COMPLETED).done
        died = any(map(_died, done))
        if died:
            done = wait(under_way).done  # all of a broken pool are
        failed: list[tuple[Candidate, str]] = []
        for future in done:
            chunk, found = under_way.pop(future), _result(future)
            if isinstance(found, str):
                failed += [(candidate, found) for candidate in chunk]
            else:
                yield from zip(chunk, found, strict=True)
        if died:
            self._mend()
        for candidate, why in failed:
            yield candidate, why if len(failed) == 1 else self._alone(candidate, block)

    def _alone(self, candidate: Candidate, block: int) -> Scores:
        future = self._submit([candidate], block)
        found = _result(future)
        if _died(future):
            self._mend()
        return found if isinstance(found, str) else found[0]

    def _stop(self, under_way: Iterable[Future[list[Scores]]]) -> None:
        """Do not wait for what nobody will read."""
        for future in under_way:
            future.cancel()
        if isinstance(self.executor, ProcessPoolExecutor) and self.own:
            for process in list((self.executor._processes or {}).values()):
                process.terminate()
            self._mend()

    def _mend(self) -> None:
        """A new pool."""
        if not self.own:
            raise RuntimeError(
                "the executor that was given as workers= is broken: its workers died; what is finished is kept, run "
                "again with a new one"
            )
        self.executor.shutdown(wait=False, cancel_futures=True)
        self.executor = _pool(self.own)


UnderWay = dict[Future[list[Scores]], Sequence[Candidate]]


def _pool(workers: int) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), worker.deaf)


def _died(future: Future[list[Scores]]) -> bool:
    """Whether its worker did; waits for it."""
    try:
        return isinstance(future.exception(), BrokenExecutor)
    except CancelledError:
        return False


def _result(future: Future[list[Scores]]) -> list[Scores] | str:
    """What a task gave, or why it gave nothing."""
    try:
        return future.result()
    except BrokenExecutor:
        return "its worker died"
    except CancelledError:
        return "its executor cancelled it"
    except Exception as error:  # a task's own, or a scheduler's word on a worker
        return f"its worker raised {type(error).__name__}: {error}"
