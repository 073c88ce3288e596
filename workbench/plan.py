"""Plans: which units of each channel group stay. A plan is data; ``apply`` does what it says and decides nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from operator import index
from typing import TYPE_CHECKING, Any

from workbench import drawing
from workbench.allocate.budget import Budget
from workbench.cost.layer_latency import rank_axis
from workbench.factorize.ladder import LADDER
from workbench.factorize.replace import BY_NAME
from workbench.graph.record import Factored
from workbench.limits import Limits

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

FORMAT = 1


@dataclass(frozen=True)
class Rank:
    """A layer's rank by a method (see ``workbench.factorize``), and its place on the layer's curve.

    Raises
    ------
    ValueError
        There is no such method, or the rank is below 1.
    TypeError
        The rank or the place is no whole number.
    """

    method: str
    rank: int
    place: int = 0

    def __post_init__(self) -> None:
        if not isinstance(self.method, str) or self.method not in BY_NAME:
            raise ValueError(f"there is no method {self.method!r}; choose from {', '.join(BY_NAME)}")
        for name, least in (("rank", 1), ("place", 0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not hasattr(value, "__index__"):
                raise TypeError(f"the {name} {value!r} of a {self.method} is no whole number; give {least} or more")
            if value < least:
                raise ValueError(f"the {name} {value!r} of a {self.method} is too low; give {least} or more")
            object.__setattr__(self, name, index(value))


@dataclass(frozen=True)
class Plan:
    """The units that stay in each group, what was asked for, and what is expected.

    ``degradation`` is the sum of the curves' losses at these widths; ``gap`` says how far from the best plan this one
    can be at most (0: it is the best), None where the solver proves nothing. ``model`` is the model's fingerprint.
    ``lost`` is what the repaired model that it makes really lost of the search's score, where that was looked at.
    ``costs`` are the predicted costs, in the resources of the budget; ``limits`` were demanded besides. ``ranks`` are
    those of the layers that become products of smaller ones, by the layer's name.
    """

    kept: Mapping[str, tuple[int, ...]]
    units: Mapping[str, int]
    budget: Budget
    degradation: float
    gap: float | None
    model: str
    lost: float | None = None
    costs: Mapping[str, float] = field(default_factory=dict)
    limits: Limits = Limits()
    format: int = FORMAT
    ranks: Mapping[str, Rank] = field(default_factory=dict)

    def __repr__(self) -> str:
        cut = sum(len(units) < self.units[name] for name, units in self.kept.items())
        real = "" if self.lost is None else f", real loss {self.lost:.4g}"
        ranks = f", {len(self.ranks)} layers of lower rank" if self.ranks else ""
        return (
            f"Plan({self.budget}: {cut} of {len(self.kept)} groups cut{ranks}, predicted loss "
            f"{self.degradation:.4g}{real})"
        )

    @property
    def cut(self) -> dict[str, tuple[int, ...]]:
        """The groups that lose units, with the units that stay."""
        return {name: units for name, units in self.kept.items() if len(units) < self.units[name]}

    @property
    def places(self) -> tuple[tuple[str, int], ...]:
        """The groups that lose units, with how many stay, and the layers that lose rank, with where on their curve."""
        ranks = ((f"{layer}{LADDER}", rank.place) for layer, rank in self.ranks.items())
        return (*((name, len(units)) for name, units in self.cut.items()), *ranks)

    @property
    def widths(self) -> dict[str, int]:
        """The units of the groups that lose some and the ranks of layers, as a table of latencies takes them."""
        ranks = {rank_axis(layer, rank.method): rank.rank for layer, rank in self.ranks.items()}
        return {name: len(units) for name, units in self.cut.items()} | ranks

    @property
    def factors(self) -> list[Factored]:
        """The layers that become products of smaller ones, as ``factorize_`` takes them."""
        return [Factored(layer, rank.method, rank.rank) for layer, rank in self.ranks.items()]

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        kept = {name: list(units) for name, units in self.kept.items()}
        return asdict(self) | {"budget": self.budget.to_dict(), "limits": self.limits.to_dict(), "kept": kept}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Plan:
        """The plan that ``to_dict`` wrote."""
        kept = {name: tuple(units) for name, units in data["kept"].items()}
        ranks = {layer: Rank(**rank) for layer, rank in data.get("ranks", {}).items()}
        limits = Limits.from_dict(data.get("limits", {}))
        return cls(**{**data, "kept": kept, "budget": Budget(**data["budget"]), "limits": limits, "ranks": ranks})

    def to_frame(self) -> pd.DataFrame:
        """One row a group: units before and after."""
        import pandas as pd

        rows = [{"group": k, "units": self.units[k], "kept": len(v), "share": len(v) / self.units[k]}
                for k, v in self.kept.items()]  # fmt: skip
        return pd.DataFrame(rows)

    def plot(self, ax: Axes | None = None) -> Axes:
        """The units of every group, before and after, in the order of the network. Returns the axes."""
        ax = drawing.axes(ax, 8, drawing.tall(len(self.kept)))
        kept = [len(units) for units in self.kept.values()]
        drawing.before_and_after(ax, list(self.kept), [self.units[name] for name in self.kept], kept)
        ax.set_xlabel("units of the channel group")
        return ax

    def _repr_html_(self) -> str:
        from workbench.report import notebook

        return notebook.plan(self.to_dict())
