"""The drift of a shortcut: what the other operand of a residual sum has lost; the layer before the sum makes it good.

With ``y`` the layer's output and ``s`` the shortcut's value, original and compressed, the sum is right where the layer
gives ``y + (s - s')``; behind a BN with scale ``g``, ``y + (s - s') / g`` (He et al. 2017, section 3.2, for BN).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.fx import Node

from workbench.graph.call import bind, is_batch_norm, op_name
from workbench.graph.program import Program

FAINT = 1e-3  # of a BN's largest scale: a channel that the BN all but cuts off cannot carry a correction


@dataclass(frozen=True)
class Shortcut:
    """The value that is added to a layer's output, and what the output is multiplied by before that, ``[out]``."""

    value: str
    scale: Tensor | None

    @classmethod
    def of(cls, node: Node, program: Program) -> Shortcut | None:
        """Behind a layer whose output passes only BN and dropout on its way into a sum; None where there is no such."""
        before = {earlier.name for earlier in program.nodes[: program.nodes.index(node)]}
        scale: Tensor | None = None
        while len(node.users) == 1:
            (user,) = node.users
            if is_batch_norm(user):
                factor = _scale(bind(user, user.args, user.kwargs), program)
                if factor is None:
                    return None
                scale = factor if scale is None else scale * factor
            elif op_name(user) == "add":
                other = _other(user, node)
                return cls(other, scale) if other in before else None
            elif op_name(user) not in ("chance", "getitem", "clone"):
                return None
            node = user
        return None

    def drift(self, dense: Mapping[str, Any], small: Mapping[str, Any], output: Tensor) -> Tensor | None:
        """What the layer should give on top of its ``output``; None where the shortcut has lost nothing."""
        if self.value not in small or dense[self.value].shape != output.shape:
            return None
        lost: Tensor = dense[self.value] - small[self.value]
        if self.scale is None:
            return lost
        scale = self.scale.view(-1, *[1] * (lost.ndim - 2))
        faint = scale.abs() <= FAINT * scale.abs().max()
        return (lost / scale.masked_fill(faint, 1)).masked_fill(faint, 0)


def _scale(norm: dict[str, Any], program: Program) -> Tensor | None:
    """What a BN multiplies by; None where that is computed, as a parametrized weight is."""
    given = [norm[name] for name in ("running_var", "weight") if norm[name] is not None]
    if any(node.name not in program.state for node in given):
        return None
    variance, *weight = (program.tensors[program.state[node.name]] for node in given)
    scale = (variance + norm["eps"]).rsqrt()
    return scale * weight[0] if weight else scale


def _other(add: Node, node: Node) -> str:
    """The other operand of a sum of two tensors; empty where there is none."""
    arguments = bind(add, add.args, add.kwargs)
    operands = [arguments.get(name) for name in ("self", "other")]
    others = [operand for operand in operands if isinstance(operand, Node) and operand is not node]
    return others[0].name if len(others) == 1 and arguments.get("alpha", 1) == 1 else ""
