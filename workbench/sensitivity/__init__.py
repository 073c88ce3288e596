"""Sensitivity: how the score falls as each channel group gives up channels."""

from workbench.sensitivity.curves import Curve, Point, SensitivityCurves
from workbench.sensitivity.sweep import sensitivity

__all__ = ["Curve", "Point", "SensitivityCurves", "sensitivity"]
