"""Calibration samples that are fitted to, and those that judge."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from workbench.calibrate import Batches
from workbench.graph.inputs import Inputs


class Split:
    """Every n-th sample judges, so that no order of the data matters; every n-th batch where batches cannot be cut.

    Parameters
    ----------
    batches : the calibration data
    held_out : about how many samples judge, if there are enough: at most every fourth
    size : samples a step, at most
    whole : whether the model takes batches of one size only
    """

    def __init__(self, batches: Batches, held_out: int, size: int, whole: bool):
        self.batches, self.size, self.whole = batches, size, whole
        every = max(4, round(batches.samples / held_out))
        self.every = max(2, min(every, len(batches))) if whole else every

    @cached_property
    def fitted(self) -> Batches:
        """Every batch without what judges."""
        return self._part(judging=False)

    @cached_property
    def judging(self) -> Batches:
        """Every batch's part that judges."""
        return self._part(judging=True)

    def forever(self, generator: torch.Generator) -> Iterator[Inputs]:
        """Batches for steps, each time in another order."""
        while True:
            for inputs in self.fitted:
                if self.whole or inputs.batch is None:
                    yield inputs
                    continue
                for places in torch.randperm(inputs.batch, generator=generator).split(self.size):
                    yield _picked(inputs, places)

    def parts(self, inputs: Inputs, most: int) -> Iterator[tuple[Inputs, float]]:
        """A batch in parts of at most so many samples, each with its share of them."""
        if self.whole or inputs.batch is None or inputs.batch <= most:
            yield inputs, 1.0
            return
        for places in torch.arange(inputs.batch).split(most):
            yield _picked(inputs, places), len(places) / inputs.batch

    def _part(self, judging: bool) -> Batches:
        part = _Part(self, judging)
        sizes = [inputs.batch or 1 for inputs in part]
        return Batches(part, sum(sizes), len(sizes), self.batches.fingerprint)


@dataclass(frozen=True)
class _Part:
    """What judges, or all the rest; read anew each time, as the calibration data is."""

    split: Split
    judging: bool

    def __iter__(self) -> Iterator[Inputs]:
        first, every, whole = 0, self.split.every, self.split.whole
        for number, inputs in enumerate(self.split.batches):
            size = inputs.batch or 1
            numbers = torch.full((size,), number) if whole else torch.arange(first, first + size)
            (places,) = (((numbers % every) == every - 1) == self.judging).nonzero(as_tuple=True)
            if len(places):
                yield inputs if whole or inputs.batch is None else _picked(inputs, places)
            first += size


def _picked(inputs: Inputs, places: Tensor) -> Inputs:
    return inputs.map(lambda tensor: tensor[places.to(tensor.device)])
