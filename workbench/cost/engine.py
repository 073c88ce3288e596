"""How calls are timed: by an engine, with threads and denormals as stated, and the process left as it was."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from random import Random
from statistics import median
from typing import Any, Protocol

import torch
from torch.utils import _pytree as pytree

WARM_UP = 2  # runs that do not count
SAMPLES = 8  # that do, each time that it is a call's turn


@dataclass(frozen=True)
class Call:
    """Something to be timed: a function (or a model) and what it is given."""

    function: Callable[..., Any]
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self) -> Any:
        return self.function(*self.args, **self.kwargs)


class Engine(Protocol):
    """Whatever runs a call and says how long that took."""

    @property
    def name(self) -> str:
        """For the table's file: tables of different engines are kept apart."""
        ...

    def times(self, calls: Sequence[Call], samples: int) -> Sequence[Sequence[float]]:
        """Milliseconds of each of some calls, which are run one behind the other, so many times, after a warm-up."""
        ...


@dataclass(frozen=True)
class Eager:
    """PyTorch as it runs without a compiler.

    ``processor`` counts the calling thread's time on the processor instead of what a clock on the wall says: the same
    for one thread on a quiet machine, and hardly changed on a busy one.
    """

    processor: bool = False

    @property
    def name(self) -> str:
        """See ``Engine``."""
        return "eager, processor time" if self.processor else "eager"

    def times(self, calls: Sequence[Call], samples: int) -> list[list[float]]:
        """See ``Engine``."""
        clock = time.thread_time if self.processor else time.perf_counter
        found: list[list[float]] = [[] for _ in calls]
        wait: Callable[[], object] = torch.cuda.synchronize if any(map(_on_cuda, calls)) else int
        with torch.no_grad():
            for number in range(-WARM_UP, samples):
                for call, times in zip(calls, found, strict=True):
                    start = clock()
                    call()
                    wait()
                    if number >= 0:  # at first kernels are chosen and memory is taken
                        times.append(1e3 * (clock() - start))
        return found


ENGINES: dict[str, Engine] = {engine.name: engine for engine in (Eager(), Eager(processor=True))}


def engine_of(name: str) -> Engine:
    """The engine that a table was measured with.

    Raises
    ------
    ValueError
        It is not known here.
    """
    if name == "onnxruntime":  # imported where it is used: it needs an extra
        from workbench.deploy.engine import OnnxRuntime

        return OnnxRuntime()
    if name not in ENGINES:
        known = ", ".join((*ENGINES, "onnxruntime"))
        raise ValueError(f"the latencies were measured by the engine {name!r}; choose one of {known}")
    return ENGINES[name]


def _on_cuda(call: Call) -> bool:
    leaves = pytree.tree_leaves((call.args, dict(call.kwargs)))
    return any(isinstance(leaf, torch.Tensor) and leaf.is_cuda for leaf in leaves)


@dataclass(frozen=True)
class Timing:
    """The median of some samples in milliseconds, and the two samples that hold the true median with 95 % or more."""

    median: float
    low: float
    high: float
    samples: int

    @classmethod
    def of(cls, samples: Sequence[float]) -> Timing:
        """From at least one sample; the interval is that of order statistics, by the normal approximation."""
        ranked, count = sorted(samples), len(samples)
        reach = 0.98 * count**0.5  # 1.96 standard deviations of a binomial's half
        low = max(0, int(count / 2 - reach))
        return cls(median(ranked), ranked[low], ranked[count - 1 - low], count)


def timed(
    builds: Sequence[Callable[[], Sequence[Call]]], engine: Engine, rounds: int, samples: int = SAMPLES
) -> list[list[list[float]]]:  # fmt: skip
    """Milliseconds of all calls of some sequences, in another order of these in every round.

    What slows the machine for a while slows them alike. A sequence is built when it is its turn, so that not all of
    their tensors are in memory.
    """
    found: list[list[list[float]]] = [[] for _ in builds]
    order, draw = list(range(len(builds))), Random(0)
    for _ in range(rounds):
        draw.shuffle(order)
        for place in order:
            for number, times in enumerate(engine.times(builds[place](), samples)):
                if number == len(found[place]):
                    found[place].append([])
                found[place][number] += times
    return found


@contextmanager
def steady(threads: int) -> Iterator[None]:
    """So many threads, denormals flushed (made-up values may hold some), no collection of garbage; then as before."""
    before, flushed, collecting = torch.get_num_threads(), flushes_denormals(), gc.isenabled()
    torch.set_num_threads(threads)
    torch.set_flush_denormal(True)
    gc.disable()
    try:
        yield
    finally:
        torch.set_num_threads(before)
        torch.set_flush_denormal(flushed)
        if collecting:
            gc.enable()


def flushes_denormals() -> bool:
    """Whether this process takes the smallest numbers for zero."""
    return (torch.tensor([2.0**-1020], dtype=torch.float64) * 2.0**-10).item() == 0
