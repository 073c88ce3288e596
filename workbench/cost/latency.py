"""Measured latency as data: milliseconds of each layer over a grid of widths, and what is between the layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.optimize import nnls

from workbench.allocate import Choice, Resource, Term
from workbench.cost.engine import Timing
from workbench.cost.layer_latency import LayerLatency, rank_axis, summed

if TYPE_CHECKING:
    import pandas as pd

    from workbench.factorize import Ladder

FORMAT = 2
MEASURE = "measure it with wb.measure_latency(graph, methods=wb.Methods())"


@dataclass(frozen=True, eq=False)
class LatencyTable:
    """How long a model takes at any widths and ranks, by what was measured.

    Parameters
    ----------
    layers : what depends on widths, and every layer that a method can split, as the model has it
    stages : of layers as methods split them, each with the axis of the rank last; of one split, as they run
    whole : models from end to end, the dense one first: units that the groups keep and ranks, and the time
    fixed : milliseconds that depend on no width, fitted to ``whole``
    scale : how much longer the layers take within a model than alone, fitted to ``whole``
    call : milliseconds that each operation adds of which the dense model has none, fitted to ``whole``
    skipped : operations that depend on more groups than a table has axes, which are priced as in the dense model
    place : model, device, threads, batch, engine, methods and versions: what the times hold for
    """

    layers: tuple[LayerLatency, ...]
    stages: tuple[LayerLatency, ...]
    whole: tuple[tuple[Mapping[str, int], Timing], ...]
    fixed: float
    scale: float
    call: float
    skipped: tuple[str, ...]
    place: Mapping[str, Any]
    format: int = FORMAT

    def __repr__(self) -> str:
        where = f"{self.place['device']}, {self.place['threads']} threads, batch {self.place['batch']}"
        split = len({stage.layer for stage in self.stages})
        ranks = f", {split} of them at lower ranks" if split else ""
        return (
            f"LatencyTable({self.dense.median:.3g} ms, {len(self.layers)} layers{ranks}; {where}, "
            f"{self.place['engine']})"
        )

    @classmethod
    def fitted(
        cls, layers: Sequence[LayerLatency], stages: Sequence[LayerLatency],
        whole: Sequence[tuple[Mapping[str, int], Timing]], skipped: Sequence[str], place: Mapping[str, Any],
    ) -> LatencyTable:  # fmt: skip
        """With the fixed part, the scale and the call, none below zero, whose relative errors have least squares."""
        bare = cls(tuple(layers), tuple(stages), tuple(whole), 0.0, 1.0, 0.0, tuple(skipped), place)
        seen = np.array([timing.median for _, timing in whole])
        sums = np.array([bare.at(widths) for widths, _ in whole])
        more = np.array([sum(map(bare._more, bare._splits(widths))) for widths, _ in whole], float)
        (fixed, scale, call), _ = nnls(np.stack([1 / seen, sums / seen, more / seen], 1), np.ones(len(seen)))
        return replace(bare, fixed=float(fixed), scale=float(scale), call=float(call))

    @property
    def dense(self) -> Timing:
        """The dense model from end to end."""
        return self.whole[0][1]

    @cached_property
    def _by_axis(self) -> dict[str, list[LayerLatency]]:
        """The stages of each split, by the axis of its rank."""
        found: dict[str, list[LayerLatency]] = {}
        for stage in self.stages:
            found.setdefault(stage.groups[-1], []).append(stage)
        return found

    @cached_property
    def _operations(self) -> dict[str, list[LayerLatency]]:
        """The operations of each layer, in the order they run."""
        found: dict[str, list[LayerLatency]] = {}
        for layer in self.layers:
            found.setdefault(layer.layer, []).append(layer)
        return found

    def _splits(self, widths: Mapping[str, int]) -> list[str]:
        """The axes of the ranks among some widths."""
        return [name for name in widths if name in self._by_axis]

    def _more(self, axis: str) -> int:
        """How many operations a split runs more than the layer."""
        stages = self._by_axis[axis]
        return len(stages) - len(self._operations[stages[0].layer])

    def at(self, widths: Mapping[str, int]) -> float:
        """Predicted milliseconds where groups keep so many units and layers have such ranks, the others all.

        ``{"conv1": 32, "conv2/tucker": 24}``: the units of a group, and the rank of a layer by a method.

        Raises
        ------
        ValueError
            A rank was not measured, or is above those that make the layer cheaper.
        """
        return self.fixed + sum(self.by_layer(widths).values())

    def by_layer(self, widths: Mapping[str, int]) -> dict[str, float]:
        """Of what ``at`` predicts the part of each layer whose time depends on widths or ranks, in the order they run.

        Raises
        ------
        ValueError
            A rank was not measured, or is above those that make the layer cheaper.
        """
        splits = self._splits(widths)
        for name in widths:
            layer, _, method = name.rpartition("/")
            known = name in splits or layer in self.skipped if method != name else "channels" in self.place["methods"]
            if not known:
                raise ValueError(f"the table of latencies holds no times of {name}; {MEASURE}")
        for name in splits:
            if widths[name] > (most := self._by_axis[name][0].widths[-1][-1]):
                raise ValueError(
                    f"{name} was measured up to the rank {most}, above which it costs more than the layer; "
                    f"{widths[name]} is not known"
                )
        split = {self._by_axis[name][0].layer: name for name in splits}
        found = {}
        for layer, whole in self._operations.items():
            parts, more = (self._by_axis[axis], self._more(axis)) if (axis := split.get(layer)) else (whole, 0)
            found[layer] = self.scale * sum(part.at(widths) for part in parts) + self.call * more
        return found

    def resource(self, choices: Sequence[Choice], ladders: Sequence[Ladder], limit: float) -> Resource:
        """The times as a resource of an allocation problem.

        Raises
        ------
        ValueError
            A choice needs times that were not measured.
        """
        self._check(choices, ladders)
        place = {choice.name: number for number, choice in enumerate(choices)}
        by_layer = {ladder.layer: ladder for ladder in ladders}
        constant, terms = self.fixed, []
        for name, parts in self._operations.items():
            for some in [parts] if name in by_layer else [[part] for part in parts]:
                groups = dict.fromkeys(group for part in some for group in part.groups if group in place)
                options = {group: choices[place[group]].options for group in groups}
                table, axes = self.scale * summed(some, options), [place[group] for group in groups]
                ladder = by_layer.get(name)
                if ladder is not None and any(stage.layer == name for stage in self.stages):
                    axes.append(place[ladder.name])
                    table = self._with_ranks(table, ladder, options, choices[axes[-1]].options)
                if axes:
                    terms.append(Term(name, tuple(axes), table))
                else:
                    constant += table.item()
        return Resource("latency_ms", tuple(terms), constant, limit)

    def _check(self, choices: Sequence[Choice], ladders: Sequence[Ladder]) -> None:
        ranks = {ladder.name for ladder in ladders}
        wanted = ["channels"] if any(choice.name not in ranks for choice in choices) else []
        wanted += [form.method.name for ladder in ladders for form in ladder.forms]
        missing = [name for name in dict.fromkeys(wanted) if name not in self.place["methods"]]
        if missing:
            raise ValueError(
                f"the table of latencies holds no times of {', '.join(missing)}, only of "
                f"{', '.join(self.place['methods'])}; {MEASURE}"
            )

    def _with_ranks(
        self, dense: np.ndarray, ladder: Ladder, options: Mapping[str, Sequence[int]], places: Sequence[int]
    ) -> np.ndarray:
        """A layer's costs with the places of its ladder as one more axis, of which the last is the layer as it was."""
        costs = np.repeat(dense[..., None], len(places), -1)
        forms = {number: form for number, place in enumerate(places) if (form := ladder.form(place))}
        for name in dict.fromkeys(form.method.name for form in forms.values()):
            ranks = {number: form.rank for number, form in forms.items() if form.method.name == name}
            axis = rank_axis(ladder.layer, name)
            table = summed(self._by_axis[axis], {**options, axis: list(ranks.values())})
            costs[..., list(ranks)] = self.scale * table + self.call * self._more(axis)
        return costs

    def slower(self) -> list[tuple[str, dict[str, int], dict[str, int]]]:
        """Where fewer channels or lower ranks take longer, by more than the intervals allow: layer, fewer, more."""
        found = []
        for layer in (*self.layers, *self.stages):
            for axis, widths in enumerate(layer.widths):
                few, many = (np.take(array, range(*ends), axis) for array, ends in
                             ((layer.low, (0, len(widths) - 1)), (layer.high, (1, len(widths)))))  # fmt: skip
                for index in np.argwhere(few > many).tolist():
                    here = {g: w[i] for g, w, i in zip(layer.groups, layer.widths, index, strict=True)}
                    found.append((layer.layer, here, here | {layer.groups[axis]: widths[index[axis] + 1]}))
        return found

    def to_frame(self) -> pd.DataFrame:
        """One row an operation, at all its units."""
        import pandas as pd

        rows = [
            {"layer": layer.layer, "op": layer.op, "ms": layer.dense, "groups": ", ".join(layer.groups)}
            for layer in self.layers
        ]
        return pd.DataFrame(rows)

    def to_dict(self) -> dict[str, Any]:
        """What JSON can hold."""
        return {
            "format": self.format, "place": dict(self.place), "fixed": self.fixed,
            "whole": [[dict(widths), asdict(timing)] for widths, timing in self.whole],
            "scale": self.scale, "call": self.call, "skipped": list(self.skipped),
            "layers": [layer.to_dict() for layer in self.layers], "stages": [stage.to_dict() for stage in self.stages],
        }  # fmt: skip

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> LatencyTable:
        """The table that ``to_dict`` wrote.

        Raises
        ------
        ValueError
            Another version of workbench wrote it.
        """
        if data.get("format") != FORMAT:
            raise ValueError(f"the table of latencies has the format {data.get('format')!r}, not {FORMAT}; {MEASURE}")
        layers, stages = (tuple(map(LayerLatency.from_dict, data[key])) for key in ("layers", "stages"))
        whole = tuple((widths, Timing(**timing)) for widths, timing in data["whole"])
        return cls(**{**data, "layers": layers, "stages": stages, "whole": whole, "skipped": tuple(data["skipped"])})
