"""Scopes: over what the units compete, and how many of each tensor or group leave.

A scope is a function from contests and an amount to what stays of each, bool ``[sets, units]``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import Tensor

from workbench.plan import Plan
from workbench.sparsify.amounts import Absolute, Amount, share_of
from workbench.sparsify.contest import Contest

Scope = Callable[[Sequence[Contest], Amount], list[Tensor]]


@dataclass(frozen=True)
class Each:
    """Every tensor or group loses the same share, rounded for each set of units that compete."""

    def __call__(self, contests: Sequence[Contest], amount: Amount) -> list[Tensor]:
        return [_from_sets(contest, amount) for contest in contests]


@dataclass(frozen=True)
class Shares:
    """Every tensor or group loses its own share, by name or glob, times the amount (1.0: all of it).

    Raises
    ------
    ValueError
        One is no share from 0 to 1.

    Examples
    --------
    >>> Shares({"features.0*": 0.3, "*": 0.8}).share("features.0.weight")
    0.3
    """

    by_name: Mapping[str, float]

    def __post_init__(self) -> None:
        shares: dict[str, float] = {}
        for name, given in self.by_name.items():
            if (share := share_of(given)) is None:
                raise ValueError(f"{name} would lose {given!r} of its units; give a share from 0 to 1")
            shares[name] = share
        object.__setattr__(self, "by_name", shares)

    @classmethod
    def of(cls, plan: Plan) -> Shares:
        """What the groups lose under a plan, as an allocation under a budget makes it; for ``Channels``."""
        return cls({name: 1 - len(kept) / plan.units[name] for name, kept in plan.kept.items()})

    def share(self, name: str) -> float:
        """That of the first name or glob that fits.

        Raises
        ------
        ValueError
            None does.
        """
        found = next((share for glob, share in self.by_name.items() if fnmatchcase(name, glob)), None)
        if found is None:
            raise ValueError(f'no share is given for {name}; name it, or give one for "*"')
        return found

    def __call__(self, contests: Sequence[Contest], amount: Amount) -> list[Tensor]:
        if isinstance(amount.value, int):
            raise ValueError(f"an amount of {amount.value} units has no meaning with Shares; give a float, 1.0 for all")
        scaled = [type(amount)(amount.value * self.share(contest.name)) for contest in contests]
        return [_from_sets(contest, one) for contest, one in zip(contests, scaled, strict=True)]


@dataclass(frozen=True)
class Erk:
    """The densities of Erdos-Renyi-Kernel (Evci et al. 2020): a tensor keeps in proportion to the sum of its dimensions
    over their product, at most all of itself. The total is exact."""

    def __call__(self, contests: Sequence[Contest], amount: Amount) -> list[Tensor]:
        for contest in contests:
            _one_set(contest, "Erk")
        alive = [c.count - int(c.gone.sum()) for c in contests]
        units = sum(c.count for c in contests)
        fans = [contest.units.scored[0].fans for contest in contests]
        weights = [sum(fan) / fan.numel() * contest.count for fan, contest in zip(fans, contests, strict=True)]
        kept = _filled(weights, alive, units - amount.count(units, units - sum(alive)))
        return [c.without(c.count - number) for c, number in zip(contests, kept, strict=True)]


@dataclass(frozen=True)
class Together:
    """All units compete: the least worth leave wherever they are. Shares count units, of whatever size.

    ``minimum`` and ``maximum`` are what every tensor or group loses at least and at most: they clamp, and the others
    make up for it, so that the total is exact. Until that comes to the least of all, as on a ramp, none loses more than
    its least. ``sets`` are lists of names or globs that compete among themselves, and each loses the amount; everything
    must be in one.
    """

    minimum: float = 0.0
    maximum: float = 1.0
    sets: tuple[tuple[str, ...], ...] = ()

    def __post_init__(self) -> None:
        if not 0 <= self.minimum <= self.maximum <= 1:
            raise ValueError(
                f"every layer would lose at least {self.minimum} and at most {self.maximum}; give shares from 0 to 1, "
                "the first not above the second"
            )

    def __call__(self, contests: Sequence[Contest], amount: Amount) -> list[Tensor]:
        numbers = [self._set_of(contest.name) for contest in contests]
        found: dict[str, Tensor] = {}
        for number in dict.fromkeys(numbers):
            some = [contest for contest, own in zip(contests, numbers, strict=True) if own == number]
            found |= zip([contest.name for contest in some], self._compete(some, amount), strict=True)
        return [found[contest.name] for contest in contests]

    def _set_of(self, name: str) -> int:
        for number, globs in enumerate(self.sets or (("*",),)):
            if any(fnmatchcase(name, glob) for glob in globs):
                return number
        raise ValueError(f"{name} is in none of the sets of Together; name it in one, or ignore it")

    def _compete(self, contests: Sequence[Contest], amount: Amount) -> list[Tensor]:
        for contest in contests:
            _one_set(contest, "Together")
        units, gone = sum(c.count for c in contests), [int(c.gone.sum()) for c in contests]
        number = amount.count(units, sum(gone))
        least, most = (
            [Absolute(float(limit)).count(c.count, own) for c, own in zip(contests, gone, strict=True)]
            for limit in (self.minimum, self.maximum)
        )
        if number < sum(Absolute(float(self.minimum)).count(c.count, 0) for c in contests):
            least, most = gone, least
        most = [min(c.most, own) for c, own in zip(contests, most, strict=True)]
        if not sum(least) <= number <= sum(most):
            raise ValueError(
                f"{number} of {units} units shall leave, and the layers' limits allow {sum(least)} to {sum(most)}; "
                "change the amount, or minimum and maximum"
            )
        ranks = [contest.ranks()[0] for contest in contests]
        free = [(rank >= low) & (rank < high) for rank, low, high in zip(ranks, least, most, strict=True)]
        worth = torch.cat([c.worth[0][some].double() for c, some in zip(contests, free, strict=True)])
        lowest = torch.zeros(len(worth), dtype=torch.bool, device=worth.device)
        lowest[worth.argsort(stable=True)[: number - sum(least)]] = True
        kept, start = [], 0
        for rank, low, some in zip(ranks, least, free, strict=True):
            stays = rank >= low
            stays[some] = ~lowest[start : start + int(some.sum())]
            start += int(some.sum())
            kept.append(stays[None])
        return kept


@dataclass(frozen=True)
class Above:
    """Units stay whose worth is above a threshold, however many these are (soft movement); the amount says nothing."""

    threshold: float

    def __call__(self, contests: Sequence[Contest], amount: Amount) -> list[Tensor]:
        return [(contest.worth > self.threshold) & ~contest.gone for contest in contests]


def _from_sets(contest: Contest, amount: Amount) -> Tensor:
    """The same share of every set; where sets lost different numbers before, each goes on from its own."""
    kept = torch.empty_like(contest.gone)
    before = contest.gone.sum(1)
    for gone in before.unique().tolist():
        some = before == gone
        kept[some] = contest.without(amount.count(contest.worth.shape[1], gone), gone)[some]
    return kept


def _one_set(contest: Contest, scope: str) -> None:
    if len(contest.worth) > 1:
        raise ValueError(
            f"the units of {contest.name} compete in {len(contest.worth)} sets of their own, so that {scope} has "
            "nothing to compare; use Each, or a pattern whose units compete in the whole tensor"
        )


def _filled(weights: Sequence[float], most: Sequence[int], number: int) -> list[int]:
    """A number shared out in proportion to weights, to none more than its most; largest remainders are rounded up."""
    full = [False] * len(weights)
    while True:
        rest = number - sum(own for own, whole in zip(most, full, strict=True) if whole)
        weight = sum(own for own, whole in zip(weights, full, strict=True) if not whole)
        exact = [
            float(own) if whole else rest * part / weight for own, part, whole in zip(most, weights, full, strict=True)
        ]
        over = [not whole and value > own for value, own, whole in zip(exact, most, full, strict=True)]
        if not any(over):
            break
        full = [whole or more for whole, more in zip(full, over, strict=True)]
    found = [int(value) for value in exact]
    by_remainder = sorted((found[n] - exact[n], n) for n in range(len(found)) if found[n] < most[n])
    for _, place in by_remainder[: number - sum(found)]:
        found[place] += 1
    return found
