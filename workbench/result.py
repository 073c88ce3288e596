"""``Result``: the smaller model with everything that is known of it."""

from __future__ import annotations

import datetime
import math
import os
import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from workbench import drawing
from workbench.allocate.budget import COUNTED
from workbench.apply import Applied
from workbench.cost.count import Cost, count
from workbench.cost.latency import LatencyTable
from workbench.cost.measure import Latency, compare_latency
from workbench.evaluation import Evaluation, name_of, scores_of
from workbench.factorize import Left, folded, form_of, site_of
from workbench.front import Front
from workbench.graph.masked import survivors
from workbench.graph.modules import place_of, safe
from workbench.graph.record import Factored, recorded
from workbench.graph.survivors import Survivors
from workbench.graph.trace import ChannelGraph, Layer
from workbench.plan import Plan
from workbench.reconstruct import Repair
from workbench.refine import Refined
from workbench.sensitivity import SensitivityCurves
from workbench.verification import Verification, verify

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

    from workbench.deploy import Exported, Int8

LAYER_COSTS = {"macs": "MACs", "params": "parameters"}


@dataclass(frozen=True)
class Score:
    """The same samples scored on the original and on the smaller model.

    ``interval`` bounds the mean difference (after - before) with 95 % confidence, None for a single number.
    """

    name: str
    before: float
    after: float
    samples: int
    interval: tuple[float, float] | None

    @classmethod
    def of(cls, name: str, before: np.ndarray, after: np.ndarray) -> Score:
        """From one score a sample of each."""
        differences = after - before
        interval = None
        if len(differences) > 1:
            margin = 1.959964 * float(differences.std(ddof=1)) / math.sqrt(len(differences))
            interval = (float(differences.mean()) - margin, float(differences.mean()) + margin)
        return cls(name, float(before.mean()), float(after.mean()), len(before), interval)

    def __repr__(self) -> str:
        where = f" on {self.samples} samples" if self.samples > 1 else ""  # one number may be of any number of them
        return f"Score({self.name}: {self.before:.4g} -> {self.after:.4g}{where})"

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "name": self.name, "before": self.before, "after": self.after, "samples": self.samples,
            "difference": self.after - self.before, "interval": self.interval and list(self.interval),
        }  # fmt: skip


@dataclass(frozen=True)
class Source:
    """Where a result came from: what is needed to get it again."""

    name: str
    seed: int
    method: str
    calibration: str
    fingerprints: Mapping[str, str]
    seconds: Mapping[str, float]


