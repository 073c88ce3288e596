"""Plans by hand: ratios, ranks or channels of layers that are named, by name, by a pattern of names, or by type."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from fractions import Fraction
from operator import index
from typing import Any, TypeGuard

from torch import nn

from workbench.allocate.budget import Budget
from workbench.allocate.rounding import Mode, round_width
from workbench.factorize import Form, Site, site_of
from workbench.factorize.ladder import LADDER
from workbench.factorize.replace import BY_NAME
from workbench.factorize.sites import fixed
from workbench.graph.trace import ChannelGraph, Layer
from workbench.plan import Plan, Rank
from workbench.select import Path
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
            The method does not fit the layer, or that rank costs more than the layer itself.
        """
        method = BY_NAME[self.method]
        Form(method, 1).checked(site.shape)
        most = method.full(site.shape)
        dense = site.layer.shape.numel() * site.layer.positions
        allowed = Fraction(repr(float(self.value))) * dense
        low, high = 1, most  # costs rise with the rank
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if site.cost(Form(method, middle)) <= allowed else (low, middle - 1)
        rank = round_width(most, Fraction(low, most), self.multiple, self.rounding)
        if (cost := site.cost(Form(method, rank))) > dense:
            raise ValueError(
                f"at {self} it would have the rank {rank} and {cost / dense:.3g} times its multiplications; give a "
                "smaller multiple or rounding='down', or leave the layer out"
            )
        return Rank(self.method, rank)


