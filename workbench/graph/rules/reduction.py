"""Ops that reduce or resample some dimensions: labels along the others pass through."""

from __future__ import annotations

from workbench.graph.call import Call
from workbench.graph.labels import Labels, resized, squashed, varied
from workbench.graph.rules import rule

POOLS = {
    f"{kind}_pool{n}d": n
    for n in (1, 2, 3)
    for kind in ("max", "avg", "adaptive_avg", "adaptive_max", "_adaptive_avg", "max_with_indices")
} | {f"max_pool{n}d_with_indices": n for n in (2, 3)}
RESAMPLES = {f"upsample_{kind}{n}d": n for n in (1, 2, 3) for kind in ("nearest", "linear", "bilinear", "bicubic")}
MIXED = "it reduces over these indices, so that leaving any changes the result"
KEEP = "keep the layers that make them at full width"


@rule(*POOLS, *RESAMPLES)
def pool(call: Call) -> object:
    """Over the last n dimensions."""
    (inputs,) = call.tensors()
    first = len(inputs.shape) - {**POOLS, **RESAMPLES}[call.op]
    labels = _across(call, range(first, len(inputs.shape)))
    labels = tuple(resized(label, call.shape) for label in labels)
    several = call.op.endswith("_with_indices") or call.op.startswith("adaptive_max")
    return [labels, labels] if several else labels


@rule("mean", "sum", "amax", "amin", "prod", "var", "std", "logsumexp")
def reduce(call: Call) -> Labels:
    """Over the named dimensions, which vanish or stay with size 1."""
    (inputs,) = call.tensors()
    rank = len(inputs.shape)
    given = call.get("dim")
    dims = sorted({d % rank for d in ([given] if isinstance(given, int) else given or range(rank))})
    labels = _across(call, dims)
    reduced = []
    for label in labels:
        for dim in reversed(dims):
            label = label.narrow(dim, 0, 1) if call.get("keepdim") else label.select(dim, 0)
        reduced.append(label)
    return squashed(reduced)


@rule("softmax", "_softmax", "log_softmax", "_log_softmax")
def softmax(call: Call) -> Labels:
    """Over one dimension, which stays."""
    return _across(call, [call["dim"] % len(call.shape)])


def _across(call: Call, dims: range | list[int]) -> Labels:
    """The labels that do not vary along the reduced dimensions; the others freeze."""
    (inputs,) = call.tensors()
    crossing = [label for label in inputs.labels if any(dim in dims for dim in varied(label))]
    for label in crossing:
        call.freeze(label, MIXED, KEEP)
    return tuple(label for label in inputs.labels if not any(dim in dims for dim in varied(label)))
