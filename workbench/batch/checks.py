"""What no field can know alone: names that stand elsewhere in the file, and what a kind of model needs.

It looks at the content as it was written, so that it speaks beside the faults of single fields and not after them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from workbench.batch.schema import BUILT_IN, CRITERIA, FIDELITIES, NAME, REFERENCE, Settings
from workbench.faults import meant, shown
from workbench.zoo import NAMES

SCORES = ("evaluate", "test")
FUNCTIONS = ("architecture", "inputs", "calibration", *SCORES)
BY_NAME = {"calibration": BUILT_IN, "evaluate": (*BUILT_IN, *FIDELITIES), "test": (*BUILT_IN, *FIDELITIES)}


def is_folder(model: str) -> bool:
    """Whether a model is named by the path of a folder."""
    return "/" in model or model.startswith(".")


def cross_faults(data: Mapping[str, Any], user_code: bool) -> list[str]:
    """One sentence a fault."""
    methods = data.get("methods", {})
    methods = list(methods) if isinstance(methods, Mapping) else []
    faults = [
        f"methods.{name}: {why}" for name in methods
        if (why := "this is the name of a criterion; call it something else" if name in CRITERIA else
            "a method's name has letters, digits, and - _ . between them, 64 at most" if not NAME.fullmatch(name)
            else "")
    ]  # fmt: skip
    defaults = data.get("defaults", {})
    defaults = defaults if isinstance(defaults, Mapping) else {}
    tables = [("defaults", defaults)]
    jobs = data.get("jobs", [])
    jobs = [job for job in jobs if isinstance(job, Mapping)] if isinstance(jobs, list) else []
    tables += [(f"jobs[{number}]", job) for number, job in enumerate(jobs)]
    for place, table in tables:
        faults += [f"{place}.{fault}" for fault in _names(table, methods, user_code)]
    for place, job in tables[1:]:
        whole = {**defaults, **job}
        faults += [f"{place}: {fault}" for fault in _lacks(whole)]
    return faults + _same_names(jobs)


def _texts(value: Any) -> list[str]:
    return [item for item in (value if isinstance(value, list) else [value]) if isinstance(item, str) and item]


def _names(table: Mapping[str, Any], methods: list[str], user_code: bool) -> Iterator[str]:
    """The names in one table that lead nowhere."""
    for model in _texts(table.get("model")):
        if ":" in model:
            yield from _function("model", model, (), user_code)
        elif model not in NAMES and not is_folder(model):
            own = 'your own is "package.module:function", a compressed one the path of its folder, as "./runs/x"'
            near = meant(model, NAMES) or f"; it has {', '.join(NAMES)}; one of {own}"
            yield f"model: the zoo has no network {shown(model)}{near}"
    for field in FUNCTIONS:
        for text in _texts(table.get(field)):
            if text not in BY_NAME.get(field, ()):
                yield from _function(field, text, BY_NAME.get(field, ()), user_code)
    for method in _texts(table.get("method")):
        if method not in (*methods, *CRITERIA):
            near = meant(method, (*methods, *CRITERIA)) or f"; there are {', '.join((*methods, *CRITERIA))}"
            yield f"method: there is no method {shown(method)}{near}"


def _function(field: str, text: str, names: tuple[str, ...], user_code: bool) -> Iterator[str]:
    if not REFERENCE.fullmatch(text):
        known = f"{', '.join(names)} or " if names else ""
        yield (
            f"{field}: is {shown(text)}, which is not allowed; give {known}"
            f'"package.module:function"{meant(text, names)}'
        )
    elif not user_code:
        yield f"{field}: {shown(text)} is code of yours, which --no-user-code forbids; use what is built in"


def _lacks(job: Mapping[str, Any]) -> Iterator[str]:
    """What a job needs, given here or by the defaults, and does not have."""
    for field, example in (("model", '"vgg"'), ("budget", '"macs=0.5"')):
        if field not in job:
            yield f"names no {field}; give {field} = {example} here or in [defaults]"
    for model in _texts(job.get("model")):
        if ":" in model:
            lacking = [field for field in ("inputs", "calibration") if field not in job]
            if lacking:
                yield (
                    f"{shown(model)} is a network of your own and has no {' and no '.join(lacking)}; give "
                    f'{lacking[0]} = "package.module:function"'
                )
    budgets = job.get("budget")
    budgets = budgets if isinstance(budgets, list) else [budgets]
    if "multiple" in job and any("multiple" in budget for budget in budgets if isinstance(budget, Mapping | str)):
        yield "has a multiple in its budget and one beside it; keep one of them"


def _same_names(jobs: list[Mapping[str, Any]]) -> list[str]:
    names = [job["name"] for job in jobs if isinstance(job.get("name"), str)]
    return [f'jobs: {names.count(name)} are called "{name}"; give each its own name'
            for name in dict.fromkeys(names) if names.count(name) > 1]  # fmt: skip


assert set(FUNCTIONS) <= set(Settings.model_fields)
