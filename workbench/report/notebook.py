"""What a notebook shows of the values on the way to a result: parts of the report, in the report's style.

Each is a fragment that reads without a script and whose rules hold inside it alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from workbench.report import assets, units
from workbench.report.figures import strip
from workbench.report.page import templates
from workbench.report.view import sensitivity, words


def curves(swept: Mapping[str, Any], ranks: Mapping[str, str]) -> str:
    """The curves and the heat map, with each group's rank in place of what a plan chose.

    Args:
        swept: the dict that ``SensitivityCurves.to_dict()`` returns.
        ranks: of each group, as ``SensitivityCurves.ranking()`` has them; empty where none is known.
    """
    seen = sensitivity.view({"curves": swept, "groups": None})
    assert seen is not None  # that is only where there are no curves
    for row in seen["rows"]:
        row["loss"] = ranks.get(row["name"]) or units.NONE
    return _part("sensitivity", sensitivity=seen)


def plan(plan: Mapping[str, Any]) -> str:
    """The budget, what is predicted, and which units of each group stay.

    Args:
        plan: the dict that ``Plan.to_dict()`` returns.
    """
    rows = [
        {
            "name": group,
            "units": plan["units"][group],
            "kept": len(kept),
            "strip": strip.strip(plan["units"][group], kept),
            "share": units.percent(len(kept) / plan["units"][group]),
        }
        for group, kept in plan["kept"].items()
    ]
    told = {
        "budget": words.budget(plan["budget"]),
        "loss": units.score(plan["degradation"]),
        "lost": units.score(plan["lost"]) if plan["lost"] is not None else "",
        "proof": _proof(plan["gap"]),
        "rows": rows,
        "ranks": [
            {"name": layer, "method": rank["method"].replace("_", " "), "rank": rank["rank"]}
            for layer, rank in plan["ranks"].items()
        ],
    }
    return _part("plan", plan=told)


def graph(summary: str, groups: Sequence[Mapping[str, Any]], frozen: Sequence[Mapping[str, str]]) -> str:
    """Which channels can leave together, and which cannot leave at all.

    Args:
        summary: one line.
        groups: the rows of ``ChannelGraph.to_frame()``.
        frozen: the dicts that ``Frozen.to_dict()`` returns.
    """
    return _part("graph", summary=summary, groups=groups, frozen=frozen)


def study(name: str, facts: Mapping[str, Any]) -> str:
    """What a study was given, and what it has found out so far."""
    return _part("study", study=name, facts=facts)


def _proof(gap: float | None) -> str:
    if gap is None:
        return ""
    return "no plan loses less" if gap <= 0 else f"no plan loses less by more than {units.power(gap)}"


def _part(part: str, **context: Any) -> str:
    style = assets.style("report.css", "part.css")
    return templates().get_template("part.html").render(context, style=style, part=part)