Setting = Ratio | Rank | Sequence[int] | Sequence[bool]  # the input channels that stay, or a mask of them


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
    for layer, setting in _set(graph, settings):
        if _lowers_rank(setting):
            rank = _rank(graph, layer, setting, search)
            if (other := ranks.setdefault(layer.name, rank)) != rank:
                raise ValueError(
                    f"{layer.name} is set to {other.method} of rank {other.rank} and to {rank.method} of rank "
                    f"{rank.rank}; give it one setting, under its own name"
                )
            continue
        for group, units in _units(graph, search, layer, setting).items():
            if kept.setdefault(group, units) != units:
                raise ValueError(
                    f"{layer.name} reads the same channels as another layer that shall keep others of them; give all "
                    f"layers that read the group {group} one setting"
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
    for layer, setting in _set(graph, settings):
        (low if _lowers_rank(setting) else read).add(layer.name)
    groups = {name for name, readers in graph.consumers.items() if read & {layer.name for layer in readers}}
    return low, groups


def _set(graph: ChannelGraph, settings: Mapping[Pattern, Setting]) -> list[tuple[Layer, Setting]]:
    """What each layer is set to: where its own name is, not what patterns and types say of the same."""
    if not isinstance(settings, Mapping):
        raise TypeError(f"the settings {settings!r:.80} are no dict; give one, as {{'features.3': Ratio(0.5)}}")
    found = [(key, layer, setting) for key, setting in settings.items() for layer in layers_like(graph, key)]
    own = {(layer.name, _lowers_rank(setting)) for key, layer, setting in found if key == layer.name}
    return [
        (layer, setting) for key, layer, setting in found
        if key == layer.name or (layer.name, _lowers_rank(setting)) not in own
    ]  # fmt: skip


def _lowers_rank(setting: Setting) -> TypeGuard[Ratio | Rank]:
    return isinstance(setting, Rank) or (isinstance(setting, Ratio) and setting.method != "channels")


def layers_like(graph: ChannelGraph, pattern: Pattern) -> list[Layer]:
    """The layers of a name, a pattern of names (``"blocks.*.conv1"``) or a type of module.

    Raises
    ------
    ValueError
        There is none.
    TypeError
        It is neither.
    """
    check_pattern(pattern)
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


def check_pattern(pattern: Any) -> None:
    """Whether it can name layers.

    Raises
    ------
    TypeError
        It is neither a string nor a type.
    """
    if not isinstance(pattern, str | type):
        raise TypeError(
            f"{pattern!r:.80} names no layers; give a name as 'features.3', a pattern as 'blocks.*.conv1', or a type "
            "as nn.Conv2d"
        )


def free_groups(graph: ChannelGraph, ignored: Iterable[Layer]) -> list[str]:
    """The groups that can leave exactly, without those of which an ignored layer makes or reads channels."""
    weights = {layer.weight for layer in ignored}
    return [group.name for group in graph.exact if not weights & {member.tensor for member in group.members}]


def _rank(graph: ChannelGraph, layer: Layer, setting: Ratio | Rank, search: Search) -> Rank:
    """With its place among what the search would choose from: the dearest form that costs no more."""
    if why := fixed(graph, layer):
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


def _units(graph: ChannelGraph, search: Search, layer: Layer, setting: Setting) -> dict[str, tuple[int, ...]]:
    """Which units stay of each group that a layer reads."""
    count, read = layer.shape[1] * layer.groups, _read(graph, layer)
    if not read:
        raise ValueError(
            f"the input channels of {layer.name} cannot leave; graph.groups and graph.frozen say which can, and why not"
        )
    frozen = set(range(count)).difference(*(unit for units in read.values() for unit in units))
    if isinstance(setting, Ratio):
        if frozen:
            raise ValueError(
                f"{layer.name} can have no ratio of input channels: {_told(frozen)} of {count} cannot leave; give the "
                "list of those that stay"
            )
        return {name: _share(search.paths[name], setting) for name in read}
    stay = _named(layer, setting, count)
    if not frozen <= stay:
        raise ValueError(
            f"{layer.name} cannot lose the input channels {_told(frozen - stay)}; graph.frozen says why: name them, too"
        )
    kept = {
        name: tuple(number for number, unit in enumerate(units) if not unit or unit & stay)
        for name, units in read.items()
    }
    whole = frozen.union(*(read[name][number] for name, numbers in kept.items() for number in numbers))
    if wrong := whole - stay:
        raise ValueError(
            f"{layer.name} cannot keep the input channels {_told(stay)}: {_told(wrong)} do not leave alone; name all "
            f"channels of a unit of the {'group' if len(read) == 1 else 'groups'} {', '.join(read)}"
        )
    if empty := [name for name, numbers in kept.items() if not numbers]:
        raise ValueError(f"{layer.name} would lose all input channels of the group {empty[0]}; name one that stays")
    return kept


def _read(graph: ChannelGraph, layer: Layer) -> dict[str, list[set[int]]]:
    """Of each group that a layer reads, the input channels that are each unit."""
    dim = 0 if layer.transposed or layer.product else 1
    blocks = layer.groups if dim else 1  # a grouped convolution has a column for a channel of every block
    return {
        group.name: [
            {block * layer.shape[1] + place for block in range(blocks) for place in unit} for unit in member.indices
        ]
        for group in graph.exact for member in group.members
        if (member.tensor, member.dim, member.role) == (layer.weight, dim, "in")
    }  # fmt: skip


def _share(path: Path, ratio: Ratio) -> tuple[int, ...]:
    return path.kept(max(path.least, round_width(len(path.order), ratio.value, ratio.multiple, ratio.rounding)))


def _named(layer: Layer, setting: Any, count: int) -> set[int]:
    """The input channels in a list, an array, or a mask."""
    given = _plain(setting)
    if isinstance(given, str | Mapping) or not isinstance(given, Iterable):
        raise TypeError(
            f"{layer.name} cannot be set to {setting!r}; give a Ratio, as Ratio(0.5), a Rank, or the list of the input "
            "channels that stay"
        )
    places = [_plain(one) for one in given]
    mask = [isinstance(one, bool) for one in places]
    if any(mask) and all(mask):
        if len(mask) != count:
            raise ValueError(f"{layer.name} has {count} input channels, and its mask {len(mask)}; give one of all")
        places = [place for place, stays in enumerate(places) if stays]
    elif any(mask) or not all(hasattr(one, "__index__") for one in places):
        raise TypeError(
            f"{layer.name} cannot keep the input channels {places!r:.80}; give whole numbers, or a mask of True and "
            "False"
        )
    stay = {index(one) for one in places}
    if not stay:
        raise ValueError(f"{layer.name} would lose all its input channels; name at least one that stays")
    if strange := stay - set(range(count)):
        raise ValueError(
            f"{layer.name} has no input channels {_told(strange)} that can leave or stay; the highest is {count - 1}"
        )
    return stay


def _plain(value: Any) -> Any:
    """Numbers and lists of them instead of arrays and tensors."""
    return value.tolist() if hasattr(value, "tolist") else value


def _told(channels: set[int]) -> str:
    """In order, and not all of very many."""
    return f"{sorted(channels)[:16]}"[:-1] + (", ...]" if len(channels) > 16 else "]")
