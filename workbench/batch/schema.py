"""What may stand in a job file, as pydantic models: types, ranges and, in each field's description, what is allowed."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BeforeValidator, Field, model_validator

from workbench.allocate.budget import Budget
from workbench.faults import Faulty, Layout, Strict
from workbench.zoo import NAMES

# those of select, sensitivity and methods, which would bring torch with them; a test compares
CRITERIA = (
    "elimination", "lasso", "fisher", "taylor", "l1", "l2", "geometric-median", "slimming", "activation-energy",
    "active-positions", "random",
)  # fmt: skip
MODES = ("auto", "measured", "predicted")
METHODS = ("channels", "spatial_svd", "weight_svd", "tucker")
EXPORTS = ("onnx", "pt2")
BUILT_IN = ("fashion-mnist",)
FIDELITIES = ("kl", "top1", "error")
REFERENCE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", re.ASCII)
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", re.ASCII)
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
BYTES = {"kB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}

SHARE = "a share of the original, above 0 and at most 1"

T = TypeVar("T")


def _listed(value: Any) -> Any:
    return value if isinstance(value, list) else [value]


def _amount(units: dict[str, int], value: Any) -> Any:
    """A number with a unit, as a number."""
    found = re.fullmatch(rf"(\d+(?:\.\d+)?) ?({'|'.join(units)})", value) if isinstance(value, str) else None
    return float(found[1]) * units[found[2]] if found else value


def _budget(value: Any) -> Any:
    return Budget.parse(value).to_dict() if isinstance(value, str) else value


class Share(Strict):
    """A budget: shares of the original's cost; bytes and milliseconds also as amounts."""

    macs: float | None = Field(default=None, gt=0, le=1, description=SHARE)
    params: float | None = Field(default=None, gt=0, le=1, description=SHARE)
    activation_bytes: float | None = Field(default=None, gt=0, description=f"{SHARE}, or bytes above 1")
    size_bytes: float | None = Field(default=None, gt=0, description=f"{SHARE}, or bytes above 1")
    latency_ms: float | None = Field(default=None, gt=0, description=f"{SHARE}, or milliseconds above 1")
    multiple: int = Field(default=1, ge=1, description="a whole number, 1 or more")

    @model_validator(mode="after")
    def _names_something(self) -> Share:
        self.budget()
        return self

    def budget(self, multiple: int = 0) -> Budget:
        """As the allocation takes it; 0 is the share's own multiple."""
        return Budget(**{**self.model_dump(), "multiple": multiple or self.multiple})


class Method(Strict):
    """How a model is compressed; a criterion's name alone is a method, too."""

    criterion: Literal[CRITERIA] = Field(default="elimination", description=f"one of {', '.join(CRITERIA)}")  # type: ignore[valid-type]
    mode: Literal[MODES] = Field(default="auto", description=f"one of {', '.join(MODES)}")  # type: ignore[valid-type]
    refinement: int = Field(default=300, ge=0, description="a whole number of steps, or 0 for none")
    evaluations: int = Field(
        default=0, ge=0, description="a whole number of models to score for a better plan, or 0 for none"
    )
    methods: Annotated[
        list[Literal[METHODS]],  # type: ignore[valid-type]
        Field(min_length=1), BeforeValidator(_listed, json_schema_input_type=Literal[METHODS] | list[Literal[METHODS]]),
    ] = Field(default=[*METHODS], description=f"what may be done to a layer, of {', '.join(METHODS)}")  # fmt: skip


