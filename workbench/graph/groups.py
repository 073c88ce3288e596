"""Channel groups: channels of several tensors that can only leave together, read off the classes of atoms."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain, count
from typing import Any

import numpy as np

from workbench.graph.atoms import Reason
from workbench.graph.provenance import Provenance

Place = tuple[str, int]  # a tensor's name and one of its dimensions
Unit = dict[Place, list[int]]  # the indices that leave together


@dataclass(frozen=True)
class Member:
    """One dimension of one tensor that shrinks with a group: ``indices[u]`` leave with unit ``u``.

    ``role`` is ``"out"`` where a layer makes these channels, ``"in"`` where one sums over them, or ``"along"`` (norms,
    depthwise weights read and make them at once: ``"out"``).
    """

    tensor: str
    dim: int
    indices: tuple[tuple[int, ...], ...]
    role: str

    def kept(self, units: tuple[int, ...]) -> tuple[int, ...]:
        """The indices that stay when only these units do, in order."""
        return tuple(sorted(index for unit in units for index in self.indices[unit]))


@dataclass(frozen=True)
class ChannelGroup:
    """Channels that can leave one unit at a time; any subset of the units may go, one must stay.

    ``name`` is the first layer that makes them. ``approximate`` names the norms whose meaning changes; empty when
    removal is exact.
    """

    name: str
    units: int
    members: tuple[Member, ...]
    approximate: tuple[str, ...] = ()

    def __repr__(self) -> str:
        places = ", ".join(f"{member.tensor}[{member.dim}]" for member in self.members)
        return f"ChannelGroup({self.name}: {self.units} units; {places})"

    def to_dict(self) -> dict[str, Any]:
        """Name, units and members without their indices."""
        members = [{"tensor": member.tensor, "dim": member.dim} for member in self.members]
        return {"group": self.name, "units": self.units, "members": members, "approximate": list(self.approximate)}


@dataclass(frozen=True)
class Frozen:
    """Channels that cannot leave: how many of a tensor's dimension, and why."""

    tensor: str
    dim: int
    count: int
    reason: Reason

    def __repr__(self) -> str:
        return f"Frozen({self.tensor}[{self.dim}]: {self.count} channels, {self.text})"

    @property
    def text(self) -> str:
        """The reason in one sentence."""
        place = f" in {self.reason.layer}" if self.reason.layer else ""
        return f"{self.reason.op}{place}: {self.reason.why}"

    def to_dict(self) -> dict[str, str]:
        """What, reason and remedy, for people."""
        what = f"{self.tensor}, dimension {self.dim} ({self.count} channels)"
        return {"what": what, "reason": self.text, "remedy": self.reason.remedy}


def find_groups(provenance: Provenance) -> tuple[tuple[ChannelGroup, ...], tuple[Frozen, ...]]:
    """The groups of a model in the order of its tensors, and what cannot shrink."""
    classes = _Classes.of(provenance)
    by_makers: dict[tuple[Place, ...], list[Unit]] = defaultdict(list)
    for number, unit in classes.units().items():
        if number not in classes.reasons:
            makers = tuple(place for place, indices in unit.items() if classes.made[classes.atom(place, indices[0])])
            by_makers[makers].append(unit)
    groups, used = [], set[str]()
    for makers, units in by_makers.items():
        if len(units) > 1:
            groups.append(_group(_unused(layer_name(makers[0][0]), used), units, classes))
    return tuple(groups), tuple(_frozen(classes))


def layer_name(tensor: str) -> str:
    """``features.0`` for ``features.0.weight``; a bare parameter is its own layer."""
    path, _, last = tensor.rpartition(".")
    return path if path and last in ("weight", "bias") else tensor


def _unused(name: str, used: set[str]) -> str:
    """The name, numbered where another group of the same layer has it already."""
    numbered = (f"{name}#{number}" for number in count(2))
    fresh = next(candidate for candidate in chain([name], numbered) if candidate not in used)
    used.add(fresh)
    return fresh


@dataclass(frozen=True)
class _Classes:
    """The classes of atoms, with what is known of each atom and class."""

    owned: Mapping[str, tuple[np.ndarray, ...]]  # tensor -> the atoms of each dimension
    classes: np.ndarray  # atom -> class
    made: np.ndarray  # atom -> a layer makes it
    read: np.ndarray  # atom -> a layer sums over it
    reasons: Mapping[int, Reason]  # class -> why it is frozen

    @classmethod
    def of(cls, provenance: Provenance) -> _Classes:
        atoms = provenance.atoms
        owned = {name: tuple(dim.long().numpy() for dim in dims) for name, dims in provenance.owned.items()}
        made, read = np.zeros(atoms.count, bool), np.zeros(atoms.count, bool)
        for mask, marked in ((made, atoms.made), (read, atoms.read)):
            for some in marked:
                mask[some] = True
        classes = atoms.classes()
        reasons: dict[int, Reason] = {}
        for some, reason in atoms.frozen:
            for number in np.unique(classes[some]).tolist():
                reasons.setdefault(number, reason)
        return cls(owned, classes, made, read, reasons)

    def atom(self, place: Place, index: int) -> int:
        """The atom of one index of a tensor's dimension."""
        return int(self.owned[place[0]][place[1]][index])

    def units(self) -> dict[int, Unit]:
        """The classes that some layer makes, each with the indices that leave with it."""
        is_unit = np.zeros(self.classes.max(initial=-1) + 1, bool)
        is_unit[self.classes[self.made]] = True
        units: dict[int, Unit] = defaultdict(lambda: defaultdict(list))
        for name, dims in self.owned.items():
            for dim, atoms in enumerate(dims):
                if len(atoms) > 1:
                    numbers = self.classes[atoms]
                    for index in np.flatnonzero(is_unit[numbers]).tolist():
                        units[int(numbers[index])][name, dim].append(index)
        return units


def _group(name: str, units: list[Unit], classes: _Classes) -> ChannelGroup:
    members = []
    for place in dict.fromkeys(place for unit in units for place in unit):
        indices = tuple(tuple(unit.get(place, ())) for unit in units)
        atom = classes.atom(place, next(index for unit in indices for index in unit))
        role = "out" if classes.made[atom] else "in" if classes.read[atom] else "along"
        members.append(Member(*place, indices, role))
    return ChannelGroup(name, len(units), tuple(members))


def _frozen(classes: _Classes) -> list[Frozen]:
    found = []
    for name, dims in classes.owned.items():
        for dim, atoms in enumerate(dims):
            if len(atoms) > 1 and classes.made[atoms[0]]:
                numbers = [number for number in classes.classes[atoms].tolist() if number in classes.reasons]
                counts = Counter(classes.reasons[number] for number in numbers)
                found += [Frozen(name, dim, many, reason) for reason, many in counts.items()]
    return found
