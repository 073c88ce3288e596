"""The data of the page."""

from __future__ import annotations

import re
from typing import Any

import pytest

from workbench.report.view import layers, sensitivity


def test_groups_of_different_sizes_share_the_columns_of_the_heat_map() -> None:
    def group(name: str, units: int) -> dict[str, Any]:
        kept = sorted({max(1, round(tenth / 10 * units)) for tenth in range(1, 10)})
        points = [
            {
                "share": k / units,
                "kept": k,
                "degradation": 0.1,
                "low": None,
                "high": None,
                "fitted": 0.1,
                "failed": None,
            }
            for k in kept
        ]
        return {"group": name, "units": units, "points": points}

    swept = {"metric": "score", "samples": 9, "baseline": 1.0, "groups": [group("heads", 6), group("wide", 288)]}
    groups = [{"group": name, "units": units, "kept": range(units)} for name, units in (("heads", 6), ("wide", 288))]
    seen = sensitivity.view({"curves": swept, "groups": groups})
    assert seen is not None
    assert seen["shares"] == ["90", "80", "70", "60", "50", "40", "30", "20", "10"]
    heads, wide = ([cell["css"] != "none" for cell in row["cells"]] for row in seen["rows"])
    assert sum(heads) == 5
    assert all(wide)


@pytest.mark.parametrize(
    ("refined", "said"),
    [
        (None, ""),
        (
            {"before": 0.02, "after": 0.013, "steps": 300, "failed": "", "kept": True},
            r"lowered .* from 2.0\s% to 1.3\s%",
        ),
        ({"before": 0.02, "after": 0.03, "steps": 300, "failed": "", "kept": False}, "did not lower .* not kept"),
        ({"before": 0.02, "after": 0.02, "steps": 300, "failed": "no grad", "kept": False}, "could not .*: no grad"),
    ],
)
def test_the_refinement_is_told_in_a_sentence(refined: dict[str, Any] | None, said: str) -> None:
    result = {"curves": None, "groups": [], "layers": [], "refinement": refined}
    sentence = layers.view(result)["refinement"]
    assert re.search(said, sentence)
    assert bool(sentence) == bool(refined)
