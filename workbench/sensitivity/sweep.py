"""The sweep: for each group and share, drop channels, repair from the statistics, run what comes after, score."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence, Sized
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from workbench.calibrate import Statistics
from workbench.evaluation import (
    Evaluation,
    check_finite,
    fingerprint_of,
    name_of,
    number_or_vector,
    whole_score,
)
from workbench.graph.masked import altered_nodes, compute_masked, masked, survivors
from workbench.graph.modes import evaluating
from workbench.graph.program import Program, Values
from workbench.graph.record import Cut
from workbench.graph.survivors import Survivors
from workbench.graph.tensors import set_tensors_
from workbench.graph.trace import ChannelGraph, Layer
from workbench.graph.winnow import record_of
from workbench.reconstruct import RIDGES
from workbench.repair import kept_columns, repair_layer, repaired_tensors
from workbench.select import Criterion, Elimination, GroupView, Path
from workbench.sensitivity.curves import Curve, Point, SensitivityCurves
from workbench.sensitivity.predict import with_predictions

SHARES = tuple(tenth / 10 for tenth in range(1, 10))
Scores = np.ndarray | str  # of one candidate: a number a sample, or why there are none


@dataclass(frozen=True)
class Candidate:
    """One group at one width: the tensors that make it so, and the first operation that computes something else."""

    group: str
    kept: int
    tensors: dict[str, Tensor]
    first: int
    stays: Survivors


def sensitivity(
    graph: ChannelGraph, statistics: Statistics, evaluate: Evaluation | Callable[[nn.Module], Any],
    *, criterion: Criterion | None = None, shares: Sequence[float] = SHARES, progress: bool = False,
) -> SensitivityCurves:  # fmt: skip
    """Score every channel group at every kept share, all other groups whole. Approximate groups are left alone.

    Parameters
    ----------
    graph : what ``trace`` found
    statistics : what ``calibrate`` gathered
    evaluate : an ``Evaluation``, for which only the operations after a change are run, or a callable on a model
    criterion : the order in which units leave; by default the least-squares elimination path
    shares : kept units / units, in (0, 1)

    Raises
    ------
    ValueError
        The evaluation does not score the original model with finite numbers.
    """
    criterion = criterion or Elimination()
    paths, candidates = {}, []
    for group in tqdm(graph.exact, "select", disable=not progress, unit="group"):
        paths[group.name] = criterion(GroupView.of(graph, group.name, statistics))
        candidates += _candidates(graph, group.name, paths[group.name], statistics, shares)
    if isinstance(evaluate, Evaluation):
        dense, scores = _measure_samples(graph, candidates, evaluate, progress)
    else:
        dense, scores = _measure_whole(graph, candidates, evaluate, progress)
    points: dict[str, list[Point]] = {name: [] for name in paths}
    for candidate, found in zip(candidates, scores, strict=True):
        points[candidate.group].append(Point.measured(candidate.kept, graph[candidate.group].units, dense, found))
    curves = [Curve(name, graph[name].units, tuple(some), paths[name]) for name, some in points.items()]
    return SensitivityCurves(
        name_of(evaluate), float(dense.mean()), len(dense), fingerprint_of(evaluate, dense), with_predictions(curves)
    )


def _candidates(
    graph: ChannelGraph, name: str, path: Path, statistics: Statistics, shares: Sequence[float]
) -> list[Candidate]:
    units = graph[name].units
    widths = sorted({max(path.least, round(share * units)) for share in shares} - {units})
    keep = {kept: {name: path.kept(kept)} for kept in widths}
    cuts = {kept: record_of(graph, keep[kept]).cuts for kept in widths}
    read = {cut.tensor for some in cuts.values() for cut in some if cut.role == "in"}
    tensors: dict[int, dict[str, Tensor]] = {}
    for kept in widths:
        zeroed = masked(graph.program.tensors, cuts[kept])
        tensors[kept] = {tensor: zeroed[tensor] for tensor in read}
    for layer in graph.consumers[name]:
        if graph.runs_once(layer):  # a weight used more than once is fitted to no single use
            columns = {kept: kept_columns(graph, layer, keep[kept]) for kept in widths}
            for kept, found in _repaired(graph, layer, statistics, columns).items():
                tensors[kept] |= found
    return [_candidate(graph, name, kept, tensors[kept], cuts[kept]) for kept in widths]


def _candidate(graph: ChannelGraph, name: str, kept: int, tensors: dict[str, Tensor], cuts: Sequence[Cut]) -> Candidate:
    stays = survivors(graph.provenance, cuts)
    changed = {place for place, tensor in graph.program.state.items() if tensor in tensors}
    first = first_change(graph.program, changed | altered_nodes(graph.program, stays))
    return Candidate(name, kept, tensors, first, stays)


def _repaired(
    graph: ChannelGraph, layer: Layer, statistics: Statistics, columns: Mapping[int, Sequence[int]]
) -> dict[int, dict[str, Tensor]]:
    """A layer's tensors at every width, by the columns that it keeps there."""
    tensors = graph.program.tensors
    evidence = statistics.layers[layer.name]
    widths = sorted(columns)
    if not widths:
        return {}
    # the ridge that suits a layer hardly changes with the width: it is chosen once, in the middle
    middle = columns[widths[len(widths) // 2]]
    ridge = repair_layer(graph, layer, middle, evidence.of(middle)).ridge
    ridges = RIDGES if ridge is None else [ridge]
    return {
        kept: repaired_tensors(layer, repair_layer(graph, layer, stay, evidence.of(stay), ridges), tensors)
        for kept, stay in columns.items()
    }


def first_change(program: Program, changed: set[str]) -> int:
    """The place of the first operation whose value changes when some values do: of operations, or of tensors."""
    for place, node in enumerate(program.nodes):
        if node.name in changed or any(used.name in changed for used in node.all_input_nodes):
            return place
    return len(program.nodes)


def _measure_samples(
    graph: ChannelGraph, candidates: Sequence[Candidate], evaluate: Evaluation, progress: bool
) -> tuple[np.ndarray, list[Scores]]:
    """Batch by batch: the original, and of every candidate only what comes after its change.

    No more is held of a batch than the original holds when it runs, and the same again for one candidate.
    """
    program = graph.program
    dense: list[np.ndarray] = []
    scores: list[list[np.ndarray]] = [[] for _ in candidates]
    failures: dict[int, str] = {}
    starting: dict[int, list[int]] = {}
    for number, candidate in enumerate(candidates):
        starting.setdefault(candidate.first, []).append(number)
    count = len(evaluate.batches) if isinstance(evaluate.batches, Sized) else None
    total = None if count is None else count * len(candidates)
    bar = tqdm(total=total, desc="sensitivity", disable=not progress, unit="score")
    with torch.no_grad(), bar:
        for batch in evaluate.batches:
            inputs = evaluate.inputs_of(batch)
            output = program(inputs)
            dense.append(evaluate.batch_scores(output, output, batch))
            check_finite(dense[-1], evaluate)
            values = program.start(inputs)
            for place in range(len(program.nodes) + 1):
                for number in starting.get(place, ()):
                    bar.update()
                    if number in failures:
                        continue
                    small = _rerun(program, candidates[number], values)
                    try:
                        scores[number].append(evaluate.batch_scores(small, output, batch))
                    except Exception as error:  # the user's score raises anything
                        failures[number] = _failure(error)
                program.run(program.nodes[place : place + 1], values, free=True)
    if not dense:
        check_finite(np.empty(0), evaluate)
    return np.concatenate(dense), [failures.get(i) or np.concatenate(found) for i, found in enumerate(scores)]


def _rerun(program: Program, candidate: Candidate, values: Values) -> Any:
    """What the model returns from the original's values before the change."""
    placeholder = {tensor: name for name, tensor in program.state.items()}
    small = {**values, **{placeholder[name]: tensor for name, tensor in candidate.tensors.items()}}
    for node in program.nodes[candidate.first :]:
        small[node.name] = compute_masked(node, small, candidate.stays)
        program.forget(node, small)
    return program.output(small)


def _failure(error: Exception) -> str:
    return f"the evaluation raised {type(error).__name__}: {error}"


def _measure_whole(
    graph: ChannelGraph, candidates: Sequence[Candidate], evaluate: Callable[[nn.Module], Any], progress: bool
) -> tuple[np.ndarray, list[Scores]]:
    """The user's function on a copy of the model that holds each candidate's tensors in turn."""
    dense = whole_score(evaluate, graph.model)
    model = copy.deepcopy(graph.model)
    scores: list[Scores] = []
    with evaluating(model):
        for candidate in tqdm(candidates, "sensitivity", disable=not progress, unit="score"):
            set_tensors_(model, candidate.tensors)
            try:
                scores.append(number_or_vector(evaluate(model), evaluate))
            except Exception as error:  # the user's function raises anything
                scores.append(_failure(error))
            set_tensors_(model, {name: graph.program.tensors[name] for name in candidate.tensors})
    return dense, scores
