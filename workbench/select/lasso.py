"""LASSO channel selection (He et al. 2017): a sparse combination of channels that gives the layer's output.

With ``Z_c = X_c W_c`` what channel c contributes, ``min 1/2 |Y - sum_c b_c Z_c|^2 + alpha |b|_1`` needs only the
products of the Z, which the second moments hold. One pass of LARS gives the whole path, where the paper's own search
for an ``alpha`` to each width may never end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from workbench.moments import Moments
from workbench.select.magnitude import L2
from workbench.select.path import GroupView, Path
from workbench.select.ranking import ranked

STEPS = 8  # at most so many changes of the active set for each unit


@dataclass(frozen=True)
class Lasso:
    """Units that enter the path of falling ``alpha`` last leave first; among those that never enter, the smallest.

    The products of all layers that read a group are added up, each relative to the variance of its output. Where no
    convolution or linear layer reads a group its units leave by ``L2``.
    """

    def __call__(self, view: GroupView) -> Path:
        from sklearn.linear_model import lars_path_gram

        if not view.consumers:
            return L2()(view)
        gram, products = lasso_problem(view)
        scale = gram.diagonal().max().clamp_min(torch.finfo(gram.dtype).tiny)
        size = view.group.units
        _, _, path = lars_path_gram(
            (products / scale).numpy(), (gram / scale).numpy(), n_samples=1, method="lasso", max_iter=STEPS * size
        )
        present = path != 0
        entered = np.where(present.any(1), present.argmax(1), present.shape[1])
        # a unit that enters first is worth most; among those of one step, or of none, the larger contribution
        contribution = gram.diagonal() / gram.diagonal().sum().clamp_min(torch.finfo(gram.dtype).tiny)
        return ranked(view, torch.from_numpy(-entered.astype(float)) + 0.5 * contribution)


def lasso_problem(view: GroupView) -> tuple[Tensor, Tensor]:
    """``[units, units]`` products of the contributions with each other, and ``[units]`` with the output, centred."""
    units = view.group.units
    gram, products = torch.zeros(units, units, dtype=torch.float64), torch.zeros(units, dtype=torch.float64)
    for layer in view.consumers:
        moments = view.evidence[layer.name].all
        one, two = _contributions(moments, view.solution(layer), view.columns(layer), units)
        scale = moments.energy or 1.0
        gram, products = gram + one / scale, products + two / scale
    return gram, products


def _contributions(
    moments: Moments, weight: Tensor, columns: Sequence[tuple[int, ...]], units: int
) -> tuple[Tensor, Tensor]:
    count = max(moments.count, 1)
    sums, total = moments.xx[:, :-1, -1:], moments.xy[:, -1:]
    xx = moments.xx[:, :-1, :-1] - sums @ sums.mT / count
    xy = moments.xy[:, :-1] - sums @ total / count
    owner = torch.full((weight.shape[1],), units)
    for unit, some in enumerate(columns):
        owner[list(some)] = unit
    pairs = (xx * (weight @ weight.mT)).sum(0)
    by_rows = torch.zeros(units + 1, pairs.shape[1], dtype=pairs.dtype).index_add_(0, owner, pairs)
    gram = torch.zeros(units + 1, units + 1, dtype=pairs.dtype).index_add_(1, owner, by_rows)
    outputs = torch.zeros(units + 1, dtype=pairs.dtype).index_add_(0, owner, (xy * weight).sum((0, 2)))
    return gram[:units, :units], outputs[:units]
