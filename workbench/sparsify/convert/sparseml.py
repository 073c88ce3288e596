"""SparseML's recipes: the modifiers for magnitude, constant, AC/DC, OBS and movement pruning."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from workbench.sparsify.convert.base import Converted, Entry, converted
from workbench.sparsify.criteria import Criterion, Fisher, Magnitude, Movement
from workbench.sparsify.patterns import Blocks, Elements, NofM, Pattern, columns, rows
from workbench.sparsify.recipe_file import BadRecipe, Program, Training
from workbench.sparsify.rule import Rule
from workbench.sparsify.schedules import Alternating, Cubic, Linear, Polynomial, Schedule
from workbench.sparsify.schema import quoted
from workbench.sparsify.scopes import Each, Together
from workbench.sparsify.stages import Hold, Prune, Recipe
from workbench.yamlfile import composed, plain

ALL = ("__ALL__", "__ALL_PRUNABLE__")
CURVES: dict[str, Callable[..., Schedule]] = {
    "cubic": Cubic, "linear": Linear, "inverse_cubic": partial(Polynomial, power=1 / 3),
}  # fmt: skip
PATTERNS: dict[str, Pattern] = {
    "unstructured": Elements(), "block4": Blocks(1, 4), "filter": rows(), "channel": columns(),
}  # fmt: skip


def from_sparseml(recipe: str | Path) -> Converted:
    """A recipe in SparseML's YAML, as a text or the path of a file; its times are epochs.

    Training lasts to the largest ``end_epoch``.

    OBS becomes the diagonal of its Fisher information: neither its blocks nor its updates of the weights that stay are
    there, which ``left_out`` says. AC/DC begins with a compressed phase.

    Raises
    ------
    BadRecipe
        It is no YAML, or holds no modifiers.
    ModuleNotFoundError
        The extra for YAML is not installed.
    """
    source = str(recipe) if isinstance(recipe, Path) else "the recipe"
    text = recipe.read_text(encoding="utf-8") if isinstance(recipe, Path) else recipe
    entries = list(_modifiers(text, source))
    stages: list[Prune | Hold] = []
    epochs = 0
    for entry in entries:
        end = entry.fields.get("end_epoch")
        epochs = max(epochs, math.ceil(end) if isinstance(end, int | float) and math.isfinite(end) else 0)
        if entry.name in MODIFIERS:
            stages += converted(entry, MODIFIERS[entry.name])
        else:
            entry.drop("this modifier has no equal here")
    training = (Training(epochs),) if epochs else ()
    left = tuple(told for entry in entries for told in entry.left_out)
    return Converted(Program(Recipe(tuple(stages), unit="epochs"), training), left)


def _modifiers(text: str, source: str) -> list[Entry]:
    import yaml

    try:
        root = composed(text)
    except yaml.YAMLError as error:
        raise BadRecipe(source, [f"this is not YAML: {' '.join(str(error).split())}"]) from None
    found: list[Entry] = []
    for key, value in root.value if isinstance(root, yaml.MappingNode) else ():
        groups = [(key, value)] + (value.value if isinstance(value, yaml.MappingNode) else [])  # a stage holds lists
        for name, nodes in groups:
            if str(name.value).endswith("modifiers") and isinstance(nodes, yaml.SequenceNode):
                found += [Entry(node.tag.removeprefix("!"), _fields(node)) for node in nodes.value]
    if not found:
        raise BadRecipe(source, ["there is no list of modifiers; give a recipe with modifiers:"])
    return found


def _fields(node: Any) -> dict[str, Any]:
    found = plain(node)
    return found if isinstance(found, dict) else {}


def _range(entry: Entry) -> list[Prune | Hold]:
    entry.take("start_epoch")
    entry.number("end_epoch", 0)
    return []


def _magnitude(entry: Entry) -> list[Prune | Hold]:
    return [_ramp(entry, Magnitude())]


def _global(entry: Entry) -> list[Prune | Hold]:
    entry.fields.setdefault("global_sparsity", True)
    return [_ramp(entry, Magnitude())]


def _obs(entry: Entry) -> list[Prune | Hold]:
    for name in ("num_grads", "damp", "fisher_block_size", "grad_sampler_kwargs"):
        entry.take(name)
    entry.drop("scores are the diagonal of the Fisher information, and the weights that stay are not updated")
    entry.fields.setdefault("global_sparsity", True)
    return [_ramp(entry, Fisher())]


def _movement(entry: Entry) -> list[Prune | Hold]:
    return [_ramp(entry, Movement(), returning=True)]


def _ramp(entry: Entry, criterion: Criterion, returning: bool = False) -> Prune:
    initial, final = entry.number("init_sparsity", 0.05), entry.number("final_sparsity")
    begin, end = entry.number("start_epoch", 0), entry.number("end_epoch")
    curve = entry.choice("inter_func", "cubic", CURVES)
    every = max(entry.number("update_frequency", 0), 0)  # -1 is every step
    return Prune(curve(final, end, begin, initial), _rule(entry, criterion), every, returning)


def _constant(entry: Entry) -> list[Prune | Hold]:
    begin, end = max(entry.number("start_epoch", 0), 0), entry.number("end_epoch", -1)
    if end >= 0:
        entry.drop(f"what is masked is held beyond end_epoch = {end}")
    return [Hold(_layers(entry), begin=begin)]


def _acdc(entry: Entry) -> list[Prune | Hold]:
    final, phase = entry.number("compression_sparsity"), entry.number("update_frequency")
    begin, end = entry.number("start_epoch", 0), entry.number("end_epoch")
    entry.fields.setdefault("global_sparsity", True)
    reset = bool(entry.take("momentum_buffer_reset", True))
    return [Prune(Alternating(final, end, phase, phase, begin), _rule(entry, Magnitude()), reset_momentum=reset)]


def _rule(entry: Entry, criterion: Criterion) -> Rule:
    entry.take("leave_enabled")  # masks hold here until the sparsifier is called no more
    scope = Together() if entry.take("global_sparsity", False) else Each()
    return Rule(criterion, _pattern(entry.take("mask_type", "unstructured")), scope, _layers(entry))


def _pattern(given: Any) -> Pattern:
    if isinstance(given, list):
        if len(given) == 2 and all(isinstance(size, int) and size > 0 for size in given):
            return Blocks(*given)
        raise ValueError(f"mask_type {given!r} is no block of outputs by inputs; give two numbers above 0")
    name = str(quoted(given))
    if name in PATTERNS:
        return PATTERNS[name]
    found = re.fullmatch(r"(\d+):(\d+)", name)
    if not found:
        raise ValueError(f"mask_type {given!r} has no equal here; those with one are {', '.join(PATTERNS)} and N:M")
    return NofM(int(found[1]), int(found[2]))


def _layers(entry: Entry) -> tuple[str, ...]:
    """Names of parameters; a regular expression where it is as simple as a glob."""
    given = entry.take("params", "__ALL_PRUNABLE__")
    names = given if isinstance(given, list) else [given]
    if any(name in ALL for name in names):
        return ("*",)
    return tuple(_glob(str(name)) for name in names)


def _glob(name: str) -> str:
    if not name.startswith("re:"):
        return name
    glob = name.removeprefix("re:").replace(r"\.", ".").replace(".*", "*")
    if re.search(r"[\\^$+?{}()|\[\]]", glob):
        raise ValueError(f"params {name!r} is a regular expression that no glob equals; name the layers")
    return glob


MODIFIERS: dict[str, Callable[[Entry], list[Prune | Hold]]] = {
    "EpochRangeModifier": _range, "MagnitudePruningModifier": _magnitude, "GMPruningModifier": _magnitude,
    "GlobalMagnitudePruningModifier": _global, "ConstantPruningModifier": _constant, "ACDCPruningModifier": _acdc,
    "OBSPruningModifier": _obs, "MovementPruningModifier": _movement,
}  # fmt: skip
