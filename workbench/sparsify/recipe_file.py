"""Recipe files: TOML, or YAML with the extra, checked as a whole; and what runs them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import nn

from workbench.faults import Faulty, faults_of
from workbench.finetuning import ADAMW, finetune
from workbench.graph.trace import ChannelGraph, trace
from workbench.sparsify import criteria as of
from workbench.sparsify import schedules
from workbench.sparsify.criteria import Criterion
from workbench.sparsify.patterns import Blocks, Elements, NofM, Pattern, columns, rows
from workbench.sparsify.penalties import GroupLasso, Penalty, Slimming
from workbench.sparsify.rule import Channels, Rule
from workbench.sparsify.schema import FIELDS, LAYOUT, RecipeFile, Stage
from workbench.sparsify.scopes import Each, Erk, Scope, Together
from workbench.sparsify.sparsifier import Sparsifier
from workbench.sparsify.stages import Hold, Prune, Recipe, Regrow
from workbench.sparsify.winnow import winnow_masked
from workbench.textfile import parsed

SCHEDULES: dict[str, Callable[..., schedules.Schedule]] = {
    "one-shot": schedules.OneShot, "linear": schedules.Linear, "cubic": schedules.Cubic,
    "polynomial": schedules.Polynomial, "late": schedules.Late, "exponential": schedules.Exponential,
    "cosine": schedules.Cosine, "alternating": schedules.Alternating, "rounds": schedules.Rounds,
}  # fmt: skip
CRITERIA: dict[str, Criterion] = {
    "l1": of.Magnitude(1), "l2": of.Magnitude(2), "random": of.Random(), "geometric-median": of.GeometricMedian(),
    "lamp": of.Lamp(), "gradient": of.Gradient(), "snip": of.Snip(), "snip-momentum": of.SnipMomentum(),
    "taylor": of.Taylor(), "fisher": of.Fisher(), "movement": of.Movement(), "wanda": of.Wanda(),
    "activation": of.Activation(), "active": of.Activation(active=True),
}  # fmt: skip
PATTERNS: dict[str, Pattern | Channels] = {
    "element": Elements(), "element by row": Elements(by_row=True), "rows": rows(), "columns": columns(),
    "channels": Channels(),
}  # fmt: skip


class BadRecipe(Faulty):
    """A recipe file that cannot be followed."""

    what = "recipe"


@dataclass(frozen=True)
class Training:
    """So many epochs; with a ``share`` above 0 the original's outputs are imitated."""

    epochs: int
    share: float = 0.0
    temperature: float = 2.0


@dataclass(frozen=True)
class Program:
    """A recipe with the training in which it is followed, and whether what it masks is removed at last.

    The times of the stages count from the beginning of all training.
    """

    recipe: Recipe
    training: tuple[Training, ...] = ()
    winnow: bool = False

    def follow(
        self, model: nn.Module, loader: Iterable[Any], example_inputs: Any = None, *,
        optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer] = ADAMW, calibration: Any = None,
        seed: int = 0,
    ) -> nn.Module:  # fmt: skip
        """Train a model in place by ``finetune`` while its weights are masked; what comes out is it, or a smaller one.

        Parameters
        ----------
        loader : yields ``(inputs, labels)``, has a length; see ``finetune``
        example_inputs : for channels and for winnowing, as for ``trace``
        optimizer : makes one of parameters
        calibration : model inputs, for criteria on activations

        Raises
        ------
        ValueError
            Example inputs are missing, the recipe does not fit the model, or training ends before a schedule does.
        """
        graph = self._graph(model, example_inputs)
        teacher = copy.deepcopy(model)
        steps = len(loader)  # type: ignore[arg-type]  # finetune says it where it has none
        for stage in self.recipe.stages:
            if why := _too_late(stage, self.training, 1 if self.recipe.unit == "epochs" else steps):
                raise ValueError(f"{stage.schedule}: {why}")  # type: ignore[union-attr]  # one that prunes
        sparsifier = Sparsifier(
            model, self.recipe, steps_per_epoch=steps, calibration=calibration, graph=graph, seed=seed
        ).prepare()
        for number, phase in enumerate(self.training):
            finetune(
                model, loader, phase.epochs, teacher=teacher if phase.share else None, distillation=phase.share,
                temperature=phase.temperature, seed=seed + number, penalty=sparsifier.penalty,
                optimizer=lambda parameters: sparsifier.attach(optimizer(parameters)),
            )  # fmt: skip
        for run in sparsifier.runs:
            if run.target != run.stage.final:
                raise ValueError(
                    f"{run.stage.schedule} has come to {run.target:g} at the end of training: "
                    f"{run.stage.rule.criterion} had no finite gradients when masks were due; train longer"
                )
        return winnow_masked(model, sparsifier.masks, example_inputs) if self.winnow else model

    def _graph(self, model: nn.Module, example_inputs: Any) -> ChannelGraph | None:
        rules = [stage.rule for stage in self.recipe.stages if isinstance(stage, Prune)]
        coupled = any(isinstance(rule.pattern, Channels) for rule in rules)
        if (coupled or self.winnow) and example_inputs is None:
            raise ValueError("the recipe masks channels or winnows, and needs example_inputs= for that")
        return trace(model, example_inputs) if coupled else None