@dataclass(frozen=True)
class Result:
    """A smaller model, what it costs and scores, and how it was made."""

    model: nn.Module = field(repr=False)
    plan: Plan
    score: Score
    searched: Score | None  # by the search's own score, on its samples
    cost: Cost
    dense_cost: Cost
    verification: Verification
    graph: ChannelGraph = field(repr=False)
    repairs: Mapping[str, Repair] = field(repr=False)
    refined: Refined | None = field(repr=False)
    curves: SensitivityCurves | None = field(repr=False)
    source: Source = field(repr=False)
    left: Sequence[Left] = field(default=(), repr=False)  # the layers whose rank could not be lowered
    latency: Latency | None = None  # where milliseconds were budgeted
    front: Front | None = field(default=None, repr=False)  # what else was possible, where that is known

    def __repr__(self) -> str:
        ratios = dict(self.ratio)
        if self.latency is not None:
            ratios["latency_ms"] = self.latency.after.median / self.latency.before.median
        ratio = ", ".join(f"{name} {value:.3f}" for name, value in ratios.items() if name in self.plan.budget.amounts)
        return (
            f"Result({self.source.name}: {ratio} of the original, {self.score.name} {self.score.before:.4g} -> "
            f"{self.score.after:.4g}, {'verified' if self.verification.ok else 'NOT VERIFIED'})"
        )

    @property
    def ratio(self) -> dict[str, float]:
        """Compressed cost / original cost, counted on both models."""
        before, after = self.dense_cost.to_dict(), self.cost.to_dict()
        return {name: after[name] / before[name] for name in COUNTED if before[name]}

    @property
    def lost(self) -> float | None:
        """How much the search's score fell, of which ``plan.degradation`` is the prediction; None without a search."""
        return self.searched.before - self.searched.after if self.searched else None

    @property
    def target_met(self) -> bool:
        """Whether the model that came out holds every budget."""
        before, after = self.dense_cost.to_dict(), self.cost.to_dict()
        if self.latency is not None:  # in earnest, not as predicted
            before["latency_ms"], after["latency_ms"] = self.latency.before.median, self.latency.after.median
        # as the plan reckons: a quotient may be rounded to the other side of the share
        budget = self.plan.budget
        return all(after[name] <= budget.limit(name, before[name]) for name in budget.amounts)

    def layers(self) -> list[dict[str, Any]]:
        """One entry a layer; pairs are before and after."""
        record = recorded(self.model)
        assert record is not None  # it comes from apply
        state = folded(self.model, record)
        stays = survivors(self.graph.provenance, record.cuts)
        rows = [_layer(layer, state[safe(layer.weight)].shape, stays, self) for layer in self.graph.layers]
        factors = {factored.layer: factored for factored in record.factors}
        ms = self.latency.layers if self.latency else {}
        return [row | _rank(factors.get(name := row["layer"]), row, self) | {"ms": ms.get(name)} for row in rows]

    def to_dict(self) -> dict[str, Any]:
        """Everything but the weights, as what JSON can hold. ``run`` alone differs between equal runs."""
        curves = self.curves.to_dict() if self.curves else None
        kept = self.plan.kept
        return {
            "workbench": version("workbench"), "format": self.plan.format,
            "model": {"name": self.source.name, "class": type(self.model).__name__, "fingerprint": self.plan.model},
            "budget": self.plan.budget.to_dict(), "limits": self.plan.limits.to_dict(), "target_met": self.target_met,
            "score": self.score.to_dict(),
            "cost": {"before": self.dense_cost.to_dict(), "after": self.cost.to_dict(), "ratio": self.ratio,
                     "not_counted": list(self.dense_cost.not_counted)},
            "predicted_degradation": self.plan.degradation, "predicted_cost": dict(self.plan.costs),
            "predicted_latency_ms": [self.latency.dense, self.latency.predicted] if self.latency else None,
            "searched": self.searched.to_dict() if self.searched else None,
            "curves": curves, "front": self.front.to_dict(self.plan) if self.front else None,
            "layers": self.layers(),
            "groups": [g.to_dict() | {"kept": list(kept.get(g.name, range(g.units)))} for g in self.graph.groups],
            "ranks": {layer: asdict(rank) for layer, rank in self.plan.ranks.items()},
            "frozen": [*(frozen.to_dict() for frozen in self.graph.frozen), *(left.to_dict() for left in self.left)],
            "refinement": asdict(self.refined) | {"kept": self.refined.kept} if self.refined else None,
            "verification": self.verification.to_dict(),
            "source": {
                "seed": self.source.seed, "method": self.source.method, "calibration": self.source.calibration,
                "fingerprints": dict(self.source.fingerprints),
                "versions": {"python": platform.python_version(), "torch": torch.__version__,
                             "workbench": version("workbench")},
            },
            "run": _run(self.source.seconds) | ({"latency": self.latency.to_dict()} if self.latency else {}),
        }  # fmt: skip

    def to_frame(self) -> pd.DataFrame:
        """One row a layer: widths, MACs, repair error and, where they were budgeted, milliseconds, before and after."""
        import pandas as pd

        timed = ("ms",) if self.latency else ()
        rows = []
        for layer in self.layers():
            pairs = {f"{key} {when}": value for key in ("in", "out", "macs", "params", *timed)
                     for when, value in zip(("before", "after"), layer[key] or (None, None), strict=True)}  # fmt: skip
            error = dict(zip(("error", "error repaired"), layer["error"] or (None, None), strict=True))
            rank = " ".join(map(str, layer["rank"].values())) if layer["rank"] else ""
            rows.append({"layer": layer["layer"], "kind": layer["kind"], "rank": rank, **pairs, **error})
        return pd.DataFrame(rows)

    def plot(self, cost: str = "macs", ax: Axes | None = None) -> Axes:
        """What every layer costs, before and after, in the order they run. Returns the axes.

        Parameters
        ----------
        cost : ``"macs"`` or ``"params"``
        ax : to draw on

        Raises
        ------
        ValueError
            It is another cost, which has no share of a single layer.
        """
        if cost not in LAYER_COSTS:
            raise ValueError(f"the cost {cost!r} is not known by layer; choose from {', '.join(LAYER_COSTS)}")
        layers = self.layers()
        ax = drawing.axes(ax, 8, drawing.tall(len(layers)))
        before, after = zip(*(layer[cost] for layer in layers), strict=True)
        drawing.before_and_after(ax, [layer["layer"] for layer in layers], before, after)
        ax.set_xlabel(LAYER_COSTS[cost])
        return ax

    def report(self, path: str | os.PathLike[str]) -> Path:
        """Write the HTML report, one file that needs nothing else. Returns its path."""
        from workbench.report import write

        write(self.to_dict(), Path(path))
        return Path(path)

    def save(self, directory: str | os.PathLike[str]) -> Path:
        """Write plan, weights, reference batch, report and ``result.json``; see ``workbench.artefact``."""
        from workbench.artefact import save

        return save(self, Path(directory))

    def export_onnx(
        self, path: str | os.PathLike[str], *, opset: int | None = None, int8: Int8 | None = None
    ) -> Exported:
        """Write the smaller model as ONNX, checked against onnxruntime; see ``workbench.deploy``.

        With ``int8`` as ``wb.Int8`` says; the scores in ``.int8`` begin with the original's. The file's
        ``metadata_props`` say how it was made.
        """
        from workbench.deploy import export_onnx, made_by

        made = made_by(self.plan.to_dict())
        exported = export_onnx(self.model, self.graph.inputs, path, opset=opset, int8=int8, made=made)
        return exported if int8 is None else exported.beside(self.graph.model, int8)

    def export_program(self, path: str | os.PathLike[str]) -> Exported:
        """Write the smaller model as ``.pt2``, which runs where workbench is not installed."""
        from workbench.deploy import export_program

        return export_program(self.model, self.graph.inputs, path)

    def _repr_html_(self) -> str:
        from workbench.report import fragment

        return fragment(self.to_dict())


