"""Layer by layer, without training: what leaves is chosen, and what stays makes up for it, by second moments.

A method is a function from a ``Problem``, a pattern and an amount to a ``Solution``.
"""

from __future__ import annotations

from workbench.sparsify.layerwise.obc import Obc
from workbench.sparsify.layerwise.outcome import Pruned
from workbench.sparsify.layerwise.problem import Method, Problem, Solution
from workbench.sparsify.layerwise.scored import Scored
from workbench.sparsify.layerwise.shares import by_sensitivity, owl
from workbench.sparsify.layerwise.sparse_gpt import SparseGpt
from workbench.sparsify.layerwise.step import Step
from workbench.sparsify.layerwise.walk import prune_layerwise

__all__ = [
    "Method", "Obc", "Problem", "Pruned", "Scored", "Solution", "SparseGpt", "Step", "by_sensitivity", "owl",
    "prune_layerwise",
]  # fmt: skip
