"""A slider over budgets in a notebook: each move solves anew, and shows widths, predicted score and cost."""

from __future__ import annotations

import math
from collections.abc import Callable
from html import escape
from typing import Any

from workbench.allocate import Allocation
from workbench.extras import need
from workbench.front import Choosable
from workbench.plan import Plan
from workbench.sensitivity import SensitivityCurves


class Explorer:
    """What ``study.explore()`` shows. ``slider.value`` is the budget in percent of the original; ``plan`` its plan.

    Parameters
    ----------
    choosable : the plans to choose from
    curves : what they lose
    plan_of : the plan of a budget and an allocation
    """

    def __init__(self, choosable: Choosable, curves: SensitivityCurves, plan_of: Callable[..., Plan]):
        need("explore()", ["ipywidgets"], "notebook")
        import ipywidgets

        self.choosable, self.curves, self._plan_of = choosable, curves, plan_of
        least = math.ceil(1000 * choosable.least) / 10
        self.slider = ipywidgets.FloatSlider(
            value=max(50.0, least), min=least, max=100.0, step=0.1, readout_format=".1f",
            description=f"% of {choosable.resource}", layout={"width": "100%"}, style={"description_width": "initial"},
        )  # fmt: skip
        self.figures, self.widths = ipywidgets.HTML(), ipywidgets.HTML()
        self.box = ipywidgets.VBox([self.slider, self.figures, self.widths])
        self.slider.observe(lambda _: self._solve(), "value")
        self._solve()

    def _solve(self) -> None:
        self.allocation = self.choosable.at(self.slider.value / 100)
        self.figures.value = self._told(self.allocation)
        self.widths.value = self._drawn(self.allocation)

    @property
    def plan(self) -> Plan:
        """The plan at the slider's budget, for ``study.compress``."""
        return self._plan_of(self.choosable.asked(self.slider.value / 100), self.allocation)

    def _told(self, allocation: Allocation) -> str:
        cost = allocation.costs[self.choosable.resource]
        proof = "" if allocation.gap is None else f" At most {allocation.gap:.2%} from the best."
        if allocation.proven:
            proof = " Proven best."
        return (
            f"<p>{self.choosable.resource}: {cost:,.4g} ({cost / self.choosable.dense:.1%} of the original). "
            f"{escape(self.curves.metric)}: {self.curves.baseline - allocation.degradation:.4f} predicted, "
            f"{self.curves.baseline:.4f} before.{proof}</p>"
        )

    def _drawn(self, allocation: Allocation) -> str:
        """One bar a group, as wide as the share of its units that stays."""
        rows = []
        for curve in self.curves:
            kept = allocation.options[curve.group]
            form = curve.ladder.form(kept) if curve.ladder else None
            stays = f"{form.method.name}, rank {form.rank}" if form else f"{kept} of {curve.units}"
            if curve.ladder and not form:
                continue  # a layer that keeps its rank
            bar = f'<div style="background:#47a;height:1em;width:{kept / curve.units:.1%}"></div>'
            track = f'<div style="background:#8884;width:16em">{bar}</div>'
            rows.append(f"<tr><td>{escape(curve.group)}<td>{stays}<td>{track}")
        return f"<table>{''.join(rows)}</table>"

    def _ipython_display_(self) -> Any:
        from IPython.display import display

        return display(self.box)  # type: ignore[no-untyped-call]  # IPython gives it no types
