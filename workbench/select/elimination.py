"""The least-squares elimination path: the unit whose loss costs least after repair leaves next.

One factorisation of the second moments gives the nested order for all widths. With ``H`` the inverse of the moments of
the columns still present and ``W`` the least-squares weights on them, losing the columns ``u`` of a unit raises the
squared output error by ``tr(W_u^T (H_uu)^-1 W_u)`` (the optimal brain surgeon for blocks); then ``W`` and ``H`` are
down-dated. The errors of all layers that read the group add up, each relative to the variance of its output.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from workbench.fisher import weighed
from workbench.select.magnitude import L2
from workbench.select.path import GroupView, Path

LAG = 256  # columns
RIDGE = 1e-4


@dataclass(frozen=True)
class Elimination:
    """Backward elimination of units by exact least-squares error. ``ridge`` is relative to the inputs' mean square.

    Where no convolution or linear layer reads a group there is no such error: its units leave by L2 magnitude.
    """

    ridge: float = RIDGE

    def __call__(self, view: GroupView) -> Path:
        problems = _problems(view, self.ridge)
        if not problems:
            return L2()(view)
        present = torch.ones(view.group.units, dtype=torch.bool)
        steps = _Steps(problems)
        while (free := view.may_leave(present)).any():
            unit = int(steps.errors_next().masked_fill(~free, torch.inf).argmin())
            steps.remove(unit)
            present[unit] = False
        stay = present.nonzero().flatten().tolist()
        return steps.path(stay)


def followed(view: GroupView, path: Path, ridge: float = RIDGE) -> Path:
    """A path with the errors and losses of least squares along its own order, where layers to fit read the group."""
    problems = _problems(view, ridge)
    if not problems:
        return path
    steps = _Steps(problems)
    for unit in path.order[: len(path.order) - path.least]:
        steps.errors_next()
        steps.remove(unit)
    return steps.path(path.order[len(path.order) - path.least :])


class _Steps:
    """The order in which units leave, and what that costs, summed over all layers that read the group."""

    def __init__(self, problems: Sequence[_Problem]):
        self.problems = problems
        self.order: list[int] = []
        self.costs = torch.zeros(1, 2, dtype=torch.float64)  # error and loss once k units are gone

    def errors_next(self) -> Tensor:
        """What the loss of each unit would add to the error, ``[units]``."""
        self.next = torch.stack([problem.losses() for problem in self.problems]).sum(0)
        return self.next[:, 0]

    def remove(self, unit: int) -> None:
        for problem in self.problems:
            problem.remove(unit)
        self.order.append(unit)
        self.costs = torch.cat([self.costs, self.costs[-1:] + self.next[unit]])

    def path(self, stay: Sequence[int]) -> Path:
        errors, losses = (tuple(column.tolist()) for column in self.costs.T)
        known = all(problem.weighed for problem in self.problems)
        return Path((*self.order, *stay), errors, losses if known else (), least=len(stay))


def _problems(view: GroupView, ridge: float) -> list[_Problem]:
    """One for each group of each layer that reads the units: they leave together, their errors add up."""
    found = []
    for layer in view.consumers:
        moments, columns = view.evidence[layer.name].all, view.columns(layer)
        factors = view.fisher.get(layer.name)
        for number, (xx, xy) in enumerate(zip(moments.xx, moments.xy, strict=True)):
            targets = [xy / math.sqrt(moments.energy or 1.0)]
            if factors is not None and layer.name not in view.blocks:
                targets.append(weighed(xy, factors[number]) / math.sqrt(2 * moments.count))
            found.append(_Problem(xx, targets, columns, ridge))
    return found


class _Problem:
    """The inverse moments and weights of one layer's group while units leave.

    Rows are sorted by unit, ``width`` for each, filled up with some that do nothing; what no unit owns stands last.
    Inverse and weights, side by side in ``matrix``, lag behind by ``left @ right``: one large product for many units is
    faster than one for each, and those that are gone then leave. What the losses need never lags: the inverse's
    ``blocks`` on the diagonal, and for each kind of target the ``grams`` of the units' weights.
    """

    def __init__(self, xx: Tensor, targets: Sequence[Tensor], columns: Sequence[tuple[int, ...]], ridge: float):
        self.total, self.width = len(columns), max(map(len, columns))
        self.weighed, self.outputs = len(targets) > 1, [target.shape[1] for target in targets]
        inverse = _inverse(xx, ridge)
        places = _by_unit(columns, len(xx), self.width)
        filler = places < 0
        weight = (inverse @ torch.cat([*targets], 1))[places]
        inverse = inverse[places[:, None], places]
        weight[filler] = inverse[filler] = inverse[:, filler] = 0
        inverse.diagonal()[filler] = 1
        self.matrix = torch.cat([inverse, weight], 1)
        self.units = torch.arange(self.total)  # those in the matrix
        self.gone = torch.zeros(self.total, dtype=torch.bool)  # of them
        self.blocks = torch.stack([inverse[rows, rows] for rows in map(self._rows, range(self.total))])
        self._start()

    def _start(self) -> None:
        """Nothing lags."""
        weights = self._of_units(self.matrix[:, len(self.matrix) :]).split(self.outputs, -1)
        self.grams = torch.stack([weight @ weight.mT for weight in weights])
        self.lag, room = 0, LAG + self.width
        self.left = self.matrix.new_empty(len(self.matrix), room)
        self.right = self.matrix.new_empty(room, self.matrix.shape[1])

    def _rows(self, place: int) -> slice:
        return slice(place * self.width, (place + 1) * self.width)

    def _of_units(self, matrix: Tensor) -> Tensor:
        """Its rows by unit, ``[units, width, ...]``."""
        return matrix[: len(self.units) * self.width].unflatten(0, (len(self.units), self.width))

    def losses(self) -> Tensor:
        """What the loss of each unit would add to the error and to the loss, ``[units, 2]``; 0 for those gone."""
        solved = torch.linalg.solve(self.blocks, self.grams)  # [targets, units, width, width]
        found = self.matrix.new_zeros(self.total, 2)
        found[self.units, : len(self.grams)] = torch.diagonal(solved, dim1=2, dim2=3).sum(-1).clamp_min(0).mT
        return found

    def remove(self, unit: int) -> None:
        """Down-date what the losses need, and note what the matrix lags behind."""
        place, size = int((self.units == unit).nonzero()), len(self.matrix)
        rows, left, right = self._rows(place), self.left[:, : self.lag], self.right[: self.lag]
        cross = self.matrix[:, rows] - left @ right[:, rows]
        own = self.matrix[rows, size:] - left[rows] @ right[:, size:]
        solved = torch.linalg.solve(self.blocks[place], torch.cat([cross.mT, own], 1))
        products = self._products(solved[:, size:])
        by_unit = self._of_units(cross)
        self.blocks -= by_unit @ self._of_units(solved[:, :size].mT).mT
        for gram, product, square in products:
            half = self._of_units(product - cross @ square / 2) @ by_unit.mT
            gram -= half + half.mT
            gram[place] = 0
        self.blocks[place] = torch.eye(self.width)
        self.left[:, self.lag : self.lag + self.width] = cross
        self.right[self.lag : self.lag + self.width] = solved
        self.lag += self.width
        self.gone[place] = True
        if self.lag >= LAG:
            self._shrink()

    def _products(self, leaves: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
        """For each kind of target its grams, and what leaves times the weights and times itself."""
        size, left, right = len(self.matrix), self.left[:, : self.lag], self.right[: self.lag]
        found, start = [], 0
        for gram, outputs in zip(self.grams, self.outputs, strict=True):
            some = slice(start, start + outputs)
            part, lagging = leaves[:, some], right[:, size:][:, some]
            product = self.matrix[:, size:][:, some] @ part.mT - left @ (lagging @ part.mT)
            found.append((gram, product, part @ part.mT))
            start += outputs
        return found

    def _shrink(self) -> None:
        """Make good what the matrix lags behind, without the units that are gone."""
        size = len(self.matrix)
        rest = torch.zeros(size - len(self.units) * self.width, dtype=torch.bool)
        stay = (~torch.cat([self.gone.repeat_interleave(self.width), rest])).nonzero().flatten()
        columns = torch.cat([stay, torch.arange(size, self.matrix.shape[1])])
        left, right = self.left[stay, : self.lag], self.right[: self.lag].index_select(1, columns)
        self.matrix = self.matrix.index_select(0, stay).index_select(1, columns).addmm_(left, right, alpha=-1)
        self.blocks, self.units = self.blocks[~self.gone], self.units[~self.gone]
        self.gone = torch.zeros_like(self.units, dtype=torch.bool)
        self._start()


def _inverse(xx: Tensor, ridge: float) -> Tensor:
    """Of the moments with a ridge, ten times as strong wherever that is not enough to make them definite."""
    factor, failed = torch.linalg.cholesky_ex(xx + _strength(xx, ridge).diag())
    return _inverse(xx, 10 * ridge) if failed else torch.cholesky_inverse(factor)


def _strength(xx: Tensor, ridge: float) -> Tensor:
    """What the ridge adds to the diagonal."""
    squares = xx.diagonal()[:-1]
    strength = torch.full((len(xx),), ridge * squares.mean().item() + torch.finfo(xx.dtype).tiny, dtype=xx.dtype)
    strength[:-1] += squares.eq(0)  # a dead input would make the moments singular
    strength[-1] = 0  # the bias
    return strength


def _by_unit(columns: Sequence[tuple[int, ...]], size: int, width: int) -> Tensor:
    """The columns unit by unit, -1 where one has fewer than ``width``, and then those of no unit."""
    owned = {column for unit in columns for column in unit}
    filled = [column for unit in columns for column in (*unit, *[-1] * (width - len(unit)))]
    return torch.tensor([*filled, *(column for column in range(size) if column not in owned)])
