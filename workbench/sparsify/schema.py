"""What may stand in a recipe file, as pydantic models; each field's description says what is allowed."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from workbench.faults import Layout, Strict

KINDS = ("prune", "hold", "fine-tune", "distil", "winnow")
SCHEDULES = (
    "one-shot", "linear", "cubic", "polynomial", "late", "exponential", "cosine", "alternating", "rounds",
)  # fmt: skip
CRITERIA = (
    "l1", "l2", "random", "geometric-median", "lamp", "gradient", "snip", "snip-momentum", "taylor", "fisher",
    "movement", "wanda", "activation", "active",
)  # fmt: skip
SCOPES = ("each", "together", "erk")
PENALTIES = ("slimming", "group-lasso")
PATTERN = re.compile(r"element|element by row|rows|columns|channels|\d+:\d+|\d+x\d+", re.ASCII)

SHARE = "a share from 0 to 1"
EVERY = "a time in the recipe's unit, 0 or more, above 0 in regrow"
TIME = "a time, 0 or more, in the recipe's unit"
RAMP = frozenset({"final", "end", "begin", "initial"})
# what a schedule needs, and what it may have
FIELDS: dict[str, tuple[frozenset[str], frozenset[str]]] = {
    "one-shot": (frozenset({"final"}), frozenset({"begin"})),
    **{name: (frozenset({"final", "end"}), RAMP) for name in ("linear", "cubic", "exponential", "cosine")},
    **{name: (frozenset({"final", "end"}), RAMP | {"power"}) for name in ("polynomial", "late")},
    "alternating": (frozenset({"final", "end", "compressed", "dense"}), frozenset({"begin"})),
    "rounds": (frozenset({"final", "rounds", "length"}), frozenset({"begin"})),
}
RULE = frozenset({"criterion", "pattern", "scope", "minimum", "maximum", "layers", "ignore"})
OWN: dict[str, frozenset[str]] = {
    "prune": RULE | {"schedule", "every", "returning", "reset_momentum", "rewind", "regrow"},
    "hold": frozenset({"layers", "ignore", "begin"}),
    "fine-tune": frozenset({"epochs"}),
    "distil": frozenset({"epochs", "share", "temperature"}),
    "winnow": frozenset(),
}


def _listed(value: Any) -> Any:
    return value if isinstance(value, list) else [value]


def quoted(value: Any) -> Any:
    """``N:M`` that stood in YAML without quotes, which reads it as a number of base 60."""
    return f"{value // 60}:{value % 60}" if isinstance(value, int) and value >= 60 else value


Name = Annotated[str, Field(min_length=1, max_length=500)]
Names = Annotated[list[Name], Field(min_length=1), BeforeValidator(_listed)]
Time = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]


class Growth(Strict):
    """Weights that grow again."""

    every: float = Field(gt=0, description=EVERY)
    until: float = Field(gt=0, description="a time above 0, in the recipe's unit")
    share: float = Field(default=0.3, gt=0, le=1, description=SHARE)


class Stage(Strict):
    """One stage; which fields it may have depends on its kind and its schedule."""

    kind: Literal[KINDS] = Field(description=f"one of {', '.join(KINDS)}")  # type: ignore[valid-type]
    schedule: Literal[SCHEDULES] | None = Field(default=None, description=f"one of {', '.join(SCHEDULES)}")  # type: ignore[valid-type]
    final: Share | None = Field(default=None, description=SHARE)
    initial: Share | None = Field(default=None, description=SHARE)
    begin: Time | None = Field(default=None, description=TIME)
    end: Time | None = Field(default=None, description=TIME)
    power: float | None = Field(default=None, gt=0, description="a number above 0")
    compressed: float | None = Field(default=None, gt=0, description="a time above 0, in the recipe's unit")
    dense: float | None = Field(default=None, gt=0, description="a time above 0, in the recipe's unit")
    rounds: int | None = Field(default=None, ge=1, description="a whole number, 1 or more")
    length: float | None = Field(default=None, gt=0, description="a time above 0, in the recipe's unit")
    criterion: Literal[CRITERIA] | None = Field(default=None, description=f"one of {', '.join(CRITERIA)}")  # type: ignore[valid-type]
    pattern: Annotated[str | None, BeforeValidator(quoted)] = Field(
        default=None, pattern=rf"^({PATTERN.pattern})$",
        description='"element", "element by row", "rows", "columns", "channels", "N:M" (N stay) or "RxC" (blocks)',
    )  # fmt: skip
    scope: Literal[SCOPES] | None = Field(default=None, description=f"one of {', '.join(SCOPES)}")  # type: ignore[valid-type]
    minimum: Share | None = Field(default=None, description=SHARE)
    maximum: Share | None = Field(default=None, description=SHARE)
    layers: Names | None = Field(default=None, description="a name or glob of layers or parameters, or a list of them")
    ignore: Names | None = Field(default=None, description="a name or glob of layers or parameters, or a list of them")
    every: Time | None = Field(default=None, description=EVERY)
    returning: bool | None = Field(default=None, description="true or false")
    reset_momentum: bool | None = Field(default=None, description="true or false")
    rewind: Time | None = Field(default=None, description=TIME)
    regrow: Growth | None = Field(default=None, description="a table with every, until and share")
    epochs: int | None = Field(default=None, ge=1, description="a whole number, 1 or more")
    share: Share | None = Field(default=None, description=SHARE)
    temperature: float | None = Field(default=None, gt=0, description="a number above 0")

    @model_validator(mode="after")
    def _belongs_together(self) -> Stage:
        given = {name for name in type(self).model_fields if getattr(self, name) is not None} - {"kind"}
        needed, allowed = frozenset[str](), OWN[self.kind]
        if self.kind == "prune":
            if self.schedule is None:
                raise ValueError(f"a stage that prunes needs a schedule; give one of {', '.join(SCHEDULES)}")
            needed, more = FIELDS[self.schedule]
            allowed = allowed | needed | more
        elif self.kind in ("fine-tune", "distil"):
            needed = frozenset({"epochs"})
        what = f"{self.kind} with the schedule {self.schedule}" if self.schedule else self.kind
        for name in [name for name in type(self).model_fields if name in needed - given]:
            raise ValueError(f"{what} needs {name}")
        for name in [name for name in type(self).model_fields if name in given - allowed]:
            raise ValueError(f"{what} has no {name}; leave it out, or choose another")
        if self.scope != "together" and (self.minimum, self.maximum) != (None, None):
            raise ValueError('minimum and maximum are limits of the scope "together"; choose it, or leave them out')
        return self


class Term(Strict):
    """A penalty."""

    penalty: Literal[PENALTIES] = Field(description=f"one of {', '.join(PENALTIES)}")  # type: ignore[valid-type]
    strength: float = Field(gt=0, description="a number above 0")


class RecipeFile(Strict):
    """A whole recipe file."""

    unit: Literal["steps", "epochs"] = Field(default="epochs", description="steps or epochs")
    penalties: list[Term] = Field(default=[], description="tables [[penalties]]")
    stages: list[Stage] = Field(min_length=1, description="at least one table [[stages]]")


def fields_of(tables: Sequence[str]) -> list[str]:
    """The fields of the table in which the last of a path's names stands."""
    models: dict[str, type[Strict]] = {"stages": Stage, "penalties": Term, "regrow": Growth}
    return list(models.get(tables[-2], RecipeFile).model_fields)


LAYOUT = Layout.of((RecipeFile, Term, Growth, Stage), fields_of)
