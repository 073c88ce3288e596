"""``Pruned``: the sparse model, and what every layer lost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from torch import nn

from workbench.sparsify.layerwise.step import Step
from workbench.sparsify.units import Masks

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Pruned:
    """The model, its masks, one ``Step`` a layer in the order they run, and why other layers were ``left``.

    ``wb.Sparsifier`` and ``mask_`` take the masks.
    """

    model: nn.Module
    masks: Masks
    steps: tuple[Step, ...]
    left: Mapping[str, str]

    @property
    def sparsity(self) -> float:
        """The share of the weights of all pruned layers that is zero."""
        return sum(step.sparsity * step.weights for step in self.steps) / sum(step.weights for step in self.steps)

    def __repr__(self) -> str:
        weights = sum(step.weights for step in self.steps)
        name, share = type(self.model).__name__, f"{100 * self.sparsity:.1f} %"
        return f"Pruned({name}: {share} of {weights:,} weights in {len(self.steps)} layers are zero)"

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {"steps": [asdict(step) for step in self.steps], "left": dict(self.left), "sparsity": self.sparsity}

    def to_frame(self) -> pd.DataFrame:
        """One row a layer: its weights, the share that is zero, its output's error before and after."""
        import pandas as pd

        return pd.DataFrame([asdict(step) for step in self.steps])

    def _repr_html_(self) -> str:
        return f"<p>{self!r}</p>{self.to_frame().to_html(index=False)}"
