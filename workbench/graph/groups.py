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

ALL_AT_ONCE = Reason("group", "", "its channels can only leave all at once", "keep it, or look for what couples them")
Place = tuple[str, int]  # a tensor's name and one of its dimensions


@dataclass(frozen=True)
class Member:
    """One dimension of one tensor that shrinks with a group: ``indices[u]`` leave with unit ``u``.

    ``role`` is ``"in"`` where a layer sums over these channels (also where another, with the same weight, makes them),
    ``"out"`` where a layer makes them, else ``"along"`` (norms, buffers). ``gather``: the layer picks them itself, and
    who makes them keeps all.
    """

    tensor: str
    dim: int
    indices: tuple[tuple[int, ...], ...]
    role: str
    gather: bool = False

    def kept(self, units: tuple[int, ...]) -> tuple[int, ...]:
        """The indices that stay when only these units do, in order."""
        return tuple(sorted(index for unit in units for index in self.indices[unit]))


@dataclass(frozen=True)
class ChannelGroup:
    """Channels that can leave one unit at a time; any subset of the units may go, one must stay.

    ``name`` is the first layer that makes them. ``approximate`` names the norms whose meaning changes; empty when
    removal is exact. Of each set of units in ``one_of`` one must stay, too: a tensor holds no other channels.
    """

    name: str
    units: int
    members: tuple[Member, ...]
    approximate: tuple[str, ...] = ()
    one_of: tuple[tuple[int, ...], ...] = ()

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
    table = _Table.of(provenance)
    by_makers: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for number, makers in table.makers().items():
        by_makers[makers].append(number)
    groups, used = [], set[str]()
    for makers, numbers in by_makers.items():
        if len(numbers) == 1:
            table.reasons.setdefault(numbers[0], ALL_AT_ONCE)
        else:
            name = _unused(layer_name(table.places[makers[0]][0]), used)
            groups.append(table.group(name, np.array(numbers)))
    return tuple(groups), tuple(table.frozen())


def layer_name(tensor: str) -> str:
    """``features.0`` for ``features.0.weight``; a bare parameter is its own layer."""
    if ".parametrizations." in tensor:
        return tensor.partition(".parametrizations.")[0]
    path, _, last = tensor.rpartition(".")
    return path if path and last.startswith(("weight", "bias", "in_proj")) else tensor


def _unused(name: str, used: set[str]) -> str:
    """The name, numbered where another group of the same layer has it already."""
    numbered = (f"{name}#{number}" for number in count(2))
    fresh = next(candidate for candidate in chain([name], numbered) if candidate not in used)
    used.add(fresh)
    return fresh


@dataclass(frozen=True)
class _Table:
    """A row for every index of every dimension: where it is, the class of its atom, what makes or reads it."""

    places: list[Place]
    place: np.ndarray
    index: np.ndarray
    number: np.ndarray  # of the class
    made: np.ndarray
    read: np.ndarray
    reasons: dict[int, Reason]  # class -> why it is frozen
    approximate: Mapping[int, tuple[str, ...]]  # class -> the ops whose meaning changes

    @classmethod
    def of(cls, provenance: Provenance) -> _Table:
        atoms, classes = provenance.atoms, provenance.atoms.classes()
        dims = {(name, dim): part.long().numpy() for name, parts in provenance.owned.items()
                for dim, part in enumerate(parts) if len(part) > 1}  # fmt: skip
        sizes = [len(part) for part in dims.values()]
        rows = np.concatenate([np.empty(0, np.int64), *dims.values()])
        reasons: dict[int, Reason] = {}
        for some, reason in (*atoms.nailed, *atoms.frozen):
            for number in np.unique(classes[some]).tolist():
                reasons.setdefault(number, reason)
        approximate: dict[int, tuple[str, ...]] = {}
        for some, what in atoms.approximate:
            for number in np.unique(classes[some]).tolist():
                approximate[number] = (*approximate.get(number, ()), what)
        return cls(
            list(dims), np.repeat(np.arange(len(dims)), sizes),
            np.concatenate([np.empty(0, np.int64), *map(np.arange, sizes)]).astype(np.int64), classes[rows],
            _marks(atoms.count, atoms.made)[rows], _marks(atoms.count, atoms.read)[rows], reasons, approximate,
        )  # fmt: skip

    def makers(self) -> dict[int, tuple[int, ...]]:
        """For each class that can leave, in the order of the tensors: the places where a layer makes it."""
        pairs = np.unique(np.stack([self.number[self.made], self.place[self.made]], 1), axis=0)
        found: dict[int, list[int]] = defaultdict(list)
        for number, place in pairs.tolist():
            found[number].append(place)
        first = np.unique(self.number, return_index=True)
        order = first[0][np.argsort(first[1])].tolist()
        return {n: tuple(found[n]) for n in order if n in found and n not in self.reasons}

    def group(self, name: str, numbers: np.ndarray) -> ChannelGroup:
        """The group whose units are these classes."""
        unit = np.full(self.number.max() + 1, -1)
        unit[numbers] = np.arange(len(numbers))
        rows = np.flatnonzero(unit[self.number] >= 0)
        rows = rows[np.lexsort((self.index[rows], unit[self.number[rows]], self.place[rows]))]
        members, one_of = [], dict[tuple[int, ...], None]()
        for some in np.split(rows, np.flatnonzero(np.diff(self.place[rows])) + 1):
            role = "in" if self.read[some].any() else "out" if self.made[some].any() else "along"
            counts = np.bincount(unit[self.number[some]], minlength=len(numbers))
            each = np.split(self.index[some], np.cumsum(counts)[:-1])
            if len(some) == (self.place == self.place[some[0]]).sum() and not counts.all():
                one_of[tuple(np.flatnonzero(counts).tolist())] = None
            tensor, dim = self.places[self.place[some[0]]]
            members.append(Member(tensor, dim, tuple(tuple(e.tolist()) for e in each), role))
        approximate = dict.fromkeys(what for number in numbers.tolist() for what in self.approximate.get(number, ()))
        return ChannelGroup(name, len(numbers), tuple(members), tuple(approximate), tuple(one_of))

    def frozen(self) -> list[Frozen]:
        """What layers make that cannot leave, by reason."""
        found = []
        starts = np.searchsorted(self.place, np.arange(len(self.places) + 1))  # the rows of a place stand together
        for number, (name, dim) in enumerate(self.places):
            rows = slice(starts[number], starts[number + 1])
            if self.made[rows].any():
                fixed = [self.reasons[n] for n in self.number[rows].tolist() if n in self.reasons]
                found += [Frozen(name, dim, many, reason) for reason, many in Counter(fixed).items()]
        return found


def _marks(count: int, marked: list[np.ndarray]) -> np.ndarray:
    marks = np.zeros(count, bool)
    for some in marked:
        marks[some] = True
    return marks
