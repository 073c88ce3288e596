"""Sparsity: masks on weights, chosen by a criterion, in a pattern, over a scope, along a schedule.

Every pruner is one ``Rule`` of the three first, and one stage of a ``Recipe`` with the fourth: ``prune`` gives masks in
one shot, ``wb.Sparsifier`` follows a recipe in a training loop, ``wb.winnow_masked`` removes what is masked whole.
``prune_layerwise`` needs no training: the weights that stay make up for those that leave.
"""

from __future__ import annotations

from workbench.sparsify.amounts import Absolute, Amount, Further
from workbench.sparsify.convert import Converted, from_nni, from_sparseml
from workbench.sparsify.criteria import (
    Activation,
    Criterion,
    Fisher,
    GeometricMedian,
    Gradient,
    Lamp,
    Magnitude,
    Movement,
    Own,
    Random,
    Snip,
    SnipMomentum,
    Taylor,
    Wanda,
)  # fmt: skip
from workbench.sparsify.layerwise import (
    Method,
    Obc,
    Problem,
    Pruned,
    Scored,
    Solution,
    SparseGpt,
    Step,
    by_sensitivity,
    owl,
    prune_layerwise,
)  # fmt: skip
from workbench.sparsify.masks import check, mask_, sparsity_of, zeros_of
from workbench.sparsify.obert import Obert, prune_obert
from workbench.sparsify.oneshot import prune
from workbench.sparsify.patterns import Blocks, Elements, NofM, Pattern, Slices, average, columns, greatest, rows, total
from workbench.sparsify.penalties import GroupLasso, Growing, Penalty, Slimming
from workbench.sparsify.recipe_file import BadRecipe, Program, Training, read_recipe
from workbench.sparsify.rule import Channels, Rule
from workbench.sparsify.schedules import (
    Alternating,
    Cosine,
    Cubic,
    Exponential,
    Late,
    Linear,
    OneShot,
    Polynomial,
    Rounds,
    Schedule,
)  # fmt: skip
from workbench.sparsify.scopes import Above, Each, Erk, Scope, Shares, Together
from workbench.sparsify.sites import Site, sites_of
from workbench.sparsify.sparsifier import Sparsifier
from workbench.sparsify.stages import Hold, Prune, Recipe, Regrow
from workbench.sparsify.units import Masks
from workbench.sparsify.view import WeightView
from workbench.sparsify.winnow import winnow_masked

__all__ = [
    "Above", "Absolute", "Activation", "Alternating", "Amount", "BadRecipe", "Blocks", "Channels", "Converted",
    "Cosine", "Criterion", "Cubic", "Each", "Elements", "Erk", "Exponential", "Fisher", "Further", "GeometricMedian",
    "Gradient", "GroupLasso", "Growing", "Hold", "Lamp", "Late", "Linear", "Magnitude", "Masks", "Method", "Movement",
    "NofM", "Obc", "Obert", "OneShot", "Own", "Pattern", "Penalty", "Polynomial", "Problem", "Program", "Prune",
    "Pruned", "Random", "Recipe", "Regrow", "Rounds", "Rule", "Schedule", "Scope", "Scored", "Shares", "Site", "Slices",
    "Slimming", "Snip", "SnipMomentum", "Solution", "SparseGpt", "Sparsifier", "Step", "Taylor", "Together", "Training",
    "Wanda", "WeightView", "average", "by_sensitivity", "check", "columns", "from_nni", "from_sparseml", "greatest",
    "mask_", "owl", "prune", "prune_layerwise", "prune_obert", "read_recipe", "rows", "sites_of", "sparsity_of",
    "total", "winnow_masked", "zeros_of",
]  # fmt: skip
