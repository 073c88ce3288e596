"""Rules: what each op does to the labels of its inputs. One file per family of ops.

A rule is a function ``(call) -> Labels`` (or a list of Labels where the op returns several tensors), registered for the
ops it serves. An op without a rule freezes its inputs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from workbench.graph.call import MAKERS, Call

Rule = Callable[[Call], Any]
RULES: dict[str, Rule] = {}


def rule(*ops: str) -> Callable[[Rule], Rule]:
    """Register a rule for ATen ops, by their names without overload: ``"relu"`` serves ``aten.relu.default``."""

    def register(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(ops, function))
        return function

    return register


def rule_for(call: Call) -> Rule:
    """The rule of a call, or the one that freezes."""
    return _registered().get(call.op, unknown)


def known(op: str) -> bool:
    """Whether an op can be followed: it has a rule, makes a tensor, or gives a number."""
    return op in _registered() or op in MAKERS or op.startswith("sym_")


def _registered() -> dict[str, Rule]:
    from workbench.graph.rules import contraction, elementwise, movement, norm, recurrent, reduction  # noqa: F401  # they register

    return RULES


def unknown(call: Call) -> Any:
    """No rule: whatever goes in can no longer leave."""
    for tensor in call.tensors():
        call.freeze(tensor, "no rule says where its indices go", "ask for a rule, or keep these layers at full width")
    return ()
