"""How far a mean of paired differences can be from the truth, when it is looked at more than once."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
from scipy.stats import t as student

LEVEL = 0.05  # the share of intervals that may miss, over all looks at a point


def standard_error(differences: np.ndarray, resolution: float = 0.0) -> float:
    """Of their mean, never as small as a few lucky samples make it.

    Two more observations are reckoned with, at plus and minus the largest difference seen (Agresti & Min 2005 add them
    to paired proportions): without them, samples that all agree would have no error at all. ``resolution`` stands for
    the largest where all are zero.
    """
    size = len(differences)
    largest = float(np.abs(differences).max()) or resolution
    squares = float(np.square(differences - differences.mean()).sum()) + 2 * largest**2
    return math.sqrt(squares / (size + 1) / size)


@cache
def critical(samples: int, looks: int) -> float:
    """How many standard errors an interval has on each side, so that it holds at all of some planned looks together.

    The level is split evenly among the looks (Bonferroni), which is valid whatever made the search stop.
    """
    return float(student.ppf(1 - LEVEL / (2 * looks), samples - 1))
