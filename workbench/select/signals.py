"""Criteria on what flows through the channels: activations, and the gradients of a gate on each unit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from workbench.select.magnitude import L2
from workbench.select.path import GroupView, Path
from workbench.select.ranking import Aggregate, ranked, total
from workbench.signals import UnitSignals


@dataclass(frozen=True)
class _Signal:
    aggregate: Aggregate = total
    needs: ClassVar[frozenset[str]] = frozenset({"signals"})

    def score(self, signals: UnitSignals) -> Tensor:
        raise NotImplementedError

    def __call__(self, view: GroupView) -> Path:
        """Where no convolution or linear layer reads a group there is no signal: its units leave by ``L2``."""
        if not view.consumers:
            return L2()(view)
        return ranked(view, self.aggregate(torch.stack([self.score(found) for found in view.read_signals()])))


class ActivationEnergy(_Signal):
    """Score of a unit: the mean square of what each layer reads of it."""

    def score(self, signals: UnitSignals) -> Tensor:
        return signals.squares / signals.elements.clamp_min(1)


class ActivePositions(_Signal):
    """Score of a unit: the share of what each layer reads of it that is not zero, which is one minus APoZ (Hu et al.
    2016)."""

    def score(self, signals: UnitSignals) -> Tensor:
        return signals.active / signals.elements.clamp_min(1)


class _Gradient(_Signal):
    needs: ClassVar[frozenset[str]] = frozenset({"signals", "gradients"})


class Taylor(_Gradient):
    """Score of a unit: the squared gradient of a gate on it, summed over a minibatch first, then averaged over
    minibatches (Molchanov et al. 2019, with gates)."""

    def score(self, signals: UnitSignals) -> Tensor:
        return signals.taylor / signals.batches


class Fisher(_Gradient):
    """Score of a unit: the squared gradient of a gate on it, averaged over samples (Theis et al. 2018, Kwon et al.
    2022)."""

    def score(self, signals: UnitSignals) -> Tensor:
        return signals.fisher / signals.samples
