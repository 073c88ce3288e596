"""``verify``: does the smaller model compute what the original does with the removed units zeroed?"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from workbench.graph.inputs import Inputs
from workbench.graph.winnow import RECORD, Cut

TOLERANCE = 1e-10  # relative, in float64
LOOSE = 1e-5  # relative, where the forward does not run in float64


@dataclass(frozen=True)
class Verification:
    """The largest relative difference of any layer's output, and whether it is within the tolerance.

    ``approximate`` names norms whose meaning changes with the channels they lost; for those nothing is promised.
    """

    ok: bool
    worst: float
    layer: str
    tolerance: float = TOLERANCE
    approximate: tuple[str, ...] = ()

    def __repr__(self) -> str:
        verdict = "ok" if self.ok else "NOT ok"
        place = self.layer or "the output"
        return f"Verification({verdict}: worst {self.worst:.1e} at {place}, allowed {self.tolerance:.0e})"

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self) | {"approximate": list(self.approximate)}


def verify(dense: nn.Module, small: nn.Module, example_inputs: Any) -> Verification:
    """Compare a smaller model with the original whose removed units are zeroed.

    The smaller model's tensors are put back into the original's shapes; a layer's weights for channels that it no
    longer reads become zero. Both run on the inputs at two batch sizes, in float64 where the forward allows it, and all
    layers' outputs are compared. An input that is constant (zeros) is varied, as it would hide most mistakes.

    Parameters
    ----------
    dense : the model before; it is not changed
    small : what ``winnow``, ``compress`` or ``restore`` made of it
    example_inputs : a tensor, a tuple or a dict, as for ``trace``

    Raises
    ------
    ValueError
        ``small`` was not made by the workbench.

    Examples
    --------
    >>> from workbench.graph.trace import trace
    >>> model, x = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2)), torch.randn(4, 3)
    >>> verify(model, trace(model, x).winnow({"0": range(5)}), x).ok
    True
    """
    cuts: Sequence[Cut] | None = getattr(small, RECORD, None)
    if cuts is None:
        raise ValueError(
            f"this {type(small).__name__} has no record of what was removed; verify takes a model from winnow"
        )
    masked = masked_model(dense, small, cuts)
    inputs = Inputs.of(example_inputs).map(_telling)
    try:
        layer, worst = _worst(masked, small, inputs, cuts, torch.float64)
        tolerance = TOLERANCE
    except RuntimeError:  # a forward may insist on its own precision
        layer, worst = _worst(masked, small, inputs, cuts, None)
        tolerance = LOOSE
    return Verification(worst <= tolerance, worst, layer, tolerance)


def _telling(tensor: Tensor) -> Tensor:
    """An input that is one number everywhere hides most mistakes: it is varied."""
    if not tensor.is_floating_point() or not tensor.numel() or tensor.min() < tensor.max():
        return tensor
    generator = torch.Generator().manual_seed(0)
    return tensor + torch.rand(tensor.shape, generator=generator, dtype=tensor.dtype).to(tensor.device)


def _worst(
    masked: nn.Module, small: nn.Module, inputs: Inputs, cuts: Sequence[Cut], precision: torch.dtype | None
) -> tuple[str, float]:
    """The layer with the largest difference at two batch sizes, and that difference."""
    masked, small = (copy.deepcopy(model).eval() for model in (masked, small))
    if precision:
        masked, small = masked.to(precision), small.to(precision)
        inputs = inputs.map(lambda t: t.to(precision) if t.is_floating_point() else t)
    worst, layer = 0.0, ""
    for batch in {inputs.batch or 1, 3}:
        for name, error in _compare(masked, small, inputs.take(batch), cuts):
            if not error <= worst:  # also where the error is NaN
                worst, layer = error, name
    return layer, worst


def masked_model(dense: nn.Module, small: nn.Module, cuts: Sequence[Cut]) -> nn.Module:
    """The original's shapes with the smaller model's weights, zero where a layer reads a removed channel."""
    masked = copy.deepcopy(dense)
    by_tensor: dict[str, list[Cut]] = {}
    for cut in cuts:
        by_tensor.setdefault(cut.tensor, []).append(cut)
    state = small.state_dict()
    with torch.no_grad():
        for name, tensor in masked.state_dict().items():
            some = by_tensor.get(name, [])
            for cut in some:
                if cut.role == "in":
                    tensor.index_fill_(cut.dim, torch.tensor(cut.removed, device=tensor.device), 0)
            kept = [torch.arange(size, device=tensor.device) for size in tensor.shape]
            for cut in some:
                kept[cut.dim] = torch.tensor(cut.kept, device=tensor.device)
            if tensor.ndim:
                tensor[torch.meshgrid(*kept, indexing="ij")] = state[name]
            else:
                tensor.copy_(state[name])
    return masked


def _compare(masked: nn.Module, small: nn.Module, inputs: Inputs, cuts: Sequence[Cut]) -> list[tuple[str, float]]:
    """The relative difference of every layer's output and of the model's, in the order they run."""
    kept = {cut.tensor.rpartition(".")[0]: torch.tensor(cut.kept) for cut in cuts if cut.role == "out" and cut.dim == 0}
    with torch.no_grad(), _recorded(masked) as wide, _recorded(small) as narrow:
        expected, found = inputs(masked), inputs(small)
    errors = []
    for name, values in narrow.items():
        for full, value in zip(wide.get(name, ()), values, strict=False):
            if name in kept:
                full = full.index_select(full.ndim - 1 if _last(small, name) else 1, kept[name].to(full.device))
            errors.append((name, relative_error(full, value)))
    pairs = zip(pytree.tree_leaves(expected), pytree.tree_leaves(found), strict=True)
    return [*errors, *(("", relative_error(a, b)) for a, b in pairs if isinstance(a, Tensor))]


def _last(model: nn.Module, name: str) -> bool:
    return isinstance(model.get_submodule(name), nn.Linear)


def relative_error(expected: Tensor, found: Tensor) -> float:
    """Largest difference over largest magnitude; infinite where the shapes differ."""
    if expected.shape != found.shape:
        return float("inf")
    if expected.numel() == 0:
        return 0.0
    scale = expected.abs().max().clamp_min(torch.finfo(expected.dtype).tiny)
    return ((expected - found).abs().max() / scale).item()


@contextmanager
def _recorded(model: nn.Module) -> Any:
    """The outputs of all layers with a weight, by name, one for each call."""
    outputs: dict[str, list[Tensor]] = {}

    def hook(name: str) -> Any:
        return lambda _module, _inputs, output: outputs.setdefault(name, []).append(output)

    kinds = (nn.modules.conv._ConvNd, nn.Linear)
    handles = [m.register_forward_hook(hook(n)) for n, m in model.named_modules() if isinstance(m, kinds)]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()
