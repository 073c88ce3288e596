"""From a run's words to a study: the model, the data and the scores that a job names."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from workbench import artefact, data, zoo
from workbench.batch.checks import is_folder
from workbench.batch.runs import Run
from workbench.batch.schema import BUILT_IN, FIDELITIES
from workbench.calibrate import Batches
from workbench.evaluation import Evaluation, Fidelity
from workbench.methods import Methods
from workbench.select import by_name
from workbench.study import Study
from workbench.zoo import task as zoo_task


def study_of(run: Run, base: Path, store: Path) -> Study:
    """The study that a run and those that share its search are made with.

    Raises
    ------
    ValueError
        A name leads nowhere; or what ``Study`` raises.
    """
    model, ours = _model(run, base)
    images = data.fashion_mnist("calibration")[0] if ours or run.calibration in BUILT_IN else None
    inputs = _made(run.inputs) if run.inputs else None if images is None else images[:1]
    own = run.calibration is not None and run.calibration not in BUILT_IN
    batches = Batches.of(_made(run.calibration) if own else images.split(128))  # type: ignore[union-attr,arg-type]
    built_in: Mapping[str, Any] = {"evaluate": zoo_task.search_score, "test": zoo_task.test_score}
    scores = {
        field: _score(getattr(run, field) or (BUILT_IN[0] if ours else None), make, batches)
        for field, make in built_in.items()
    }
    return Study(
        model, inputs, calibration=batches, criterion=by_name(run.criterion), store=store, seed=run.seed,
        name=run.model, methods=Methods.of(*run.methods), **scores,
    )  # fmt: skip


def _model(run: Run, base: Path) -> tuple[nn.Module, bool]:
    """The model, and whether it does what the networks of the zoo do."""
    if run.model in zoo.NAMES:
        return zoo.load(run.model), True
    if not is_folder(run.model):
        return _called(run.model, nn.Module), False
    folder = base / run.model
    name = artefact.read_plan(folder).get("name")
    if run.architecture:
        return artefact.restore(_called(run.architecture, nn.Module), folder), name in zoo.NAMES
    if name not in zoo.NAMES:
        raise ValueError(f'{folder} holds a compressed {name!r}; give architecture = "package.module:function"')
    return artefact.restore(zoo.build(name), folder), True


def _score(text: str | None, built_in: Any, batches: Batches) -> Any:
    if text is None:
        return None
    if text in BUILT_IN:
        return built_in()
    if text in FIDELITIES:
        return Fidelity(batches, kind=text)
    found = named(text)
    if isinstance(found, Evaluation) or not callable(found):
        return found
    needed = [p for p in inspect.signature(found).parameters.values()
              if p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]  # fmt: skip
    return found if needed else found()  # one that takes no model makes the evaluation


def _made(text: str) -> Any:
    """What a name stands for, or what the function of that name returns."""
    found = named(text)
    return found() if callable(found) else found


def _called(text: str, kind: type[nn.Module]) -> nn.Module:
    found = _made(text)
    if not isinstance(found, kind):
        raise ValueError(f'"{text}" returned a {type(found).__name__}; it must return a torch.nn.Module')
    return found


def named(text: str) -> Any:
    """What ``package.module:function`` stands for.

    Raises
    ------
    ValueError
        There is no such module, or nothing of that name in it.
    """
    module, _, path = text.partition(":")
    try:
        found: Any = importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ValueError(
            f'"{text}" cannot be imported ({error}); install it, or name the folder that holds it with import_from = '
            '"." at the top of the job file'
        ) from error
    for name in path.split("."):
        if not hasattr(found, name):
            raise ValueError(f'"{text}" leads nowhere: {module} has no {name}; look at its spelling')
        found = getattr(found, name)
    return found
