"""What a user may demand of single groups: least widths, what stays whole, widths to avoid, equal widths."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from fnmatch import fnmatchcase
from fractions import Fraction
from typing import Any, TypeVar

from workbench.allocate import Problem, at_least, forbid, pin, tie
from workbench.allocate.budget import Multiple
from workbench.factorize.ladder import LADDER
from workbench.graph.trace import ChannelGraph

Value = TypeVar("Value")
NAMED = 3  # of the nearest names that an error tells


@dataclass(frozen=True)
class Limits:
    """Demands on single channel groups, which a plan keeps besides its budget.

    Each name is a glob of group names, of the layers that make a group's channels, or of these layers' kinds
    (``conv2d``, ``linear``).

    Parameters
    ----------
    minimum : the least width, as a share in (0, 1) of the group's units, or as a whole number of them
    keep : groups that stay whole
    pinned : the one width that a group may have
    forbidden : widths that a group may not have
    tied : sets of groups that all get the same number of units; a glob alone ties all that it matches

    Raises
    ------
    ValueError
        A width or a share is out of range. A name that matches nothing is found out when a plan is made.

    Examples
    --------
    >>> Limits(minimum={"layer*": 0.25}, keep=("conv1",), tied=(("query", "key"),))
    Limits(minimum={'layer*': 0.25}, keep=('conv1',), tied=(('query', 'key'),))
    """

    minimum: Mapping[str, float] = field(default_factory=dict)
    keep: Sequence[str] = ()
    pinned: Mapping[str, int] = field(default_factory=dict)
    forbidden: Mapping[str, Sequence[int]] = field(default_factory=dict)
    tied: Sequence[Sequence[str]] = ()

    def __post_init__(self) -> None:
        if isinstance(self.keep, str) or any(isinstance(names, str) for names in self.tied):
            raise ValueError("keep takes a tuple of names, tied a tuple of such tuples, not text; try keep=('conv1',)")
        for name, least in self.minimum.items():
            whole = isinstance(least, int) and not isinstance(least, bool) and least >= 1
            if not whole and not (isinstance(least, float) and 0 < least < 1):
                raise ValueError(
                    f"the minimum of {name!r} is {least!r}; give a share above 0 and below 1, or a number of units"
                )
        for name, width in (*self.pinned.items(), *((n, w) for n, some in self.forbidden.items() for w in some)):
            if not isinstance(width, int) or isinstance(width, bool) or width < 1:
                raise ValueError(f"a width of {name!r} is {width!r}; it must be a whole number, 1 or more")
        forbidden = {name: tuple(widths) for name, widths in self.forbidden.items()}
        changed = {"minimum": dict(self.minimum), "keep": tuple(self.keep), "pinned": dict(self.pinned),
                   "forbidden": forbidden, "tied": tuple(map(tuple, self.tied))}  # fmt: skip
        for name, value in changed.items():
            object.__setattr__(self, name, value)

    def __repr__(self) -> str:
        return f"Limits({', '.join(f'{name}={value}' for name, value in vars(self).items() if value)})"

    def to_dict(self) -> dict[str, Any]:
        """What was demanded, as what JSON can hold."""
        return {name: value for name, value in vars(self).items() if value}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Limits:
        """The limits that ``to_dict`` wrote."""
        return cls(**data)

    @classmethod
    def parse(
        cls, *, minimum: Sequence[str] = (), keep: Sequence[str] = (), pin: Sequence[str] = (),
        forbid: Sequence[str] = (), tie: Sequence[str] = (),
    ) -> Limits:  # fmt: skip
        """Read texts: ``conv*=0.25``, ``conv1``, ``conv1=32``, ``conv1=8,16`` and ``query,key``.

        Raises
        ------
        ValueError
            A text has no name, or no number where one belongs.
        """
        return cls(
            minimum=dict(_pair(text, lambda n: float(n) if "." in n else int(n), "conv1=0.25") for text in minimum),
            keep=tuple(keep),
            pinned=dict(_pair(text, int, "conv1=32") for text in pin),
            forbidden=dict(_pair(text, lambda n: tuple(map(int, n.split(","))), "conv1=8,16") for text in forbid),
            tied=tuple(tuple(text.split(",")) for text in tie),
        )

    def on(self, problem: Problem, graph: ChannelGraph) -> Problem:
        """The problem of a model's widths with these demands.

        Raises
        ------
        ValueError
            A name matches no group, or a demand leaves a group no width.
        """
        for pattern, least in self.minimum.items():
            for name in matching(graph, pattern):
                units = math.ceil(Fraction(str(least)) * graph[name].units) if isinstance(least, float) else least
                problem = at_least(problem, name, units)
        for pattern, widths in self.forbidden.items():
            for name in matching(graph, pattern):
                problem = forbid(problem, name, widths)
        for pattern, width in self.pinned.items():
            for name in matching(graph, pattern):
                problem = pin(problem, name, width)
        for pattern in self.keep:
            whole = {choice.name: choice.options[-1] for choice in problem.choices}
            ranks = [name for name in whole if name.endswith(LADDER)]
            for name in matching(graph, pattern, [name.removesuffix(LADDER) for name in ranks]):
                problem = pin(problem, name, whole[name]) if name in whole else problem
                problem = pin(problem, name + LADDER, whole[name + LADDER]) if name + LADDER in ranks else problem
        for patterns in self.tied:
            problem = tie(problem, [name for pattern in patterns for name in matching(graph, pattern)])
        return problem


def _pair(text: str, read: Callable[[str], Value], example: str) -> tuple[str, Value]:
    name, _, number = text.rpartition("=")
    try:
        if name:
            return name, read(number)
    except ValueError:
        pass  # the same sentence as without a name
    raise ValueError(f"{text!r} is not NAME=NUMBER; try {example}")


def matching(graph: ChannelGraph, pattern: str, layers: Sequence[str] = ()) -> list[str]:
    """The groups that a glob means: by their own name, or by a layer that makes their channels, or by its kind.

    Of ``layers``, which may lose rank, those of that name or kind are meant, too.

    Raises
    ------
    ValueError
        It means none; the message tells the nearest names that there are.
    """
    kinds = {layer.name: layer.op for layer in graph.layers}
    words = {layer: {layer, kinds[layer]} for layer in layers}
    for group in graph.exact:
        words[group.name] = words.get(group.name, set()) | {group.name, *_makers(graph, group.name)}
    found = [name for name, some in words.items() if any(fnmatchcase(word, pattern) for word in some)]
    if not found:
        every = sorted(set().union(*words.values()))
        near = get_close_matches(pattern, every, NAMED, cutoff=0.0)
        raise ValueError(f"no channel group that can shrink is called {pattern!r}; the nearest are {', '.join(near)}")
    return found


def _makers(graph: ChannelGraph, group: str) -> set[str]:
    """The names and kinds of the layers that make a group's channels."""
    weights = {member.tensor for member in graph[group].members if member.role == "out"}
    return {word for layer in graph.layers if layer.weight in weights for word in (layer.name, layer.op)}


def multiples_of(graph: ChannelGraph, multiple: Multiple, layers: Sequence[str] = ()) -> dict[str, int]:
    """The multiple of each group's widths, and of the ranks of ``layers``; of several patterns the last counts."""
    every = dict.fromkeys([*(group.name for group in graph.exact), *layers], 1)
    if isinstance(multiple, int):
        return dict.fromkeys(every, multiple)
    for pattern, value in multiple.items():
        every |= dict.fromkeys(matching(graph, pattern, layers), value)
    return every
