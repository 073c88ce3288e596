"""``Study``: the object a notebook user holds. It calls the verbs in order and remembers what they gave."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import suppress
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import nn

from workbench.allocate import Exact, Solver, Unreachable
from workbench.allocate.budget import Budget, Multiple
from workbench.apply import apply
from workbench.calibrate import Batches, Statistics, calibrate
from workbench.cost.latency import LatencyTable
from workbench.cost.measure import measure_latency
from workbench.evaluation import Evaluation, Fidelity, fitted, scores_of
from workbench.evaluation import name_of as score_name
from workbench.factorize import Left, Site, sites_of
from workbench.front import Choosable, Front
from workbench.given import check_given
from workbench.graph.chance import check_settled
from workbench.graph.trace import ChannelGraph, Layer, trace
from workbench.interaction import made_by, replan
from workbench.limits import Limits
from workbench.manual import Pattern, Setting, concerned, free_groups, layers_like, plan_by_hand
from workbench.methods import Methods
from workbench.plan import Plan
from workbench.planning import make_plan, plan_in_time, plan_of
from workbench.refine import Refinement
from workbench.result import Result, Source, compare
from workbench.select import Criterion, Elimination, name_of, needs_of
from workbench.sensitivity import Search, SensitivityCurves
from workbench.signals import Loss

if TYPE_CHECKING:
    from workbench.explore import Explorer

Evaluate = Evaluation | Callable[[nn.Module], Any]
BUDGETS = tuple(Budget(macs=share) for share in (0.75, 0.5, 0.3))  # what people ask for first
BESIDE = 20  # budgets of the front beside a result


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
    latency : the table that budgets of milliseconds go by; by default measured when the first of them comes, where the
        model is, for one sample and with the threads that PyTorch uses, and kept in the store
    workers : how many processes score candidates, or a ``concurrent.futures.Executor`` that does (of Dask, what
        ``client.get_executor()`` gives); by default it happens in this process
    retries : how often a candidate is tried again whose evaluation raised, gave NaN or killed its worker
    seed : of what is drawn from the data
    name : of the model, for the report
    progress : show progress bars
    methods : what the search may do to a layer; by default channels leave and ranks fall, whichever loses less
    ignore : layers that keep all their channels and their rank: names, patterns of names (``"blocks.*.conv1"``), types

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
        store: str | os.PathLike[str] | None = None, latency: LatencyTable | None = None,
        workers: int | Executor | None = None, retries: int = 1, seed: int = 0, name: str | None = None,
        progress: bool = False, methods: Methods = Methods(), ignore: Sequence[Pattern] = (),
    ):  # fmt: skip
        check_given(model, evaluate, test, criterion, methods, ignore)
        self.model, self.example_inputs = model, example_inputs
        self.calibration = Batches.of(calibration)
        self.evaluate = Fidelity(self.calibration) if evaluate is None else fitted(evaluate, example_inputs)
        self.test = self.evaluate if test is None or test is evaluate else fitted(test, example_inputs)
        self.gather, self.head_dim = gather, head_dim
        self.criterion = criterion or Elimination()
        self.loss, self.refinement = loss, refinement
        self.store, self.workers, self.retries = store, workers, retries
        self.seed, self.progress = seed, progress
        self.name = name or type(model).__name__
        self.methods, self.ignore, self._latency = methods, ignore, latency
        self._front: Front | None = None
        self.seconds: dict[str, float] = {}
        self._mode = "auto"
        self._curves: SensitivityCurves | None = None
        self._scores: dict[int, tuple[Evaluate, np.ndarray]] = {}  # held, so that no other has its id

    def __repr__(self) -> str:
        return f"Study({self.name}, {self.calibration.samples} calibration samples)"

    def _repr_html_(self) -> str:
        """What was given, and what is known so far; looking at it computes nothing."""
        from workbench.report import notebook

        traced = self.__dict__.get("graph")
        facts = {
            "Model": type(self.model).__name__,
            "Calibration": f"{self.calibration.samples:,} samples",
            "Decides": score_name(self.evaluate),
            "Reports": score_name(self.test),
            "Method": self._method(),
            "Channels": repr(traced) if traced is not None else "not traced yet",
            "Curves": repr(self._curves) if self._curves is not None else "no sensitivity known yet",
        }
        return notebook.study(self.name, facts)

    @cached_property
    def graph(self) -> ChannelGraph:
        """Which channels can leave together."""
        with self._timed("trace"):
            graph = trace(self.model, self.example_inputs, gather=self.gather, head_dim=self.head_dim)
        check_settled(self.model, graph.program.nodes)
        return graph

    @cached_property
    def sites(self) -> tuple[tuple[Site, ...], tuple[Left, ...]]:
        """The layers whose rank the methods can lower, and those that keep theirs, with the reason."""
        sites, left = sites_of(self.graph, self.methods.ranks)
        names = {layer.name for layer in self._ignored()}
        ignored = tuple(Left(site.layer.name, "it is to be ignored") for site in sites if site.layer.name in names)
        return tuple(site for site in sites if site.layer.name not in names), (*left, *ignored)

    def _ignored(self) -> list[Layer]:
        return [layer for pattern in self.ignore for layer in layers_like(self.graph, pattern)]

    @cached_property
    def statistics(self) -> Statistics:
        """Second moments of every prunable layer's input."""
        return self._calibrated(self.sites[0])

    def _calibrated(self, sites: Sequence[Site]) -> Statistics:
        also = [site.layer for site in sites]
        with self._timed("calibrate"):
            return calibrate(
                self.graph, self.calibration, needs={*needs_of(self.criterion), "fisher"}, loss=self.loss,
                seed=self.seed, progress=self.progress, also=also,
            )  # fmt: skip

    @cached_property
    def latency(self) -> LatencyTable:
        """Milliseconds of every operation at any widths, and of what the methods make of layers at any ranks."""
        if self._latency is not None:
            return self._latency
        graph = self.graph
        with self._timed("latency"):
            store = Path(self.store) / "latency" if self.store is not None else None
            return measure_latency(graph, store=store, methods=self.methods)

    @cached_property
    def search(self) -> Search:
        """What is known of the sensitivity so far."""
        groups = free_groups(self.graph, self._ignored()) if self.methods.channels else []
        return self._search(self.sites[0], groups, store=self.store, workers=self.workers)

    def _search(self, sites: Sequence[Site], groups: Collection[str], **where: Any) -> Search:
        graph, statistics = self.graph, self.statistics
        with self._timed("sensitivity"):
            return Search(
                graph, statistics, self.evaluate, criterion=self.criterion, seed=self.seed, retries=self.retries,
                progress=self.progress, sites=sites, groups=groups, **where,
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
        return self._searched(budgets, fine=True)

    def _searched(
        self, budgets: Sequence[Budget], solver: Solver | None = None, limits: Limits = Limits(), fine: bool = False
    ) -> SensitivityCurves:
        search = self.search
        with self._timed("sensitivity"):
            self._curves = search.run(self._mode, lambda curves: self._plans(curves, budgets, solver, limits), fine)
        return self._curves

    def _plans(
        self, curves: SensitivityCurves, budgets: Sequence[Budget], solver: Solver | None, limits: Limits
    ) -> list[Plan]:
        found = []
        for budget in budgets if curves.curves else ():
            with suppress(Unreachable):  # whoever asks for that budget in earnest is told
                found.append(self._made(curves, budget, solver, limits))
        return found

    def allocate(
        self, budget: Budget, solver: Solver | None = None, *, limits: Limits = Limits(), mode: str | None = None
    ) -> Plan:
        """The widths that lose least under a budget and within limits; raises ``Unreachable`` where there are none.

        ``mode`` is that of ``sensitivity``; without one, the last that was asked for.
        """
        self._mode = mode or self._mode
        curves = self._searched([budget], solver, limits)
        with self._timed("allocate"):
            if budget.latency_ms is not None:
                return plan_in_time(self.graph, curves, budget, solver, limits, self.latency)
            return self._made(curves, budget, solver, limits)

    def _made(self, curves: SensitivityCurves, budget: Budget, solver: Solver | None, limits: Limits) -> Plan:
        latency = self.latency if budget.latency_ms is not None else None
        return make_plan(self.graph, curves, budget, solver, limits, latency)

    def by_hand(self, settings: Mapping[Pattern, Setting]) -> Plan:
        """The plan in which layers have the ratios, ranks or input channels that are given, and all others stay.

        Keys are names of layers, patterns of names or types of modules; a layer's own name goes before the others.
        Channels are numbers, or a mask of all. Whatever the ``methods`` of a search are, all can be set by hand.

        Raises
        ------
        ValueError
            There is no such layer, it cannot have that, or two settings contradict each other.
        TypeError
            A key or a setting is of another kind.

        Examples
        --------
        >>> import torch, workbench as wb
        >>> model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
        >>> study = wb.Study(model, torch.randn(1, 8), calibration=[torch.randn(64, 8)])
        >>> plan = study.by_hand({"0": wb.Rank("weight_svd", 3), "2": wb.Ratio(0.5)})
        >>> study.compress(plan).model[0]
        Sequential(
          (0): Linear(in_features=8, out_features=3, bias=False)
          (1): Linear(in_features=3, out_features=8, bias=True)
        )
        """
        layers, groups = concerned(self.graph, settings)  # the rest of a large network would take most of the time
        known = {site.layer.name: site for site in self.sites[0]}
        sites = [
            known.get(site.layer.name, site)
            for site in sites_of(self.graph, Methods().ranks)[0] if site.layer.name in layers
        ]  # fmt: skip
        found = self.__dict__.get("statistics")
        if found is None or not {site.layer.name for site in sites} <= found.layers.keys():
            also = [site for site in sites if site.layer.name not in known]  # the search leaves these alone
            self.statistics = self._calibrated([*self.sites[0], *also])
        search = self._search(sites, groups)
        return plan_by_hand(self.graph, search, settings)

    def front(
        self, resource: str = "macs", budgets: int | Sequence[float] = 100, *, multiple: Multiple = 1,
        limits: Limits = Limits(),
    ) -> Front:  # fmt: skip
        """The best plans for many budgets of one resource, solved in one sweep; results made later report this front.

        Parameters
        ----------
        resource : macs, params, activation_bytes, size_bytes or latency_ms
        budgets : shares of the original, or how many in equal steps from the least that can be reached
        multiple : of the widths, as in ``Budget``
        limits : on single groups

        Raises
        ------
        Unreachable
            A share is out of reach.
        """
        choosable = self._choosable(resource, multiple, limits)
        with self._timed("allocate"):
            self._front = Front.of(choosable, self.sensitivity(), budgets)
        return self._front

    def explore(self, resource: str = "macs", *, multiple: Multiple = 1, limits: Limits = Limits()) -> Explorer:
        """A slider over budgets, for a notebook: each move solves anew. ``.plan`` is the plan where it stands."""
        from workbench.explore import Explorer

        curves = self.sensitivity()
        choosable = self._choosable(resource, multiple, limits)
        return Explorer(choosable, curves, partial(plan_of, self.graph, curves, limits=limits))

    def _choosable(self, resource: str, multiple: Multiple, limits: Limits) -> Choosable:
        latency = self.latency if resource == "latency_ms" else None
        return Choosable.of(self.graph, self.sensitivity(), resource, multiple, limits, latency)

    def refine(self, plan: Plan | Budget, evaluations: int = 100, solver: Solver | None = None) -> Plan:
        """A plan under the same budget and limits that loses less in earnest, or the same plan where none was found.

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
            Not even the plan can be scored with so many evaluations, it changes what the search may not, or its budget
            allows the original, as that of a plan by hand does.
        """
        if not isinstance(evaluations, int) or evaluations < 1:
            raise ValueError(f"evaluations={evaluations!r} must be a whole number, 1 or more")
        plan = self._plan(plan, solver)
        search = self.search
        changed = {name for name, _ in plan.places}
        allowed = all(amount == 1 for amount in plan.budget.amounts.values())
        if changed and changed <= search.paths.keys() and allowed and evaluations > 1:
            raise ValueError(
                f"the plan's {plan.budget} allows the original, so that a refinement would undo the plan; give a "
                "Budget, as Budget(macs=0.5), or compress the plan as it is"
            )
        with self._timed("refine"):
            choose = partial(self._made, budget=plan.budget, solver=solver, limits=plan.limits)
            return replan(search, plan, choose, self._lost, evaluations=evaluations)

    def _lost(self, plan: Plan) -> float:
        """How much lower the repaired model of a plan scores than the original, on the search's samples."""

        def score() -> np.ndarray:
            small = apply(self.graph, plan, self.calibration, seed=self.seed).model
            return scores_of(self.evaluate, self.model, small)

        scores = self.search.measured.applied(plan.places, score) if made_by(self.search, plan) else score()
        return float((self.search.dense - scores).mean())

    def _plan(self, plan: Plan | Budget, solver: Solver | None = None, limits: Limits = Limits()) -> Plan:
        if isinstance(plan, Budget):
            plan = self.allocate(plan, solver, limits=limits)
        if not isinstance(plan, Plan):
            raise TypeError(f"give a Plan or a Budget, not {type(plan).__name__}; try Budget(macs=0.5)")
        if plan.model != self.graph.fingerprint:
            raise ValueError(
                f"the plan was made for the model {plan.model}, this one is {self.graph.fingerprint}; make a plan for "
                "this model"
            )
        return plan

    def compress(self, plan: Plan | Budget, *, limits: Limits = Limits()) -> Result:
        """The smaller model of a plan (or of the best under a budget, within limits), repaired, verified, scored."""
        plan = self._plan(plan, limits=limits)
        with self._timed("apply"):
            applied = apply(
                self.graph, plan, self.calibration, refinement=self.refinement, seed=self.seed, progress=self.progress
            )
        with self._timed("verify"):
            evaluate = self.evaluate if self._curves else None  # a plan from elsewhere was made by another score
            left = self.sites[1] if self.methods.ranks else ()
            table = self.latency if plan.budget.latency_ms is not None else None
            return compare(
                self.graph, plan, applied, self.test, self._source(), self._curves, evaluate, self._dense, left, table,
                self._beside(plan), self.progress,
            )  # fmt: skip

    def _beside(self, plan: Plan) -> Front | None:
        """What else was possible: the front that was asked for, or a coarse one of the resource the plan is for."""
        if self._front is not None or self._curves is None or len(plan.budget.amounts) != 1:
            return self._front
        (resource,) = plan.budget.amounts
        choosable = self._choosable(resource, plan.budget.multiple, plan.limits)
        with suppress(TimeoutError):  # a report can do without
            return Front.of(choosable, self._curves, BESIDE, Exact(time_limit_s=1.0))
        return None

    def _dense(self, evaluate: Evaluate) -> np.ndarray:
        """The original's scores, which are the same for every plan."""
        if id(evaluate) not in self._scores:
            self._scores[id(evaluate)] = evaluate, scores_of(evaluate, self.model, self.model, self.progress)
        return self._scores[id(evaluate)][1]

    def _source(self) -> Source:
        curves = self._curves
        return Source(
            self.name, self.seed, self._method(), f"{self.calibration.samples:,} samples",
            {"model": self.graph.fingerprint, "calibration": self.calibration.fingerprint}
            | ({"evaluation": curves.fingerprint} if curves else {}), dict(self.seconds),
        )  # fmt: skip

    def _method(self) -> str:
        steps = [self.methods, name_of(self.criterion), "ridge least squares", self.refinement]
        return ", ".join(str(step) for step in steps if step)

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
    evaluate: Evaluate | None = None, limits: Limits = Limits(), **options: Any,
) -> Result:  # fmt: skip
    """All verbs in one call; the other options are those of ``Study``.

    Examples
    --------
    >>> import torch, workbench as wb
    >>> model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
    >>> wb.compress(model, torch.randn(1, 8), budget=wb.Budget(macs=0.5), calibration=[torch.randn(64, 8)]).target_met
    True
    """
    study = Study(model, example_inputs, calibration=calibration, evaluate=evaluate, **options)
    return study.compress(budget, limits=limits)
