"""Mixed precision: which layers stay float, by what int8 in each of them alone does to the output."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from workbench.allocate import Cheapest, Choice, LeastTotal, Problem, Resource, Term, solve
from workbench.deploy.weights import layers_of

if TYPE_CHECKING:
    import onnx

    from workbench.deploy.quantize import Quantizer

FLOAT, INT8 = 32, 8  # bits of a weight
TRIES = 6  # plans that are made and scored under a limit on the score


def mixed(
    quantizer: Quantizer, source: onnx.ModelProto, whole: onnx.ModelProto
) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    """The int8 model that holds the limit, and the layers that are float in it.

    Under ``size_bytes`` the layers in int8 are those whose errors have the least sum. Under ``at_most`` the weights are
    as small as they can be while that sum is below a bound, and the largest bound is looked for that the score allows:
    the finished model's, not a predicted one.

    Raises
    ------
    Unreachable
        Not even int8 everywhere is so small.
    """
    int8 = quantizer.int8
    if int8.at_most is not None and _lost(quantizer, whole) <= int8.at_most:
        return whole, ()
    errors = sensitivities(quantizer, source)
    sizes = sizes_of(source)
    if int8.size_bytes is not None:
        left = chosen(errors, sizes, size_bytes=int8.size_bytes)
        return quantizer.static(source, without=left) if left else whole, left
    low, high, best = 0.0, sum(errors.values()), (quantizer.float, tuple(errors))
    for _ in range(TRIES):
        bound = (low + high) / 2
        left = chosen(errors, sizes, error=bound)
        model = quantizer.static(source, without=left) if len(left) < len(errors) else quantizer.float
        if _lost(quantizer, model) <= (int8.at_most or 0.0):
            low, best = bound, (model, left)
        else:
            high = bound
    return best


def sensitivities(quantizer: Quantizer, source: onnx.ModelProto) -> dict[str, float]:
    """The error of the held-out outputs with only that layer in int8, by the layer's name."""
    return {node.name: quantizer.error(quantizer.static(source, only=[node.name])) for node in layers_of(source)}


def sizes_of(model: onnx.ModelProto) -> dict[str, int]:
    """How many weights each layer has, by its name."""
    sizes = {one.name: int(np.prod(one.dims)) for one in model.graph.initializer}
    return {node.name: sizes[node.input[1]] for node in layers_of(model)}


def chosen(
    errors: dict[str, float], sizes: dict[str, int], *, size_bytes: int | None = None, error: float | None = None
) -> tuple[str, ...]:
    """The layers that stay float, so that errors have the least sum under a size, or weights the least under an error.

    Examples
    --------
    >>> chosen({"a": 0.1, "b": 0.3, "c": 0.2}, {"a": 100, "b": 100, "c": 100}, size_bytes=650)
    ('b',)
    >>> chosen({"a": 0.1, "b": 0.3, "c": 0.2}, {"a": 100, "b": 100, "c": 100}, error=0.35)
    ('b',)
    """
    bits = (INT8, FLOAT)
    choices = tuple(Choice(name, bits, (max(0.0, lost), 0.0)) for name, lost in errors.items())
    terms = [
        Term(name, (number,), np.array([sizes[name] * one / 8 for one in bits])) for number, name in enumerate(errors)
    ]
    most = size_bytes if size_bytes is not None else sum(sizes.values()) * FLOAT / 8
    objective = LeastTotal() if error is None else Cheapest("size_bytes", error)
    problem = Problem(choices, (Resource("size_bytes", tuple(terms), 0.0, float(most)),), objective)
    return tuple(name for name, option in solve(problem).options.items() if option == FLOAT)


def _lost(quantizer: Quantizer, model: onnx.ModelProto) -> float:
    return quantizer.score(quantizer.float) - quantizer.score(model)
