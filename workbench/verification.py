"""``verify``: does the smaller model compute what the original does with the removed units zeroed?"""

from __future__ import annotations

import copy
from dataclasses import asdict, dataclass
from typing import Any

from torch import nn

from workbench.graph.comparison import differences
from workbench.graph.inputs import Inputs
from workbench.graph.part import part_of, seen_inputs
from workbench.graph.record import Record, recorded
from workbench.graph.trace import ChannelGraph, trace

TOLERANCE = 1e-10  # relative, in float64
LOOSE = 1e-5  # relative, where the forward does not run in float64


@dataclass(frozen=True)
class Verification:
    """The largest relative difference of any layer's output, and whether it is within the tolerance.

    ``approximate`` names norms and reductions over channels some of which left: they are compared with the same ops
    over the channels that stay, which is not what the original computes. ``lost`` says where constant channels left
    whose contribution no bias could take up.
    """

    ok: bool
    worst: float
    layer: str
    tolerance: float = TOLERANCE
    approximate: tuple[str, ...] = ()
    lost: tuple[str, ...] = ()

    def __repr__(self) -> str:
        verdict = "NOT ok" if not self.ok else "ok but approximate" if self.approximate else "ok"
        place = self.layer or "the output"
        lost = f"; {'; '.join(self.lost)}" if self.lost else ""
        return f"Verification({verdict}: worst {self.worst:.1e} at {place}, allowed {self.tolerance:.0e}{lost})"

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self) | {"approximate": list(self.approximate), "lost": list(self.lost)}


def verify(dense: nn.Module | ChannelGraph, small: nn.Module, example_inputs: Any = None) -> Verification:
    """Compare a smaller model with the original whose removed units are zeroed.

    The smaller model's tensors are put back into the original's shapes; a layer's weights for channels that it no
    longer reads become zero, and those of a factorised layer are the product of its factors. Both run on the inputs at
    two batch sizes, in float64 (in their own precision where the forward does not allow that), and all layers' outputs
    are compared. An input that is constant (zeros) is varied, as it would hide most mistakes.

    Parameters
    ----------
    dense : the model before, or what ``trace`` found of it (which saves tracing it again); it is not changed
    small : what ``winnow``, ``compress`` or ``restore`` made of it
    example_inputs : a tensor, a tuple or a dict, as for ``trace``; by default those of the trace

    Raises
    ------
    ValueError
        ``small`` was not made by the workbench.

    Examples
    --------
    >>> import torch
    >>> model, x = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2)), torch.randn(4, 3)
    >>> verify(model, trace(model, x).winnow({"0": range(5)}), x).ok
    True
    """
    record = recorded(small)
    if record is None:
        raise ValueError(
            f"this {type(small).__name__} has no record of what was removed; verify takes a model from winnow"
        )
    graph = dense if isinstance(dense, ChannelGraph) else trace(dense, example_inputs, submodule=record.submodule)
    inputs = graph.inputs
    if example_inputs is not None:
        inputs = seen_inputs(graph.whole or graph.model, record.submodule, Inputs.of(example_inputs))
    comparison = _Comparison(graph, part_of(small, record.submodule), record)
    inputs = inputs.telling()
    try:
        layer, worst = comparison.worst(inputs, precise=True)
    except RuntimeError:  # the forward may do without any precision but its own
        layer, worst = "", float("inf")
    tolerance = TOLERANCE
    if not worst <= TOLERANCE:  # or it rounds to places (a bucket, an index), which are others in float64
        place, error = comparison.worst(inputs, precise=False)
        if error <= LOOSE or not layer:
            layer, worst, tolerance = place, error, LOOSE
    return Verification(worst <= tolerance, worst, layer, tolerance, record.approximate, record.lost)


@dataclass(frozen=True)
class _Comparison:
    graph: ChannelGraph
    small: nn.Module
    record: Record

    def worst(self, inputs: Inputs, precise: bool) -> tuple[str, float]:
        """The layer with the largest difference at two batch sizes, and that difference."""
        small = copy.deepcopy(self.small)
        small = small.double() if precise else small
        worst, layer = 0.0, ""
        batches = [inputs, inputs.take(3)] if self.graph.program.any_batch else [inputs]
        for some in batches:
            for name, error in differences(self.graph, small, self.record, some, precise):
                if not error <= worst:  # also where the error is NaN
                    worst, layer = error, name
        return layer, worst
