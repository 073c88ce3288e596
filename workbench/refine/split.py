"""Calibration samples that are fitted to, and those that judge."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from workbench.calibrate import Batches
from workbench.graph.inputs import Inputs


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
        things = len(batches) if whole else batches.samples
        share = held_out / batches.samples
        self.every = max(2, round(1 / share)) if not whole else max(2, min(round(1 / share), things))

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
        for inputs in self.batches:
            size = 1 if self.whole else inputs.batch or 1
            judges = torch.arange(first, first + size) % self.every == self.every - 1
            places = (judges if judging else ~judges).nonzero().flatten()
            if len(places):
                yield inputs if self.whole or inputs.batch is None else _picked(inputs, places)
            first += size


def _picked(inputs: Inputs, places: Tensor) -> Inputs:
    return inputs.map(lambda tensor: tensor[places.to(tensor.device)])
