"""NNI 3's pruners and their configuration lists."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from workbench.sparsify.convert.base import Converted, Entry, converted
from workbench.sparsify.criteria import Criterion, GeometricMedian, Magnitude, Movement, Taylor
from workbench.sparsify.patterns import Blocks, Elements, Pattern, columns, rows
from workbench.sparsify.recipe_file import Program
from workbench.sparsify.rule import Rule
from workbench.sparsify.schedules import Cubic, Linear, OneShot, Schedule
from workbench.sparsify.scopes import Each, Scope, Together
from workbench.sparsify.stages import Hold, Prune, Recipe

PRUNERS: dict[str, tuple[Criterion, Pattern]] = {
    "LevelPruner": (Magnitude(), Elements()), "L1NormPruner": (Magnitude(1), rows()),
    "L2NormPruner": (Magnitude(2), rows()), "FPGMPruner": (GeometricMedian(), rows()),
    "SlimPruner": (Magnitude(), Elements()), "TaylorPruner": (Taylor(), rows()),
    "TaylorFOWeightPruner": (Taylor(), rows()), "MovementPruner": (Movement(), Elements()),
}  # fmt: skip
GRANULARITIES: dict[str, Pattern | None] = {
    "default": None, "out_channel": rows(), "in_channel": columns(), "per_channel": rows(),
}  # fmt: skip


def from_nni(
    configs: Sequence[Mapping[str, Any]], pruner: str, model: nn.Module, *, steps: int = 0, agp: bool = False
) -> Converted:
    """A configuration list and the name of the pruner's class, for a model; times are steps of the optimiser.

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
    stages: list[Prune | Hold] = []
    for entry in entries:
        stages += converted(entry, lambda one: [_stage(one, pruner, model, excluded, steps, agp)])
    return Converted(Program(Recipe(tuple(stages))), tuple(told for entry in entries for told in entry.left_out))


def _stage(
    entry: Entry, pruner: str, model: nn.Module, excluded: tuple[str, ...], steps: int, agp: bool
) -> Prune:
    excluded += tuple(entry.take("exclude_op_names", ()))
    layers = tuple(name for name in _named(entry.fields, model) if name not in excluded)
    for name in ("op_names", "op_names_re", "op_types"):
        entry.take(name)
    if not layers:
        raise ValueError("it names no layer of this model")
    targets = entry.take("target_names", ["weight"])
    criterion, pattern = PRUNERS[pruner]
    share = _share(entry)
    names = tuple(f"{layer}.{target}" for layer in layers for target in targets)
    schedule: Schedule = OneShot(share) if not steps else (Cubic if agp else Linear)(share, steps)
    rule = Rule(criterion, _pattern(entry) or pattern, _scope(entry, pruner), names)
    return Prune(schedule, rule, returning=pruner == "MovementPruner")


def _share(entry: Entry) -> float:
    """The share that goes: in NNI 3 ``sparse_ratio``, before that ``sparsity``."""
    given = [entry.take(name) for name in ("sparse_ratio", "sparsity", "sparsity_per_layer", "total_sparsity")]
    shares = [value for value in given if value is not None]
    if len(shares) != 1 or isinstance(shares[0], bool) or not isinstance(shares[0], int | float):
        raise ValueError(f"it gives {len(shares)} shares; give one, as sparse_ratio")
    return float(shares[0])


def _pattern(entry: Entry) -> Pattern | None:
    given = entry.take("granularity", "default")
    if isinstance(given, list | tuple) and len(given) == 2:
        return Blocks(int(given[0]), int(given[1]))
    entry.fields["granularity"] = given
    found: Pattern | None = entry.choice("granularity", "default", GRANULARITIES)
    return found


def _scope(entry: Entry, pruner: str) -> Scope:
    together = entry.take("global_group_id") is not None or pruner == "SlimPruner"
    least, most = entry.take("min_sparse_ratio", 0.0), entry.take("max_sparse_ratio", 1.0)
    return Together(float(least), float(most)) if together else Each()


def _named(config: Mapping[str, Any], model: nn.Module) -> list[str]:
    """The modules that a configuration means: by name, by expression, by type."""
    names, types = config.get("op_names") or (), config.get("op_types") or ()
    expressions = config.get("op_names_re") or ()
    return [
        name for name, module in model.named_modules()
        if name and (name in names or any(re.fullmatch(one, name) for one in expressions)
                     or type(module).__name__ in types)
    ]  # fmt: skip
