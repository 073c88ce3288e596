"""Scores of candidates: of each only what comes after its change is run."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from workbench.evaluation import Evaluation, number_or_vector
from workbench.graph.masked import compute_masked
from workbench.graph.modes import evaluating
from workbench.graph.program import Program, Values
from workbench.graph.tensors import own_tensors, set_tensors_
from workbench.sensitivity.candidate import Candidate

Scores = np.ndarray | str  # of one candidate: a number a sample, or why there are none


@torch.no_grad()
def score(
    program: Program, candidates: Sequence[Candidate], evaluate: Evaluation, batches: Iterable[Any]
) -> list[Scores]:
    """Batch by batch: the original as far as each candidate's change, from there the candidate.

    No more is held of a batch than the original holds when it runs, and the same again for one candidate.
    """
    scores: list[list[np.ndarray]] = [[] for _ in candidates]
    failures: dict[int, str] = {}
    starting: dict[int, list[int]] = {}
    for number, candidate in enumerate(candidates):
        starting.setdefault(candidate.first, []).append(number)
    for batch in batches:
        inputs = evaluate.inputs_of(batch)
        output = program(inputs) if evaluate.compares else None
        values = program.start(inputs)
        for place in range(max(starting, default=0) + 1):
            for number in starting.get(place, ()):
                if number in failures:
                    continue
                small = _rerun(program, candidates[number], values)
                try:
                    scores[number].append(evaluate.batch_scores(small, output, batch))
                except Exception as error:  # the user's score raises anything
                    failures[number] = _failure(error)
            program.run(program.nodes[place : place + 1], values, free=True)
    return [failures.get(number) or _finite(np.concatenate(found)) for number, found in enumerate(scores)]


def _rerun(program: Program, candidate: Candidate, values: Values) -> Any:
    """What the model returns from the original's values before the change."""
    placeholder = {tensor: name for name, tensor in program.state.items()}
    small = {**values, **{placeholder[name]: tensor for name, tensor in candidate.tensors.items()}}
    for node in program.nodes[candidate.first :]:
        small[node.name] = compute_masked(node, small, candidate.stays)
        program.forget(node, small)
    return program.output(small)


def score_whole(
    model: nn.Module, candidates: Sequence[Candidate], evaluate: Callable[[nn.Module], Any]
) -> list[Scores]:
    """What the user's function says of a copy of the model that holds each candidate's tensors in turn."""
    copied = copy.deepcopy(model)
    own = own_tensors(copied)
    scores: list[Scores] = []
    with evaluating(copied):
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
