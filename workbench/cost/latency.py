"""Measured latency as data: milliseconds of each layer over a grid of widths, and what is between the layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.optimize import nnls

from workbench.allocate import Choice, Resource, Term
from workbench.cost.engine import Timing

if TYPE_CHECKING:
    import pandas as pd

FORMAT = 1


@dataclass(frozen=True, eq=False)  # arrays have no one answer
class LayerLatency:
    """One operation: milliseconds at every combination of some widths of the groups that it depends on.

    ``widths[i]`` are those of ``groups[i]``, increasing, all its units last; ``ms``, ``low`` and ``high`` are medians
    and their 95 % intervals, one axis a group. More channels may take less time, and the table says so.
    """

    layer: str
    op: str
    groups: tuple[str, ...]
    widths: tuple[tuple[int, ...], ...]
    ms: np.ndarray
    low: np.ndarray
    high: np.ndarray

    @property
    def dense(self) -> float:
        """Milliseconds with all units."""
        return float(self.ms[(-1,) * self.ms.ndim])

    def over(self, wanted: Sequence[Sequence[int]]) -> np.ndarray:
        """Milliseconds at every combination of other widths, interpolated; below the least width those at it."""
        table = self.ms
        for axis, (known, some) in enumerate(zip(self.widths, wanted, strict=True)):
            columns = np.moveaxis(table, axis, -1)
            flat = [np.interp(some, known, column) for column in columns.reshape(-1, len(known))]
            table = np.moveaxis(np.reshape(flat, (*columns.shape[:-1], len(some))), -1, axis)
        return table

    def to_dict(self) -> dict[str, Any]:
        """What JSON can hold."""
        return asdict(self) | {key: getattr(self, key).tolist() for key in ("ms", "low", "high")}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> LayerLatency:
        """What ``to_dict`` wrote."""
        arrays = {key: np.array(data[key]) for key in ("ms", "low", "high")}
        return cls(**{**data, "groups": tuple(data["groups"]), "widths": tuple(map(tuple, data["widths"])), **arrays})


@dataclass(frozen=True, eq=False)
class LatencyTable:
    """How long a model takes at any widths, by what was measured.

    Parameters
    ----------
    layers : what depends on widths
    whole : models from end to end, the dense one first: units that the groups keep, and the time
    fixed : milliseconds that depend on no width, fitted to ``whole``
    scale : how much longer the layers take within a model than alone, fitted to ``whole``
    skipped : operations that depend on more groups than a table has axes, which are priced as in the dense model
    place : model, device, threads, batch, engine and versions: what the times hold for
    """

    layers: tuple[LayerLatency, ...]
    whole: tuple[tuple[Mapping[str, int], Timing], ...]
    fixed: float
    scale: float
    skipped: tuple[str, ...]
    place: Mapping[str, Any]
    format: int = FORMAT

    def __repr__(self) -> str:
        where = f"{self.place['device']}, {self.place['threads']} threads, batch {self.place['batch']}"
        return f"LatencyTable({self.dense.median:.3g} ms, {len(self.layers)} layers; {where}, {self.place['engine']})"

    @classmethod
    def fitted(
        cls, layers: Sequence[LayerLatency], whole: Sequence[tuple[Mapping[str, int], Timing]], skipped: Sequence[str],
        place: Mapping[str, Any],
    ) -> LatencyTable:  # fmt: skip
        """With the fixed part and the scale, neither below zero, whose relative errors have the least squares."""
        bare = cls(tuple(layers), tuple(whole), 0.0, 1.0, tuple(skipped), place)
        seen = np.array([timing.median for _, timing in whole])
        sums = np.array([bare.at(widths) for widths, _ in whole])
        (fixed, scale), _ = nnls(np.stack([1 / seen, sums / seen], 1), np.ones(len(seen)))
        return replace(bare, fixed=float(fixed), scale=float(scale))

    @property
    def dense(self) -> Timing:
        """The dense model from end to end."""
        return self.whole[0][1]

    def at(self, widths: Mapping[str, int]) -> float:
        """Predicted milliseconds where groups keep so many units; those that are not named keep all."""
        total = self.fixed
        for layer in self.layers:
            wanted = [(widths.get(g, known[-1]),) for g, known in zip(layer.groups, layer.widths, strict=True)]
            total += self.scale * layer.over(wanted).item()
        return total

    def resource(self, choices: Sequence[Choice], limit: float) -> Resource:
        """The times as a resource of an allocation problem."""
        place = {choice.name: number for number, choice in enumerate(choices)}
        constant, terms = self.fixed, []
        for layer in self.layers:
            free = [group for group in layer.groups if group in place]
            wanted = [choices[place[group]].options if group in place else (known[-1],)
                      for group, known in zip(layer.groups, layer.widths, strict=True)]  # fmt: skip
            table = self.scale * layer.over(wanted)
            if free:
                shape = [len(choices[place[group]].options) for group in free]
                terms.append(Term(layer.layer, tuple(place[group] for group in free), table.reshape(shape)))
            else:
                constant += table.item()
        return Resource("latency_ms", tuple(terms), constant, limit)

    def slower(self) -> list[tuple[str, dict[str, int], dict[str, int]]]:
        """Where fewer channels take longer, by more than the intervals allow: layer, the fewer widths, the more."""
        found = []
        for layer in self.layers:
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
            "scale": self.scale, "skipped": list(self.skipped), "layers": [layer.to_dict() for layer in self.layers],
        }  # fmt: skip

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> LatencyTable:
        """The table that ``to_dict`` wrote."""
        layers = tuple(map(LayerLatency.from_dict, data["layers"]))
        whole = tuple((widths, Timing(**timing)) for widths, timing in data["whole"])
        return cls(**{**data, "layers": layers, "whole": whole, "skipped": tuple(data["skipped"])})
