"""Recipes and configurations of others as ours; what has no equal is listed, never left out in silence."""

from __future__ import annotations

from workbench.sparsify.convert.base import Converted
from workbench.sparsify.convert.nni import from_nni
from workbench.sparsify.convert.sparseml import from_sparseml

__all__ = ["Converted", "from_nni", "from_sparseml"]
