"""Calibration samples that are fitted to, and those that judge."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from workbench.calibrate import Batches
from workbench.graph.inputs import Inputs

JUDGES = 8  # at most every eighth sample judges, so that the repair before still has samples of its own to hold out


class Split:
    """Every n-th sample judges, so that no order of the data matters; every n-th batch where batches cannot be cut.

    Parameters
    ----------
    batches : the calibration data
    held_out : about how many samples judge
    size : samples a step, at most
    whole : whether the model takes batches of one size only
    """

    def __init__(self, batches: Batches, held_out: int, size: int, whole: bool):
        self.batches, self.size, self.whole = batches, size, whole
        every = max(JUDGES, round(batches.samples / held_out))
        self.every = max(2, min(every, len(batches))) if whole else every

    def judges(self, batch: int, first: int, size: int) -> Tensor:
        """Which samples of a batch judge, bool ``[size]``: of that number, with so many samples before it."""
        numbers = torch.full((size,), batch) if self.whole else torch.arange(first, first + size)
        return numbers % self.every == self.every - 1

    def fitted(self) -> Iterator[Inputs]:
        """Every batch without what judges."""
        return self._parts(judging=False)

    def judging(self) -> Iterator[Inputs]:
        """Every batch's part that judges."""
        return self._parts(judging=True)

    def forever(self, generator: torch.Generator) -> Iterator[Inputs]:
        """Batches for steps, each time in another order."""
        while True:
            for inputs in self.fitted():
                if self.whole or inputs.batch is None:
                    yield inputs
                    continue
                for places in torch.randperm(inputs.batch, generator=generator).split(self.size):
                    yield _picked(inputs, places)

    def _parts(self, judging: bool) -> Iterator[Inputs]:
        first = 0
        for number, inputs in enumerate(self.batches):
            size = inputs.batch or 1
            judges = self.judges(number, first, size)
            places = (judges if judging else ~judges).nonzero().flatten()
            if len(places):
                yield inputs if self.whole or inputs.batch is None else _picked(inputs, places)
            first += size


def _picked(inputs: Inputs, places: Tensor) -> Inputs:
    return inputs.map(lambda tensor: tensor[places.to(tensor.device)])
