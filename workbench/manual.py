"""Plans by hand: ratios, ranks or channels of layers that are named, by name, by a pattern of names, or by type."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from fractions import Fraction
from typing import TypeGuard

from torch import nn

from workbench.allocate.budget import Budget
from workbench.allocate.rounding import Mode, round_width
from workbench.factorize import Form, Site, site_of
from workbench.factorize.ladder import LADDER
from workbench.factorize.replace import BY_NAME
from workbench.factorize.sites import fixed
from workbench.graph.groups import ChannelGroup
from workbench.graph.trace import ChannelGraph, Layer
from workbench.plan import Plan, Rank
from workbench.sensitivity import Search

Pattern = str | type[nn.Module]


@dataclass(frozen=True)
class Ratio:
    """A share in (0, 1]: of a layer's input channels, or with a method of its multiplications.

    Parameters
    ----------
    value : of the channels that stay, or of the multiplications that the layer may cost
    method : ``"channels"``, or one that lowers the rank: the largest whose cost is at most that share
    multiple : of the width or rank
    rounding : to a multiple: ``"down"``, ``"nearest"`` or ``"up"``

    Raises
    ------
    ValueError
        The share is not in (0, 1], or there is no such method.
    """

    value: float
    method: str = "channels"
    multiple: int = 1
    rounding: Mode = "down"

    def __post_init__(self) -> None:
        if not 0 < self.value <= 1:
            raise ValueError(f"the ratio {self.value!r} is no share; give a number above 0 and at most 1, as 0.5")
        if self.method not in ("channels", *BY_NAME):
            raise ValueError(f"there is no method {self.method!r}; choose from channels, {', '.join(BY_NAME)}")

    def rank(self, site: Site) -> Rank:
        """The rank that a layer gets; of none that is cheap enough, the smallest.

        Raises
        ------
        ValueError
            The method does not fit the layer.
        """
        method = BY_NAME[self.method]
        Form(method, 1).checked(site.shape)
        most = method.full(site.shape)
        allowed = Fraction(repr(float(self.value))) * site.layer.shape.numel() * site.layer.positions
        low, high = 1, most  # costs rise with the rank
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if site.cost(Form(method, middle)) <= allowed else (low, middle - 1)
        return Rank(self.method, round_width(most, Fraction(low, most), self.multiple, self.rounding))


Setting = Ratio | Rank | Sequence[int]  # the input channels that stay


def plan_by_hand(graph: ChannelGraph, search: Search, settings: Mapping[Pattern, Setting]) -> Plan:
    """The plan in which layers are as they are set, and all others stay as they are.

    Which channels stay at a ratio, the criterion of the search says. ``degradation`` is what the search's curves say of
    the channels, and of ranks what the best form of the same layer loses that costs no more.

    Raises
    ------
    ValueError
        A pattern names no layer, a layer cannot have what is set, or two settings contradict each other.
    """
    kept: dict[str, tuple[int, ...]] = {}
    ranks: dict[str, Rank] = {}
    for pattern, setting in settings.items():
        for layer in layers_like(graph, pattern):
            if _lowers_rank(setting):
                ranks[layer.name] = _rank(graph, layer, setting, search)
                continue
            group = _read_group(graph, layer)
            units = _units(graph, search, layer, group, setting)
            if kept.setdefault(group.name, units) != units:
                raise ValueError(
                    f"{layer.name} reads the same channels as another layer that shall keep others of them; give all "
                    f"layers that read the group {group.name} one setting"
                )
    curves = search.curves()
    places = {name: len(units) for name, units in kept.items()}
    places |= {f"{name}{LADDER}": rank.place for name, rank in ranks.items()}
    lost = sum(curve.at(places[curve.group]) for curve in curves if curve.group in places)
    sizes = {name: graph[name].units for name in kept}
    return Plan(kept, sizes, Budget(macs=1.0), float(lost), None, graph.fingerprint, ranks=ranks)


def concerned(graph: ChannelGraph, settings: Mapping[Pattern, Setting]) -> tuple[set[str], set[str]]:
    """The layers whose rank is set, and the groups of which some channels are to stay."""
    low: set[str] = set()
    read: set[str] = set()
    for pattern, setting in settings.items():
        (low if _lowers_rank(setting) else read).update(layer.name for layer in layers_like(graph, pattern))
    groups = {name for name, readers in graph.consumers.items() if read & {layer.name for layer in readers}}
    return low, groups


def _lowers_rank(setting: Setting) -> TypeGuard[Ratio | Rank]:
    return isinstance(setting, Rank) or (isinstance(setting, Ratio) and setting.method != "channels")


def layers_like(graph: ChannelGraph, pattern: Pattern) -> list[Layer]:
    """The layers of a name, a pattern of names (``"blocks.*.conv1"``) or a type of module.

    Raises
    ------
    ValueError
        There is none.
    """
    if isinstance(pattern, str):
        found = [layer for layer in graph.layers if fnmatchcase(layer.name, pattern)]
    else:
        modules = dict(graph.model.named_modules())
        found = [layer for layer in graph.layers if isinstance(modules.get(layer.name), pattern)]
    if not found:
        wanted = repr(pattern) if isinstance(pattern, str) else pattern.__name__
        names = ", ".join(layer.name for layer in graph.layers)
        raise ValueError(f"no layer is a {wanted}; the layers are {names}")
    return found


def free_groups(graph: ChannelGraph, ignored: Iterable[Layer]) -> list[str]:
    """The groups that can leave exactly, without those of which an ignored layer makes or reads channels."""
    weights = {layer.weight for layer in ignored}
    return [group.name for group in graph.exact if not weights & {member.tensor for member in group.members}]


def _rank(graph: ChannelGraph, layer: Layer, setting: Ratio | Rank, search: Search) -> Rank:
    """With its place among what the search would choose from: the dearest form that costs no more."""
    why = fixed(graph, layer)
    if setting.method not in BY_NAME:
        why = f"there is no method {setting.method!r} among {', '.join(BY_NAME)}"
    if why:
        raise ValueError(f"the rank of {layer.name} cannot be set: {why}; leave the layer out")
    site = site_of(graph, layer)
    try:
        rank = setting.rank(site) if isinstance(setting, Ratio) else setting
        form = Form(BY_NAME[rank.method], rank.rank).checked(site.shape)
    except ValueError as error:
        raise ValueError(f"{layer.name}: {error}") from error
    ladder = search.ladders.get(f"{layer.name}{LADDER}")
    cheaper = [one for one in ladder.forms if site.cost(one) <= site.cost(form)] if ladder else []
    return Rank(rank.method, rank.rank, max(1, len(cheaper)))


def _read_group(graph: ChannelGraph, layer: Layer) -> ChannelGroup:
    for group in graph.exact:
        if any(reader.name == layer.name for reader in graph.consumers[group.name]):
            return group
    raise ValueError(
        f"the input channels of {layer.name} cannot leave; graph.groups and graph.frozen say which can, and why not"
    )


def _units(
    graph: ChannelGraph, search: Search, layer: Layer, group: ChannelGroup, setting: Ratio | Rank | Sequence[int]
) -> tuple[int, ...]:
    if isinstance(setting, Ratio):
        path = search.paths[group.name]
        count = round_width(group.units, setting.value, setting.multiple, setting.rounding)
        return path.kept(max(path.least, count))
    if isinstance(setting, str) or not isinstance(setting, Iterable):
        raise TypeError(
            f"{layer.name} cannot be set to {setting!r}; give a Ratio, as Ratio(0.5), a Rank, or the list of the input "
            "channels that stay"
        )
    member = next(m for m in group.members if m.tensor == layer.weight and m.role == "in")
    stay = set(setting)
    if not stay:
        raise ValueError(f"{layer.name} would lose all its input channels; name at least one that stays")
    there = {index for indices in member.indices for index in indices}
    if not stay <= there:
        raise ValueError(
            f"{layer.name} has no input channels {sorted(stay - there)} that can leave or stay; the highest is "
            f"{max(there)}"
        )
    units = tuple(unit for unit, indices in enumerate(member.indices) if stay & set(indices))
    whole = {index for unit in units for index in member.indices[unit]}
    if whole != stay:
        wrong = sorted(whole ^ stay)
        raise ValueError(
            f"{layer.name} cannot keep the input channels {sorted(stay)}: {wrong} do not leave alone; name all "
            f"channels of a unit of the group {group.name}"
        )
    return units
