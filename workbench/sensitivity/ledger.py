"""What a search has finished: scores by candidate and block of samples, and how often each was tried."""

from __future__ import annotations

from collections import Counter

from workbench.sensitivity.candidate import Widths
from workbench.sensitivity.run import Scores

Unit = tuple[Widths, int]  # a candidate and a block of samples


class Ledger:
    """In memory; a ``Store`` keeps them on disk, too."""

    def __init__(self) -> None:
        self.found: dict[Unit, Scores] = {}
        self.tries: Counter[Unit] = Counter()

    def __len__(self) -> int:
        return len(self.found)

    def get(self, unit: Unit) -> Scores | None:
        """The scores of a candidate on a block, or why the last try failed; None where there was none."""
        return self.found.get(unit)

    def add(self, unit: Unit, scores: Scores) -> None:
        """Keep what was finished."""
        self.found[unit] = scores
        self.tries[unit] += 1

    def settled(self, unit: Unit, retries: int) -> bool:
        """Whether there are scores, or no try is left."""
        found = self.found.get(unit)
        return found is not None and (not isinstance(found, str) or self.tries[unit] > retries)

    def told(self) -> str:
        """How what is finished can be used again."""
        return f"{len(self)} scores are finished and known to this search; with store= they would outlive it"
