"""``winnow_masked``: what masks have made structural is removed for real."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from workbench.errors import Refused
from workbench.graph.comparison import relative_error
from workbench.graph.dead import dead_units
from workbench.graph.inputs import Inputs
from workbench.graph.merge import merged_weights
from workbench.graph.modes import evaluating
from workbench.graph.part import part_of
from workbench.graph.tensors import set_tensors_
from workbench.graph.trace import trace
from workbench.sparsify.masks import mask_

TOLERANCE = 1e-5  # relative, in float32 or better
PRECISE = 1e-10  # in float64, where rounding is amplified


def winnow_masked(
    model: nn.Module, masks: Mapping[str, Tensor] | None, example_inputs: Any, *, submodule: str = ""
) -> nn.Module:
    """A smaller model that computes what the masked one does: channels that nothing makes or nothing reads are gone.

    A channel whose filter is masked but whose bias, or BN behind it, is not, gives a constant: that moves into the
    biases of the layers that read it. Where no bias equals it (zeros are padded around it, or there is none), one
    channel stays and stands for all. ``workbench.graph.dead.dead_units`` of the masked model's trace says what is dead,
    what is held and why. The caller's model is untouched.

    Parameters
    ----------
    model : masked already, or not yet
    masks : by the parameter's name, True stays; None takes the zeros that the model has
    example_inputs : a tensor, a tuple or a dict, as for ``trace``
    submodule : the part that is made smaller, as for ``trace``

    Raises
    ------
    Refused
        The smaller model gives other numbers than the masked one, or the model cannot be exported.
    ValueError
        A mask fits no parameter.

    Examples
    --------
    >>> model = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> mask = torch.ones(8, 3, dtype=torch.bool)
    >>> mask[2:4] = False
    >>> winnow_masked(model, {"0.weight": mask}, torch.randn(2, 3))[0]
    Linear(in_features=3, out_features=6, bias=True)
    """
    masked = mask_(copy.deepcopy(model), masks or {})
    graph = trace(masked, example_inputs, submodule=submodule)
    weights = merged_weights(graph)
    if weights:
        same = copy.deepcopy(masked)
        set_tensors_(part_of(same, submodule), weights)
        graph = trace(same, example_inputs, submodule=submodule)
    small = graph.winnow(dead_units(graph).kept(graph))
    error = _difference(masked, small, Inputs.of(example_inputs).telling())
    if not error <= _allowed(masked):
        raise Refused(
            "winnow_masked", type(model).__name__, f"the smaller model differs from the masked one by {error:.1e}",
            "leave channels unmasked where a state or a constant passes them, and report this",
        )  # fmt: skip
    return small


@torch.no_grad()
def _difference(masked: nn.Module, small: nn.Module, inputs: Inputs) -> float:
    """The largest relative difference of an output; in float64 where rounding is amplified."""
    with evaluating(masked), evaluating(small):
        error = _apart(inputs(masked), inputs(small))
        if error <= _allowed(masked):
            return error
        try:
            pair = copy.deepcopy(masked).double(), copy.deepcopy(small).double()
            doubled = inputs.map(lambda t: t.double() if t.is_floating_point() else t)
            precise = _apart(doubled(pair[0]), doubled(pair[1]))
        except RuntimeError:  # the forward may do without any precision but its own
            return error
    return precise if precise <= PRECISE else error


def _allowed(model: nn.Module) -> float:
    """The relative difference that may come of rounding alone: in half precision a constant in a bias is rounded."""
    coarsest = max((torch.finfo(p.dtype).eps for p in model.parameters() if p.is_floating_point()), default=0.0)
    return TOLERANCE if coarsest <= torch.finfo(torch.float32).eps else float(coarsest**0.5)


def _apart(expected: Any, found: Any) -> float:
    pairs = zip(pytree.tree_leaves(expected), pytree.tree_leaves(found), strict=True)
    return max((relative_error(a, b) for a, b in pairs if isinstance(a, Tensor)), default=0.0)
