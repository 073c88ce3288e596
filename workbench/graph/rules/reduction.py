"""Ops that reduce or resample some dimensions: labels along the others pass through."""

from __future__ import annotations

from collections.abc import Collection

from workbench.graph.call import Call
from workbench.graph.labels import Labels, resized, squashed, varied
from workbench.graph.rules import rule
from workbench.graph.rules.norm import across

POOLS = {
    f"{kind}_pool{n}d": n
    for n in (1, 2, 3)
    for kind in ("max", "avg", "adaptive_avg", "adaptive_max", "_adaptive_avg", "lp")
} | {f"max_pool{n}d_with_indices": n for n in (1, 2, 3)}
RESAMPLES = {
    f"{kind}{n}d": n
    for n in (1, 2, 3)
    for kind in ("upsample_nearest", "upsample_linear", "upsample_bilinear", "upsample_bicubic", "upsample_trilinear",
                 "_upsample_nearest_exact", "_upsample_bilinear2d_aa", "reflection_pad", "replication_pad")
} | {"grid_sampler": 2, "grid_sampler_2d": 2}  # fmt: skip
KEEP = "keep the layers that make them at full width"


@rule(*POOLS, *RESAMPLES)
def pool(call: Call) -> object:
    """Over the last n dimensions."""
    inputs = call.tensors()[0]
    first = len(inputs.shape) - {**POOLS, **RESAMPLES}[call.op]
    labels = [resized(label, call.shape) for label in _outside(call, range(first, len(inputs.shape)))]
    return [tuple(labels)] * len(call.shapes) if isinstance(call.shapes, list) else tuple(labels)


@rule("mean", "sum", "amax", "amin", "max", "min", "prod", "var", "std", "logsumexp", "norm", "linalg_vector_norm",
      "var_mean", "any", "all", "count_nonzero")  # fmt: skip
def reduce(call: Call) -> object:
    """Over the named dimensions, which vanish or stay with size 1. Over channels the meaning changes."""
    inputs = call.tensors()[0]
    if len(call.tensors()) > 1:  # max and min of two tensors
        from workbench.graph.rules.elementwise import combine

        return combine(call, call.tensors(), call.shape)
    rank = len(inputs.shape)
    given = call.get("dim")
    dims = sorted({d % rank for d in ([given] if isinstance(given, int) else given or range(rank))})
    reduced = []
    for label in across(call, inputs.labels, dims):
        for dim in reversed(dims):
            label = label.narrow(dim, 0, 1) if call.get("keepdim") else label.select(dim, 0)
        reduced.append(label)
    # along what is summed over nothing is left: those labels are one index now, and vanish
    labels = squashed(
        [label for label, before in zip(reduced, inputs.labels, strict=True) if set(varied(before)) - set(dims)]
    )
    return [labels] * len(call.shapes) if isinstance(call.shapes, list) else labels


@rule("softmax", "_softmax", "log_softmax", "_log_softmax", "_safe_softmax", "cumsum", "cumprod")
def softmax(call: Call) -> Labels:
    """Over one dimension, which stays."""
    return across(call, call["self"].labels, [call["dim"] % len(call.shape)])


@rule("argmax", "argmin", "topk", "sort", "argsort", "msort", "kthvalue", "median", "mode", "cummax", "unique_dim")
def places(call: Call) -> object:
    """The result is a place, or an order: indices along that dimension cannot leave."""
    inputs = call.tensors()[0]
    dim = call.get("dim")
    dims = range(len(inputs.shape)) if dim is None else [dim % len(inputs.shape)]
    passed = []
    for label in _outside(call, dims):
        keeps = len(call.shape) == len(inputs.shape)
        passed.append(
            resized(label, call.shape) if keeps else label.select(next(iter(dims)), 0) if dim is not None else label
        )
    labels = squashed([label for label in passed if label.shape == call.shape])
    return [labels] * len(call.shapes) if isinstance(call.shapes, list) else labels


def _outside(call: Call, dims: Collection[int]) -> Labels:
    """The labels, made to keep whole slices of some dimensions; those along these dimensions alone freeze."""
    kept = []
    for label in call.tensors()[0].labels:
        apart = call.apart(label, dims)
        if apart is None:
            call.freeze(label, "it needs all of these indices", KEEP)
        else:
            kept.append(apart)
    return tuple(kept)
