"""Criteria: what a weight is worth. Elements are scored; what a pattern masks together is worth what they give.

A criterion is a ``Criterion``, or any function from a ``WeightView`` to scores in the weight's shape (``Own`` keeps
it), the larger the more worth keeping.
"""

from __future__ import annotations

from workbench.sparsify.criteria.activations import Activation, Wanda
from workbench.sparsify.criteria.base import Criterion, Own, criterion_of
from workbench.sparsify.criteria.gradients import Fisher, Gradient, Movement, Snip, SnipMomentum, Taylor
from workbench.sparsify.criteria.weights import GeometricMedian, Lamp, Magnitude, Random

__all__ = [
    "Activation", "Criterion", "Fisher", "GeometricMedian", "Gradient", "Lamp", "Magnitude", "Movement", "Own",
    "Random", "Snip", "SnipMomentum", "Taylor", "Wanda", "criterion_of",
]  # fmt: skip