def compare(
    graph: ChannelGraph, plan: Plan, applied: Applied, test: Evaluation | Callable[[nn.Module], Any], source: Source,
    curves: SensitivityCurves | None, evaluate: Evaluation | Callable[[nn.Module], Any] | None,
    dense: Callable[[Any], np.ndarray], left: Sequence[Left] = (), table: LatencyTable | None = None,
    front: Front | None = None, progress: bool = False,
) -> Result:  # fmt: skip
    """Verify, count and score what ``apply`` made.

    With ``evaluate`` also by the score that the plan was made by; with a table of latencies, time it. ``dense`` gives
    the original's scores by an evaluation.
    """
    small = applied.model
    scored = partial(scores_of, dense=graph.model, small=small, progress=progress)
    score = Score.of(name_of(test), dense(test), scored(test))
    searched = score if evaluate is test else None
    if evaluate is not None and evaluate is not test:
        searched = Score.of(name_of(evaluate), dense(evaluate), scored(evaluate))
    return Result(
        small, plan, score, searched, count(small, graph.sample(2)),
        graph.cost(), verify(graph, small, graph.inputs), graph, applied.repairs, applied.refined, curves,
        source, left, compare_latency(table, graph, small, plan.widths) if table else None,
        front,
    )  # fmt: skip


def _layer(layer: Layer, weight: torch.Size, stays: Survivors, result: Result) -> dict[str, Any]:
    if layer.product:
        weight = torch.Size([weight[1], weight[0]])
    groups_left = _groups_left(layer, weight, stays)
    if layer.transposed:
        weight = torch.Size([weight[1] * groups_left, weight[0] // groups_left, *weight[2:]])
    shapes, blocks = (layer.shape, weight), (layer.groups, groups_left)
    groups = {role: next((g.name for g in result.graph.groups for m in g.members
                          if m.tensor == layer.weight and m.role == role), None) for role in ("in", "out")}  # fmt: skip
    repair = result.repairs.get(layer.name)
    return {
        "layer": layer.name, "kind": layer.op,
        "in": [shape[1] * count for shape, count in zip(shapes, blocks, strict=True)],
        "out": [shape[0] for shape in shapes],
        "macs": [shape.numel() * layer.positions for shape in shapes],
        "params": [shape.numel() + (shape[0] if layer.bias else 0) for shape in shapes],
        "group_in": groups["in"], "group_out": groups["out"],
        "error": list(repair.error) if repair else None,
    }  # fmt: skip


def _rank(factored: Factored | None, row: Mapping[str, Any], result: Result) -> dict[str, Any]:
    """What differs in the entry of a layer that became a sequence of smaller ones."""
    if factored is None:
        return {"rank": None}
    layer = next(layer for layer in result.graph.layers if layer.name == factored.layer)
    site = site_of(result.graph, layer)
    stages = form_of(factored).method.stages(site.shape, factored.rank)
    parts = result.model.get_submodule(place_of(layer.name, result.model)).children()
    sizes = [part.get_parameter("weight").numel() for part in parts]
    macs = sum(size * count for size, count in zip(sizes, site.positions(stages), strict=True))
    return {
        "rank": {"method": factored.method, "rank": factored.rank},
        "macs": [row["macs"][0], macs],
        "params": [row["params"][0], sum(sizes) + (row["out"][1] if layer.bias else 0)],
    }


def _groups_left(layer: Layer, weight: torch.Size, stays: Survivors) -> int:
    """The groups of a convolution whose weight was ``layer.shape``; whole ones may have left."""
    if layer.groups == 1:
        return 1
    return stays.shape(layer.node if layer.transposed else layer.source)[layer.channel_dim] // weight[1]


def command_line() -> str:
    """How this process was called."""
    return " ".join([Path(sys.argv[0]).name, *sys.argv[1:]])


def _run(seconds: Mapping[str, float]) -> dict[str, Any]:
    """What differs between two runs of the same work."""
    return {
        "when": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, torch threads: {torch.get_num_threads()}",
        "command": command_line(),
        "seconds": {step: round(value, 3) for step, value in seconds.items()},
    }
