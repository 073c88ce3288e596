from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

class Functional:
    def __init__(
        self,
        terms: Sequence[tuple[Sequence[int], NDArray[np.float64]]],
        constant: float = 0.0,
        limit: float = ...,
    ) -> None: ...

class Solution:
    @property
    def best(self) -> list[int]: ...
    @property
    def value(self) -> float: ...
    @property
    def bound(self) -> float: ...

def solve(
    sizes: Sequence[int],
    objective: Functional,
    constraints: Sequence[Functional],
    seconds: float,
    bytes: int,
) -> Solution: ...
def sweep(
    sizes: Sequence[int],
    objective: Functional,
    constraints: Sequence[Functional],
    constraint: int,
    limits: Sequence[float],
    seconds: float,
    bytes: int,
) -> list[Solution]: ...

class Rounding:
    DOWN: Rounding
    NEAREST: Rounding
    UP: Rounding

def round_width(units: int, numerator: int, denominator: int, multiple: int, mode: Rounding) -> int: ...
def round_ranks(
    ranks: Sequence[float], costs: Sequence[int], budget: int, multiple: int, highest: Sequence[int]
) -> list[int]: ...
