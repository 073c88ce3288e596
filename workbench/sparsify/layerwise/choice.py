"""What leaves of a matrix, some columns at a time: exactly as much in all as the amount says."""

from __future__ import annotations

import torch
from torch import Tensor

from workbench.sparsify.amounts import Amount
from workbench.sparsify.contest import Contest
from workbench.sparsify.criteria import Criterion
from workbench.sparsify.patterns import Blocks, NofM, Pattern
from workbench.sparsify.sites import Site
from workbench.sparsify.units import TensorUnits

PLAIN = Criterion()


class Choice:
    """Decides on the columns of a matrix from left to right.

    Where units compete in the whole matrix or row, each stretch of columns loses in proportion to what it has left, so
    that the whole loses exactly the amount. ``gone`` is bool ``[out, columns]``; a ``criterion`` may have its own way
    from the worth of elements to that of units.

    Raises
    ------
    ValueError
        The pattern lets fewer leave than the amount.
    """

    def __init__(self, name: str, pattern: Pattern, amount: Amount, gone: Tensor, criterion: Criterion = PLAIN):
        self.name, self.pattern, self.gone, self.criterion = name, pattern, gone, criterion
        units = self._gone(gone)
        before = units.sum(1)
        counts = {number: amount.count(units.shape[1], number) for number in before.unique().tolist()}
        most = pattern.most(units.shape[1])
        if max(counts.values()) > most:
            raise ValueError(
                f"{max(counts.values())} of {units.shape[1]} units of {name} shall leave, and at most {most} may; ask "
                f"for a share of at most {most / units.shape[1]:.4g}"
            )
        self.free = units.shape[1] - before
        self.wanted = torch.tensor([counts[number] for number in before.tolist()], device=gone.device) - before
        self.seen = torch.zeros_like(self.free)

    def span(self, block: int) -> int:
        """How many columns are decided at a time, when those to the right have taken up what left on the left."""
        if isinstance(self.pattern, NofM):
            return self.pattern.m
        size = self.pattern.columns if isinstance(self.pattern, Blocks) else 1
        return max(1, block // size) * size

    def kept(self, worth: Tensor, start: int) -> Tensor:
        """Which of the columns from ``start`` on stay, by what they are worth, ``[out, some]``."""
        site, stop = Site(self.name, worth.shape), start + worth.shape[1]
        units = TensorUnits(site, self.pattern)
        scores = self.criterion.units(self.pattern.cells(site, worth), self.pattern.reduce)
        gone = self._gone(self.gone[:, start:stop])
        free = gone.shape[1] - gone.sum(1)
        if isinstance(self.pattern, NofM):  # no set goes on in another stretch
            size = self.pattern.m
            leave = self.wanted.view(len(worth), -1)[:, start // size : stop // size].flatten()
        else:
            whole = self.free.clamp_min(1)
            leave = self.wanted * (self.seen + free) // whole - self.wanted * self.seen // whole
            self.seen += free
        ranks = Contest(units, scores, gone).ranks()
        return units.spread(ranks >= (gone.sum(1) + leave)[:, None])[self.name]

    def _gone(self, gone: Tensor) -> Tensor:
        """The units of which nothing is left, bool ``[sets, units]``."""
        return self.pattern.cells(Site(self.name, gone.shape), gone).all(-1)
