"""Sensitivity: how the score falls as each channel group gives up channels."""

from workbench.sensitivity.curves import Curve, Point, SensitivityCurves
from workbench.sensitivity.search import MODES, Search, sensitivity

__all__ = ["MODES", "Curve", "Point", "Search", "SensitivityCurves", "sensitivity"]
