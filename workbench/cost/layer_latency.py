"""What one operation takes, as data: milliseconds over a grid of widths and ranks, interpolated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True, eq=False)  # arrays have no one answer
class LayerLatency:
    """One operation: milliseconds at every combination of some widths of the groups that it depends on.

    ``widths[i]`` are those of ``groups[i]``, increasing, all its units last; ``ms``, ``low`` and ``high`` are medians
    and their 95 % intervals, one axis a group. More channels may take less time, and the table says so. Of a stage of a
    layer that a method splits, the last axis has the layer's ranks: it is called ``layer/method``.
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

    def at(self, widths: Mapping[str, int]) -> float:
        """Milliseconds at these widths and ranks; groups that are not named keep all units."""
        wanted = [(widths.get(g, known[-1]),) for g, known in zip(self.groups, self.widths, strict=True)]
        return self.over(wanted).item()

    def to_dict(self) -> dict[str, Any]:
        """What JSON can hold."""
        return asdict(self) | {key: getattr(self, key).tolist() for key in ("ms", "low", "high")}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> LayerLatency:
        """What ``to_dict`` wrote."""
        arrays = {key: np.array(data[key]) for key in ("ms", "low", "high")}
        return cls(**{**data, "groups": tuple(data["groups"]), "widths": tuple(map(tuple, data["widths"])), **arrays})


def rank_axis(layer: str, method: str) -> str:
    """The axis of a layer's rank by a method: no group and no module is called so."""
    return f"{layer}/{method}"


def summed(parts: Sequence[LayerLatency], options: Mapping[str, Sequence[int]]) -> np.ndarray:
    """The milliseconds of some operations together at all combinations of options, one axis of the result each.

    On all other axes of theirs they have all units.
    """
    total = np.zeros([len(some) for some in options.values()])
    for part in parts:
        known = zip(part.groups, part.widths, strict=True)
        table = part.over([options.get(name, widths[-1:]) for name, widths in known])
        order = sorted(range(table.ndim), key=lambda axis: _place(options, part.groups[axis]))
        total += table.transpose(order).reshape([len(options[name]) if name in part.groups else 1 for name in options])
    return total


def _place(options: Mapping[str, Sequence[int]], name: str) -> int:
    """Among the axes; before all of them where it is none, for it has one entry."""
    return list(options).index(name) if name in options else -1
