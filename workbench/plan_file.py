"""What ``plan.json`` of an artefact may hold, checked as a whole before any of it is believed."""

from __future__ import annotations

from collections import Counter
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

DEEPEST = 32  # arguments of a model inside each other
MOST = 2**31  # indices of a dimension
Whole = Annotated[int, Field(ge=0, lt=MOST)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class _Cut(_Strict):
    tensor: str
    dim: Annotated[int, Field(ge=0, lt=64)]
    size: Annotated[int, Field(ge=1, lt=MOST)]
    kept: Annotated[list[Whole], Field(min_length=1)]
    role: str
    gather: bool = False


class _Rank(_Strict):
    method: str
    rank: Annotated[int, Field(ge=1, lt=MOST)]
    place: Whole = 0


class _Factored(_Strict):
    layer: str
    method: str
    rank: Annotated[int, Field(ge=1, lt=MOST)]


class _Limits(_Strict):
    minimum: dict[str, float | int] = {}
    keep: list[str] = []
    pinned: dict[str, Whole] = {}
    forbidden: dict[str, list[Whole]] = {}
    tied: list[list[str]] = []


class _PlanFile(_Strict):
    format: Literal[1]
    name: str
    model: str
    kept: dict[str, list[Whole]]
    units: dict[str, Whole]
    budget: dict[str, float | int | dict[str, Whole]]
    degradation: float | int
    gap: float | int | None
    lost: float | int | None
    costs: dict[str, float | int] = {}  # older artefacts have none of these four
    limits: _Limits = _Limits()
    ranks: dict[str, _Rank] = {}
    factors: list[_Factored] = []
    cuts: list[_Cut]
    approximate: list[str]
    rewritten: bool
    submodule: str
    inputs: dict[str, Any]
    aliases: dict[str, str]


def fault_in(plan: dict[str, Any]) -> str:
    """The first thing that is wrong with it, empty where there is none."""
    try:
        _PlanFile.model_validate(plan)
    except ValidationError as error:
        one = error.errors(include_url=False, include_input=False)[0]
        return f"{'.'.join(map(str, one['loc']))}: {one['msg']}"
    for cut in plan["cuts"]:
        if max(cut["kept"]) >= cut["size"] or len(set(cut["kept"])) < len(cut["kept"]):
            return f"the cut of {cut['tensor']} keeps indices twice, or such as {cut['size']} do not have"
    places = Counter((cut["tensor"], cut["dim"]) for cut in plan["cuts"])
    if twice := [place for place, times in places.items() if times > 1]:
        return f"cuts: {twice[0][0]} is cut twice in dimension {twice[0][1]}"
    if set(plan["kept"]) != set(plan["units"]) or any(
        len(set(units)) < len(units) or max(units, default=0) >= plan["units"][name]
        for name, units in plan["kept"].items()
    ):
        return "kept and units do not belong together"
    if set(plan["inputs"]) != {"args", "kwargs"}:
        return "inputs: must have args and kwargs"
    return _argument_fault(plan["inputs"]["args"], DEEPEST) or _argument_fault(plan["inputs"]["kwargs"], DEEPEST)


def _argument_fault(given: Any, deep: int) -> str:
    """Of one argument of the model, as ``artefact`` describes it."""
    if not deep:
        return f"inputs: more than {DEEPEST} arguments inside each other"
    if isinstance(given, list):
        inner = given
    elif not isinstance(given, dict) or not given:
        return "inputs: an argument is neither a list nor an object"
    elif "tensor" in given:
        known = set(given) == {"tensor", "shape", "dtype"} and type(given["tensor"]) is int
        return "" if known else "inputs: a tensor that is not described"
    elif set(given) == {"tuple"} and isinstance(given["tuple"], list):
        inner = given["tuple"]
    elif set(given) == {"dict"} and isinstance(given["dict"], dict):
        inner = list(given["dict"].values())
    elif set(given) == {"value"} and not isinstance(given["value"], dict | list):
        return ""
    else:
        return f"inputs: an argument of the kind {next(iter(given))!r:.40}"
    return next(filter(None, (_argument_fault(one, deep - 1) for one in inner)), "")
