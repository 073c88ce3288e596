"""``Study``: the object a notebook user holds. It calls the verbs in order and remembers what they gave."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor
from contextlib import suppress
from functools import cached_property
from typing import Any

import numpy as np
from torch import nn

from workbench.allocate import Solver, Unreachable
from workbench.allocate.budget import Budget
from workbench.apply import apply
from workbench.calibrate import Batches, Statistics, calibrate
from workbench.evaluation import Evaluation, Fidelity
from workbench.graph.trace import ChannelGraph, trace
from workbench.interaction import replan
from workbench.plan import Plan, make_plan
from workbench.refine import Refinement
from workbench.result import Result, Source, compare, scores_of
from workbench.select import Criterion, Elimination, name_of, needs_of
from workbench.sensitivity import Search, SensitivityCurves
from workbench.signals import Loss

Evaluate = Evaluation | Callable[[nn.Module], Any]
BUDGETS = tuple(Budget(macs=share) for share in (0.75, 0.5, 0.3))  # what people ask for first


class Study:
    """One model with the data to compress it by.

    Parameters
    ----------
    model : any module ``torch.export`` can follow; never changed
    example_inputs : a tensor (the one input), a tuple (positional) or a dict (keyword); batch first
    calibration : yields model inputs and nothing else, and can be gone over again; no labels are needed
    evaluate : the score a search may look at, higher is better: an ``Evaluation``, or ``evaluate(model)`` that gives a
        float or 1-D; None compares the output with the original's on the calibration data
    test : the score that reports and never chooses; by default ``evaluate``
    gather : layers that pick their input channels while who makes those keeps all, as for ``trace``
    head_dim : let features of attention heads leave instead of whole heads, as for ``trace``
    criterion : how channels are selected; by default the least-squares elimination path
    loss : ``loss(output, inputs)``, summed over samples, for criteria that need gradients; by default the cross-entropy
        against labels drawn from the model's own output
    refinement : how all layers are drawn towards the original together after the repair; None leaves that out, which is
        faster and loses more
    store : a folder where the search keeps what it has finished; killed at any moment, it goes on from there
    workers : how many processes score candidates, or a ``concurrent.futures.Executor`` that does (of Dask, what
        ``client.get_executor()`` gives); by default it happens in this process
    retries : how often a candidate is tried again whose evaluation raised, gave NaN or killed its worker
    seed : of what is drawn from the data
    name : of the model, for the report
    progress : show progress bars

    Examples
    --------
    >>> import torch, workbench as wb
    >>> model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
    >>> study = wb.Study(model, torch.randn(1, 8), calibration=[torch.randn(64, 8)])
    >>> result = study.compress(wb.Budget(macs=0.5))
    >>> result.cost.macs <= 0.5 * study.graph.cost().macs
    True
    """

    def __init__(
        self, model: nn.Module, example_inputs: Any, *, calibration: Iterable[Any], evaluate: Evaluate | None = None,
        test: Evaluate | None = None, gather: Sequence[str] | bool = (), head_dim: bool = False,
        criterion: Criterion | None = None, loss: Loss | None = None, refinement: Refinement | None = Refinement(),
        store: str | os.PathLike[str] | None = None, workers: int | Executor | None = None, retries: int = 1,
        seed: int = 0, name: str | None = None, progress: bool = False,
    ):  # fmt: skip
        self.model, self.example_inputs = model, example_inputs
        self.calibration = Batches.of(calibration)
        self.evaluate = evaluate if evaluate is not None else Fidelity(self.calibration)
        self.test = test if test is not None else self.evaluate
        self.gather, self.head_dim = gather, head_dim
        self.criterion = criterion or Elimination()
        self.loss, self.refinement = loss, refinement
        self.store, self.workers, self.retries = store, workers, retries
        self.seed, self.progress = seed, progress
        self.name = name or type(model).__name__
        self.seconds: dict[str, float] = {}
        self._mode = "auto"
        self._curves: SensitivityCurves | None = None
        self._scores: dict[int, tuple[Evaluate, np.ndarray]] = {}  # held, so that no other has its id

    def __repr__(self) -> str:
        return f"Study({self.name}, {self.calibration.samples} calibration samples)"

    @cached_property
    def graph(self) -> ChannelGraph:
        """Which channels can leave together."""
        with self._timed("trace"):
            return trace(self.model, self.example_inputs, gather=self.gather, head_dim=self.head_dim)

    @cached_property
    def statistics(self) -> Statistics:
        """Second moments of every prunable layer's input."""
        graph = self.graph
        with self._timed("calibrate"):
            return calibrate(
                graph, self.calibration, needs={*needs_of(self.criterion), "fisher"}, loss=self.loss,
                seed=self.seed, progress=self.progress,
            )  # fmt: skip

    @cached_property
    def search(self) -> Search:
        """What is known of the sensitivity so far."""
        graph, statistics = self.graph, self.statistics
        with self._timed("sensitivity"):
            return Search(
                graph, statistics, self.evaluate, criterion=self.criterion, seed=self.seed, store=self.store,
                workers=self.workers, retries=self.retries, progress=self.progress,
            )  # fmt: skip

    def sensitivity(self, mode: str | None = None, budgets: Sequence[Budget] = BUDGETS) -> SensitivityCurves:
        """How the score falls as each group gives up channels; without a mode, as it was last asked for.

        Parameters
        ----------
        mode : ``"auto"`` (at first) measures the points on which plans depend, as precisely as these need, and predicts
            the others; ``"measured"`` measures every point, ``"predicted"`` none
        budgets : of the plans that ``"auto"`` has in mind; ``allocate`` and ``compress`` add their own
        """
        if mode is None and self._curves is not None:
            return self._curves
        self._mode = mode or self._mode
        return self._searched(budgets, None, fine=True)

    def _searched(self, budgets: Sequence[Budget], solver: Solver | None, fine: bool = False) -> SensitivityCurves:
        search = self.search
        with self._timed("sensitivity"):
            self._curves = search.run(self._mode, lambda curves: self._plans(curves, budgets, solver), fine)
        return self._curves

    def _plans(self, curves: SensitivityCurves, budgets: Sequence[Budget], solver: Solver | None) -> list[Plan]:
        found = []
        for budget in budgets if self.graph.exact else ():
            with suppress(Unreachable):  # whoever asks for that budget in earnest is told
                found.append(make_plan(self.graph, curves, budget, solver))
        return found

    def allocate(self, budget: Budget, solver: Solver | None = None, *, mode: str | None = None) -> Plan:
        """The widths that lose least under a budget; raises ``Unreachable`` where there are none.

        ``mode`` is that of ``sensitivity``; without one, the last that was asked for.
        """
        self._mode = mode or self._mode
        curves = self._searched([budget], solver)
        with self._timed("allocate"):
            return make_plan(self.graph, curves, budget, solver)

    def refine(self, plan: Plan | Budget, evaluations: int = 100, solver: Solver | None = None) -> Plan:
        """A plan under the same budget that loses less in earnest, or the same plan where none was found.

        The curves know what each group loses alone. Here the groups of a plan are measured together, each moved a step
        to either side; the curves are scaled by what that shows and the widths chosen anew, as long as the repaired
        model that comes out loses less. ``plan.degradation`` is what the curves predict, ``plan.lost`` what was seen.

        Parameters
        ----------
        plan : to begin with; of a budget, the one that ``allocate`` finds
        evaluations : how many models may be scored in all
        solver : as for ``allocate``

        Raises
        ------
        ValueError
            Not even the plan can be scored with so many evaluations.
        """
        if not isinstance(evaluations, int) or evaluations < 1:
            raise ValueError(f"evaluations={evaluations!r} must be a whole number, 1 or more")
        plan = self._plan(plan, solver)
        search = self.search
        with self._timed("refine"):
            return replan(search, plan, self._lost, evaluations=evaluations, solver=solver)

    def _lost(self, plan: Plan) -> float:
        """How much lower the repaired model of a plan scores than the original, on the search's samples."""

        def score() -> np.ndarray:
            small = apply(self.graph, plan, self.calibration, seed=self.seed).model
            return scores_of(self.evaluate, self.model, small)

        widths = tuple((name, len(units)) for name, units in plan.cut.items())
        usual = all(tuple(self.search.paths[name].kept(kept)) == tuple(plan.kept[name]) for name, kept in widths)
        scores = self.search.measured.applied(widths, score) if usual else score()
        return float((self.search.dense - scores).mean())

    def _plan(self, plan: Plan | Budget, solver: Solver | None = None) -> Plan:
        if isinstance(plan, Budget):
            plan = self.allocate(plan, solver)
        if not isinstance(plan, Plan):
            raise TypeError(f"give a Plan or a Budget, not {type(plan).__name__}; try Budget(macs=0.5)")
        if plan.model != self.graph.fingerprint:
            raise ValueError(
                f"the plan was made for the model {plan.model}, this one is {self.graph.fingerprint}; make a plan for "
                "this model"
            )
        return plan

    def compress(self, plan: Plan | Budget) -> Result:
        """The smaller model of a plan (or of the best plan under a budget), repaired, verified and scored."""
        plan = self._plan(plan)
        with self._timed("apply"):
            applied = apply(
                self.graph, plan, self.calibration, refinement=self.refinement, seed=self.seed, progress=self.progress
            )
        with self._timed("verify"):
            evaluate = self.evaluate if self._curves else None  # a plan from elsewhere was made by another score
            return compare(self.graph, plan, applied, self.test, self._source(), self._curves, evaluate, self._dense)

    def _dense(self, evaluate: Evaluate) -> np.ndarray:
        """The original's scores, which are the same for every plan."""
        if id(evaluate) not in self._scores:
            self._scores[id(evaluate)] = evaluate, scores_of(evaluate, self.model, self.model)
        return self._scores[id(evaluate)][1]

    def _source(self) -> Source:
        curves = self._curves
        steps = [name_of(self.criterion), "ridge least squares", self.refinement]
        method = ", ".join(str(step) for step in steps if step)
        return Source(
            self.name, self.seed, method, f"{self.calibration.samples:,} samples",
            {"model": self.graph.fingerprint, "calibration": self.calibration.fingerprint}
            | ({"evaluation": curves.fingerprint} if curves else {}), dict(self.seconds),
        )  # fmt: skip

    def _timed(self, step: str) -> _Timer:
        return _Timer(self.seconds, step)


class _Timer:
    """Adds the seconds of a ``with`` block to a dict."""

    def __init__(self, seconds: dict[str, float], step: str):
        self.seconds, self.step = seconds, step

    def __enter__(self) -> None:
        self.start = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self.seconds[self.step] = self.seconds.get(self.step, 0.0) + time.perf_counter() - self.start


def compress(
    model: nn.Module, example_inputs: Any, *, budget: Budget, calibration: Iterable[Any],
    evaluate: Evaluate | None = None, **options: Any,
) -> Result:  # fmt: skip
    """All verbs in one call; the options are those of ``Study``.

    Examples
    --------
    >>> import torch, workbench as wb
    >>> model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
    >>> wb.compress(model, torch.randn(1, 8), budget=wb.Budget(macs=0.5), calibration=[torch.randn(64, 8)]).target_met
    True
    """
    return Study(model, example_inputs, calibration=calibration, evaluate=evaluate, **options).compress(budget)
