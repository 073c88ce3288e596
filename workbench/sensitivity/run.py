"""Scores of candidates: of each only what comes after its change is run, several at a time in threads.

Every run has one thread, however many there are and in whatever process it happens: the last bits of a sum hang on how
it is divided among threads, and curves shall not.
"""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from workbench.calibrate import MEMORY
from workbench.evaluation import Evaluation, number_or_vector
from workbench.graph.inputs import device_of
from workbench.graph.masked import compute_masked
from workbench.graph.modes import evaluating
from workbench.graph.program import Program, Values
from workbench.graph.tensors import own_tensors, set_tensors_
from workbench.sensitivity.candidate import Candidate

Scores = np.ndarray | str  # of one candidate: a number a sample, or why there are none


@contextmanager
def one_thread() -> Iterator[int]:
    """While this holds an operation has one thread; says how many it had."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield before
    finally:
        torch.set_num_threads(before)


@torch.no_grad()
def score(
    program: Program, candidates: Sequence[Candidate], evaluate: Evaluation, batches: Iterable[Any],
    memory: int = MEMORY,
) -> list[Scores]:  # fmt: skip
    """Batch by batch: the original as far as each candidate's change, from there the candidate.

    No more is held of a batch than the original holds when it runs, and the same again for each candidate under way:
    one, and others in further threads as ``memory`` (in bytes) allows.
    """
    scores: list[list[np.ndarray]] = [[] for _ in candidates]
    failures: dict[int, str] = {}
    with one_thread() as threads, ThreadPoolExecutor(threads) as pool:
        for batch in batches:
            inputs = evaluate.inputs_of(batch)
            output = program(inputs) if evaluate.compares else None
            left = {number: candidate for number, candidate in enumerate(candidates) if number not in failures}
            for number, run in _runs(program, left, program.start(inputs), pool, threads, memory):
                try:
                    scores[number].append(evaluate.batch_scores(run.result(), output, batch))
                except Exception as error:  # the model's forward and the user's score raise anything
                    failures[number] = _failure(error)
    return [failures.get(number) or _finite(np.concatenate(found)) for number, found in enumerate(scores)]


def _runs(
    program: Program, candidates: Mapping[int, Candidate], values: Values, pool: Executor, threads: int, memory: int
) -> Iterator[tuple[int, Future[Any]]]:
    """A run of each candidate; the original is run as far as the last change, and freed."""
    starting: dict[int, list[int]] = {}
    for number, candidate in candidates.items():
        starting.setdefault(candidate.first, []).append(number)
    on_cpu = device_of(program.tensors.values()).type == "cpu"
    under_way: deque[tuple[int, Future[Any]]] = deque()
    for place in range(max(starting, default=-1) + 1):
        for number in starting.get(place, ()):
            under_way.append((number, pool.submit(_rerun, program, candidates[number], {**values})))
            fit = memory // max(1, _size(program, values))
            while len(under_way) >= (min(threads, max(1, fit)) if on_cpu else 1):
                yield under_way.popleft()
        program.run(program.nodes[place : place + 1], values, free=True)
    yield from under_way


def _size(program: Program, values: Values) -> int:
    return sum(v.nbytes for name, v in values.items() if isinstance(v, Tensor) and name not in program.state)


@torch.no_grad()
def _rerun(program: Program, candidate: Candidate, values: Values) -> Any:
    """What the model returns from the original's values before the change."""
    placeholder = {tensor: name for name, tensor in program.state.items()}
    values.update({placeholder[name]: tensor for name, tensor in candidate.tensors.items()})
    for node in program.nodes[candidate.first :]:
        values[node.name] = compute_masked(node, values, candidate.stays)
        program.forget(node, values)
    return program.output(values)


def score_whole(
    model: nn.Module, candidates: Sequence[Candidate], evaluate: Callable[[nn.Module], Any]
) -> list[Scores]:
    """What the user's function says of a copy of the model that holds each candidate's tensors in turn."""
    copied = copy.deepcopy(model)
    own = own_tensors(copied)
    scores: list[Scores] = []
    with evaluating(copied), one_thread():
        for candidate in candidates:
            before = {name: own[name].detach().clone() for name in candidate.tensors}
            set_tensors_(copied, candidate.tensors)
            try:
                scores.append(_finite(number_or_vector(evaluate(copied), evaluate)))
            except Exception as error:  # the user's function raises anything
                scores.append(_failure(error))
            set_tensors_(copied, before)
    return scores


def _finite(scores: np.ndarray) -> Scores:
    bad = scores[~np.isfinite(scores)]
    return f"the evaluation returned {bad[0]}" if bad.size else scores


def _failure(error: Exception) -> str:
    return f"the evaluation raised {type(error).__name__}: {error}"
