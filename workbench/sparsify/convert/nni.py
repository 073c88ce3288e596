"""NNI 3's pruners and their configuration lists."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from workbench.sparsify.convert.base import Converted, Entry, converted
from workbench.sparsify.criteria import Criterion, GeometricMedian, Magnitude, Movement, Taylor
from workbench.sparsify.patterns import Blocks, Elements, Pattern, columns, rows
from workbench.sparsify.recipe_file import Program
from workbench.sparsify.rule import Rule
from workbench.sparsify.schedules import Cubic, Linear, OneShot, Schedule
from workbench.sparsify.scopes import Each, Scope, Together
from workbench.sparsify.stages import Prune, Recipe

PRUNERS: dict[str, tuple[Criterion, Pattern]] = {
    "LevelPruner": (Magnitude(), Elements()), "L1NormPruner": (Magnitude(1), rows()),
    "L2NormPruner": (Magnitude(2), rows()), "FPGMPruner": (GeometricMedian(), rows()),
    "SlimPruner": (Magnitude(), Elements()), "TaylorPruner": (Taylor(), rows()),
    "TaylorFOWeightPruner": (Taylor(), rows()), "MovementPruner": (Movement(), Elements()),
}  # fmt: skip
MEANS = ("op_names", "op_names_re", "op_types", "exclude_op_names", "exclude_op_names_re", "exclude_op_types")
SHARES = ("sparse_ratio", "sparsity", "sparsity_per_layer", "total_sparsity")  # the last is one of all layers together
GRANULARITIES: dict[str, Pattern | None] = {
    "default": None, "out_channel": rows(), "in_channel": columns(), "per_channel": rows(),
}  # fmt: skip


def from_nni(
    configs: Sequence[Mapping[str, Any]], pruner: str, model: nn.Module, *, steps: int = 0, agp: bool = False
) -> Converted:
    """A configuration list and the name of the pruner's class, for a model; times are steps of the optimiser.

    A layer is meant that an entry names and whose type it has, where it gives both. Biases stay where their row leaves.

    Parameters
    ----------
    steps : over so many steps sparsity grows, as ``LinearPruner`` and ``AGPPruner`` let it; 0 for one shot
    agp : by the cubic curve of AGP instead of a line

    Raises
    ------
    ValueError
        There is no such pruner.
    """
    if pruner not in PRUNERS:
        raise ValueError(f"there is no pruner {pruner!r} to convert; those with an equal are {', '.join(PRUNERS)}")
    excluded = tuple(name for config in configs if config.get("exclude") for name in _named(config, model))
    entries = [Entry(f"config {number}", dict(c)) for number, c in enumerate(configs) if not c.get("exclude")]
    stages: list[Prune] = []
    groups: dict[Any, int] = {}  # where the stage of a group is
    for entry in entries:
        group = entry.fields.get("global_group_id")
        found = converted(entry, lambda one: [_stage(one, pruner, model, excluded, steps, agp)])
        if group not in groups:
            groups |= {} if group is None or not found else {group: len(stages)}
            stages += found
            continue
        for stage in found:
            before = stages[groups[group]]
            layers = before.rule.layers
            if replace(stage, rule=replace(stage.rule, layers=layers)) == before:
                both = tuple(dict.fromkeys(layers + stage.rule.layers))
                stages[groups[group]] = replace(before, rule=replace(before.rule, layers=both))
            else:
                entry.drop(f"the group {group!r} has other settings before; give all its entries the same")
    return Converted(Program(Recipe(tuple(stages))), tuple(told for entry in entries for told in entry.left_out))


def _stage(entry: Entry, pruner: str, model: nn.Module, excluded: tuple[str, ...], steps: int, agp: bool) -> Prune:
    names = _weights(entry, model, excluded)
    if not names:
        raise ValueError("it names no weight of this model")
    criterion, pattern = PRUNERS[pruner]
    share = _share(entry)
    schedule: Schedule = OneShot(share) if not steps else (Cubic if agp else Linear)(share, steps)
    rule = Rule(criterion, _pattern(entry) or pattern, _scope(entry, pruner), names)
    return Prune(schedule, rule, returning=pruner == "MovementPruner")


def _weights(entry: Entry, model: nn.Module, excluded: tuple[str, ...]) -> tuple[str, ...]:
    """The weights that an entry means; what else it does is said."""
    layers = [name for name in _named(entry.fields, model) if name not in excluded]
    modules = {name for name, _ in model.named_modules()}
    for name in [name for name in entry.take("op_names") or () if name not in modules]:
        entry.drop(f"op_names {name!r} is no layer of this model")
    for field in MEANS:
        entry.take(field)
    targets = list(entry.take("target_names") or ("weight",))
    for target in [target for target in targets if target != "weight"]:
        entry.drop(f"target_names {target!r} has no equal here; the weights alone are masked")
    if "weight" not in targets:
        return ()
    parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    return tuple(f"{layer}.weight" for layer in layers if f"{layer}.weight" in parameters)


def _share(entry: Entry) -> float:
    """The share that goes: in NNI 3 ``sparse_ratio``, before that ``sparsity``."""
    shares = [entry.fields[name] for name in SHARES if entry.fields.get(name) is not None]
    if len(shares) != 1 or isinstance(shares[0], bool) or not isinstance(shares[0], int | float):
        raise ValueError(f"it gives {len(shares)} shares; give one, as sparse_ratio")
    for name in SHARES[:-1]:
        entry.take(name)
    return float(shares[0])


def _pattern(entry: Entry) -> Pattern | None:
    given = entry.take("granularity", "default")
    if isinstance(given, list | tuple) and len(given) == 2:
        return Blocks(int(given[0]), int(given[1]))
    entry.fields["granularity"] = given
    found: Pattern | None = entry.choice("granularity", "default", GRANULARITIES)
    return found


def _scope(entry: Entry, pruner: str) -> Scope:
    """Limits say something only where layers compete; elsewhere they are left out."""
    shared = [entry.take(name) is not None for name in ("global_group_id", "total_sparsity")]
    if not any(shared) and pruner != "SlimPruner":
        return Each()
    return Together(float(entry.take("min_sparse_ratio", 0.0)), float(entry.take("max_sparse_ratio", 1.0)))


def _named(config: Mapping[str, Any], model: nn.Module) -> list[str]:
    """The modules that a configuration means: by name or by what a name begins with, and by type."""
    names, expressions, types, *others = (config.get(field) or () for field in MEANS)

    def called(name: str, names: Sequence[str], expressions: Sequence[str]) -> bool:
        return name in names or any(re.match(one, name) for one in expressions)

    found = []
    for name, module in model.named_modules():
        kind = type(module).__name__
        means = bool(types or names or expressions) and (not types or kind in types)
        means = means and (not (names or expressions) or called(name, names, expressions))
        if name and means and not called(name, others[0], others[1]) and kind not in others[2]:
            found.append(name)
    return found
