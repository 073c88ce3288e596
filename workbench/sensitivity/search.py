"""The search: which points are measured, on how many samples, until what depends on them is settled.

It goes in rounds. In each, every open point gets one more block of samples; then curves and plans are made anew from
all that is known, and say which points are still open. A point is settled when its interval is narrow beside its own
loss, or beside what the plans that hang on it lose in all.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent.futures import Executor
from inspect import isfunction
from typing import Any, Protocol, cast

import numpy as np
from torch import nn
from tqdm.auto import tqdm

from workbench.calibrate import MEMORY, Statistics
from workbench.evaluation import Evaluation, fingerprint_of, name_of, source_of, whole_score
from workbench.factorize import Site, ladders_of
from workbench.graph.trace import ChannelGraph
from workbench.select import Criterion, Elimination, GroupView, Path, followed
from workbench.select import name_of as criterion_name
from workbench.sensitivity.candidate import Candidates, Place, Widths
from workbench.sensitivity.curves import TRUST, Curve, Point, SensitivityCurves
from workbench.sensitivity.ledger import Ledger
from workbench.sensitivity.measure import Measurements
from workbench.sensitivity.predict import expected, with_predictions
from workbench.sensitivity.run import one_thread
from workbench.sensitivity.sample import Sample
from workbench.sensitivity.store import Store
from workbench.sensitivity.workers import Here, Scorer, Workers

SHARES = tuple(tenth / 10 for tenth in range(1, 10))
MODES = ("auto", "measured", "predicted")
# half an interval may be so much of the point's own loss, or so much of the plan's over the root of its groups
Precision = tuple[float, float]
NEAR: Precision = 1.0, 1.0  # the widths that plans choose
FAR: Precision = 4.0, 4.0  # the others, where all are measured
FINE: Precision = 0.5, 1.0  # where people look at them
ALONE: Precision = 0.25, 0.0  # without a plan
ANCHORS = 8
CERTAIN = 4  # models that are better than the original, all of those that were measured: no chance
ROUNDS = 12  # of plans, that each might ask for other points


class Planned(Protocol):
    """What the search asks of a plan."""

    @property
    def places(self) -> Widths: ...  # the groups that lose units and the layers that lose rank, with what they keep

    @property
    def degradation(self) -> float: ...


Planner = Callable[[SensitivityCurves], Sequence[Planned]]


class Search:
    """What is known of a model's sensitivity so far; approximate groups are left alone.

    Parameters
    ----------
    graph : what ``trace`` found
    statistics : what ``calibrate`` gathered; with ``needs={"fisher"}`` predictions know the loss
    evaluate : an ``Evaluation``, of which only what is needed is run, or a callable on a model, always run whole
    criterion : the order in which units leave; by default the least-squares elimination path
    shares : kept units / units, in (0, 1)
    seed : of the order in which samples are drawn
    memory : bytes that the tensors of candidates may take; the others wait on disk
    store : a folder where what is finished is kept; the same search goes on from there
    workers : how many processes score candidates, or a ``concurrent.futures.Executor`` that does (of Dask, what
        ``client.get_executor()`` gives); None scores them here. The curves are the same to the last bit
    retries : how often a candidate is tried again whose evaluation raised, gave NaN or killed its worker
    sites : the layers whose rank may be lowered, by which methods
    groups : those that may lose units; by default all that can exactly

    Raises
    ------
    ValueError
        The evaluation does not score the original model with finite numbers, or the store belongs to another search.
    OSError
        The store cannot be written; what is finished is kept.
    Refused
        Workers cannot load the model or the evaluation.
    """

    def __init__(
        self, graph: ChannelGraph, statistics: Statistics, evaluate: Evaluation | Callable[[nn.Module], Any], *,
        criterion: Criterion | None = None, shares: Sequence[float] = SHARES, seed: int = 0, memory: int = MEMORY,
        store: str | os.PathLike[str] | None = None, workers: int | Executor | None = None, retries: int = 1,
        progress: bool = False, sites: Sequence[Site] = (), groups: Collection[str] | None = None,
    ):  # fmt: skip
        if not isinstance(retries, int) or retries < 0:
            raise ValueError(f"retries={retries!r} must be a whole number, 0 or more")
        self.graph, self.statistics, self.evaluate, self.progress = graph, statistics, evaluate, progress
        with one_thread():  # first: a score that cannot be used is not told after minutes of other work
            self.sample = Sample.of(graph, evaluate, seed) if isinstance(evaluate, Evaluation) else None
            self.dense = self.sample.dense if self.sample else whole_score(evaluate, graph.model)
        criterion = criterion or Elimination()
        free = [group for group in graph.exact if groups is None or group.name in groups]
        bar = tqdm(free, "select", disable=not progress, unit="group")
        self.paths = {group.name: self._path(group.name, criterion) for group in bar}
        self.ladders = ladders_of(graph, sites, statistics)
        self.paths |= {name: ladder.path for name, ladder in self.ladders.items()}
        self.expected = expected(self.paths)
        self.widths = {
            name: sorted({max(path.least, round(share * len(path.order))) for share in shares} - {len(path.order)})
            for name, path in self.paths.items()
        }
        ledger = Ledger() if store is None else Store(store, self._belongs(criterion, seed, sites))
        judge = self.sample or cast(Callable[[nn.Module], Any], evaluate)
        scorer: Scorer = (
            Here(graph, judge, memory) if workers is None else Workers(graph, judge, self.dense, workers, store)
        )
        candidates = Candidates(graph, self.paths, self.widths, statistics, memory, self.ladders)
        self.measured = Measurements(candidates, scorer, ledger, self.sample, self.dense, retries, progress)

    def _path(self, name: str, criterion: Criterion) -> Path:
        view = GroupView.of(self.graph, name, self.statistics)
        path = criterion(view)
        return path if path.errors else followed(view, path)

    def run(self, mode: str = "measured", plans: Planner = lambda curves: (), fine: bool = False) -> SensitivityCurves:
        """Measure what is asked for, and return the curves.

        ``"predicted"`` measures nothing, ``"measured"`` every point, ``"auto"`` those that the plans depend on.
        With ``fine`` measured points away from the plans are as precise as those near them: for people to look at.

        Raises
        ------
        ValueError
            There is no such mode, or the evaluation scores damaged models higher than the original.
        """
        if mode not in MODES:
            raise ValueError(f"there is no mode {mode!r}; choose from {', '.join(MODES)}")
        try:
            return self._run(mode, plans, fine)
        except KeyboardInterrupt as stop:
            stop.add_note(f"The search was stopped: {self.measured.ledger.told()}.")
            raise

    def _run(self, mode: str, plans: Planner, fine: bool) -> SensitivityCurves:
        if mode == "predicted":
            return self.curves()
        everywhere = [(name, kept) for name, widths in self.widths.items() for kept in widths]
        anchors = self._anchors(everywhere)
        first = everywhere if mode == "measured" else [*anchors]
        first += [(name, kept) for name, kept in everywhere if not self.expected[name] and mode == "auto"]
        self.measure([place for place in first if not self.measured.seen((place,))])
        self._refuse_loss(anchors)
        for _ in range(ROUNDS):
            curves = self.curves()
            found = plans(curves)
            near = self._near(found)
            if mode == "auto":
                still_open = self._open(curves, near, found, NEAR)
                still_open = [place for place in still_open if not self._in_vain(curves, place)]
            else:
                far = sorted(set(everywhere) - set(near))
                still_open = self._open(curves, near, found, FINE if fine else NEAR)
                still_open += self._open(curves, far, found, (FINE if fine else FAR) if found else ALONE)
            if not still_open:
                break
            self.measure(still_open)
        return self.curves()

    def measure(self, places: Sequence[Place]) -> None:
        """One more block of samples for some points."""
        self.measured.add([(place,) for place in places])

    def _anchors(self, places: Sequence[Place]) -> list[Place]:
        """Some places whose losses are large enough to be measured by few samples: they give predictions their unit."""
        values = {(name, kept): self.expected[name][len(self.paths[name].order) - kept]
                  for name, kept in places if self.expected[name]}  # fmt: skip
        upper = sorted(values, key=lambda place: (values[place], place))[len(values) // 2 :]
        return sorted({upper[round(step * (len(upper) - 1) / (ANCHORS - 1))] for step in range(ANCHORS) if upper})

    def _refuse_loss(self, anchors: Sequence[Place]) -> None:
        """A score that every loss raises is a loss itself: the plan would be the worst there is."""
        curves = self.curves()
        found = [point for name, kept in anchors if (point := curves[name].point(kept)).degradation is not None]
        if len(found) >= CERTAIN and all(_is_better(point) for point in found):
            raise ValueError(
                f"{curves.metric} scores the original {curves.baseline:.4g} and all of {len(found)} damaged models "
                "higher; the higher the score the better must a model be, so return a loss with its sign changed"
            )

    def _near(self, plans: Sequence[Planned]) -> list[Place]:
        """The measurable widths on both sides of those that the plans choose; the widest one of an uncut group."""
        near: set[Place] = set()
        for plan in plans:
            for name, widths in self.widths.items():
                kept = dict(plan.places).get(name, len(self.paths[name].order))
                below, above = [w for w in widths if w <= kept][-1:], [w for w in widths if w >= kept][:1]
                near.update((name, width) for width in (*below, *above))
        return sorted(near)

    def _open(
        self, curves: SensitivityCurves, places: Iterable[Place], plans: Sequence[Planned], precision: Precision
    ) -> list[Place]:
        """Those of some places that were never measured, or are not settled and have samples left."""
        limit = min((plan.degradation / math.sqrt(max(1, len(plan.places))) for plan in plans), default=0.0)
        waiting = [place for place in places if self.measured.seen((place,)) < self.measured.blocks]
        return [(name, kept) for name, kept in waiting if _is_open(curves[name].point(kept), precision, limit)]

    def _in_vain(self, curves: SensitivityCurves, place: Place) -> bool:
        """Whether all samples together would say less than the prediction does."""
        point = curves[place[0]].point(place[1])
        if point.deviation is None or point.predicted is None:
            return False
        return point.deviation * math.sqrt(point.samples / len(self.dense)) > TRUST * point.predicted

    def _belongs(self, criterion: Criterion, seed: int, sites: Sequence[Site]) -> dict[str, str]:
        """What scores depend on, for the store."""
        method = criterion_name(criterion) + (f" {source_of(criterion)}" if isfunction(criterion) else "")
        function = self.evaluate.score if isinstance(self.evaluate, Evaluation) else self.evaluate
        methods = sorted({each.name for site in sites for each in site.methods})
        return {
            "model": self.graph.fingerprint, "calibration data": self.statistics.fingerprint,
            "metric": f"{name_of(self.evaluate)} {source_of(function)}",
            "evaluation data": self.sample.fingerprint if self.sample else fingerprint_of(self.evaluate, self.dense),
            "method": ", ".join([method, "least squares", *methods]), "seed": str(seed),
        }  # fmt: skip

    def curves(self) -> SensitivityCurves:
        """All that is known now: what was measured, and what it lets expect elsewhere."""
        dense = {widths: self.measured.dense_of(widths) for widths in self.measured.scores}
        differences = {widths: self.measured.differences(widths) for widths in self.measured.scores}
        nonzero = [np.abs(d[d != 0]) for d in differences.values() if isinstance(d, np.ndarray)]
        resolution = min((float(found.min()) for found in nonzero if found.size), default=0.0)
        curves = []
        for name, widths in self.widths.items():
            units = len(self.paths[name].order)
            points = []
            for kept in widths:
                alone = ((name, kept),)
                found = dense.get(alone), differences.get(alone), self.measured.blocks, resolution
                points.append(Point.of(kept, units, *found))
            ladder = self.ladders.get(name)
            curves.append(Curve(name, units, tuple(points), self.paths[name], self.expected[name], ladder))
        fingerprint = fingerprint_of(self.evaluate, self.dense)
        metric, baseline = name_of(self.evaluate), float(self.dense.mean())
        why = self.statistics.no_fisher
        note = f"predicted from the output error alone, without the Fisher information ({why})" if why else ""
        return SensitivityCurves(metric, baseline, len(self.dense), fingerprint, with_predictions(curves), note)


def _is_better(point: Point) -> bool:
    loss = point.degradation if point.high is None else point.high
    return loss is not None and loss < 0


def _is_open(point: Point, precision: Precision, limit: float) -> bool:
    if point.failed is not None:
        return False
    if point.degradation is None:
        return True
    if point.low is None or point.high is None:
        return False
    return (point.high - point.low) / 2 > max(precision[0] * abs(point.degradation), precision[1] * limit)


def sensitivity(
    graph: ChannelGraph, statistics: Statistics, evaluate: Evaluation | Callable[[nn.Module], Any], *,
    mode: str = "measured", plans: Planner = lambda curves: (), **options: Any,
) -> SensitivityCurves:  # fmt: skip
    """One search from start to end; see ``Search``, whose options these are, and its ``run``."""
    return Search(graph, statistics, evaluate, **options).run(mode, plans)
