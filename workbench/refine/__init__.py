"""Joint refinement: what layer-by-layer least squares leaves is taken back by all layers together, without labels."""

from workbench.refine.refinement import Refined, Refinement

__all__ = ["Refined", "Refinement"]
