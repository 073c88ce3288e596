"""What a study is given, refused before any work where it cannot be meant."""

from __future__ import annotations

import inspect
from collections.abc import Collection
from typing import Any

from workbench.evaluation import Evaluation, name_of
from workbench.graph.inputs import check_repeats
from workbench.graph.part import check_model
from workbench.manual import check_pattern
from workbench.methods import Methods


def check_given(model: Any, evaluate: Any, test: Any, criterion: Any, methods: Any, ignore: Any) -> None:
    """None of ``evaluate``, ``test`` and ``criterion`` need be there.

    Raises
    ------
    TypeError
        The model is no module, a score or a criterion cannot be called with what it would be given, the methods are
        none, or what is to be ignored is no list of layers.
    ValueError
        The data of a score comes in another order each time.
    """
    check_model(model)
    for option, given in (("evaluate", evaluate), ("test", test)):
        if given is not None:
            _check_score(option, given)
    if criterion is not None and not callable(criterion):
        raise TypeError(
            f"criterion={criterion!r} is no criterion; give one of workbench.select, as select.L1(), or a function "
            "from a GroupView to a Path"
        )
    if not isinstance(methods, Methods):
        raise TypeError(f"methods={methods!r} are no methods; give Methods(), or Methods(channels=False) and the like")
    if isinstance(ignore, str | type) or not isinstance(ignore, Collection):
        shown = ignore.__name__ if isinstance(ignore, type) else repr(ignore)
        raise TypeError(f"ignore={shown} is no list; give names, patterns of names and types in one, as [{shown}]")
    for pattern in ignore:
        check_pattern(pattern)


def _check_score(option: str, score: Any) -> None:
    if isinstance(score, Evaluation):
        check_repeats(score.batches, f"{option}: the data of {name_of(score)!r}")
    function = score.score if isinstance(score, Evaluation) else score
    if not callable(function):
        raise TypeError(f"{option}={score!r} cannot be called; give a function of the model, or a wb.Evaluation")
    what, arguments = ("the output and the batch", 2) if isinstance(score, Evaluation) else ("the model alone", 1)
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # what is written in C may not tell
        return
    try:
        signature.bind(*[None] * arguments)
    except TypeError as error:
        raise TypeError(
            f"{option}: {name_of(score)!r} cannot be called with {what} ({error}); let the function have other "
            "arguments by default, or wrap it in a lambda"
        ) from None