Text = Annotated[str, Field(min_length=1, max_length=500)]
BudgetItem = Annotated[Share, BeforeValidator(_budget, json_schema_input_type=str | Share)]
# one value stands for a list of one
Texts = Annotated[list[Text], Field(min_length=1), BeforeValidator(_listed, json_schema_input_type=str | list[str])]
Budgets = Annotated[
    list[BudgetItem], Field(min_length=1),
    BeforeValidator(_listed, json_schema_input_type=str | Share | list[str | Share]),
]  # fmt: skip
Multiples = Annotated[
    list[Annotated[int, Field(ge=1)]], Field(min_length=1),
    BeforeValidator(_listed, json_schema_input_type=int | list[int]),
]  # fmt: skip
Seeds = Annotated[
    list[Annotated[int, Field(ge=0, lt=2**63)]], Field(min_length=1),
    BeforeValidator(_listed, json_schema_input_type=int | list[int]),
]  # fmt: skip
Exports = Annotated[
    list[Literal[EXPORTS]],  # type: ignore[valid-type]
    BeforeValidator(_listed, json_schema_input_type=Literal[EXPORTS] | list[Literal[EXPORTS]]),  # type: ignore[valid-type]
]  # fmt: skip
Seconds = Annotated[
    float, Field(gt=0, le=10**8), BeforeValidator(lambda v: _amount(UNITS, v), json_schema_input_type=str | float)
]
Memory = Annotated[
    float, Field(ge=10**7, le=10**15), BeforeValidator(lambda v: _amount(BYTES, v), json_schema_input_type=str | float)
]


class Settings(Strict):
    """What holds for a job, or by default for all of them. Where a field has several values, each makes its own run."""

    model: Texts | None = Field(
        default=None,
        description=f'a network of the zoo ({", ".join(NAMES)}), "package.module:function" or the path of a '
        'compressed model\'s folder, as "./runs/x"; or a list of them',
    )
    architecture: Text | None = Field(
        default=None, description='"package.module:function" that builds the original of a compressed model\'s folder'
    )
    inputs: Text | None = Field(default=None, description='"package.module:function" that returns example inputs')
    calibration: Text | None = Field(
        default=None, description='"fashion-mnist", or "package.module:function" that returns batches of inputs'
    )
    evaluate: Text | None = Field(
        default=None,
        description='"fashion-mnist", "kl", "top1" or "error" (nearness to the original), or '
        '"package.module:function" that returns an Evaluation or takes the model and returns a score',
    )
    test: Text | None = Field(default=None, description="the score that reports and never chooses, as evaluate")
    budget: Budgets | None = Field(
        default=None,
        description='shares of the original cost, as "macs=0.5" or {macs = 0.5, params = 0.4}; or a list of them',
    )
    multiple: Multiples | None = Field(
        default=None, description="a whole number, 1 or more, of which widths are multiples; or a list of them"
    )
    method: Texts | None = Field(
        default=None, description="the name of a criterion or of a table [methods.NAME]; or a list of them"
    )
    seed: Seeds | None = Field(default=None, description="a whole number from 0 on, or a list of them")
    export: Exports | None = Field(default=None, description="onnx, pt2, or a list of them")
    time_limit: Seconds | None = Field(
        default=None, description='seconds, or a text as "90s", "30m" or "2h": of the search, and of each run after it'
    )
    memory_limit: Memory | None = Field(
        default=None, description='bytes (10 MB at least), or a text as "500MB" or "4GB"'
    )


class Job(Settings):
    """One job: as many runs as its models, methods, budgets, multiples and seeds make together."""

    name: Text | None = Field(
        default=None, pattern=rf"^{NAME.pattern}$", description="letters, digits, and - _ . between them, 64 at most"
    )


class JobFile(Strict):
    """A whole job file."""

    import_from: Text | None = Field(
        default=None, description="a folder, relative to the job file, in which package.module:function is looked for"
    )
    defaults: Settings = Field(default=Settings(), description="a table with the fields of a job")
    methods: dict[str, Method] = Field(default={}, description="tables [methods.NAME]")
    jobs: list[Job] = Field(min_length=1, description="at least one table [[jobs]]")


def fields_of(tables: Sequence[str]) -> list[str]:
    """The fields of the table in which the last of a path's names stands."""
    if "methods" in tables[1:2]:
        return list(Method.model_fields)
    models: dict[str, type[Strict]] = {"jobs": Job, "defaults": Settings, "budget": Share}
    return list(models.get(tables[-2], JobFile).model_fields)


LAYOUT = Layout.of((JobFile, Job, Method, Share), fields_of)


class BadJobs(Faulty):
    """A job file that cannot be run."""

    what = "job file"