def read_recipe(recipe: str | Path | Mapping[str, Any]) -> Program:
    """Read and check a recipe file, or what would stand in one.

    Raises
    ------
    BadRecipe
        Something in it is wrong; the message lists everything.
    OSError
        The file cannot be read.
    ModuleNotFoundError
        It is YAML, and the extra is not installed.

    Examples
    --------
    >>> stages = [{"kind": "fine-tune", "epochs": 2}, {"kind": "prune", "schedule": "cubic", "final": 0.9, "end": 1}]
    >>> read_recipe({"stages": stages}).training
    (Training(epochs=2, share=0.0, temperature=2.0),)
    """
    source = "the recipe" if isinstance(recipe, Mapping) else str(recipe)
    data = dict(recipe) if isinstance(recipe, Mapping) else parsed(Path(recipe), BadRecipe)
    if not isinstance(data, dict):
        raise BadRecipe(source, ["the file holds no table of fields; it must at least have [[stages]]"])
    try:
        file = RecipeFile.model_validate(data)
    except ValidationError as error:
        raise BadRecipe(source, faults_of(error, data, LAYOUT)) from None
    return _program(file, source)


def _program(file: RecipeFile, source: str) -> Program:
    stages: list[Prune | Hold] = []
    training: list[Training] = []
    faults: list[str] = []
    for number, stage in enumerate(file.stages):
        try:
            if stage.kind == "prune":
                stages.append(_prune(stage))
            elif stage.kind == "hold":
                stages.append(Hold(tuple(stage.layers or ("*",)), tuple(stage.ignore or ()), stage.begin or 0))
            elif stage.epochs is not None:
                share = (0.5 if stage.share is None else stage.share) if stage.kind == "distil" else 0.0
                training.append(Training(stage.epochs, share, stage.temperature or 2.0))
        except ValueError as error:
            faults.append(f"stages[{number}]: {error}")
    if any(stage.kind == "winnow" for stage in file.stages[:-1]):
        faults.append("stages: winnow comes last, when nothing is trained any more")
    if not faults and training and file.unit == "epochs":
        places = [number for number, stage in enumerate(file.stages) if stage.kind in ("prune", "hold")]
        late = [_too_late(stage, training, 1) for stage in stages]
        faults = [f"stages[{number}]: {why}" for number, why in zip(places, late, strict=True) if why]
    if faults:
        raise BadRecipe(source, faults)
    terms = tuple(_penalty(term.penalty, term.strength) for term in file.penalties)
    return Program(Recipe(tuple(stages), terms, file.unit), tuple(training), file.stages[-1].kind == "winnow")


def _too_late(stage: Prune | Hold, training: Sequence[Training], length: int) -> str:
    """Why a stage comes to no end in training, whose epochs have a length in the recipe's unit."""
    last = length * sum(phase.epochs for phase in training)
    if not isinstance(stage, Prune) or stage.schedule.end <= last:
        return ""
    end = stage.schedule.end
    return f"the schedule ends at {end:g}, and all training at {last}; train longer, or let it end sooner"


def _prune(stage: Stage) -> Prune:
    needed, more = FIELDS[stage.schedule or ""]
    given = {name: getattr(stage, name) for name in needed | more}
    schedule = SCHEDULES[stage.schedule or ""](**{name: value for name, value in given.items() if value is not None})
    regrow = Regrow(stage.regrow.every, stage.regrow.until, stage.regrow.share) if stage.regrow else None
    rule = Rule(
        CRITERIA[stage.criterion or "l1"], pattern_of(stage.pattern or "element"), _scope(stage),
        tuple(stage.layers or ("*",)), tuple(stage.ignore or ()),
    )  # fmt: skip
    return Prune(
        schedule, rule, stage.every or 0, bool(stage.returning), bool(stage.reset_momentum), stage.rewind, regrow
    )


def pattern_of(text: str) -> Pattern | Channels:
    """A pattern by its name, ``N:M`` or ``RxC``."""
    if text in PATTERNS:
        return PATTERNS[text]
    one, other = (int(number) for number in text.replace("x", ":").split(":"))
    return NofM(one, other) if ":" in text else Blocks(one, other)


def _scope(stage: Stage) -> Scope:
    if stage.scope == "together":
        return Together(stage.minimum or 0.0, 1.0 if stage.maximum is None else stage.maximum)
    return Erk() if stage.scope == "erk" else Each()


def _penalty(name: str, strength: float) -> Penalty:
    return Slimming(strength) if name == "slimming" else GroupLasso(strength)
